"""Nodes and workloads as network namespaces: the quickstart's, for tests. Each test file has a prefix of its own."""
import contextlib
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "deploy/quickstart"))

import nodes  # noqa: E402
from nodes import PROGRAMS, TRUST_DOMAIN, Daemon, LabError, Netns, Node, Workload, sh  # noqa: E402,F401

from . import sanitizers  # noqa: E402


class Cluster(nodes.Cluster):
    """A prefix names a test file; the process is added, so that several runs of the file do not meet."""

    def __init__(self, prefix, **options):
        for left in Path("/run").glob(f"countersign-lab-{prefix}[0-9]*"):  # of runs that were killed
            with contextlib.suppress(LabError):  # it was not: it runs
                made = nodes.Made(left.name.removeprefix("countersign-lab-"))
                made.sweep()
                made.forget()
        super().__init__(f"{prefix}{os.getpid()}", **options)

    def close(self):
        """Handshakers get no environment, so what a sanitizer says of them is in authd's log."""
        for node in self.nodes:
            node.stop_all()
        said = sanitizers.spoken(self.dir.glob("*/*.log"))
        super().close()
        assert not said, said


def policy(name, selects, rules):
    return f"""
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {name}}}
spec:
  endpointSelector: {{matchLabels: {{"k8s:app": {selects}}}}}
{rules}
"""


def required(direction, peer):
    side = "fromEndpoints" if direction == "ingress" else "toEndpoints"
    return f"""  {direction}:
  - {side}: [{{matchLabels: {{"k8s:app": {peer}}}}}]
    authentication: {{mode: required}}
"""


def wait_until(condition, what, seconds=30):
    """The product's own answer is asked for again; there is no event to wait for in these. What it was at last."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not in {seconds} s: {what}"
        time.sleep(0.02)
    return found

"""Nodes and workloads as network namespaces: the quickstart's, for tests. Each test file has a prefix of its own."""
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "deploy/quickstart"))

from nodes import PROGRAMS, TRUST_DOMAIN, Cluster, Daemon, LabError, Netns, Node, Workload, sh  # noqa: E402,F401


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


def wait_until(condition, what, seconds=10):
    """The product's own answer is asked for again; there is no event to wait for in these. What it was at last."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not in {seconds} s: {what}"
        time.sleep(0.02)
    return found

"""The lab of the quickstart takes away what it made, also what an earlier one left, and nothing that has a like name."""
import os
import subprocess
from pathlib import Path

import pytest

from lab.cluster import LabError, nodes, sh

PREFIX = f"tlab{os.getpid()}"


@pytest.fixture
def foreign():
    """Somebody's namespace with a process, and somebody's directory."""
    sh("ip", "netns", "add", f"{PREFIX}-foreign")
    process = subprocess.Popen(["ip", "netns", "exec", f"{PREFIX}-foreign", "sleep", "600"])
    yield process
    process.kill()
    process.wait()
    sh("ip", "netns", "del", f"{PREFIX}-foreign")


def names():
    return {p.name.removeprefix(f"{PREFIX}-") for p in Path("/run/netns").glob(f"{PREFIX}-*")}


def test_what_is_left_is_taken_away_and_nothing_else(foreign):
    left = nodes.Cluster(PREFIX)
    left.node().workload("db", "k8s:app=db")
    assert names() == {"foreign", "wire", "node1", "db"}
    left.made.file.close()  # as if it was killed
    with nodes.Cluster(PREFIX) as c:
        assert names() == {"foreign", "wire"} and not left.dir.exists() and c.dir.exists()
        with pytest.raises(LabError, match="another lab with the prefix"):
            nodes.Made(PREFIX)
        with pytest.raises(LabError, match=f"ip netns del {PREFIX}-foreign"):
            c.netns("foreign")
    assert names() == {"foreign"} and not c.dir.exists() and foreign.poll() is None
    assert not Path(f"/run/countersign-lab-{PREFIX}").exists()
    with nodes.Cluster(PREFIX):  # what could not be made is not on the list
        assert names() == {"foreign", "wire"}

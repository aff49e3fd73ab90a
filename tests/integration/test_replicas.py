"""The cluster role and those who follow it: when an endpoint is published."""
import os
import signal
import time

import pytest

from lab.identity_lab import Cluster, Lab
from lab.nodes import PUBLISHED, condition, spec


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.end()


@pytest.fixture
def cluster(lab):
    return Cluster(lab)


def timed(fn, *args, **more):
    start = time.monotonic()
    return fn(*args, **more), time.monotonic() - start


def test_published(cluster, lab):
    """Register answers when the other nodes know the endpoint: no wait, no second look."""
    n1, n2, n3 = cluster.n1, cluster.node("n2", "10.0.0.2"), cluster.node("n3", "10.0.0.3")
    for n in (n2, n3):
        n.follow().wait_synced().close()
    for i in range(10):
        for n, others in ((n1, (n2, n3)), (n2, (n1, n3))):
            name = f"{n.node}-{i}"
            status = n.register(spec(name, f"k8s:app=a{i}", [f"10.1.{n is n1:d}.{i + 1}"], lab.veth()), wait_for=[PUBLISHED])
            assert condition(status, PUBLISHED).met and not condition(status, PUBLISHED).reason.detail
            for other in others:
                assert other.once().get("endpoint", (n.node, name)).identity == status.identity, other.node
    # Whoever did not ask is not told, and is asked for by nobody.
    status = n1.register(spec("b", "k8s:app=b", ["10.1.2.1"], lab.veth()))
    assert PUBLISHED not in [c.step for c in status.conditions]


def test_published_beside_a_node_that_sleeps(cluster, lab):
    """One second, once; then it is stale, and waited for no more before it is heard again."""
    n1, n2, n3 = cluster.n1, cluster.node("n2", "10.0.0.2"), cluster.node("n3", "10.0.0.3")
    for n in (n2, n3):
        n.follow().wait_synced().close()
    n1.register(spec("a", "k8s:app=a", ["10.1.0.1"], lab.veth()), wait_for=[PUBLISHED])
    os.kill(n3.pid, signal.SIGSTOP)
    status, took = timed(n1.register, spec("b", "k8s:app=b", ["10.1.0.2"], lab.veth()), wait_for=[PUBLISHED])
    assert 0.9 < took < 5 and condition(status, PUBLISHED).met
    assert condition(status, PUBLISHED).reason.detail == "1 of 2 nodes did not say in time that they know it"
    assert n2.once().get("endpoint", ("n1", "b"))
    status, took = timed(n1.register, spec("c", "k8s:app=c", ["10.1.0.3"], lab.veth()), wait_for=[PUBLISHED])
    assert took < 0.9 and condition(status, PUBLISHED).met
    os.kill(n3.pid, signal.SIGCONT)
    f = n3.follow()
    f.wait(lambda f: f.get("endpoint", ("n1", "c")))
    f.close()
    # It says what it has when it is asked the next time, and counts from then on.
    for i in range(4, 50):
        status = n1.register(spec(f"d{i}", "k8s:app=d", [f"10.1.0.{i}"], lab.veth()), wait_for=[PUBLISHED])
        if not condition(status, PUBLISHED).reason.detail:
            break
    assert not condition(status, PUBLISHED).reason.detail

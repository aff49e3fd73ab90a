"""Two replicas of the cluster role over a real etcd, a registrar beside each: one writes, and when its replica dies the other."""
import pytest

from lab.etcd import Etcd
from lab.identity_lab import Lab, Replicas
from lab.nodes import spec
from lab.registrar import Registrar
from lab.spire import wait_for


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.end()


@pytest.fixture
def etcd():
    with Etcd() as etcd:
        yield etcd


@pytest.fixture
def spire(Spire):
    spire = Spire()
    yield spire
    spire.close()


@pytest.fixture
def beside():
    """Starts a registrar beside a replica."""
    made = []

    def start(replica, spire):
        made.append(Registrar(replica.instance, f"unix:{spire.server.socket}", "registrar.linger=0"))
        return made[-1]
    yield start
    for registrar in made:
        registrar.stop()


def active(r):
    return r.metrics()['countersign_registrar_active{daemon="registrar"}'] == 1


def hints(spire):
    return {e["hint"] for e in spire.list() if e["hint"]}


def test_the_registrar_beside_the_leader_writes(lab, etcd, spire, beside):
    replicas = Replicas(lab, etcd, 2)
    registrars = {r.node: beside(r, spire) for r in replicas.all}
    node = replicas.node("n1", "10.0.0.1")
    a = node.register(spec("a", "k8s:app=a", ["10.1.0.1"], lab.veth())).identity
    wait_for(lambda: hints(spire) == {f"{a}@n1"}, "the entry")
    leader, follower = replicas.leader(), replicas.follower()
    wait_for(lambda: active(registrars[leader.node]) and not active(registrars[follower.node]), "one is active")
    registrars[leader.node].wrote(create=1)
    registrars[follower.node].wrote()
    assert registrars[follower.node].check("entries").ok

    leader.kill()
    leader.clean()
    wait_for(lambda: active(registrars[follower.node]), "the other one is active")
    b = node.register(spec("b", "k8s:app=b", ["10.1.0.2"], lab.veth())).identity
    wait_for(lambda: hints(spire) == {f"{a}@n1", f"{b}@n1"}, "the second entry")
    for r in registrars.values():
        r.wrote(create=1)
    assert not registrars[leader.node].check("entries").ok  # nobody tells it anything, and it says so

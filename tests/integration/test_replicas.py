"""The cluster role and those who follow it: when an endpoint is published, when a node is gone, and several replicas over a
real etcd that are killed, put to sleep and cut off."""
import json
import os
import signal
import subprocess
import time

import grpc
import pytest

from lab import protos
from lab.daemon import BUILD, WAIT_S
from lab.etcd import Etcd
from lab.follower import Follower
from lab.identity_lab import Cluster, Lab, Replicas, refused
from lab.node_tls import TlsProxy
from lab.nodes import ENFORCED, IDENTIFIED, PLACED, PUBLISHED, REGISTERED, condition, ip, labels, reason_of, spec


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.end()


@pytest.fixture
def cluster(lab):
    return Cluster(lab)


@pytest.fixture
def etcd():
    with Etcd() as etcd:
        yield etcd


def leadership(d):
    return protos.status.Leadership.Name(d.status().leadership).removeprefix("LEADERSHIP_")


def timed(fn, *args, **more):
    start = time.monotonic()
    return fn(*args, **more), time.monotonic() - start


def wait_until(what, seconds=60):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.05)
    return found


def cli(d, *args):
    return subprocess.run([BUILD / "cli/countersign", *args, "--instance", d.instance], capture_output=True, text=True)


def die(d):
    d.kill()
    d.clean()


# ---- published --------------------------------------------------------------------------------------------------------


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


# ---- nodes that are gone ----------------------------------------------------------------------------------------------


def audits(d, word):
    return [r for r in map(json.loads, d.output().splitlines()) if r["level"] == "audit" and word in r["msg"]]


def test_a_node_that_is_gone(lab):
    """Its record says so first; after its grace its endpoints go, and its address is free. Who comes back in time keeps them."""
    cluster = Cluster(lab, **{"node.ttl": "2s", "node.grace": "3s"})
    n1, n2, n3 = cluster.n1, cluster.node("n2", "10.0.0.2"), cluster.node("n3", "10.0.0.3")
    n2.register(spec("b", "k8s:app=b", ["10.2.0.1"], lab.veth()))
    n3.register(spec("c", "k8s:app=c", ["10.3.0.1"], lab.veth()))
    f = n1.follow().wait_synced()
    f.wait(lambda f: len(f.all("endpoint")) == 2 and len(f.all("node")) == 3)
    die(n2)
    os.kill(n3.pid, signal.SIGSTOP)
    f.wait(lambda f: f.get("node", "n2").gone and f.get("node", "n3").gone)
    assert not f.get("node", "n1").gone and len(f.all("endpoint")) == 2 and len(f.all("placement")) == 2
    os.kill(n3.pid, signal.SIGCONT)
    f.wait(lambda f: not f.get("node", "n3").gone)
    f.wait(lambda f: not f.get("node", "n2"))
    f.wait(lambda f: set(f.all("endpoint")) == {("n3", "c")} and len(f.all("placement")) == 1)
    assert [r["node"] for r in audits(n1, "gone for good")] == ["n2"]
    assert audits(n1, "gone for good")[0]["endpoints"] == 1
    assert {r["node"] for r in audits(n1, "not heard any more")} == {"n2", "n3"}
    assert [r["node"] for r in audits(n1, "heard again")] == ["n3"]
    # What it was is free for another; and when it comes back it is a node like any other.
    assert condition(n1.register(spec("b2", "k8s:app=b2", ["10.2.0.1"], lab.veth())), PLACED).met
    n4 = cluster.node("n4", "10.0.0.2")
    assert n4.follow().wait_synced().get("node", "n4")
    f.close()


def test_nobody_is_gone_because_the_cluster_role_was(lab):
    """A restart, however long: every node has its whole time from then on."""
    cluster = Cluster(lab, **{"node.ttl": "4s", "node.grace": "0"})
    n1, n2 = cluster.n1, cluster.node("n2", "10.0.0.2")
    n2.register(spec("b", "k8s:app=b", ["10.2.0.1"], lab.veth()))
    die(n2)
    n1.stop()
    n1 = lab.restart(n1, settings={"cluster.listen": f"127.0.0.1:{cluster.port}"})
    start = time.monotonic()
    f = n1.follow().wait_synced()
    assert not f.get("node", "n2").gone and f.get("endpoint", ("n2", "b"))
    f.wait(lambda f: not f.get("endpoint", ("n2", "b")))
    assert time.monotonic() - start > 3.5
    f.close()


def test_a_node_that_slept_too_long_comes_back(lab):
    """It lost everything while it slept; its connection still stands. It registers anew by itself."""
    cluster = Cluster(lab, **{"node.ttl": "2s", "node.grace": "0"})
    n1, n2 = cluster.n1, cluster.node("n2", "10.0.0.2")
    n2.register(spec("b", "k8s:app=b", ["10.2.0.1"], lab.veth()))
    f = n1.follow().wait_synced()
    f.wait(lambda f: f.get("endpoint", ("n2", "b")))
    os.kill(n2.pid, signal.SIGSTOP)
    f.wait(lambda f: not f.get("node", "n2") and not f.get("endpoint", ("n2", "b")))
    os.kill(n2.pid, signal.SIGCONT)
    f.wait(lambda f: f.get("node", "n2") and f.get("endpoint", ("n2", "b")))
    assert f.get("endpoint", ("n2", "b")).identity == 256
    f.close()


# ---- a restored backup ------------------------------------------------------------------------------------------------


def test_a_restored_backup(cluster, lab):
    """Followers read everything anew, in another epoch; what was registered since gets numbers that nobody had."""
    n1, n2 = cluster.n1, cluster.node("n2", "10.0.0.2")
    n2.register(spec("a", "k8s:app=a", ["10.2.0.1"], lab.veth()))
    n1.stop()
    store = n1.sockets / "state/store.db"
    backup = {f.name: f.read_bytes() for f in store.parent.glob("store.db*")}
    settings = {"cluster.listen": f"127.0.0.1:{cluster.port}"}
    n1 = lab.restart(n1, settings=settings)
    assert n1.register(spec("b", "k8s:app=b", ["10.1.0.1"], lab.veth())).identity == 257
    f = n2.follow().wait_synced()
    f.wait(lambda f: f.get("endpoint", ("n1", "b")))
    epoch = n1.once().position[0]
    lost = n2.register(spec("c", "k8s:app=c", ["10.2.0.2"], lab.veth()))
    n1.stop()
    for file in store.parent.glob("store.db*"):
        file.unlink()
    for name, content in backup.items():
        (store.parent / name).write_bytes(content)
    subprocess.run([BUILD / "identity/countersign-identityd", "--instance", n1.instance, "--set", "trust_domain=example.org",
                    "--new-epoch", "sqlite"], check=True, capture_output=True)
    n1 = lab.restart(n1, settings=settings)
    ids = f.wait(lambda f: {i.labels[0].value: i.id for i in f.all("identity").values()}
                 if f.get("endpoint", ("n1", "b")) and (e := f.get("endpoint", ("n2", "c"))) and e.identity not in (0, lost.identity)
                 else None)
    assert ids["a"] == 256 and not {257, lost.identity} & {ids["b"], ids["c"]} and len(set(ids.values())) == 3
    g = n1.follow().wait_synced()
    assert g.position[0] != epoch
    f.wait(lambda f: set(f.all("endpoint")) == {("n1", "b"), ("n2", "a"), ("n2", "c")})
    g.close()
    f.close()


# ---- replicas over etcd -----------------------------------------------------------------------------------------------


POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {"k8s:app": web}}
  ingress:
  - fromEndpoints: [{matchLabels: {"k8s:app": client}}]
    authentication: {mode: required}
  - fromCIDR: [192.0.2.0/24]
"""


def same_directory(replicas):
    """All have the same position and, there, the same records."""
    def positions():
        said = [r.once() for r in replicas]
        return said if len({f.position for f in said}) == 1 else None
    said = wait_until(positions)
    for f in said[1:]:
        assert f.state == said[0].state
    return said[0]


def test_replicas_have_one_directory(lab, etcd):
    policies = lab.base / "policies"
    policies.mkdir()
    (policies / "web.yaml").write_text(POLICY)
    r = Replicas(lab, etcd, 3, **{"policy.dir": policies, "depends_on": "dns=k8s:app=dns"})
    n1, n2 = r.node("n1", "10.0.0.1"), r.node("n2", "10.0.0.2")
    for i, (n, app) in enumerate(((n1, "web"), (n1, "client"), (n2, "web"), (n2, "dns"))):
        n.register(spec(f"e{i}", f"k8s:app={app}", [f"10.1.0.{i + 1}"], lab.veth()), wait_for=[PUBLISHED])
        for other in (n1, n2):
            assert other.once().get("endpoint", (n.node, f"e{i}")), other.node
    f = same_directory(r.all)
    assert len(f.all("identity")) == 3 and f.get("policy", "default/web") and f.get("depends_on", "dns").identities
    assert f.all("prefix")
    # Of nodes that follow different replicas each has the rows of its own identities.
    web, client = (next(i.id for i in f.all("identity").values() if i.labels[0].value == app) for app in ("web", "client"))
    for n in (n1, n2):
        g = n.follow().wait_synced()
        g.wait(lambda g: g.get("policy_row", (web, client)) and g.get("policy_default", web))
        g.close()
    # The next leader has the same files, and the directory does not move for that.
    before = f.position
    old = r.leader()
    die(old)
    r.leader()
    f = same_directory([d for d in r.all if d.alive])
    assert f.position == before and f.get("policy", "default/web")
    assert sorted(leadership(d) for d in r.all if d.alive) == ["FOLLOWER", "LEADER"]


def test_a_leader_is_killed(lab, etcd):
    """Another one leads; nodes go on from where they were, whichever replica they followed."""
    r = Replicas(lab, etcd, 3)
    nodes = [r.node(f"n{i}", f"10.0.0.{i + 1}") for i in range(3)]
    for i, n in enumerate(nodes):
        n.register(spec("a", f"k8s:app=a{i}", [f"10.1.{i}.1"], lab.veth()), wait_for=[PUBLISHED])
    followers = [n.follow().wait_synced() for n in nodes]
    killed = []
    for turn in range(2):
        leader = r.leader()
        start = time.monotonic()
        die(leader)
        killed.append(r.all.index(leader))
        for i, n in enumerate(nodes):
            status = n.register(spec(f"b{turn}", f"k8s:app=b{turn}", [f"10.1.{i}.{turn + 2}"], lab.veth()), timeout=30)
            assert condition(status, PLACED).met
        took = time.monotonic() - start
        assert took < 20, took  # lease 2 s, the next heartbeat, the claims
        for f in followers:
            f.wait(lambda f: len(f.all("endpoint")) == 3 * (turn + 2) and all(e.identity for e in f.all("endpoint").values()))
            assert f.synced == 1  # the node role's own followers saw no new state
        if turn == 0:
            r.start(killed[0])
            wait_until(lambda: leadership(r.all[killed[0]]) == "FOLLOWER")
    same_directory([d for d in r.all if d.alive])
    ids = {(i.id, tuple(l.value for l in i.labels)) for i in followers[0].all("identity").values()}
    assert len(ids) == len({i for i, _ in ids}) == len({l for _, l in ids}) == 5
    for f in followers:
        f.close()


def test_a_leader_ends_in_order(lab, etcd):
    """It gives its lease back: another one leads long before that would be over."""
    r = Replicas(lab, etcd, **{"etcd.lease": "60s"})
    n1 = r.node("n1", "10.0.0.1")
    n1.register(spec("a", "k8s:app=a", ["10.1.0.1"], lab.veth()), wait_for=[PUBLISHED])
    old, other = r.leader(), r.follower()
    start = time.monotonic()
    old.stop()
    assert r.leader([other]) is other and time.monotonic() - start < 20
    assert condition(n1.register(spec("b", "k8s:app=b", ["10.1.0.2"], lab.veth()), timeout=30), PLACED).met


def test_a_leader_sleeps(lab, etcd):
    """When it wakes up it is deposed and harmless; nodes have left it within a few seconds."""
    r = Replicas(lab, etcd)
    n1, n2 = r.node("n1", "10.0.0.1"), r.node("n2", "10.0.0.2")
    n1.register(spec("a", "k8s:app=a", ["10.1.0.1"], lab.veth()), wait_for=[PUBLISHED])
    old, other = r.leader(), r.follower()
    os.kill(old.pid, signal.SIGSTOP)
    start = time.monotonic()
    assert r.leader([other]) is other
    status = n2.register(spec("b", "k8s:app=b", ["10.2.0.1"], lab.veth()), timeout=30)
    assert condition(status, PLACED).met and time.monotonic() - start < 20
    os.kill(old.pid, signal.SIGCONT)
    wait_until(lambda: leadership(old) == "FOLLOWER")
    status = n1.register(spec("c", "k8s:app=c", ["10.1.0.2"], lab.veth()), wait_for=[PLACED, PUBLISHED], timeout=30)
    assert condition(status, PUBLISHED).met and n2.once().get("endpoint", ("n1", "c"))
    f = same_directory(r.all)
    assert set(f.all("endpoint")) == {("n1", "a"), ("n2", "b"), ("n1", "c")}
    assert len({i.spiffe_id for i in f.all("identity").values()}) == len(f.all("identity")) == 3
    assert r.leader() is other


def test_a_follower_sleeps_and_its_place_is_compacted(lab, etcd):
    """It reads everything anew and tells the difference: who follows it sees no empty world, and no position goes back."""
    r = Replicas(lab, etcd)
    n1 = r.node("n1", "10.0.0.1")
    n1.register(spec("a", "k8s:app=a", ["10.1.0.1"], lab.veth()), wait_for=[PUBLISHED])
    leader, other = r.leader(), r.follower()
    f = other.follow().wait_synced()
    f.wait(lambda f: f.get("endpoint", ("n1", "a")))
    os.kill(other.pid, signal.SIGSTOP)
    for i in range(2, 8):
        n1.register(spec(f"e{i}", f"k8s:app=e{i}", [f"10.1.0.{i}"], lab.veth()), timeout=30)
    etcd.members[0].compact(etcd.members[0].revision())
    at = leader.once().position
    os.kill(other.pid, signal.SIGCONT)
    positions = [f.position]

    def caught_up(f):
        assert f.get("endpoint", ("n1", "a"))
        positions.append(f.position)
        return f.position >= at
    f.wait(caught_up)
    assert positions == sorted(positions) and f.synced == 1 and len(f.all("endpoint")) == 7
    same_directory(r.all)
    f.close()


def test_without_etcd(lab, etcd):
    """What is known is served on, what is new is refused with the reason, and nothing is released or collected."""
    r = Replicas(lab, etcd, **{"node.ttl": "3s", "node.grace": "0", "gc.grace": "1s"})
    n1 = r.node("n1", "10.0.0.1")
    n1.register(spec("a", "k8s:app=a", ["10.1.0.1"], lab.veth()), wait_for=[PUBLISHED])
    f = n1.follow().wait_synced()
    before = same_directory(r.all)
    etcd.members[0].kill()
    # Whoever leads finds out with the first claim, and says so long before the caller's deadline.
    e = refused(grpc.StatusCode.UNAVAILABLE, n1.register, spec("c", "k8s:app=c", ["10.1.0.3"], lab.veth()),
                wait_for=[ENFORCED], timeout=60)
    assert reason_of(e) == "store-unavailable" and "'c' is registered" in e.details(), e.details()
    for d in r.all:
        d.wait_check("store", ok=False, says="store-unavailable")
        d.wait_check("leader", ok=False)
    n1.wait_check("cluster", ok=False, says="store-unavailable")
    b = spec("b", "k8s:app=b", ["10.1.0.2"], lab.veth())
    for _ in range(2):  # whoever tries again hears the same
        e = refused(grpc.StatusCode.UNAVAILABLE, n1.register, b, wait_for=[IDENTIFIED], timeout=60)
        assert reason_of(e) == "store-unavailable", e.details()
    n1.register(spec("d", "k8s:app=d", ["10.1.0.4"], lab.veth()), wait_for=[REGISTERED])  # asks for nothing of the store
    assert set(n1.list()) == {"a", "b", "c", "d"}
    # As the cluster role says it. A node that nobody knows can say Hello, and hears nothing.
    proxy = lab.keep(TlsProxy(lab.base / "n9.sock", r.ports[0], r.ca.node("n9")))
    stub = protos.cluster_rpc.ClusterStub(proxy.channel)
    assert not stub.Hello(protos.cluster.HelloRequest(addresses=[ip("10.0.0.9")], port=4250, path="unknown"), timeout=WAIT_S).leader
    claim = protos.cluster.ClaimRequest(id="x", labels=labels("k8s:app=x"), addresses=[ip("10.1.9.1")])
    assert reason_of(refused(grpc.StatusCode.UNAVAILABLE, stub.Claim, claim, timeout=WAIT_S)) == "store-unavailable"
    assert Follower(proxy.channel).wait_end().code() == grpc.StatusCode.FAILED_PRECONDITION
    # A node role that comes now is served too: the replicas know it.
    die(n1)
    n1 = lab.restart(n1)
    g = n1.follow().wait_synced()
    assert g.get("endpoint", ("n1", "a")).identity == 256
    g.wait(lambda g: g.silent_ms > 3000, timeout=20)  # and says how old it is
    for d in r.all:
        assert d.once().state == before.state
    etcd.members[0].start()
    for d in r.all:
        d.wait_check("store", ok=True)
    r.leader()
    # What was registered meanwhile is claimed by itself, and who registers it again finds it placed.
    g.wait(lambda g: all((e := g.get("endpoint", ("n1", x))) and e.identity >= 257 for x in "bcd"))
    n1.register(b, wait_for=[PLACED])
    after = same_directory(r.all)
    assert before.all("identity").items() <= after.all("identity").items() and after.get("endpoint", ("n1", "a"))
    assert not any(audits(d, "gone") for d in r.all)
    g.close()
    f.close()


def test_a_replica_with_other_settings(lab, etcd):
    """Which labels make an identity, and how long a number rests, is whoever leads': who would do it differently says so."""
    r = Replicas(lab, etcd, 2)
    r.leader()
    for d in r.all:
        d.wait_check("settings", ok=True)
    other = r._start("c2", **{"labels.filter": "k8s:app,k8s:tier"})
    other.wait_check("settings", ok=False, says="labels.filter=k8s:app,k8s:tier, the one that leads (or led last) has labels.filter=;")
    longer = r._start("c3", **{"id.quarantine": "100h"})
    longer.wait_check("settings", ok=False, says="id.quarantine=360000000ms")
    assert all(d.wait_check("settings", ok=True) for d in r.all)
    # When it leads, it is the others that differ.
    for d in [*r.all, longer]:
        lab.things.remove(d)
        d.stop()
        d.clean()
    r.leader([other])
    other.wait_check("settings", ok=True)
    r.start(0).wait_check("settings", ok=False, says="labels.filter=, the one that leads (or led last) has labels.filter=k8s:app")


def test_what_role_cluster_is_not(lab, etcd):
    r = Replicas(lab, etcd, 2)
    leader, other = r.leader(), r.follower()
    said = cli(leader, "status")
    assert said.returncode == 0 and "cluster, leader" in said.stdout and "authd" not in said.stdout
    said = cli(other, "identity", "gc", "--dry-run")
    assert said.returncode != 0 and "not-leader" in said.stderr and "is it running" not in said.stderr
    assert cli(leader, "identity", "gc", "--dry-run").returncode == 0
    assert not (leader.sockets / "endpoints.sock").exists() and (leader.sockets / "admin.sock").exists()
    for settings, word in (({"node.addresses": "10.0.0.1"}, "node.addresses"), ({"tls.cert": "", "tls.key": "", "tls.bundle": ""},
                                                                               "tls.cert is not set")):
        d = lab.restart(leader, settings=settings, wait=False)
        assert d.wait() == 2 and word in d.output(), d.output()
        lab.things.remove(d)
        d.clean()
    d = lab.all("etcd.endpoints=" + etcd.urls[0], wait=False, instance="x")
    assert d.wait() == 2 and "role cluster" in d.output()
    lab.things.remove(d)
    d.clean()


def test_a_user_of_etcd_who_may_only_read(lab, tmp_path):
    """A replica that can never lead says why, not only that nobody does."""
    for user in ("cs", "root"):
        (tmp_path / f"{user}.password").write_text(user)
    with Etcd() as etcd:
        etcd.enable_auth("cs", "cs", "/countersign/", may="READ")
        r = Replicas(lab, etcd, 1, **{"etcd.user": "cs", "etcd.password_file": tmp_path / "cs.password"})
        check = r.all[0].wait_check("leader", ok=False, says="no replica of the cluster role leads; this one cannot: ")
        assert "permission denied" in check.reason.detail
        root = r._start("root", **{"etcd.user": "root", "etcd.password_file": tmp_path / "root.password"})
        root.wait_check("leader", ok=True)  # and the other one follows it
        assert r.all[0].wait_check("leader", ok=True) and r.leader([root]) is root
        for d in (r.all[0], root):
            lab.things.remove(d)
            d.stop()

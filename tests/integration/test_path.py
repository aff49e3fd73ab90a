"""One packet, two nodes, every daemon real: namespaces as hosts, real BPF, real handshakes."""
import concurrent.futures
import contextlib
import threading

import pytest

from lab.cluster import Cluster, LabError, policy, required, wait_until

PORT = 5000


def policies(c):
    """frontend → db, authenticated, and nothing else in any direction."""
    c.policy("db", policy("db", "db", required("ingress", "frontend") + "  egress: []\n"))
    c.policy("frontend", policy("frontend", "frontend", required("egress", "db") + "  ingress: []\n"))


@pytest.fixture(scope="module")
def c():
    with Cluster(prefix="tpath") as c:
        n1, n2 = c.node(), c.node()
        policies(c)
        c.credentials()
        n1.workload("frontend", "k8s:app=frontend")
        n1.workload("batch", "k8s:app=batch")
        n2.workload("db", "k8s:app=db")
        n2.workload("near", "k8s:app=frontend")
        c.start()
        for w in c.workloads.values():
            w.register(wait="enforced,svid-ready")
        c.servers = [c.workloads["db"].listen(PORT, family) for family in (4, 6)]
        yield c
        for s in c.servers:
            s.close()
        assert [n.stop("authd") for n in c.nodes] == [0, 0], "a clean shutdown"
        assert [n.stop("spire-adapter") for n in c.nodes] == [0, 0]
        assert [n.stop("identityd") for n in c.nodes] == [0, 0]


@pytest.fixture(autouse=True)
def nothing_authenticated(c):
    for n in c.nodes:
        n.cli("auth", "flush", "--all")


def entries(node):
    return node.cli("auth", "list")["entries"]


def remotes(node):
    """Others may be among them: what TCP sends once more of an older connection authenticates its pair again."""
    return {e["remote"] for e in entries(node)}


@pytest.mark.parametrize("family", [4, 6])
def test_the_cold_packet_is_held_not_lost(c, family):
    frontend, db = c.workloads["frontend"], c.workloads["db"]
    before = frontend.ns.counters()["TcpExt.TCPSynRetrans"]
    sock, ms = frontend.connect(db, PORT, family)
    sock.close()
    assert ms < 500 and frontend.ns.counters()["TcpExt.TCPSynRetrans"] == before
    assert len(entries(frontend.node)) == 1 and len(entries(db.node)) == 1, "both sides wrote their entry"


@pytest.mark.parametrize("family", [4, 6])
def test_the_first_datagram_arrives(c, family):
    frontend, db = c.workloads["frontend"], c.workloads["db"]
    with db.udp(family=family) as receiver, frontend.udp(family=family) as sender:
        receiver.settimeout(3)
        sender.sendto(b"first", receiver.getsockname()[:2])
        assert receiver.recv(100) == b"first"
    for w in (frontend, db):
        counters = w.ns.counters()
        assert counters["Udp.InCsumErrors"] == 0 and counters["Udp6InCsumErrors"] == 0


def test_a_burst_arrives_in_order(c):
    frontend, db = c.workloads["frontend"], c.workloads["db"]
    with db.udp() as receiver, frontend.udp() as sender:
        receiver.settimeout(3)
        for i in range(14):
            sender.sendto(b"%d" % i, receiver.getsockname())
        assert [int(receiver.recv(10)) for _ in range(14)] == list(range(14))


def test_a_pair_on_one_node(c):
    near, db = c.workloads["near"], c.workloads["db"]
    sock, ms = near.connect(db, PORT)
    sock.close()
    assert ms < 500
    found = {(e["local"], e["remote"], e["role"]) for e in entries(db.node)}
    pair = near.endpoint["identity"], db.endpoint["identity"]
    assert found == {(*pair, "loopback"), (*pair[::-1], "loopback")}


def test_who_is_not_named_is_refused(c):
    batch, db = c.workloads["batch"], c.workloads["db"]
    before = db.node.dropped().get("policy-deny", 0)
    assert not batch.reaches(db, PORT)
    assert db.node.dropped()["policy-deny"] > before
    assert not entries(batch.node)


def test_only_the_authenticated_direction(c):
    """frontend → db was authenticated; db → frontend is no reply and was never asked for."""
    frontend, db = c.workloads["frontend"], c.workloads["db"]
    frontend.connect(db, PORT)[0].close()
    before = db.node.dropped().get("policy-deny", 0)
    with frontend.listen(PORT):
        assert not db.reaches(frontend, PORT)
    assert db.node.dropped()["policy-deny"] > before


def test_flush_is_only_forgetting(c):
    frontend, db = c.workloads["frontend"], c.workloads["db"]
    frontend.connect(db, PORT)[0].close()
    assert entries(db.node)
    assert db.node.cli("auth", "flush", "--all")["flushed"] >= 1
    assert not entries(db.node)
    frontend.connect(db, PORT)[0].close()


def test_a_policy_change_bites_at_once(c):
    frontend, db = c.workloads["frontend"], c.workloads["db"]
    sock, _ = frontend.connect(db, PORT)
    c.policy("db", policy("db", "db", "  ingress: []"))
    c.policy("frontend", policy("frontend", "frontend", "  egress: []"))
    try:
        wait_until(lambda: not entries(db.node) and not entries(frontend.node), "the entries go")
        sock.settimeout(1)
        sock.sendall(b"x")
        assert not frontend.reaches(db, PORT)
    finally:
        sock.close()
        policies(c)
    wait_until(lambda: frontend.reaches(db, PORT), "and the old policy is back")


def test_an_endpoint_that_leaves_takes_its_entries_along(c):
    db = c.workloads["db"]
    guest = c.nodes[0].workload("guest", "k8s:app=frontend", "k8s:guest=yes")
    guest.register(wait="enforced,svid-ready")
    wait_until(lambda: guest.reaches(db, PORT, timeout=3), "the guest is let in")
    identity = guest.endpoint["identity"]
    assert identity in remotes(db.node)
    guest.unregister()
    wait_until(lambda: identity not in remotes(db.node), "its entry goes at the other node")
    assert not guest.reaches(db, PORT), "its interface stays closed"


def test_its_address_under_another_identity(c):
    """The number and the address of who left give nobody its rights."""
    db = c.workloads["db"]
    guest = c.nodes[0].workload("guest2", "k8s:app=frontend", "k8s:guest=2")
    guest.register(wait="enforced,svid-ready")
    wait_until(lambda: guest.reaches(db, PORT, timeout=3), "the guest is let in")
    guest.unregister()
    guest.name, guest.labels = "heir", ["k8s:app=batch"]
    with pytest.raises(LabError, match="address-in-quarantine"):
        guest.register()
    assert not guest.reaches(db, PORT)


def test_a_workload_with_other_labels_goes_on(c):
    """Another identity, make before break: its next SVID is there before it moves, and what it sends meanwhile arrives."""
    db = c.workloads["db"]
    guest = c.nodes[0].workload("guest3", "k8s:app=frontend", "k8s:guest=3")
    guest.register(wait="enforced,svid-ready")
    before = guest.endpoint["identity"]
    with db.udp() as receiver, guest.udp() as sender, concurrent.futures.ThreadPoolExecutor(1) as pool:
        receiver.settimeout(3)
        sender.sendto(b"0", receiver.getsockname())
        assert receiver.recv(10) == b"0"
        guest.labels = ["k8s:app=frontend", "k8s:guest=4"]
        registered, sent = pool.submit(guest.register, wait="enforced,svid-ready"), 1
        while not registered.done() or sent < 20:
            sender.sendto(b"%d" % sent, receiver.getsockname())
            sent += 1
            threading.Event().wait(0.02)  # the pace of the sender
        registered.result()
        arrived = []
        with contextlib.suppress(TimeoutError):
            while len(arrived) < sent - 1:
                arrived.append(int(receiver.recv(10)))
        assert arrived == list(range(1, sent)), "all of it, in order"
    after = guest.endpoint["identity"]
    assert after not in (0, before)
    wait_until(lambda: remotes(db.node) & {before, after} == {after}, "only the new entry is left")
    guest.unregister()


def test_explain_tells_what_happens(c):
    frontend, batch, db = (c.workloads[n] for n in ("frontend", "batch", "db"))
    why = db.node.cli("auth", "explain", "db", batch.ip4)
    assert not why["to"]["passes"] and why["to"]["reason"]["name"] == "policy-deny"
    why = db.node.cli("auth", "explain", "db", frontend.ip4)
    assert not why["to"]["passes"] and why["to"]["reason"]["name"] == "unauthenticated"
    assert why["to"]["policy"] == "default/db ingress[0]" or "db" in why["to"]["policy"]
    frontend.connect(db, PORT)[0].close()
    assert db.node.cli("auth", "explain", "db", frontend.ip4)["to"]["passes"]

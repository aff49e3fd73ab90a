"""authd's service Auth, its status and its metrics, on two real nodes: what is listed, explained and told."""
import ipaddress
import json
import time

import grpc
import pytest

from lab import protos
from lab.auth import Events, stub_of
from lab.cluster import Cluster, policy, required, wait_until
from lab.nodes import reason_of

A = protos.auth
PORT = 5000
WAIT_S = 30
DENY, REQUIRE, PASS = range(3)


@pytest.fixture(scope="module")
def c():
    with Cluster(prefix="tauth") as c:
        n1, n2 = c.node(), c.node()
        c.policy("db", policy("db", "db", required("ingress", "frontend")))
        c.credentials()
        n1.workload("frontend", "k8s:app=frontend")
        n1.workload("batch", "k8s:app=batch")
        n2.workload("db", "k8s:app=db")
        c.start()
        for w in c.workloads.values():
            w.register(wait="enforced,svid-ready")
        c.server = c.workloads["db"].udp(PORT)
        c.server.settimeout(WAIT_S)
        c.id = {e["id"]: e["identity"] for n in c.nodes for e in n.cli("endpoint", "list")["endpoints"]}
        yield c
        c.server.close()
        assert [n.stop("authd") for n in c.nodes] == [0, 0], "a clean shutdown"


@pytest.fixture(autouse=True)
def nothing_authenticated(c):
    for n in c.nodes:
        n.cli("auth", "flush", "--all")


@pytest.fixture
def auth(c):
    """The stub of a node's Auth."""
    channels = []

    def of(node):
        channel, stub = stub_of(node)
        channels.append(channel)
        return stub

    yield of
    for channel in channels:
        channel.close()


def pair(c, local, remote, node):
    return A.AuthPair(local=c.id[local], remote=c.id[remote], node=node)


def explain(stub, endpoint, address):
    return stub.Explain(A.ExplainRequest(interface=endpoint, remote=protos.common.Address(
        ip=ipaddress.ip_address(address).packed)), timeout=WAIT_S)


def listed(stub, **match):
    pending = match.pop("pending", False)
    return list(stub.List(A.AuthListRequest(match=A.AuthPair(**match), pending=pending), timeout=WAIT_S))


def connect(c):
    """One packet, and it has arrived: nothing comes after it that would ask again."""
    with c.workloads["frontend"].udp() as s:
        s.sendto(b"hello", (c.workloads["db"].ip4, PORT))
    assert c.server.recv(100) == b"hello"


def checks(node):
    status = json.loads(node.run_cli("status", "-o", "json").stdout)  # exits with 1 while something is wrong
    (authd,) = (d for d in status["daemons"] if d["daemon"] == "authd")
    return authd, {x["name"]: x for x in authd["checks"]}


def wait_healthy(node):
    """Ready is said before the directory has told on which addresses to listen. Status has no stream."""
    end = time.monotonic() + WAIT_S
    while not checks(node)[0]["healthy"]:
        assert time.monotonic() < end, checks(node)
        time.sleep(0.05)


# ---- list ----

def test_list_says_who_until_when_and_by_what(c, auth):
    db = auth(c.nodes[1])
    assert listed(db) == []
    connect(c)
    (e,) = listed(db)
    assert (e.pair.local, e.pair.remote, e.pair.node) == (c.id["db"], c.id["frontend"], "node1")
    assert (e.state, e.role, e.path) == ("live", "dialler", "unknown"), "the one that asks dials"
    assert e.remote_spiffe_id == f"spiffe://example.org/identity/{c.id['frontend']}"
    assert len(e.remote_leaf_sha256) == 32 and 1 <= len(e.remote_serial) <= 20 and len(e.remote_authority) == 20
    (svid,) = (s for s in c.nodes[0].cli("svid", "list")["svids"] if s["identity"] == c.id["frontend"])
    (own,) = (s for s in c.nodes[1].cli("svid", "list")["svids"] if s["identity"] == c.id["db"])
    assert e.not_after_unix_s == min(svid["not_after_unix_s"], own["not_after_unix_s"])
    assert e.since_unix_ms < e.until_unix_ms <= e.not_after_unix_s * 1000 + 20, "the coarse clock's tick"
    assert not e.HasField("reason")


def test_list_matches(c, auth):
    connect(c)
    db = auth(c.nodes[1])
    for match, n in (({}, 1), ({"local": c.id["db"]}, 1), ({"local": c.id["frontend"]}, 0),
                     ({"remote": c.id["frontend"]}, 1), ({"remote": c.id["db"]}, 0), ({"node": "node1"}, 1),
                     ({"node": "node2"}, 0)):
        assert len(listed(db, **match)) == n, match
    with pytest.raises(grpc.RpcError) as e:
        listed(db, node="nobody")
    assert e.value.code() == grpc.StatusCode.NOT_FOUND and reason_of(e.value) == "peer-node-unknown"


# ---- explain ----

def test_explain_before_and_after(c, auth):
    db, frontend = auth(c.nodes[1]), c.workloads["frontend"]
    for address in (frontend.ip4, frontend.ip6):
        x = explain(db, "db", address)
        assert (x.endpoint, x.pair.local, x.pair.remote, x.pair.node) == ("db", c.id["db"], c.id["frontend"], "node1")
        assert (x.to, x.to_passes, x.reason_to.name) == (REQUIRE, False, "unauthenticated")
        assert x.policy_to == "default/db ingress[0]"
        assert not x.HasField("entry")
    connect(c)
    for endpoint in ("db", c.workloads["db"].interface):
        x = explain(db, endpoint, frontend.ip4)
        assert x.to_passes and not x.HasField("reason_to")
        assert x.entry.state == "live" and x.policy_to == "default/db ingress[0]"
        assert not x.audit and not x.depends_on


def test_explain_refusals(c, auth):
    db = auth(c.nodes[1])
    x = explain(db, "db", c.workloads["batch"].ip4)
    assert (x.to, x.to_passes, x.reason_to.name, x.policy_to) == (DENY, False, "policy-deny", "default/db ingress")
    x = explain(db, "db", "203.0.113.9")
    assert (x.pair.remote, x.to, x.reason_to.name) == (2, DENY, "policy-deny"), "the world"
    x = explain(db, "db", c.nodes[1].address)
    assert (x.pair.remote, x.to, x.to_passes) == (1, PASS, True), "this node itself: probes"
    x = explain(db, "db", "fe80::7")
    assert x.reason_from.name == x.reason_to.name == "link-local"
    for what, code, reason in (("nobody", grpc.StatusCode.NOT_FOUND, "not-registered"),
                               ("frontend", grpc.StatusCode.NOT_FOUND, "not-registered")):
        with pytest.raises(grpc.RpcError) as e:
            explain(db, what, "10.0.0.1")
        assert (e.value.code(), reason_of(e.value)) == (code, reason)
    for group in ("224.0.0.1", "ff02::1", "0.0.0.0", "255.255.255.255"):
        with pytest.raises(grpc.RpcError) as e:
            explain(db, "db", group)
        assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as e:
        db.Explain(A.ExplainRequest(interface="db", remote=protos.common.Address(ip=b"12345")), timeout=WAIT_S)
    assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT


# ---- authenticate ----

def test_authenticate_now(c, auth):
    db = auth(c.nodes[1])
    e = db.Authenticate(A.AuthenticateRequest(pair=pair(c, "db", "frontend", "node1")), timeout=WAIT_S)
    assert (e.state, e.role) == ("live", "dialler")
    again = db.Authenticate(A.AuthenticateRequest(pair=pair(c, "db", "frontend", "node1")), timeout=WAIT_S)
    assert again.state == "live" and len(listed(db)) == 1


@pytest.mark.parametrize("local,remote,node,reason", [
    ("db", "batch", "node1", "policy-no-longer-asks"),
    ("batch", "frontend", "node1", "no-local-endpoint"),
    ("db", "frontend", "node2", "peer-not-placed"),
    ("db", "frontend", "nobody", "peer-node-unknown"),
])
def test_authenticate_in_vain(c, auth, local, remote, node, reason):
    with pytest.raises(grpc.RpcError) as e:
        auth(c.nodes[1]).Authenticate(A.AuthenticateRequest(pair=pair(c, local, remote, node)), timeout=WAIT_S)
    assert reason_of(e.value) == reason


def test_authenticate_while_the_peer_is_down(c, auth):
    n1 = c.nodes[0]
    db = auth(c.nodes[1])
    n1.kill("authd")
    try:
        for _ in range(6):  # the second refusal is no news, and is an answer all the same; the last is one for three seconds
            with pytest.raises(grpc.RpcError) as e:
                db.Authenticate(A.AuthenticateRequest(pair=pair(c, "db", "frontend", "node1")), timeout=WAIT_S)
            assert (e.value.code(), reason_of(e.value)) == (grpc.StatusCode.FAILED_PRECONDITION, "peer-unreachable")
        (refused,) = listed(db, pending=True, local=c.id["db"], remote=c.id["frontend"], node="node1")
        assert (refused.state, refused.reason.name) == ("refused", "peer-unreachable")
        assert listed(db) == []
        x = explain(db, "db", c.workloads["frontend"].ip4)
        assert x.reason_to.name == "backoff" and "peer-unreachable" in x.reason_to.detail
        assert x.entry.state == "refused"
        assert db.Flush(A.AuthFlushRequest(match=A.AuthPair(local=c.id["frontend"])), timeout=WAIT_S).flushed == 0
        assert explain(db, "db", c.workloads["frontend"].ip4).reason_to.name == "backoff", "another pair's flush is not ours"
        assert db.Flush(A.AuthFlushRequest(match=A.AuthPair(local=c.id["db"])), timeout=WAIT_S).flushed == 0
        assert explain(db, "db", c.workloads["frontend"].ip4).reason_to.name == "unauthenticated", "the next packet asks"
    finally:
        n1.start("authd")
        wait_healthy(n1)
    e = db.Authenticate(A.AuthenticateRequest(pair=pair(c, "db", "frontend", "node1")), timeout=WAIT_S)
    assert e.state == "live"


def test_a_pair_has_three_parts(c, auth):
    for p in (A.AuthPair(remote=1, node="node1"), A.AuthPair(local=1, node="node1"), A.AuthPair(local=1, remote=1)):
        with pytest.raises(grpc.RpcError) as e:
            auth(c.nodes[1]).Authenticate(A.AuthenticateRequest(pair=p), timeout=WAIT_S)
        assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT


# ---- flush ----

def test_flush_only_what_matches(c, auth):
    connect(c)
    db = auth(c.nodes[1])
    assert db.Flush(A.AuthFlushRequest(match=A.AuthPair(remote=c.id["batch"])), timeout=WAIT_S).flushed == 0
    assert len(listed(db)) == 1
    assert db.Flush(A.AuthFlushRequest(match=A.AuthPair(remote=c.id["frontend"])), timeout=WAIT_S).flushed == 1
    assert listed(db) == [] and explain(db, "db", c.workloads["frontend"].ip4).reason_to.name == "unauthenticated"
    connect(c)  # no revocation: it is back with the next packet
    assert len(listed(db)) == 1
    assert db.Flush(A.AuthFlushRequest(), timeout=WAIT_S).flushed == 1


# ---- events ----

def test_events_of_a_life(c, auth):
    db = auth(c.nodes[1])
    with Events(db) as events:
        connect(c)
        (up,) = events.until(lambda e: e.kind == "authenticated")
        assert (up.entry.pair.local, up.entry.pair.remote, up.entry.pair.node) == (c.id["db"], c.id["frontend"], "node1")
        assert up.entry.role == "dialler" and up.seq == events.greeting.seq + 1
        assert up.entry.remote_spiffe_id.endswith(f"/{c.id['frontend']}")
        db.Flush(A.AuthFlushRequest(), timeout=WAIT_S)
        (down,) = events.until(lambda e: e.kind == "deleted")
        assert down.seq == up.seq + 1 and not down.entry.HasField("reason")


def test_drops_are_for_who_asks(c, auth):
    db, batch = auth(c.nodes[1]), c.workloads["batch"]
    with Events(db, datapath=True) as all_events, Events(db) as without:
        with batch.udp() as s:
            s.sendto(b"let me in", (c.workloads["db"].ip4, PORT))
        seen = all_events.until(lambda e: e.kind == "dropped" and e.entry.pair.remote == c.id["batch"])
        drop = seen[-1]
        assert (drop.entry.reason.name, drop.hook, drop.interface) == ("policy-deny", "to", c.workloads["db"].interface)
        assert drop.packets >= 1 and not drop.would and drop.entry.pair.local == c.id["db"]
        assert ipaddress.ip_address(drop.address.ip) == ipaddress.ip_address(batch.ip4)
        connect(c)
        (up,) = without.until(lambda e: True)
        assert up.kind == "authenticated" and up.seq == without.greeting.seq + 1, "left out, and no hole"
        numbers = [e.seq for e in [all_events.greeting, *seen, *all_events.until(lambda e: e.kind == "authenticated")]]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_readers_are_bounded(c, auth):
    stub, calls = auth(c.nodes[1]), []
    for _ in range(64):
        calls.append(stub.Events(A.EventsRequest()))
        next(calls[-1])
    with pytest.raises(grpc.RpcError) as e:
        next(stub.Events(A.EventsRequest()))
    assert (e.value.code(), reason_of(e.value)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too-many")
    for call in calls:
        call.cancel()


# ---- status and metrics ----

def test_status(c):
    authd, by_name = checks(c.nodes[1])
    assert authd["healthy"] and authd["node"] == "node2"
    assert set(by_name) == {"directory", "svids", "handshakers", "signer", "listen", "endpoints", "maps"}


def metric(node, name, **labels):
    return sum(v for k, v in node.metrics().items()
               if k.startswith(name + "{") and all(f'{key}="{value}"' in k for key, value in labels.items()))


def test_metrics(c):
    n = c.nodes[1]
    before = metric(n, "countersign_handshakes_total", role="dialler", result="none")
    seconds = metric(n, "countersign_handshake_duration_seconds_count", role="dialler")
    drops = metric(n, "countersign_dropped_packets_total", reason="policy-deny", hook="to", would="false")
    connect(c)
    with c.workloads["batch"].udp() as s:
        s.sendto(b"let me in", (c.workloads["db"].ip4, PORT))
    # A handshaker says how long it took after the packet was let go.
    wait_until(lambda: metric(n, "countersign_handshakes_total", role="dialler", result="none") == before + 1, "it is counted")
    assert metric(n, "countersign_handshake_duration_seconds_count", role="dialler") == seconds + 1
    assert metric(n, "countersign_auth_entries") == 1
    assert metric(n, "countersign_dropped_packets_total", reason="policy-deny", hook="to", would="false") == drops + 1
    assert metric(n, "countersign_datapath_info", attach="tcx") + metric(n, "countersign_datapath_info", attach="clsact") == 1
    assert metric(n, "countersign_local_endpoints", state="enforced", reason="none") == 1
    assert metric(n, "countersign_local_endpoints", reason="shadowed") == 0

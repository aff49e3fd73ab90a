"""Peers that are not what they should be, against a real authd in both roles. They are made by Python's ssl and the
openssl command, with certificates of the lab's own CA where it takes a valid one. Each ends in one reason, the same in
events, metrics and log, leaves no entry, and the next good peer is served."""
import contextlib
import os
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import grpc
import pytest

from lab import pki, protos
from lab.auth import Watch
from lab.cluster import TRUST_DOMAIN, Cluster, Netns, policy, required, wait_until
from lab.daemon import WAIT_S
from lab.nodes import reason_of
from lab.tls import Files, after_handshake, byte, day_ago, end, reset, yes

AUTH_PORT, PORT = 4250, 5000
STRANGER = 4000  # no identity of this cluster


@pytest.fixture(scope="module")
def c():
    """node1's authd is the one under test. node2 and node3 are registered nodes without an authd: the tests are theirs."""
    with Cluster(prefix="tpeer") as c:
        c.n1, c.n2, c.n3 = (c.node() for _ in range(3))
        c.policy("db", policy("db", "db", required("ingress", "frontend")))
        c.policy("frontend", policy("frontend", "frontend", required("egress", "db")))
        c.credentials()
        c.db, c.frontend = c.n1.workload("db", "k8s:app=db"), c.n2.workload("frontend", "k8s:app=frontend")
        c.batch = c.n3.workload("batch", "k8s:app=batch")
        c.start("identityd", "spire-adapter")
        c.n1.start("authd")
        c.db.register(wait="enforced,svid-ready")
        c.frontend.register(wait="placed")
        c.batch.register(wait="placed")
        c.id = {e["id"]: e["identity"] for n in c.nodes for e in n.cli("endpoint", "list")["endpoints"]}
        c.ca = pki.Authority.load((c.dir / "ca/ca.pem").read_bytes())
        c.stranger = stranger(c)
        with tempfile.TemporaryDirectory(prefix="tpeer-") as dir:
            c.good = Files(Path(dir), svid(c, "frontend"), c.ca)
            yield c
        assert c.n1.stop("authd") == 0, "a clean shutdown"


def stranger(c):
    """A host on the same wire that is no node."""
    ns = Netns(f"{c.prefix}-stranger")
    c.defer(ns.delete)
    c.wire.ip("link", "add", "p99", "type", "veth", "peer", "name", "eth0", "netns", ns.name)
    c.wire.ip("link", "set", "p99", "master", "br0", "up")
    ns.ip("addr", "add", "10.77.0.99/24", "dev", "eth0")
    ns.ip("link", "set", "eth0", "up")
    return ns


def spiffe(identity):
    return f"spiffe://{TRUST_DOMAIN}/identity/{identity}"


def svid(c, identity, by=None, **options):
    """Of a workload by name, or of a number; by the lab's CA, which the nodes trust, or by another."""
    return (by or c.ca).svid(f"/identity/{c.id.get(identity, identity)}", **options)


@pytest.fixture
def watch(c):
    c.n1.cli("auth", "flush", "--all")
    w = Watch(c.n1)
    yield w
    w.close()
    c.n1.cli("auth", "flush", "--all")


def entries(c):
    return c.n1.cli("auth", "list")["entries"]


def refused_alike(c, watch, role, reason, served, events=1, count=1):
    """It was refused for one reason, told alike everywhere, and nothing came of it; then served() is, in the same role."""
    for _ in range(events):
        event = watch.events.next()
        assert (event.kind, event.entry.reason.name) == ("refused", reason)
    assert not entries(c)
    served()
    event = watch.events.next()
    assert (event.kind, event.entry.role) == ("authenticated", role), "nothing else was said in between"
    wait_until(lambda: sum(watch.handshakes().values()) > count, "the good one has closed its connection as well")
    assert watch.handshakes() == {(role, reason): count, (role, "none"): 1}
    logged = watch.logged()
    assert [line["reason"] for line in logged if line.get("event") == "refused"] == [reason] * events
    assert {line["reason"] for line in logged if "reason" in line} - {"none"} == {reason}
    found = entries(c)
    assert [(e["local"], e["remote"], e["role"]) for e in found] == [(c.id["db"], c.id["frontend"], role)]


# ---- who dials us -----------------------------------------------------------------------------------------------------


def connect(c, ns=None, source=None):
    """A connection to node1's authd: from node2's address, unless told otherwise."""
    return (ns or c.n2.ns).do(socket.create_connection, (c.n1.address, AUTH_PORT), 5, (source or c.n2.address, 0))


def sni_of(c, name="db"):
    return f"{c.id[name]}.{TRUST_DOMAIN}"


def tls_dial(c, sock, context, sni):
    """What our side of the handshake saw at last: b"" is close_notify, the yes."""
    sock.settimeout(WAIT_S)
    try:
        with context.wrap_socket(sock, server_hostname=sni) as s:
            return s.recv(10)
    except OSError as e:
        return e


def megabyte(c):
    return [c.ca.cert] * ((1 << 20) // len(pki.der(c.ca.cert)) + 1)


def good_dial(c):
    assert tls_dial(c, connect(c), c.good.client(), sni_of(c)) == b""


def dialled(c, watch, reason, act, **more):
    """act(socket) as a dialler whose address is node2's."""
    with connect(c) as sock:
        act(sock)
    refused_alike(c, watch, "acceptor", reason, lambda: good_dial(c), **more)


def test_a_good_dialler(c, watch):
    """The twin of all that follow: it is Python that is served, and its entry is of its own identity."""
    good_dial(c)
    assert watch.events.next().kind == "authenticated"
    assert [e["remote_spiffe_id"] for e in entries(c)] == [spiffe(c.id["frontend"])]


def test_diallers_that_fall_silent(c, watch):
    """Before the first byte, within a record, after the handshake's first flight, and one that drips: five seconds, then it
    is over."""
    hello = ssl.MemoryBIO()
    client = c.good.client().wrap_bio(ssl.MemoryBIO(), hello, server_hostname=sni_of(c))
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    hello = hello.read()
    over = threading.Event()

    def drip(sock):
        with contextlib.suppress(OSError):
            for i in range(len(hello)):
                sock.sendall(hello[i:i + 1])
                over.wait(0.1)  # slower than the deadline allows

    with connect(c), connect(c) as half, connect(c) as no_more, connect(c) as slow:
        half.sendall(hello[:100])
        no_more.sendall(hello)
        thread = threading.Thread(target=drip, args=(slow,))
        thread.start()
        refused_alike(c, watch, "acceptor", "peer-timeout", lambda: good_dial(c), events=4, count=4)
        over.set()
        thread.join()


@pytest.mark.parametrize("reason, act", [
    ("not-tls", lambda s: s.sendall(b"GET / HTTP/1.1\r\nHost: db\r\n\r\n")),
    ("not-tls", lambda s: s.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" + os.urandom(600))),
    ("not-tls", lambda s: s.sendall(b"\x16\x03\x01\xff\xff" + bytes(200))),
    ("not-tls", lambda s: s.sendall(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00")),
    ("not-tls", lambda s: None),
    ("not-tls", reset),
    ("verdict-truncated", lambda s: s.sendall(b"\x16\x03\x01\x02\x00\x01")),
])
def test_diallers_that_speak_no_tls(c, watch, reason, act):
    dialled(c, watch, reason, act)


def test_a_dialler_of_tls_1_2(c, watch):
    context = c.good.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    dialled(c, watch, "not-tls", lambda s: tls_dial(c, s, context, sni_of(c)))


def test_a_dialler_with_a_protocol_of_its_own(c, watch):
    context = c.good.client()
    context.set_alpn_protocols(["countersign/9"])
    dialled(c, watch, "protocol-refused", lambda s: tls_dial(c, s, context, sni_of(c)))


@pytest.mark.parametrize("reason, make", [
    ("svid-expired", lambda c: svid(c, "frontend", start=day_ago(), days=-0.1)),
    ("svid-expired", lambda c: svid(c, "frontend", start=day_ago() + pki.dt.timedelta(days=2), days=3)),
    ("untrusted", lambda c: svid(c, "frontend", pki.Authority())),
    ("no-bundle", lambda c: svid(c, "frontend", pki.Authority("unknown.org"))),
    ("svid-profile", lambda c: svid(c, "frontend", uris=[spiffe(c.id["frontend"]), spiffe(c.id["batch"])])),
    ("svid-profile", lambda c: svid(c, "frontend", uris=())),
    ("svid-profile", lambda c: svid(c, "frontend", ca=True)),
    ("algorithm-refused", lambda c: svid(c, "frontend", kind="rsa1024")),
    # Valid, but whose is it?
    ("peer-not-placed", lambda c: svid(c, "batch")),  # lives on node3
    ("peer-not-placed", lambda c: svid(c, "db")),  # lives here
    ("spiffe-id-unknown", lambda c: svid(c, STRANGER)),
    ("spiffe-id-unknown", lambda c: c.ca.svid("/countersign/node/node2")),
    ("spiffe-id-unknown", lambda c: c.ca.svid("/countersign/identityd")),
])
def test_leaves_of_diallers(c, watch, tmp_path, reason, make):
    context = Files(tmp_path, make(c), c.ca).client()
    seen = []
    dialled(c, watch, reason, lambda s: seen.append(tls_dial(c, s, context, sni_of(c))))
    assert isinstance(seen[0], OSError), "the dialler heard no yes"


def test_a_stolen_svid_is_worth_nothing_elsewhere(c, watch):
    """frontend's own chain and key, spoken from node3."""
    with connect(c, c.n3.ns, c.n3.address) as sock:
        assert isinstance(tls_dial(c, sock, c.good.client(), sni_of(c)), OSError)
    refused_alike(c, watch, "acceptor", "peer-not-placed", lambda: good_dial(c))


def test_a_dialler_on_this_very_node(c, watch):
    """A process here has the node's address, but no identity is spoken for over the wire to its own node."""
    with connect(c, c.n1.ns, c.n1.address) as sock:
        assert isinstance(tls_dial(c, sock, c.good.client(), sni_of(c)), OSError)
    refused_alike(c, watch, "acceptor", "peer-node-unknown", lambda: good_dial(c), events=0)


def test_a_dialler_without_a_certificate(c, watch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(c.good.ca)
    dialled(c, watch, "no-certificate", lambda s: tls_dial(c, s, context, sni_of(c)))


@pytest.mark.parametrize("reason, sni", [
    *(("sni-invalid", sni) for sni in ("0{db}.{td}", "0x100.{td}", "+{db}.{td}", "{db}", "{db}.EXAMPLE.org",
                                       "4294967552.{td}", "localhost", None)),
    ("trust-domain-mismatch", "{db}.other.org"),
    ("trust-domain-mismatch", "{db}.{td}."),
    ("no-local-endpoint", "{frontend}.{td}"),
    ("no-local-endpoint", "4000.{td}"),
])
def test_names_that_diallers_ask_for(c, watch, reason, sni):
    sni = sni and sni.format(td=TRUST_DOMAIN, **c.id)
    dialled(c, watch, reason, lambda s: tls_dial(c, s, c.good.client(), sni))


def test_a_dialler_with_a_chain_of_a_megabyte(c, watch, tmp_path):
    """By the openssl command, which sends whatever it is given."""
    many = tmp_path / "many.pem"
    many.write_bytes(b"".join(pki.pem(cert) for cert in megabyte(c)))
    with subprocess.Popen([*c.n2.ns.enter(), "openssl", "s_client", "-connect", f"{c.n1.address}:{AUTH_PORT}", "-bind", c.n2.address,
                           "-cert", c.good.chain, "-key", c.good.key, "-cert_chain", str(many), "-servername", sni_of(c),
                           "-tls1_3", "-quiet"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as p:
        refused_alike(c, watch, "acceptor", "chain-too-large", lambda: good_dial(c))
        p.stdin.close()
        p.wait(WAIT_S)


@pytest.mark.parametrize("who", ["a host that is no node", "a workload of a node"])
@pytest.mark.parametrize("act", [
    lambda c, s: None,
    lambda c, s: s.sendall(os.urandom(600)),
    lambda c, s: tls_dial(c, s, c.good.client(), sni_of(c)),
])
def test_diallers_that_are_no_node(c, watch, who, act):
    """Closed before a byte is read, whatever they would have had to show."""
    ns, address = (c.stranger, "10.77.0.99") if who == "a host that is no node" else (c.frontend.ns, c.frontend.ip4)
    with connect(c, ns, address) as sock:
        with contextlib.suppress(OSError):
            act(c, sock)
        if sock.fileno() >= 0:  # ssl has it no longer
            sock.settimeout(WAIT_S)
            with contextlib.suppress(ConnectionError):
                assert sock.recv(10) == b""
    refused_alike(c, watch, "acceptor", "peer-node-unknown", lambda: good_dial(c), events=0)


# ---- whom we dial -----------------------------------------------------------------------------------------------------


class FakeAuthd(threading.Thread):
    """serve(socket) for each connection to node2's port."""

    def __init__(self, c, serve):
        super().__init__(daemon=True)
        self.serve, self.listener = serve, c.n2.ns.do(socket.create_server, (c.n2.address, AUTH_PORT))
        self.open = []

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                sock = self.listener.accept()[0]
                self.open.append(sock)
                with contextlib.suppress(OSError):
                    self.open.append(self.serve(sock))

    def __enter__(self):
        self.start()

    def __exit__(self, *exc):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.join()
        for s in (self.listener, *self.open):
            if isinstance(s, socket.socket):
                s.close()


def server(c, tmp_path, leaf=None, ca=None):
    context = Files(tmp_path, leaf or svid(c, "frontend"), ca or c.ca).server()
    context.num_tickets = 0
    return context


def ask(c, watch):
    """An operator asks for the pair, whatever the backoff: its entry, or the reason why not."""
    pair = protos.auth.AuthPair(local=c.id["db"], remote=c.id["frontend"], node="node2")
    try:
        return watch.stub.Authenticate(protos.auth.AuthenticateRequest(pair=pair), timeout=WAIT_S)
    except grpc.RpcError as e:
        return reason_of(e)


def good_answer(c, watch, tmp_path):
    with FakeAuthd(c, after_handshake(server(c, tmp_path), yes)):
        entry = ask(c, watch)
    assert entry.remote_spiffe_id == spiffe(c.id["frontend"])


def answered(c, watch, tmp_path, reason, serve):
    with FakeAuthd(c, serve) if serve else contextlib.nullcontext():
        assert ask(c, watch) == reason
    refused_alike(c, watch, "dialler", reason, lambda: good_answer(c, watch, tmp_path))


def test_a_good_acceptor(c, watch, tmp_path):
    """The twin of all that follow."""
    good_answer(c, watch, tmp_path)
    assert watch.events.next().kind == "authenticated"


def test_nobody_listens(c, watch, tmp_path):
    answered(c, watch, tmp_path, "peer-unreachable", None)


def test_packets_that_vanish(c, watch, tmp_path):
    """Not even a refusal comes back from node2."""
    for family, address in (("-4", c.n1.address), ("-6", c.n1.address6)):
        c.n2.ns.ip(family, "route", "add", "blackhole", address)
    try:
        assert ask(c, watch) == "peer-timeout"
    finally:
        for family, address in (("-4", c.n1.address), ("-6", c.n1.address6)):
            c.n2.ns.ip(family, "route", "del", "blackhole", address)
    refused_alike(c, watch, "dialler", "peer-timeout", lambda: good_answer(c, watch, tmp_path))


@pytest.mark.parametrize("reason, serve", [
    ("peer-timeout", lambda s: None),
    ("not-tls", lambda s: s.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" + bytes(100))),
    ("verdict-truncated", lambda s: (s.recv(10000), end(s))),
    ("verdict-truncated", lambda s: (s.recv(10000), reset(s))),
    ("verdict-truncated", lambda s: end(s)),
    ("verdict-truncated", lambda s: (s.recv(1, socket.MSG_PEEK), reset(s))),  # unread; earlier it is peer-unreachable
])
def test_acceptors_that_speak_no_tls(c, watch, tmp_path, reason, serve):
    answered(c, watch, tmp_path, reason, serve)


@pytest.mark.parametrize("reason, act", [
    ("peer-timeout", lambda s: None),
    ("verdict-truncated", end),
    ("verdict-truncated", reset),
    ("verdict-garbage", byte),
])
def test_where_close_notify_belongs(c, watch, tmp_path, reason, act):
    """Both sides have proved who they are. What comes then is the answer, and only close_notify is a yes."""
    answered(c, watch, tmp_path, reason, after_handshake(server(c, tmp_path), act))


def test_an_acceptor_that_refuses_us(c, watch, tmp_path):
    """It trusts another CA, and says so by an alert."""
    answered(c, watch, tmp_path, "verdict-alert", after_handshake(server(c, tmp_path, ca=pki.Authority()), yes))


@pytest.mark.parametrize("alert, longest_ms", [(ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME, 500),
                                               (ssl.ALERT_DESCRIPTION_ACCESS_DENIED, 30000)])
def test_how_long_a_refused_pair_waits(c, watch, tmp_path, alert, longest_ms):
    """A peer that does not speak for the identity yet is asked again soon, however often it has said so."""
    context = server(c, tmp_path)
    context.sni_callback = lambda *_: alert
    with FakeAuthd(c, after_handshake(context, yes)):
        for _ in range(6):  # 100 ms, 200, ... 3,200
            assert ask(c, watch) == "verdict-alert"
        [pair] = c.n1.cli("auth", "list", "--pending")["entries"]
    assert pair["state"] == "refused" and pair["reason"]["name"] == "verdict-alert"
    waits_ms = pair["until_unix_ms"] - time.time() * 1000
    assert (waits_ms <= 500) if longest_ms == 500 else (1000 < waits_ms <= longest_ms)
    good_answer(c, watch, tmp_path)


@pytest.mark.parametrize("alert, dials", [(ssl.ALERT_DESCRIPTION_CERTIFICATE_UNKNOWN, 4), (ssl.ALERT_DESCRIPTION_ACCESS_DENIED, 1)])
def test_a_peer_that_has_not_heard_of_us(c, watch, tmp_path, alert, dials):
    """Its directory may be a moment behind ours: it is asked again while the packet is held. Once; then it means it."""
    context, said = server(c, tmp_path), []
    context.sni_callback = lambda *_: said.append(alert) or alert
    with FakeAuthd(c, after_handshake(context, yes)):
        assert ask(c, watch) == "verdict-alert" and len(said) == dials
        assert ask(c, watch) == "verdict-alert" and len(said) == dials + 1
    good_answer(c, watch, tmp_path)


def test_a_peer_that_hears_of_us_a_moment_later(c, watch, tmp_path):
    context, said = server(c, tmp_path), []
    context.sni_callback = lambda *_: said.append(1) or (ssl.ALERT_DESCRIPTION_CERTIFICATE_UNKNOWN if len(said) < 3 else None)
    with FakeAuthd(c, after_handshake(context, yes)):
        assert ask(c, watch).remote_spiffe_id == spiffe(c.id["frontend"])
    assert len(said) == 3


def test_an_acceptor_of_tls_1_2(c, watch, tmp_path):
    context = server(c, tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    answered(c, watch, tmp_path, "verdict-alert", after_handshake(context, yes))


@pytest.mark.parametrize("reason, make", [
    ("svid-expired", lambda c: svid(c, "frontend", start=day_ago(), days=-0.1)),
    ("untrusted", lambda c: svid(c, "frontend", pki.Authority())),
    ("svid-profile", lambda c: svid(c, "frontend", uris=[spiffe(c.id["frontend"]), spiffe(c.id["batch"])])),
    ("svid-profile", lambda c: svid(c, "frontend", ca=True)),
    ("spiffe-id-mismatch", lambda c: svid(c, "batch")),
    ("spiffe-id-mismatch", lambda c: svid(c, "db")),
    ("spiffe-id-mismatch", lambda c: svid(c, STRANGER)),
    ("trust-domain-mismatch", lambda c: svid(c, "frontend", pki.Authority("other.org"))),
])
def test_leaves_of_acceptors(c, watch, tmp_path, reason, make):
    answered(c, watch, tmp_path, reason, after_handshake(server(c, tmp_path, make(c)), yes))


def test_an_acceptor_with_a_chain_of_a_megabyte(c, watch, tmp_path):
    leaf = svid(c, "frontend")
    leaf.chain += megabyte(c)
    answered(c, watch, tmp_path, "chain-too-large", after_handshake(server(c, tmp_path, leaf), yes))


def test_a_packet_waits_for_the_answer_and_dies_of_a_bad_one(c, watch, tmp_path):
    """What the handshakes are for: a datagram of frontend to db, which node1 holds."""
    with c.db.udp(PORT) as receiver, c.frontend.udp() as sender:
        before = c.n1.metrics().get('countersign_hold_dropped_packets_total{daemon="authd",reason="verdict-garbage"}', 0)
        with FakeAuthd(c, after_handshake(server(c, tmp_path), byte)):
            sender.sendto(b"refused", receiver.getsockname())
            assert watch.events.next().entry.reason.name == "verdict-garbage"
        assert c.n1.metrics()['countersign_hold_dropped_packets_total{daemon="authd",reason="verdict-garbage"}'] == before + 1
        assert not entries(c)
        receiver.settimeout(0.05)

        def arrives():
            sender.sendto(b"accepted", receiver.getsockname())
            with contextlib.suppress(TimeoutError):
                assert receiver.recv(100) == b"accepted"
                return True

        with FakeAuthd(c, after_handshake(server(c, tmp_path), yes)):
            wait_until(arrives, "when the backoff is over", WAIT_S)


def test_the_real_one_still_works(c):
    """After all that: node2's own authd comes, and both serve each other at once."""
    c.n2.start("authd")
    try:
        c.frontend.register(wait="enforced,svid-ready")
        with c.db.listen(PORT):
            assert c.frontend.reaches(c.db, PORT, timeout=5)
        assert len(entries(c)) == 1
    finally:
        assert c.n2.stop("authd") == 0

"""countersign-authd between the real others: time, silence, peers that are none, and what it says of interfaces."""
import contextlib
import json
import os
import socket
import subprocess
import time

import pytest

from lab.cluster import Cluster, LabError, policy, required, wait_until
from lab.daemon import BUILD, WAIT_S

PORT = 5000
AUTH_PORT = 4250
POLICY = policy("db", "db", required("ingress", "frontend"))


def wait(condition, what):
    return wait_until(condition, what, WAIT_S)


class Lab(Cluster):
    """frontend on node1; db and near (another frontend) on node2."""

    def __init__(self, prefix, **settings):
        super().__init__(prefix=prefix)
        self.n1, self.n2 = self.node(), self.node()
        for n in self.nodes:
            n.settings = {name.replace("_", "-"): dict(values) for name, values in settings.items()}
        self.policy("db", POLICY)
        self.credentials()
        self.frontend = self.n1.workload("frontend", "k8s:app=frontend")
        self.db, self.near = self.n2.workload("db", "k8s:app=db"), self.n2.workload("near", "k8s:app=frontend")

    def begin(self, wait="enforced,svid-ready"):
        self.start()
        for w in self.workloads.values():
            w.register(wait=wait)
        self.servers = [self.db.listen(PORT, family) for family in (4, 6)]
        return self

    def end(self):
        """Every daemon ends by SIGTERM with 0: no handle was left open, and no sanitizer had anything to say."""
        for server in self.servers:
            server.close()
        for name in ("authd", "spire-adapter", "identityd"):
            codes = [n.daemons.pop(name).stop() for n in self.nodes if name in n.daemons]
            assert set(codes) <= {0}, (name, codes)


@contextlib.contextmanager
def lab(prefix, wait="enforced,svid-ready", **settings):
    with Lab(prefix, **settings) as c:
        c.begin(wait)
        yield c
        c.end()


@pytest.fixture(scope="module")
def c():
    with lab("tauthd") as c:
        yield c


@pytest.fixture(autouse=True)
def nothing_authenticated(request):
    if "c" in request.fixturenames:
        for n in request.getfixturevalue("c").nodes:
            n.cli("auth", "flush", "--all")


def entries(node):
    return node.cli("auth", "list")["entries"]


def condition(workload, step):
    found = [e for e in workload.node.cli("endpoint", "list")["endpoints"] if e["id"] == workload.name]
    return next(x for x in found[0]["conditions"] if x["step"] == step)


def check(node, name):
    """One of authd's checks; the command fails while one is not ok, and answers all the same."""
    status = json.loads(node.run_cli("status", "-o", "json").stdout)
    return next(x for d in status["daemons"] if d["daemon"] == "authd" for x in d["checks"] if x["name"] == name)


def handshakes(node, role, result):
    return sum(value for name, value in node.metrics().items()
               if name.startswith("countersign_handshakes_total") and f'role="{role}"' in name
               and f'result="{result}"' in name)


class Stream:
    """A TCP connection between two workloads that is used again and again."""

    def __init__(self, source, target, port):
        with target.listen(port) as server:
            self.a, self.ms = source.connect(target, port)
            self.b = server.accept()[0]
        self.sent = 0

    def lives(self, timeout=2):
        self.sent += 1
        byte = bytes([self.sent % 256])
        self.b.settimeout(timeout)
        try:
            self.a.sendall(byte)
            return self.b.recv(1) == byte
        except OSError:
            return False

    def close(self):
        self.a.close()
        self.b.close()


# ---- the pair ----

def test_a_pair_on_one_node_has_both_entries_before_a_packet_moves(c):
    """near speaks and db answers: two hooks, two keys, one verdict. A second pass of a held packet meets no miss."""
    before = c.n2.dropped().get("reinjected-miss", 0)
    with c.db.udp(7000) as receiver, c.near.udp() as sender:
        receiver.settimeout(3)
        for i in range(8):
            sender.sendto(b"%d" % i, receiver.getsockname())
        assert [receiver.recv(9) for _ in range(8)] == [b"%d" % i for i in range(8)]
        receiver.sendto(b"back", sender.getsockname())
        sender.settimeout(3)
        assert sender.recv(9) == b"back"
    assert c.n2.dropped().get("reinjected-miss", 0) == before


def test_crossing_dials(c):
    """Both sides ask at the same moment: one entry each, and both packets arrive."""
    c.policy("frontend", policy("frontend", "frontend", required("ingress", "db")))
    try:
        wait(lambda: c.n1.cli("auth", "explain", "frontend", c.db.ip4)["to"]["verdict"] == "require",
                   "the policy is there")
        for _ in range(5):
            for n in c.nodes:
                n.cli("auth", "flush", "--all")
            with c.frontend.udp(7100) as a, c.db.udp(7100) as b:
                for s in (a, b):
                    s.settimeout(3)
                a.sendto(b"a", (c.db.ip4, 7100))
                b.sendto(b"b", (c.frontend.ip4, 7100))
                assert (a.recv(9), b.recv(9)) == (b"b", b"a")
            assert len(entries(c.n1)) == 1 and len(entries(c.n2)) == 1
    finally:
        (c.policies / "frontend.yaml").unlink()
        wait(lambda: c.n1.cli("auth", "explain", "frontend", c.db.ip4)["to"]["verdict"] == "pass", "it is gone")


# ---- peers that are none ----

def test_a_connection_of_no_node_is_closed_at_once(c):
    """frontend can reach the port of node1, but its address is no node's."""
    before = handshakes(c.n1, "acceptor", "peer-node-unknown")
    with c.n1.ns.do(socket.create_connection, (c.n1.address, AUTH_PORT), 3) as s:
        s.settimeout(WAIT_S)
        assert s.recv(1) == b""
    assert handshakes(c.n1, "acceptor", "peer-node-unknown") == before + 1


@pytest.mark.parametrize("says, reason", [
    (b"", "peer-timeout"),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "not-tls"),
    (b"\x16\x03\x01\xff\xff" + bytes(200), "not-tls"),
])
def test_a_node_that_speaks_no_tls(c, says, reason):
    before = handshakes(c.n1, "acceptor", reason)
    with c.n2.ns.do(socket.create_connection, (c.n1.address, AUTH_PORT), 3, (c.n2.address, 0)) as s:
        s.sendall(says)
        s.settimeout(WAIT_S)
        with contextlib.suppress(ConnectionResetError):
            while s.recv(100):
                pass
        wait(lambda: handshakes(c.n1, "acceptor", reason) == before + 1, f"it is counted as {reason}")
    assert not entries(c.n1)
    assert c.frontend.reaches(c.db, PORT, timeout=3), "others are served"


def test_a_node_takes_no_more_than_its_share(c):
    """129 silent connections of node2 at once; node1 closes the last, and still dials for its own."""
    before = handshakes(c.n1, "acceptor", "too-many")
    held = []
    try:
        for _ in range(129):
            held.append(c.n2.ns.do(socket.create_connection, (c.n1.address, AUTH_PORT), 3, (c.n2.address, 0)))
        wait(lambda: handshakes(c.n1, "acceptor", "too-many") > before, "one is too many")
        assert c.near.reaches(c.db, PORT, timeout=3)
    finally:
        for s in held:
            s.close()
    wait(lambda: c.frontend.reaches(c.db, PORT, timeout=3), "its share is its own again")


# ---- interfaces ----

def test_an_interface_that_goes_takes_its_endpoint_along(c):
    w = c.n2.workload("guest", "k8s:app=frontend")
    w.register(wait="enforced,svid-ready")
    assert w.reaches(c.db, PORT, timeout=3)
    c.n2.ns.ip("link", "del", w.interface)
    wait(lambda: condition(w, "enforced")["reason"], "the condition falls")
    assert condition(w, "enforced")["reason"]["name"] == "interface-missing"
    assert not condition(w, "enforced")["met"]
    w.unregister()


def test_a_renamed_interface_is_closed(c):
    w = c.n2.workload("guest2", "k8s:app=frontend")
    w.register(wait="enforced,svid-ready")
    c.n2.ns.ip("link", "set", w.interface, "name", "other")
    wait(lambda: not condition(w, "enforced")["met"], "the condition falls")
    assert condition(w, "enforced")["reason"]["name"] == "interface-missing"
    assert not w.reaches(c.db, PORT)
    c.n2.ns.ip("link", "set", "other", "name", w.interface)
    wait(lambda: condition(w, "enforced")["met"], "and it is enforced again")
    c.n2.ns.ip("link", "set", w.interface, "up")
    assert w.reaches(c.db, PORT, timeout=3)
    w.unregister()


def test_a_foreign_program_in_front_is_told(c):
    """It runs before the check for a moment: the condition says so, then the check is in front again. After three times in
    a minute it stays shadowed."""
    w = c.n2.workload("guest3", "k8s:app=frontend")
    w.register(wait="enforced,svid-ready")
    foreign = []
    try:
        for _ in range(4):
            foreign.append(subprocess.Popen(
                [*c.n2.ns.enter(), str(BUILD / "integration/lab_foreign"), w.interface, "ingress"], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, text=True))
            foreign[-1].stdout.readline()
            start = time.monotonic()
            fell = wait(lambda: not (now := condition(w, "enforced"))["met"] and now, "the condition falls")
            assert time.monotonic() - start < 2.5
            assert fell["reason"]["name"] == "shadowed"
            if len(foreign) < 4:
                wait(lambda: condition(w, "enforced")["met"], "the check is in front again")
        time.sleep(1.5)  # two more looks change nothing
        assert not condition(w, "enforced")["met"]
    finally:
        for p in foreign:
            p.stdin.close()
            p.wait(WAIT_S)
            p.stdout.close()
    w.unregister()


# ---- an SVID that comes late ----

def test_the_first_packet_waits_for_a_late_svid():
    """The endpoint is enforced before its identity has an SVID; the packet is held until it has."""
    with Lab("tauthl") as c:
        c.start()
        c.servers = []
        c.db.register(wait="enforced,svid-ready")
        c.n1.kill("spire-adapter")
        c.frontend.register(wait="enforced")
        assert not c.frontend.reaches(c.db, PORT, timeout=1.5)
        event = wait(lambda: [e for e in c.n2.cli("auth", "list", "--pending")["entries"]
                                    if e["state"] == "refused"], "the refusal is listed")
        assert event[0]["reason"]["name"] in ("verdict-alert", "peer-unreachable"), event
        c.n1.start("spire-adapter")
        with c.db.listen(PORT):
            wait(lambda: c.frontend.reaches(c.db, PORT, timeout=3), "after the SVID it is let in")
        c.end()


# ---- time ----

def test_short_lived_certificates_are_renewed_under_a_stream():
    """SVIDs of 10 s: the entry is renewed before it ends, and the stream never notices."""
    with lab("tautht", spire_adapter={"local_ca.svid_ttl": "10s"}) as c:
        stream = Stream(c.frontend, c.db, 6000)
        first = entries(c.n2)[0]["not_after_unix_s"]
        missed, end = 0, time.monotonic() + 25
        while time.monotonic() < end:
            missed += not stream.lives(timeout=0.5)
            time.sleep(0.05)
        assert missed == 0
        assert entries(c.n2)[0]["not_after_unix_s"] >= first + 10
        stream.close()


def test_entries_end_with_their_certificates():
    """node1's adapter is gone, so nothing can be renewed: when the SVID ends the stream does, and a new one is refused."""
    with lab("tauthe", spire_adapter={"local_ca.svid_ttl": "8s"}) as c:
        stream = Stream(c.frontend, c.db, 6000)
        for n in c.nodes:
            n.kill("spire-adapter")
        assert stream.lives()
        not_after = entries(c.n2)[0]["not_after_unix_s"]
        wait(lambda: not entries(c.n2), "the entry expires")
        assert abs(time.time() - not_after) < 2.5
        assert not stream.lives(timeout=1)
        assert not c.frontend.reaches(c.db, PORT)
        stream.close()


# ---- silence of the directory ----

def test_a_silent_directory_stops_what_is_new_and_keeps_what_is():
    with lab("tauths", authd={"directory.max_stale": "15s"}) as c:
        stream = Stream(c.frontend, c.db, 6000)
        wait(lambda: check(c.n2, "directory")["ok"], "status says that all is well")
        c.n2.kill("identityd")
        wait(lambda: not check(c.n2, "directory")["ok"], "status says that it is not")
        assert check(c.n2, "directory")["reason"]["name"] == "directory-stale"
        assert stream.lives()
        assert not c.near.reaches(c.db, PORT)
        why = [e["reason"]["name"] for e in c.n2.cli("auth", "list", "--pending")["entries"] if e["state"] == "refused"]
        assert why == ["directory-stale"] or set(why) == {"directory-stale"}, why
        c.n2.start("identityd")
        wait(lambda: c.near.reaches(c.db, PORT, timeout=3), "it speaks again")
        assert stream.lives()
        stream.close()


def test_a_silent_directory_closes_if_it_is_told_to():
    with lab("tauthf", authd={"directory.max_stale": "15s", "directory.fail": "close"}) as c:
        stream = Stream(c.frontend, c.db, 6000)
        c.n2.kill("identityd")
        assert stream.lives()
        wait(lambda: not entries(c.n2), "the entries go")
        assert not stream.lives(timeout=1)
        stream.close()
        c.n2.start("identityd")


# ---- without holding ----

def test_hold_off_drops_and_asks():
    with lab("tauthh", authd={"hold.enabled": "false"}) as c:
        before = c.frontend.ns.counters()["TcpExt.TCPSynRetrans"]
        sock, ms = c.frontend.connect(c.db, PORT, timeout=5)
        sock.close()
        assert ms > 900 and c.frontend.ns.counters()["TcpExt.TCPSynRetrans"] > before
        assert c.n2.metrics()['countersign_held_packets_total{daemon="authd"}'] == 0


# ---- the program ----

def authd(c, *args):
    return subprocess.run([*c.n2.ns.enter(), str(c.program("authd")), "--instance", str(c.n2.instance), *args],
                          capture_output=True, text=True, timeout=WAIT_S)


def test_one_per_instance(c):
    p = authd(c, "--set", "handshaker.user=nobody", "--set", f"handshaker.path={c.program('handshaker')}")
    assert p.returncode == 1 and "another process" in p.stderr
    p = authd(c, "--detach")
    assert p.returncode == 1 and "another process" in p.stderr
    assert c.frontend.reaches(c.db, PORT, timeout=3)




def test_detach_opens():
    """Stopping closes nothing and opens nothing; only --detach does, and says so."""
    with lab("tauthd2") as c:
        assert c.n2.daemons.pop("authd").stop() == 0
        assert not c.near.reaches(c.db, PORT), "still checked without its daemon"
        p = authd(c, "--detach")
        assert p.returncode == 0 and "open" in p.stdout, p.stderr
        assert c.near.reaches(c.db, PORT, timeout=3)
        assert not os.path.exists(f"/sys/fs/bpf/countersign/{c.n2.instance.name}")
        c.n2.start("authd")

        def checked():
            try:
                return not c.n2.cli("auth", "explain", "db", c.frontend.ip4)["to"]["passes"]
            except LabError as e:  # it is ready before it has heard the directory
                assert "the directory has not said yet" in str(e)

        wait(checked, "checked again")

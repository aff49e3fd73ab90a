"""What must work: held packets come back whole and in order, path MTU is found, the host can probe, DNS goes to the world,
a Service address is enforced at the server's node. Each beside what must not."""
import contextlib
import itertools
import socket
import statistics
import struct
import subprocess
import threading
import time

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from lab.datapath import (DENY, EP_AUDIT, EP_DEPENDS, NODE_HOST_PASSES, PASS, REPLY_FROM, REPLY_TO, REQUIRE, Sniffer,
                          lab, send_frames, wait_for, whole_lab)  # noqa: F401, the fixtures

MARKER = b"countersign-must-work"
UDP_SEGMENT = 103
CHECKSUM_ERRORS = ("Tcp:InCsumErrors", "Udp:InCsumErrors", "Udp6InCsumErrors")


@pytest.fixture
def no_losses(lab):
    """No checksum error and no retransmitted SYN anywhere in the test."""
    def all_of(name):
        return sum(w.ns.netstat(name) for w in lab.workloads)

    names = (*CHECKSUM_ERRORS, "TcpExt:TCPSynRetrans")
    before = {n: all_of(n) for n in names}
    yield
    assert {n: all_of(n) for n in names} == before


def answer(lab, what):
    lab.node1.dp("answer", *what.split())
    lab.node2.dp("answer", *what.split())


PAIRS = pytest.mark.parametrize("pair", ["ac", "ab"], ids=["two nodes", "one node"])
FAMILIES = pytest.mark.parametrize("family", [4, 6])


@FAMILIES
@PAIRS
def test_cold_connection(lab, no_losses, family, pair):
    """Nothing in the auth maps: the SYN waits for the answer at each hook, and so does every answer to it."""
    x, y = (getattr(lab, n) for n in pair)
    answer(lab, "yes")
    server = y.ns.listen(y.ip(family))
    with x.ns.socket(server.family, socket.SOCK_STREAM) as client:
        client.connect(server.getsockname()[:2])  # a lost SYN costs a second, and no_losses sees it
        peer, _ = server.accept()
        data = bytes(range(256)) * 800
        threading.Thread(target=client.sendall, args=(data,), daemon=True).start()
        received = b""
        while len(received) < len(data):
            received += peer.recv(65536)
        assert received == data
        peer.close()
    server.close()
    assert lab.node1.dp.stats()["released"] >= 1


@FAMILIES
@PAIRS
def test_cold_datagram(lab, no_losses, family, pair):
    x, y = (getattr(lab, n) for n in pair)
    answer(lab, "yes")
    assert lab.reach(x, y, family)


@FAMILIES
def test_refused(lab, family):
    """The answer is no: what was held is dropped, and for the backoff nothing asks."""
    answer(lab, "no")
    before = lab.node1.dp.stats().get("untrusted", 0)
    with Sniffer(lab.c.ns) as c, lab.a.ns.udp(lab.a.ip(family)) as s:
        s.sendto(MARKER, (lab.c.ip(family), 2000))
        wait_for(lambda: lab.node1.dp.stats().get("untrusted", 0) == before + 1)
        for _ in range(4):  # longer than 100 ms, which may be over before this process goes on
            backoff = lab.node1.dp("refuse", lab.a.identity, lab.c.identity, 1, "untrusted")
        assert int(backoff) == 1600
        with lab.node1.dp.counting(backoff__from=1):
            s.sendto(MARKER, (lab.c.ip(family), 2000))
        assert not c.saw(MARKER)
        # It asks again when the backoff is over, and then the answer is yes.
        answer(lab, "yes")
        wait_for(lambda: (s.sendto(MARKER, (lab.c.ip(family), 2000)), c.saw(MARKER))[1])


def test_backoff_doubles(lab):
    pair = (lab.a.identity, lab.c.identity, 1)
    got = [int(lab.node1.dp("refuse", *pair, "untrusted")) for _ in range(11)]
    assert got == [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]
    lab.node1.dp("release", *pair, 60000, 0)  # a yes forgets them
    assert int(lab.node1.dp("refuse", *pair, "untrusted")) == 100


def test_nobody_answers(lab):
    """A held packet lives for a second."""
    before = lab.node1.dp.stats().get("held-too-long", 0)
    with Sniffer(lab.c.ns) as c, lab.a.ns.udp(lab.a.ip4) as s:
        start = time.monotonic()
        s.sendto(MARKER, (lab.c.ip4, 2000))
        lab.node1.dp.event("miss")
        assert lab.node1.dp.stats()["packets"] == 1
        wait_for(lambda: lab.node1.dp.stats().get("held-too-long", 0) == before + 1)
        assert 0.9 < time.monotonic() - start < 2
        assert lab.node1.dp.stats()["packets"] == 0
        assert not c.saw(MARKER)
        # A late yes lets the next one pass, and not the dead one.
        lab.node1.dp("release", lab.a.identity, lab.c.identity, 1, 60000, 0)
        lab.node2.dp("release", lab.c.identity, lab.a.identity, 1, 60000, 0)
        s.sendto(b"alive" + MARKER, (lab.c.ip4, 2000))
        wait_for(lambda: c.saw(b"alive" + MARKER))
        assert sum(MARKER in f for f in c.frames()) == 1


def test_endpoint_goes(lab):
    """Its held packets go with it, also those for others that came from it."""
    with Sniffer(lab.c.ns) as c, lab.a.ns.udp(lab.a.ip4) as s:
        s.sendto(MARKER, (lab.c.ip4, 2000))
        lab.node1.dp.event("miss")
        lab.node1.dp("unendpoint", lab.a.host_if)
        assert lab.node1.dp.stats()["packets"] == 0
        lab.node1.dp("release", lab.a.identity, lab.c.identity, 1, 60000, 0)
        lab.node2.dp("release", lab.c.identity, lab.a.identity, 1, 60000, 0)
        with lab.node1.dp.counting(no_endpoint__from=1):
            s.sendto(MARKER, (lab.c.ip4, 2000))
        lab.a.register()
        s.sendto(b"again" + MARKER, (lab.c.ip4, 2000))
        wait_for(lambda: c.saw(b"again" + MARKER))
        assert sum(MARKER in f for f in c.frames()) == 1


@FAMILIES
@PAIRS
def test_order(lab, no_losses, family, pair):
    """Packets that come while the held ones are released do not overtake them. A window of microseconds is left, on
    another CPU, when the flag goes; without the flag some 50 to 1000 of the 2000 would be late."""
    x, y = (getattr(lab, n) for n in pair)
    late, end = 0, 2**32 - 1
    for _ in range(20):
        lab.unauthenticate(x, y)
        answer(lab, "yes")
        with y.ns.udp(y.ip(family), timeout=0.02) as there, x.ns.udp(x.ip(family)) as here:
            to = there.getsockname()[:2]
            for i in range(100):
                here.sendto(struct.pack("!I", i), to)
            got = []
            while end not in got:  # more than the budget are not held, so the last of them may be missing
                try:
                    got.append(struct.unpack("!I", there.recv(10))[0])
                except TimeoutError:
                    here.sendto(struct.pack("!I", end), to)
        assert len(got) > 10
        late += sum(a > b for a, b in itertools.pairwise(got))
    assert late <= 2


@FAMILIES
@PAIRS
def test_held_segments(lab, no_losses, family, pair):
    """A send that the device is to cut (UDP segmentation offload) is held whole and cut after all."""
    x, y = (getattr(lab, n) for n in pair)
    answer(lab, "yes")
    with y.ns.udp(y.ip(family)) as there, x.ns.udp(x.ip(family)) as here:
        here.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 400)
        here.sendto(bytes(400) + bytes([1]) * 400 + bytes([2]) * 300, there.getsockname()[:2])
        assert [len(there.recv(2000)) for _ in range(3)] == [400, 400, 300]


@FAMILIES
@PAIRS
def test_held_fragments(lab, family, pair):
    x, y = (getattr(lab, n) for n in pair)
    answer(lab, "yes")
    with y.ns.udp(y.ip(family)) as there, x.ns.udp(x.ip(family)) as here:
        here.sendto(MARKER * 150, there.getsockname()[:2])
        assert there.recv(9000) == MARKER * 150


def test_too_large_to_hold(lab):
    """It is dropped, and asked for: the next one passes."""
    answer(lab, "yes")
    for w in (lab.a, lab.b):
        w.ns.ip("link", "set", "eth0", "mtu", 4000)
        lab.node1.ns.ip("link", "set", w.host_if, "mtu", 4000)
    with lab.b.ns.udp(lab.b.ip4) as there, lab.a.ns.udp(lab.a.ip4) as here:
        with lab.node1.dp.counting(unholdable__from=1):
            here.sendto(bytes(3000), there.getsockname())
        assert "signal" in lab.node1.dp.event(f"miss {lab.a.identity} {lab.b.identity}")
        with lab.node1.dp.counting(unholdable__to=1):
            here.sendto(bytes(3000), there.getsockname())
        lab.node1.dp.event(f"miss {lab.b.identity} {lab.a.identity}")
        here.sendto(bytes(3001), there.getsockname())
        assert len(there.recv(9000)) == 3001


def test_hold_off(lab):
    for node in (lab.node1, lab.node2):
        node.dp("flags", NODE_HOST_PASSES)
    answer(lab, "yes")
    with lab.node1.dp.counting(unauthenticated__from=1):
        assert not lab.reach(lab.a, lab.c, timeout=0.2)
    lab.node1.dp.event("miss")
    with lab.node2.dp.counting(unauthenticated__to=1):
        assert not lab.reach(lab.a, lab.c, timeout=0.2)
    lab.node2.dp.event("miss")
    assert lab.reach(lab.a, lab.c)


def test_authd_is_gone(lab):
    """Entries live on, misses are dropped uncopied."""
    lab.authenticate(lab.a, lab.c)
    lab.node1.dp("alive", 0)
    assert lab.reach(lab.a, lab.c)
    with lab.node1.dp.counting(daemon_down__from=1):
        assert not lab.reach(lab.a, lab.d, timeout=0.2)
    lab.node1.dp("alive", 1)
    answer(lab, "yes")
    assert lab.reach(lab.a, lab.d)


# Path MTU

@pytest.fixture
def narrow(lab):
    """The router's link to node2 takes 1,300 bytes."""
    lab.router.ip("link", "set", "r2", "mtu", 1300)
    yield lab
    lab.router.ip("link", "set", "r2", "mtu", 1500)


@FAMILIES
def test_path_mtu(narrow, family):
    """Through a router that has no identity, on an authenticated pair: its errors arrive, because of what they quote."""
    lab = narrow
    lab.authenticate(lab.a, lab.c)
    server = lab.c.ns.listen(lab.c.ip(family))
    with lab.a.ns.socket(server.family, socket.SOCK_STREAM) as client:
        client.connect(server.getsockname()[:2])
        peer, _ = server.accept()
        peer.settimeout(5)
        threading.Thread(target=client.sendall, args=(bytes(200_000),), daemon=True).start()
        n = 0
        while n < 200_000:
            n += len(peer.recv(65536))
        peer.close()
    server.close()
    route = lab.a.ns.ip(f"-{family}", "route", "get", lab.c.ip(family))
    assert "mtu 1300" in route


def error_about(lab, to, family):
    router, node_mac = lab.router.mac("r1"), lab.node1.ns.mac("wire")
    if family == 4:
        quote = IP(src=lab.a.ip4, dst=to.ip4) / UDP(sport=1000, dport=2000) / Raw(MARKER)
        error = IP(src="10.0.1.254", dst=lab.a.ip4) / ICMP(type=3, code=4, nexthopmtu=1300) / quote
    else:
        quote = IPv6(src=lab.a.ip6, dst=to.ip6) / UDP(sport=1000, dport=2000) / Raw(MARKER)
        error = IPv6(src="fd00:1::fe", dst=lab.a.ip6) / ICMPv6PacketTooBig(mtu=1300) / quote
    return Ether(src=router, dst=node_mac) / error


@FAMILIES
def test_errors_about_others(lab, family):
    """An error that quotes a pair that is not authenticated does not arrive."""
    lab.authenticate(lab.a, lab.c)
    with Sniffer(lab.a.ns) as a:
        with lab.node1.dp.counting(unauthenticated__to=1):
            send_frames(lab.router, "r1", [error_about(lab, lab.d, family)])
        assert not a.saw(MARKER)
        send_frames(lab.router, "r1", [error_about(lab, lab.c, family)])
        wait_for(lambda: a.saw(MARKER))


# Host, world, Services

@FAMILIES
def test_probes(lab, family):
    """The node reaches its workload, which may answer and nothing more."""
    server = lab.a.ns.listen(lab.a.ip(family))
    with lab.node1.ns.socket(server.family, socket.SOCK_STREAM) as probe:
        probe.connect(server.getsockname()[:2])
        peer, _ = server.accept()
        probe.sendall(b"healthy?")
        assert peer.recv(100) == b"healthy?"
        peer.sendall(b"yes")
        assert probe.recv(100) == b"yes"
        peer.close()
    server.close()
    host = lab.a.gateway4 if family == 4 else lab.a.gateway6
    with lab.node1.ns.udp(host) as there, lab.a.ns.udp(lab.a.ip(family)) as here:
        with lab.node1.dp.counting(policy_deny__from=1):
            here.sendto(b"of its own", there.getsockname()[:2])
    # Another node is no host.
    with lab.node2.ns.udp(lab.node2.wire4 if family == 4 else lab.node2.wire6) as other:
        with lab.node1.dp.counting(policy_deny__to=1):
            other.sendto(b"probe", (lab.a.ip(family), 2000))


@FAMILIES
def test_dns_to_the_world(lab, family):
    """Under a policy that only authenticates endpoints: the world is not asked for an SVID, and only answers."""
    lab.a.register(from_other=PASS, to_other=DENY)
    world = lab.world4 if family == 4 else lab.world6
    with lab.router.udp(world) as dns, lab.a.ns.udp(lab.a.ip(family)) as client:
        with lab.node1.dp.counting(policy_deny__to=1):
            dns.sendto(b"unasked", client.getsockname()[:2])
        client.sendto(b"query", dns.getsockname()[:2])
        data, sender = dns.recvfrom(100)
        assert data == b"query"
        dns.sendto(b"answer", sender)
        assert client.recv(100) == b"answer"
        with lab.router.udp(world) as another:
            with lab.node1.dp.counting(policy_deny__to=1):
                another.sendto(b"another port", sender)
    # And endpoints have to authenticate.
    assert not lab.reach(lab.a, lab.c, family, timeout=0.2)
    assert f"miss {lab.a.identity} {lab.c.identity} 1 from held" in lab.node1.dp.event("miss")


@FAMILIES
def test_service_address(lab, family):
    """Has no identity at the client's node, which judges it as the world; the server's node sees who it really is."""
    vip = "172.20.0.1" if family == 4 else "fd20::1"
    lab.node1.ns.exec("nft", "add", "table", "inet", "svc")
    lab.node1.ns.exec("nft", "add", "chain", "inet", "svc", "pre", "{ type nat hook prerouting priority dstnat; }")
    target = f"ip daddr {vip} udp dport 53 dnat ip to {lab.c.ip4}:2000" if family == 4 else (
        f"ip6 daddr {vip} udp dport 53 dnat ip6 to [{lab.c.ip6}]:2000")
    lab.node1.ns.exec("nft", "add", "rule", "inet", "svc", "pre", *target.split())
    try:
        with lab.c.ns.udp(lab.c.ip(family), 2000) as server, lab.a.ns.udp(lab.a.ip(family)) as client:
            with lab.node1.dp.counting(policy_deny__from=1):  # egress to the world is denied
                client.sendto(b"query", (vip, 53))
            lab.a.register(from_other=PASS, to_other=DENY)
            client.sendto(b"query", (vip, 53))
            # The server's node holds it: the real pair has to authenticate.
            assert f"miss {lab.c.identity} {lab.a.identity} 1 to held" in lab.node2.dp.event("miss")
            lab.node2.dp("release", lab.c.identity, lab.a.identity, 1, 60000, 0)
            data, sender = server.recvfrom(100)
            assert (data, sender[0]) == (b"query", lab.a.ip(family))
            server.sendto(b"answer", sender)
            assert client.recvfrom(100)[:1] == (b"answer",)
    finally:
        lab.node1.ns.exec("nft", "delete", "table", "inet", "svc")


# Policy, row by row: verdict FROM and TO of the pair (a, c) at a's node; c's node passes everything.

def outcome(own, authenticated):
    """May a packet of this direction pass without having been asked for?"""
    if own == PASS:
        return True
    return own == REQUIRE and authenticated


# Without require + pass: identityd joins them to require both ways, so such a row is never written.
ROWS = [(f, t) for f in (DENY, REQUIRE, PASS) for t in (DENY, REQUIRE, PASS) if {f, t} != {REQUIRE, PASS}]
NAMES = {DENY: "deny", REQUIRE: "require", PASS: "pass"}


@pytest.mark.parametrize("authenticated", [False, True], ids=["", "authenticated"])
@pytest.mark.parametrize("from_,to", ROWS, ids=[f"{NAMES[f]}-{NAMES[t]}" for f, t in ROWS])
def test_policy_table(lab, from_, to, authenticated):
    lab.c.register(PASS, PASS, PASS, PASS)
    lab.node1.dp("policy", lab.a.identity, lab.c.identity, from_, to)
    if authenticated and REQUIRE in (from_, to):
        flags = (REPLY_FROM if from_ == DENY else 0) | (REPLY_TO if to == DENY else 0)
        lab.node1.dp("auth", lab.a.identity, lab.c.identity, 1, 60000, flags)
    for family in (4, 6):
        check_direction(lab.a, lab.c, family, outcome(from_, authenticated))
        check_direction(lab.c, lab.a, family, outcome(to, authenticated))


def check_direction(x, y, family, passes):
    """One datagram of x to y by its own verdict; then, if it passed, the answer, which passes in any case."""
    with y.ns.udp(y.ip(family), timeout=0.15 if not passes else 2) as there, x.ns.udp(x.ip(family)) as here:
        here.sendto(MARKER, there.getsockname()[:2])
        try:
            data, sender = there.recvfrom(100)
        except TimeoutError:
            assert not passes
            return
        assert passes
        there.sendto(b"answer", sender)
        assert here.recv(100) == b"answer"


# Flags of an endpoint

def test_audit(lab):
    """Nothing is dropped, everything is counted."""
    lab.a.register(DENY, DENY, DENY, DENY, flags=EP_AUDIT)
    lab.c.register(PASS, PASS, PASS, PASS)
    with Sniffer(lab.c.ns) as c:
        send_frames(lab.a.ns, "eth0", [Ether(src=lab.a.mac, dst=lab.a.gateway_mac) / IP(src=lab.b.ip4, dst=lab.c.ip4) /
                                       UDP(sport=1, dport=2) / Raw(MARKER)])
        wait_for(lambda: c.saw(MARKER))
    assert lab.reach(lab.a, lab.c)
    counts = lab.node1.dp.counts()
    assert counts["would/source-not-owned/from"] >= 1 and counts["would/policy-deny/to"] >= 1
    lab.a.register(DENY, DENY, DENY, DENY)
    assert not lab.reach(lab.a, lab.c, timeout=0.2)


def test_depends_on(lab):
    """What has to work before SPIRE does passes both ways; the ownership of addresses holds."""
    lab.a.register(DENY, DENY, DENY, DENY)
    lab.c.register(PASS, PASS, PASS, PASS)
    assert not lab.reach(lab.a, lab.c, timeout=0.2)
    for family in (4, 6):
        lab.node1.dp("addr", lab.c.ip(family), lab.c.identity, 1, 1)
    assert lab.reach(lab.a, lab.c) and lab.reach(lab.c, lab.a, 6)
    with Sniffer(lab.c.ns) as c, lab.node1.dp.counting(source_not_owned__from=1):
        send_frames(lab.a.ns, "eth0", [Ether(src=lab.a.mac, dst=lab.a.gateway_mac) / IP(src=lab.b.ip4, dst=lab.c.ip4) /
                                       UDP(sport=1, dport=2) / Raw(MARKER)])
    assert not c.seen
    assert not lab.reach(lab.a, lab.d, timeout=0.2)
    lab.a.register(DENY, DENY, DENY, DENY, flags=EP_DEPENDS)
    lab.d.register(PASS, PASS, PASS, PASS)
    assert lab.reach(lab.a, lab.d)


# Load

FLOOD = """
import socket, sys, time
source, rate, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((source, 0))
start, n = time.monotonic(), 0
while n < seconds * rate:
    now = min(time.monotonic() - start, seconds)
    while n < now * rate:
        s.sendto(b"flood", (f"10.{200 + n // 65536}.{n // 256 % 256}.{n % 256}", 9))
        n += 1
    time.sleep(0.001)
"""


def rss_kib(pid):  # nsenter becomes the program that it starts
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def test_flood_of_new_pairs(lab, no_losses):
    """One workload opens 10,000 new pairs a second. Its neighbour's cold pair does not notice, and nothing grows. What the
    machine does to one of the connections meanwhile says nothing: half of them count."""
    rate, seconds = 10_000, 5
    for i in range(rate * seconds):
        lab.node1.dp("addr", f"10.{200 + i // 65536}.{i // 256 % 256}.{i % 256}", 100_000 + i, 1, 0)
    answer(lab, "none")
    before = lab.node1.dp.counts().get("pending-full/from", 0)
    memory = rss_kib(lab.node1.dp.process.pid)
    flood = subprocess.Popen(["nsenter", f"--net={lab.b.ns.path}", "/usr/bin/python3", "-c", FLOOD, lab.b.ip4, str(rate),
                              str(seconds)])
    server = lab.c.ns.listen(lab.c.ip4)
    times, pairs, packets = [], 0, 0
    a_to_c, c_to_a = ((lab.node1.dp, (lab.a.identity, lab.c.identity, 1)), (lab.node2.dp, (lab.c.identity, lab.a.identity, 1)))
    while not ended(flood, 0.1):  # a may open 50 new pairs a second itself
        lab.unauthenticate(lab.a, lab.c)
        with lab.a.ns.socket(server.family, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            start = time.monotonic()
            client.connect_ex(server.getsockname())
            for dp, pair in (a_to_c, c_to_a):  # each asks, among all the others, and is answered
                asked = "miss %d %d %d" % pair
                wait_for(lambda: any_event(dp, asked))
                dp("release", *pair, 60000, 0)
            server.accept()[0].close()
            times.append(time.monotonic() - start)
        stats = lab.node1.dp.stats()
        pairs, packets = max(pairs, stats["pairs"]), max(packets, stats["packets"])
    server.close()
    assert flood.returncode == 0
    assert len(times) > 10 and statistics.median(times) < 0.05, sorted(times)
    assert lab.node1.dp.counts()["pending-full/from"] - before > rate * seconds * 0.9
    assert pairs < 50 + 50 * (seconds + 2) + 10 and packets <= 64 + 16
    assert rss_kib(lab.node1.dp.process.pid) - memory < 4096


def ended(process, within_s):
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(within_s)
    return process.returncode is not None


def any_event(dp, prefix):
    while not dp.events.empty():
        if dp.events.get_nowait().startswith(prefix):
            return True
    return False

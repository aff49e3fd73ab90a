"""Ways round the check: each is tried with real packets, its reason is counted, and nothing arrives. And each has a twin
that shows that the packet would have arrived."""
import socket

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6ND_Redirect, ICMPv6NDOptDstLLAddr,
                                IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, PadN)
from scapy.layers.l2 import ARP, GRE, Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from lab.datapath import (DENY, PASS, REPLY_FROM, REPLY_TO, REQUIRE, Sniffer, lab, send_frames, wait_for,
                          whole_lab)  # noqa: F401, the fixtures

MARKER = b"countersign-way-round"


def eth(w):
    return Ether(src=w.mac, dst=w.gateway_mac)


def udp(src, dst, ttl=64):
    ip = IPv6(src=src, dst=dst, hlim=ttl) if ":" in src else IP(src=src, dst=dst, ttl=ttl)
    return ip / UDP(sport=1000, dport=2000) / Raw(MARKER)


def neighbours(node, dev):
    return node.ns.ip("neigh", "show", "dev", dev) + node.ns.ip("-6", "neigh", "show", "dev", dev)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("thief", ["b", "d"])
def test_borrowed_source(lab, family, thief):
    """a may speak to c. Its neighbour, and a workload of another node, use its address."""
    thief = getattr(lab, thief)
    lab.authenticate(lab.a, lab.c)
    frame = eth(thief) / udp(lab.a.ip(family), lab.c.ip(family))
    with Sniffer(lab.c.ns) as c:
        with thief.node.dp.counting(source_not_owned__from=3):
            send_frames(thief.ns, "eth0", [frame] * 3)
        assert not c.saw(MARKER)
        send_frames(lab.a.ns, "eth0", [eth(lab.a) / udp(lab.a.ip(family), lab.c.ip(family))])
        wait_for(lambda: c.saw(MARKER))


@pytest.mark.parametrize("thief", ["b", "d"])
def test_borrowed_arp(lab, thief):
    thief = getattr(lab, thief)
    announce = lambda ip: Ether(src=thief.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=1, hwsrc=thief.mac, psrc=ip, pdst=thief.gateway4)
    with thief.node.dp.counting(source_not_owned__from=1):
        send_frames(thief.ns, "eth0", [announce(lab.a.ip4)])
    thief.node.ns.ip("neigh", "flush", "dev", thief.host_if)
    with thief.node.dp.counting(source_not_owned__from=1):
        send_frames(thief.ns, "eth0", [announce(lab.a.ip4), announce(thief.ip4)])
    wait_for(lambda: thief.mac in neighbours(thief.node, thief.host_if))
    assert lab.a.ip4 not in neighbours(thief.node, thief.host_if)


@pytest.mark.parametrize("thief", ["b", "d"])
def test_borrowed_neighbour_advertisement(lab, thief):
    thief = getattr(lab, thief)

    def advertise(ip):
        return Ether(src=thief.mac, dst=thief.gateway_mac) / IPv6(src=thief.ip6, dst=thief.gateway6, hlim=255) / (
            ICMPv6ND_NA(tgt=ip, R=0, S=1, O=1)) / ICMPv6NDOptDstLLAddr(lladdr=thief.mac)

    # An advertisement changes what is known already, so the node has to know both.
    for ip in (lab.a.ip6, thief.ip6):
        thief.node.ns.ip("-6", "neigh", "replace", ip, "lladdr", "02:00:00:00:00:99", "dev", thief.host_if, "nud", "stale")
    with thief.node.dp.counting(source_not_owned__from=1):
        send_frames(thief.ns, "eth0", [advertise(lab.a.ip6), advertise(thief.ip6)])
    known = lambda: {line.split()[0]: line for line in neighbours(thief.node, thief.host_if).splitlines()}
    wait_for(lambda: thief.mac in known()[thief.ip6])
    assert "02:00:00:00:00:99" in known()[lab.a.ip6]
    thief.node.ns.ip("-6", "neigh", "del", lab.a.ip6, "dev", thief.host_if)


def nat(node, rules):
    node.ns.exec("nft", "add", "table", "inet", "cstest")
    node.ns.exec("nft", "add", "chain", "inet", "cstest", "pre",
                 "{ type nat hook prerouting priority dstnat; }")
    node.ns.exec("nft", "add", "chain", "inet", "cstest", "post", "{ type nat hook postrouting priority srcnat; }")
    for chain, rule in rules:
        node.ns.exec("nft", "add", "rule", "inet", "cstest", chain, *rule.split())


@pytest.fixture
def node_port(lab):
    """Port 30080 of node2 is c's 2000, by DNAT and masquerade, as kube-proxy does it."""
    nat(lab.node2, [("pre", f"ip daddr {lab.node2.wire4} udp dport 30080 dnat ip to {lab.c.ip4}:2000"),
                    ("pre", f"ip6 daddr {lab.node2.wire6} udp dport 30080 dnat ip6 to [{lab.c.ip6}]:2000"),
                    ("post", f"oifname {lab.c.host_if} ct status dnat masquerade")])
    yield lab
    lab.node2.ns.exec("nft", "delete", "table", "inet", "cstest")


@pytest.mark.parametrize("family", [4, 6])
def test_masqueraded_client(node_port, family):
    """A client of the world behind the node's own address is no host."""
    lab = node_port
    target = (lab.node2.wire4 if family == 4 else lab.node2.wire6, 30080)
    client = lab.router.udp(lab.world4 if family == 4 else lab.world6)
    with Sniffer(lab.c.ns) as c:
        with lab.node2.dp.counting(peer_behind_nat__to=1):
            client.sendto(MARKER, target)
        assert not c.saw(MARKER)
        lab.c.register(to_other=PASS)
        client.sendto(MARKER, target)
        wait_for(lambda: c.saw(MARKER))
    client.close()


@pytest.mark.parametrize("family", [4, 6])
def test_hairpin(node_port, family):
    """A workload that reaches itself, or its neighbour, through the node's port is no host either."""
    lab = node_port
    target = (lab.node2.wire4 if family == 4 else lab.node2.wire6, 30080)
    for client in (lab.c, lab.d):
        client.register(from_other=PASS)
        with Sniffer(lab.c.ns) as c, client.ns.udp(client.ip(family)) as s:
            with lab.node2.dp.counting(peer_behind_nat__to=1):
                s.sendto(MARKER, target)
            assert not c.saw(MARKER)
            lab.c.register(from_other=PASS, to_other=PASS)
            s.sendto(MARKER, target)
            wait_for(lambda: c.saw(MARKER))
        lab.c.register()


@pytest.mark.parametrize("family", [4, 6])
def test_neighbour_borrows_the_nodes_address(lab, family):
    """On the wire somebody sends as node2 itself. Linux stops that for IPv4 (unless told not to), not for IPv6."""
    for name, value in (("rp_filter", 0), ("accept_local", 1)):
        lab.node2.ns.sysctl(f"net.ipv4.conf.wire.{name}", value)
        lab.node2.ns.sysctl(f"net.ipv4.conf.all.{name}", value)
    own = lab.node2.wire4 if family == 4 else lab.node2.wire6
    to_node = Ether(src=lab.router.mac("r2"), dst=lab.node2.ns.mac("wire"))
    with Sniffer(lab.c.ns) as c:
        with lab.node2.dp.counting(peer_behind_nat__to=2):
            send_frames(lab.router, "r2", [to_node / udp(own, lab.c.ip(family))] * 2)
        assert not c.saw(MARKER)
        with lab.node2.ns.udp(own) as host:  # who really is the host passes
            host.sendto(MARKER, (lab.c.ip(family), 2000))
            wait_for(lambda: c.saw(MARKER))


def tags(*types):
    out = None
    for t in types:
        tag = Dot1AD(vlan=0) if t == 0x88A8 else Dot1Q(vlan=0)
        out = tag if out is None else out / tag
    return out


@pytest.mark.parametrize("types", [(0x8100,), (0x8100, 0x8100), (0x88A8, 0x8100), (0x8100, 0x8100, 0x8100), (0x88A8,)],
                         ids=lambda t: "+".join(f"{x:x}" for x in t))
@pytest.mark.parametrize("family", [4, 6])
def test_vlan_tags(lab, types, family):
    """The kernel takes tags of VLAN 0 off after tc. Even an authenticated pair has none."""
    lab.authenticate(lab.a, lab.c)
    inner = udp(lab.a.ip(family), lab.c.ip(family))
    with Sniffer(lab.c.ns) as c:
        with lab.node1.dp.counting(ethertype__from=2):
            send_frames(lab.a.ns, "eth0", [eth(lab.a) / tags(*types) / inner] * 2)
        assert not c.saw(MARKER)
        send_frames(lab.a.ns, "eth0", [eth(lab.a) / inner])
        wait_for(lambda: c.saw(MARKER))


def hop_by_hop():
    return IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])


@pytest.mark.parametrize("hops", [255, 254, 64])
@pytest.mark.parametrize("behind", [False, True], ids=["", "hop-by-hop"])
@pytest.mark.parametrize("kind", [ICMPv6ND_NS, ICMPv6ND_NA, ICMPv6ND_RA, ICMPv6ND_Redirect])
def test_neighbour_discovery_to_a_routed_address(lab, hops, behind, kind):
    """What has the form of neighbour discovery is not carried to somebody a router away, authenticated or not."""
    lab.authenticate(lab.a, lab.c)
    ip = IPv6(src=lab.a.ip6, dst=lab.c.ip6, hlim=hops)
    frame = eth(lab.a) / (ip / hop_by_hop() if behind else ip) / kind() / Raw(MARKER)
    with Sniffer(lab.c.ns) as c:
        with lab.node1.dp.counting(neighbour_discovery__from=1):
            send_frames(lab.a.ns, "eth0", [frame])
        assert not c.saw(MARKER)
        # An unknown ICMPv6 type is no neighbour discovery and goes with its pair.
        send_frames(lab.a.ns, "eth0", [eth(lab.a) / IPv6(src=lab.a.ip6, dst=lab.c.ip6, nh=58) / Raw(b"\xc8\0\0\0" + MARKER)])
        wait_for(lambda: c.saw(MARKER))


@pytest.mark.parametrize("kind", [ICMPv6ND_RA, ICMPv6ND_Redirect])
def test_router_messages_of_a_workload(lab, kind):
    """On its own link: a workload is no router."""
    ll = wait_for(lambda: [w for w in lab.a.ns.ip("-6", "addr", "show", "dev", "eth0").split() if w.startswith("fe80")])
    frame = Ether(src=lab.a.mac, dst="33:33:00:00:00:01") / IPv6(src=ll[0].split("/")[0], dst="ff02::1", hlim=255) / kind()
    with lab.node1.dp.counting(neighbour_discovery__from=1):
        send_frames(lab.a.ns, "eth0", [frame])


def extended(src, dst, n):
    p = IPv6(src=src, dst=dst)
    for _ in range(n):
        p = p / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])
    return p / UDP(sport=1000, dport=2000) / Raw(MARKER)


def test_extension_headers(lab):
    lab.authenticate(lab.a, lab.c)
    with Sniffer(lab.c.ns) as c:
        with lab.node1.dp.counting(unreadable_header__from=1):
            send_frames(lab.a.ns, "eth0", [eth(lab.a) / extended(lab.a.ip6, lab.c.ip6, 9)])
        assert not c.saw(MARKER)
        send_frames(lab.a.ns, "eth0", [eth(lab.a) / extended(lab.a.ip6, lab.c.ip6, 8)])
        wait_for(lambda: c.saw(MARKER))


@pytest.mark.parametrize("ethertype,full", [(0x0800, 34), (0x86DD, 54)])
def test_short_frames(lab, ethertype, full):
    """Of 20 bytes, and one byte short of a header."""
    head = bytes(Ether(src=lab.a.mac, dst=lab.a.gateway_mac, type=ethertype))
    with lab.node1.dp.counting(unreadable_header__from=3):
        send_frames(lab.a.ns, "eth0", [(head + bytes(100))[:n] for n in (20, 14 + 1, full - 1)])


@pytest.mark.parametrize("family", [4, 6])
def test_fragments(lab, family):
    """First and later ones; with an entry the datagram arrives whole."""
    lab.a.register(from_endpoint=DENY)
    size = 3000
    with Sniffer(lab.c.ns) as c, lab.a.ns.udp(lab.a.ip(family)) as s:
        with lab.node1.dp.counting(policy_deny__from=1, fragment__from=2):  # a later one could answer, had it ports
            s.sendto(MARKER + bytes(size), (lab.c.ip(family), 2000))
        assert not c.saw(MARKER)
        lab.authenticate(lab.a, lab.c)
        there = lab.c.ns.udp(lab.c.ip(family))
        s.sendto(MARKER + bytes(size), there.getsockname()[:2])
        assert len(there.recv(9000)) == len(MARKER) + size
        there.close()


@pytest.mark.parametrize("proto", [132, 47, 50, 4], ids=["SCTP", "GRE", "ESP", "IPIP"])
@pytest.mark.parametrize("family", [4, 6])
def test_other_protocols(lab, proto, family):
    ip = IPv6(src=lab.a.ip6, dst=lab.c.ip6, nh=proto) if family == 6 else IP(src=lab.a.ip4, dst=lab.c.ip4, proto=proto)
    frame = eth(lab.a) / ip / Raw(b"\0" * 16 + MARKER)
    lab.a.register(from_endpoint=DENY)
    with Sniffer(lab.c.ns) as c:
        with lab.node1.dp.counting(policy_deny__from=2):
            send_frames(lab.a.ns, "eth0", [frame] * 2)
        assert not c.saw(MARKER)
        # Where the pair only has to authenticate, they wait for the answer, or are refused; they do not pass.
        lab.a.register()
        send_frames(lab.a.ns, "eth0", [frame])
        lab.node1.dp.event("miss")
        lab.node1.dp("refuse", lab.a.identity, lab.c.identity, 1, "untrusted")
        assert not c.saw(MARKER)
        lab.authenticate(lab.a, lab.c)
        send_frames(lab.a.ns, "eth0", [frame])
        wait_for(lambda: c.saw(MARKER))


@pytest.mark.parametrize("family", [4, 6])
def test_the_other_direction(lab, family):
    """frontend (a) -> db (c) is authenticated; db -> frontend is denied by policy, and only answers pass."""
    lab.node2.dp("policy", lab.c.identity, lab.a.identity, DENY, REQUIRE)
    lab.node1.dp("policy", lab.a.identity, lab.c.identity, REQUIRE, DENY)
    lab.authenticate(lab.a, lab.c, left_flags=REPLY_TO, right_flags=REPLY_FROM)
    server = lab.c.ns.listen(lab.c.ip(family))
    with lab.a.ns.socket(server.family, socket.SOCK_STREAM) as client:
        client.connect(server.getsockname()[:2])
        peer, _ = server.accept()
        client.sendall(b"query")
        assert peer.recv(100) == b"query"
        peer.sendall(b"answer")
        assert client.recv(100) == b"answer"
        with Sniffer(lab.a.ns) as a, lab.c.ns.udp(lab.c.ip(family)) as db:
            with lab.node2.dp.counting(policy_deny__from=1):
                db.sendto(MARKER, (lab.a.ip(family), 2000))
            assert not a.saw(MARKER)
        peer.sendall(b"still")
        assert client.recv(100) == b"still"
        peer.close()
    server.close()
    # a's node refuses it too, whatever c's node does.
    lab.node2.dp("policy", lab.c.identity, lab.a.identity, PASS, PASS)
    lab.unauthenticate(lab.c, lab.a)
    lab.node1.dp("auth", lab.a.identity, lab.c.identity, 1, 60000, REPLY_TO)
    with Sniffer(lab.a.ns) as a, lab.c.ns.udp(lab.c.ip(family)) as db:
        with lab.node1.dp.counting(policy_deny__to=1):
            db.sendto(MARKER, (lab.a.ip(family), 2000))
        assert not a.saw(MARKER)

"""The check on its interfaces: it outlives its daemon, the next takes over, and nobody gets in front unnoticed."""
import os
import subprocess
import time

import pytest

from lab.datapath import BPFFS, BUILD, DENY, HALVES, PASS, Datapath, Lab, wait_for
from lab.netns import Netns, address, veth

FOREIGN = BUILD / "integration" / "lab_foreign"


class Foreign:
    """Somebody else's program on an interface, until close()."""

    def __init__(self, ns, ifname, hook):
        self.process = subprocess.Popen(["nsenter", f"--net={ns.path}", str(FOREIGN), ifname, hook],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line == "ok\n", line

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(10) == 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Host:
    """One node with one workload, which may do nothing; ping() is what it tries."""

    def __init__(self, attach, csum, array_ifindex=4095):
        self.node, self.workload = Netns("host", forward=True), Netns("pod")
        self.args = (attach, csum)
        self.dp = Datapath(self.node, attach, csum, array_ifindex=array_ifindex)
        self.new_pair()

    def new_pair(self, host_if="v0"):
        self.host_if = host_if
        veth(self.node, host_if, self.workload, "eth0")
        address(self.node, host_if, "10.9.0.1/24")
        address(self.workload, "eth0", "10.9.0.2/24")
        # So that no ARP takes part in what a program is tested for.
        for ns, dev, ip, other in ((self.node, host_if, "10.9.0.2", self.workload.mac("eth0")),
                                   (self.workload, "eth0", "10.9.0.1", self.node.mac(host_if))):
            ns.ip("neigh", "replace", ip, "lladdr", other, "dev", dev, "nud", "permanent")

    def register(self, verdict=DENY):
        self.dp("endpoint", self.host_if, 1000, 0, verdict, verdict, verdict, verdict, "10.9.0.2")
        self.dp("addr", "10.9.0.2", 1000, 0, 0)
        self.dp("flags", 2)  # the host is judged too

    def sends(self):
        return self._passes(self.workload, "10.9.0.2", self.node, "10.9.0.1")

    def receives(self):
        return self._passes(self.node, "10.9.0.1", self.workload, "10.9.0.2")

    @staticmethod
    def _passes(source, source_ip, target, target_ip):
        with target.udp(target_ip, timeout=0.15) as there, source.udp(source_ip) as here:
            try:
                here.sendto(b"through", there.getsockname())
                return there.recv(100) == b"through"
            except (TimeoutError, OSError):
                return False

    def open(self):
        return self.sends() and self.receives()

    def closed(self):
        return not self.sends() and not self.receives()

    def close(self):
        self.dp.close()
        self.node.close()
        self.workload.close()


@pytest.fixture(params=HALVES, ids=lambda h: "+".join(h))
def host(request):
    h = Host(*request.param)
    yield h
    h.close()


def links(host):
    directory = f"{BPFFS}/countersign/{host.dp.instance}/v1/links"
    return sorted(os.listdir(directory))


def filters(host, ifname=None):
    """How many checks there are at the interface, of either kind."""
    out = host.node.exec("/usr/sbin/bpftool", "net", "show", "dev", ifname or host.host_if, check=False)
    return out.count("cs_from") + out.count("cs_to")


def test_attach_closes(host):
    """From attaching on nothing passes, until there is a row; and again when the row goes."""
    assert host.open()
    host.dp("attach", host.host_if)
    assert host.closed()
    host.register(PASS)
    assert host.open()
    host.dp("attach", host.host_if)  # once more is nothing new
    assert host.open()
    host.dp("unendpoint", host.host_if)
    assert host.closed()


def test_detach_opens(host):
    host.dp("attach", host.host_if)
    host.register()
    assert host.closed()
    host.dp("detach")
    assert host.open()
    assert links(host) == []


def test_orderly_end_leaves_the_check(host):
    host.dp("attach", host.host_if)
    host.register()
    host.dp.stop()
    assert host.closed()


def test_killed_and_taken_over(host):
    """Entries live on while it is dead; the next life takes over without a gap, and there is one check, not two."""
    host.dp("attach", host.host_if)
    host.register()
    host.dp("policy", 1000, 2000, 1, 1)
    host.dp("addr", "10.9.0.1", 2000, 1, 0)
    host.dp("auth", 1000, 2000, 1, 60000, 0)
    assert host.open()
    for _ in range(3):
        host.dp.kill()
        assert host.open()  # the pair that is authenticated
        host.dp.start()
        assert host.open()
        host.dp("attach", host.host_if)
        assert host.open()
    host.dp("unauth", 1000, 2000, 1)
    assert host.closed()
    assert host.dp.stats()["held"] >= 1  # this life hears of it
    assert host.dp("state", host.host_if).split()[0] == "none"


def test_the_other_half_next_time(host):
    """A setting changes between two lives: the new kind of check is there before the old one goes."""
    host.dp("attach", host.host_if)
    host.register()
    host.dp.stop()
    first, csum, rows = host.dp.args
    host.dp.args = ("clsact" if first == "tcx" else "tcx", csum, rows)
    host.dp.start()
    assert host.closed()
    host.dp("attach", host.host_if)
    assert host.closed()
    assert len(links(host)) == (2 if host.dp.args[0] == "tcx" else 0)
    host.register(PASS)
    assert host.open()


def test_interface_goes(host):
    """What was pinned for an interface that is gone goes at the next start; a new one of that name starts closed."""
    host.dp("attach", host.host_if)
    host.register(PASS)
    host.dp.kill()
    host.node.ip("link", "del", host.host_if)
    host.dp.start()
    assert links(host) == []
    host.new_pair()
    host.dp("attach", host.host_if)
    assert host.closed()


def test_endpoints_in_a_hash():
    host = Host("auto", "auto", array_ifindex=0)
    try:
        host.dp("attach", host.host_if)
        assert host.closed()
        host.register(PASS)
        assert host.open()
    finally:
        host.close()


def test_auto_takes_what_the_kernel_has(host):
    assert host.dp("mode").split()[:2] == list(host.args)
    other = Datapath(host.node, "auto", "auto")
    try:
        assert other("mode").split()[:2] == ["tcx", "kfunc"]  # of this machine's kernel; see datapath.attach
    finally:
        other.close()


@pytest.mark.parametrize("kind,extra", [("bridge", ()), ("dummy", ()), ("macvlan", ("link", "v0")),
                                        ("vlan", ("link", "v0", "id", 5)), ("ifb", ())])
def test_unsuitable_interfaces(kind, extra):
    """Only veth and tap: everything else has a way round tc, or is no workload's."""
    ns = Netns("kinds")
    dp = None
    try:
        other = Netns("peer")
        veth(ns, "v0", other, "eth0")
        link = extra[:2]
        made = subprocess.run(["ip", "-n", ns.name, "link", "add", *map(str, link), "name", "x0", "type", kind,
                               *map(str, extra[2:])], capture_output=True, text=True)
        if made.returncode:
            assert "Unknown device type" in made.stderr or "not supported" in made.stderr, made.stderr
            return  # this kernel has no such thing, so nobody has one
        dp = Datapath(ns)
        dp("suitable", "v0")
        verdict, text = dp.try_("suitable", "x0")
        assert verdict == "error" and text.startswith("interface-unsuitable: interface x0 is of kind " + kind)
        assert dp.try_("attach", "x0")[0] == "error"
        assert dp.try_("suitable", "lo")[0] == "error"
        ns.ip("tuntap", "add", "dev", "t0", "mode", "tap")
        ns.ip("tuntap", "add", "dev", "t1", "mode", "tun")
        dp("suitable", "t0")
        verdict, text = dp.try_("suitable", "t1")
        assert verdict == "error" and "not Ethernet" in text
    finally:
        if dp:
            dp.close()
        ns.close()
        other.close()


# Somebody in front

@pytest.fixture
def tcx_host():
    h = Host("tcx", "auto")
    h.dp("attach", h.host_if)
    h.register()
    assert h.closed()
    yield h
    h.close()


@pytest.mark.parametrize("hook", ["ingress", "egress"])
def test_foreign_program_in_front(tcx_host, hook):
    """Within 2 s the condition changes and names it, and from then on nothing passes."""
    host = tcx_host
    passes = host.sends if hook == "ingress" else host.receives
    host.dp.forget_events()
    with host.dp.asleep():  # it looks once a second, and must not before this was seen
        foreign = Foreign(host.node, host.host_if, hook)
        assert passes()  # so much for a check that does not look
    with foreign:
        event = host.dp.event(f"state {host.host_if} shadowed", timeout=2)
        assert "foreign" in event
        assert host.closed()
        host.dp.event(f"state {host.host_if} none")
        assert host.closed()
        assert len(links(host)) == 2
    assert host.closed()


def test_who_insists_stays_in_front(tcx_host):
    """Three moves a minute, then it is said and left at that; when the other goes it is over."""
    host = tcx_host
    foreigners = []
    for _ in range(3):
        foreigners.append(Foreign(host.node, host.host_if, "ingress"))
        host.dp.event(f"state {host.host_if} shadowed")
        assert host.closed()
        host.dp.event(f"state {host.host_if} none")
    foreigners.append(Foreign(host.node, host.host_if, "ingress"))
    host.dp.event(f"state {host.host_if} shadowed")
    assert host.sends()
    start = time.monotonic()
    while time.monotonic() - start < 2.5:  # two polls later it is as it was
        host.dp("mode")
    assert host.dp("state", host.host_if).startswith("shadowed foreign (program id ")
    foreigners.pop().close()
    host.dp.event(f"state {host.host_if} none")
    assert host.closed()
    for f in foreigners:
        f.close()


def test_links_are_taken_over_from_a_move(tcx_host):
    """A life that ends between two steps of moving to the front leaves two pins; one is enough."""
    host = tcx_host
    with Foreign(host.node, host.host_if, "ingress"):
        host.dp.event(f"state {host.host_if} shadowed")
    directory = f"{BPFFS}/countersign/{host.dp.instance}/v1/links"
    ifindex = host.node.ifindex(host.host_if)
    host.dp.kill()
    os.rename(f"{directory}/{ifindex}_from", f"{directory}/{ifindex}_from_new")
    host.dp.start()
    assert links(host) == [f"{ifindex}_from", f"{ifindex}_to"]
    assert host.closed()


def test_link_torn_off(tcx_host):
    """Root can detach a pinned link; it is put back."""
    host = tcx_host
    directory = f"{BPFFS}/countersign/{host.dp.instance}/v1/links"
    ifindex = host.node.ifindex(host.host_if)
    subprocess.run(["/usr/sbin/bpftool", "link", "detach", "pinned", f"{directory}/{ifindex}_from"], check=True)
    assert "nobody" in host.dp.event(f"state {host.host_if} shadowed")
    assert host.closed()
    host.dp.event(f"state {host.host_if} none")
    assert links(host) == [f"{ifindex}_from", f"{ifindex}_to"]


def test_xdp_program(host):
    """It runs before tc and may redirect, so it is said; it announces itself by rtnetlink."""
    host.dp("attach", host.host_if)
    with Foreign(host.node, host.host_if, "xdp"):
        host.dp("check", host.host_if)
        assert "XDP foreign" in host.dp.event(f"state {host.host_if} shadowed")
    host.dp("check", host.host_if)
    host.dp.event(f"state {host.host_if} none")


def test_clsact_behind_tcx():
    """A filter cannot get in front of a TCX program: that is said for as long as it lasts."""
    host = Host("clsact", "auto")
    try:
        host.dp("attach", host.host_if)
        host.register()
        assert host.closed()
        with Foreign(host.node, host.host_if, "ingress"):
            assert "TCX foreign" in host.dp.event(f"state {host.host_if} shadowed", timeout=2)
        host.dp.event(f"state {host.host_if} none")
        assert host.closed()
        # A filter that was removed is put back.
        host.node.exec("tc", "filter", "del", "dev", host.host_if, "egress")
        assert "nobody" in host.dp.event(f"state {host.host_if} shadowed")
        assert host.closed()
    finally:
        host.close()


def test_foreign_filter_at_our_place():
    host = Host("clsact", "auto")
    try:
        with Foreign(host.node, host.host_if, "filter"):
            kind, text = host.dp.try_("attach", host.host_if)
        assert kind == "error" and "foreign filter at priority 1" in text
        assert not host.receives()  # the other hook is closed all the same
    finally:
        host.close()


def test_nothing_is_left():
    """After detach and unpin neither pins nor programs nor devices of this instance are there."""
    host = Host("auto", "auto")
    host.dp("attach", host.host_if)
    instance = host.dp.instance
    assert "cs" in host.node.ip("-o", "link")
    host.dp.close()
    assert not os.path.exists(f"{BPFFS}/countersign/{instance}")
    assert filters(host) == 0
    assert [line for line in host.node.ip("-o", "link").splitlines() if ": cs" in line] == []
    assert host.open()
    host.node.close()
    host.workload.close()

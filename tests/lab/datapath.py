"""Two nodes behind a router, with the real datapath at the host side of each workload, told what to do line by line
(tests/integration/datapath/lab_datapath.c).

    a, b -- node1 -- router -- node2 -- c, d

The router has no identity and an address of the world."""
import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
import uuid
from pathlib import Path

import pytest

from lab.netns import Netns, address, veth

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("CS_BUILD", ROOT / "build" / "release"))
TOOL = BUILD / "integration" / "lab_datapath"
BPFFS = "/sys/fs/bpf"
DEADLINE_S = 20.0  # for what should happen at once, on a busy machine

DENY, REQUIRE, PASS = 0, 1, 2
EP_DHCP, EP_AUDIT, EP_DEPENDS, EP_FLOWS = 1, 2, 4, 8
HOST, WORLD, REMOTE_NODE = 1, 2, 6
NODE_AUDIT, NODE_HOLD, NODE_HOST_PASSES = 1, 2, 4
REPLY_TO, REPLY_FROM = 1 << 62, 1 << 61

HALVES = [("tcx", "kfunc"), ("clsact", "pseudo-header")]


def wait_for(condition, timeout=DEADLINE_S, what=None):
    """Calls condition() until it is true. The kernel announces no counter, so this asks, without a pause to speak of."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what() if what else condition}")
        time.sleep(0.002)


class Sniffer:
    """Every frame that arrives at an interface."""

    def __init__(self, ns, ifname="eth0"):
        self.socket = ns.packet(ifname)
        self.seen = []

    def frames(self):
        while True:
            try:
                self.seen.append(self.socket.recv(70000))
            except BlockingIOError:
                return self.seen

    def saw(self, marker):
        return any(marker in f for f in self.frames())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def send_frames(ns, ifname, frames):
    with ns.packet(ifname) as s:
        for f in frames:
            s.send(bytes(f))


class Datapath:
    """One lab_datapath in a namespace."""

    def __init__(self, ns, attach="auto", csum="auto", instance=None, array_ifindex=4095):
        self.ns = ns
        self.instance = instance or f"cst-{uuid.uuid4().hex[:8]}"
        self.args = (attach, csum, array_ifindex)
        self.start()

    def start(self, expect="ok"):
        attach, csum, array_ifindex = self.args
        self.process = subprocess.Popen(
            ["nsenter", f"--net={self.ns.path}", str(TOOL), BPFFS, self.instance, attach, csum, str(array_ifindex)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.replies, self.events = queue.Queue(), queue.Queue()
        threading.Thread(target=self._read, args=(self.process, self.replies, self.events), daemon=True).start()
        kind, text = self._reply()
        assert kind == expect, text
        return text

    @staticmethod
    def _read(process, replies, events):
        for line in process.stdout:
            kind, _, text = line.rstrip("\n").partition(" ")
            if kind == "event":
                events.put(text)
            else:
                replies.put((kind, text.strip()))
        replies.put(("error", "the process ended"))

    def _reply(self):
        return self.replies.get(timeout=60)

    def try_(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        return self._reply()

    def __call__(self, *words):
        kind, text = self.try_(*words)
        assert kind == "ok", f"{' '.join(map(str, words))}: {text}"
        return text

    def counts(self):
        return {k: int(v) for k, v in (pair.split("=") for pair in self("counts").split())}

    def stats(self):
        return {k: int(v) for k, v in (pair.split("=") for pair in self("stats").split())}

    def event(self, prefix, timeout=DEADLINE_S):
        end = time.monotonic() + timeout
        while True:
            try:
                text = self.events.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no event '{prefix}' within {timeout} s") from None
            if text.startswith(prefix):
                return text

    @contextlib.contextmanager
    def counting(self, **expected):
        """Exactly these reasons are counted meanwhile: policy_deny__from=3 is policy-deny/from=3."""
        before = self.counts()
        yield
        want = {k.replace("__", "/").replace("_", "-"): n for k, n in expected.items()}

        def more():
            now = self.counts()
            return {k: v - before.get(k, 0) for k, v in now.items() if v != before.get(k, 0)}

        wait_for(lambda: all(more().get(k, 0) >= n for k, n in want.items()), what=lambda: f"{want}, but {more()}")
        assert more() == want

    def forget_events(self):
        while not self.events.empty():
            self.events.get_nowait()

    @contextlib.contextmanager
    def asleep(self):
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        """As a daemon stops: what is attached stays."""
        self.process.stdin.close()
        assert self.process.wait(timeout=60) == 0

    def close(self):
        """Opens the node and leaves nothing."""
        if self.process.poll() is not None:
            self.start()
        try:
            self("detach")
            self("unpin")
            self.stop()
        finally:
            self.process.kill()
            self.process.wait()


class Workload:
    def __init__(self, node, label, number, identity):
        self.node, self.identity, self.host_if = node, identity, f"v{label}"
        self.ip4, self.ip6 = f"10.1.{node.number}.{number}", f"fd01:{node.number}::{number}"
        self.gateway4, self.gateway6 = f"10.1.{node.number}.1", f"fd01:{node.number}::1"
        self.ns = Netns(label)
        veth(node.ns, self.host_if, self.ns, "eth0")
        address(node.ns, self.host_if, self.gateway4 + "/32", self.gateway6 + "/128")
        address(self.ns, "eth0", self.ip4 + "/32", self.ip6 + "/128")
        node.ns.ip("route", "add", self.ip4, "dev", self.host_if)
        node.ns.ip("-6", "route", "add", self.ip6, "dev", self.host_if)
        self.ns.ip("route", "add", self.gateway4, "dev", "eth0")
        self.ns.ip("-6", "route", "add", self.gateway6, "dev", "eth0")
        self.ns.ip("route", "add", "default", "via", self.gateway4)
        self.ns.ip("-6", "route", "add", "default", "via", self.gateway6)
        self.mac = self.ns.mac("eth0")
        self.gateway_mac = node.ns.mac(self.host_if)

    def ip(self, family):
        return self.ip4 if family == 4 else self.ip6

    def register(self, from_endpoint=REQUIRE, from_other=DENY, to_endpoint=REQUIRE, to_other=DENY, flags=EP_FLOWS):
        self.node.dp("endpoint", self.host_if, self.identity, flags, from_endpoint, from_other, to_endpoint, to_other,
                     self.ip4, self.ip6)


class Node:
    def __init__(self, number):
        self.number = number
        self.ns = Netns(f"node{number}", forward=True)
        self.wire4, self.wire6 = f"10.0.{number}.1", f"fd00:{number}::1"
        self.workloads = []

    def start(self, attach, csum):
        self.dp = Datapath(self.ns, attach, csum)
        for w in self.workloads:
            self.dp("attach", w.host_if)


class Lab:
    """The whole network; close() leaves nothing."""

    def __init__(self, attach, csum):
        self.attach, self.csum = attach, csum
        self.spaces = []
        self.router = Netns("router", forward=True)
        self.node1, self.node2 = Node(1), Node(2)
        for node in (self.node1, self.node2):
            veth(node.ns, "wire", self.router, f"r{node.number}")
            address(node.ns, "wire", f"{node.wire4}/24", f"{node.wire6}/64")
            address(self.router, f"r{node.number}", f"10.0.{node.number}.254/24", f"fd00:{node.number}::fe/64")
            node.ns.ip("route", "add", "default", "via", f"10.0.{node.number}.254")
            node.ns.ip("-6", "route", "add", "default", "via", f"fd00:{node.number}::fe")
            self.router.ip("route", "add", f"10.1.{node.number}.0/24", "via", node.wire4)
            self.router.ip("-6", "route", "add", f"fd01:{node.number}::/64", "via", node.wire6)
        self.world4, self.world6 = "203.0.113.1", "2001:db8::1"
        address(self.router, "lo", self.world4 + "/32", self.world6 + "/128")
        self.a, self.b = Workload(self.node1, "a", 2, 1001), Workload(self.node1, "b", 3, 1002)
        self.c, self.d = Workload(self.node2, "c", 2, 2001), Workload(self.node2, "d", 3, 2002)
        self.node1.workloads, self.node2.workloads = [self.a, self.b], [self.c, self.d]
        self.workloads = self.node1.workloads + self.node2.workloads
        for node in (self.node1, self.node2):
            node.start(attach, csum)
        self.reset()

    def reset(self):
        """Every pair has to authenticate, nothing is allowed to or from others, no entry, nobody answers."""
        for node, other in ((self.node1, self.node2), (self.node2, self.node1)):
            dp = node.dp
            dp("flags", NODE_HOLD | NODE_HOST_PASSES)
            dp("alive", 1)
            dp("answer", "none")
            for w in node.workloads:
                dp("unendpoint", w.host_if)
                for family in (4, 6):
                    dp("addr", w.ip(family), w.identity, 0, 0)
                for peer in self.workloads:
                    dp("unpolicy", w.identity, peer.identity)
                    dp("unauth", w.identity, peer.identity, 0 if peer.node is node else 1)
            for w in other.workloads:
                for family in (4, 6):
                    dp("addr", w.ip(family), w.identity, 1, 0)
            for own in (node.wire4, node.wire6, f"10.1.{node.number}.1", f"fd01:{node.number}::1"):
                dp("addr", own, HOST, 0, 0)
            for theirs in (other.wire4, other.wire6):
                dp("addr", theirs, REMOTE_NODE, 1, 0)
            for w in node.workloads:
                w.register()
            dp.forget_events()

    def reach(self, x, y, family=4, timeout=3.0):
        """Does a UDP datagram of x arrive at y? And its answer at x?"""
        there, here = y.ns.udp(y.ip(family), timeout=timeout), x.ns.udp(x.ip(family), timeout=timeout)
        try:
            here.sendto(b"ask", there.getsockname()[:2])
            data, sender = there.recvfrom(100)
            there.sendto(b"answer", sender)
            return here.recvfrom(100)[0] == b"answer"
        except TimeoutError:
            return False
        finally:
            there.close()
            here.close()

    def authenticate(self, left, right, left_flags=0, right_flags=0):
        """Entries at both ends, as a handshake leaves them."""
        for me, peer, flags in ((left, right, left_flags), (right, left, right_flags)):
            me.node.dp("auth", me.identity, peer.identity, 0 if me.node is peer.node else 1, 60000, flags)

    def unauthenticate(self, left, right):
        for me, peer in ((left, right), (right, left)):
            me.node.dp("unauth", me.identity, peer.identity, 0 if me.node is peer.node else 1)

    def close(self):
        for node in (self.node1, self.node2):
            if hasattr(node, "dp"):
                node.dp.close()
        for ns in [w.ns for w in self.workloads] + [self.node1.ns, self.node2.ns, self.router]:
            ns.close()


@pytest.fixture(scope="module", params=HALVES, ids=lambda h: "+".join(h))
def whole_lab(request):
    """Both halves of datapath.attach and datapath.csum."""
    lab = Lab(*request.param)
    yield lab
    lab.close()


@pytest.fixture
def lab(whole_lab):
    whole_lab.reset()
    return whole_lab

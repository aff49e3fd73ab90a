"""Daemons killed at random moments under load: no identity is lost or doubled, no entry is there that should not be, no live
pair is cut.

CS_KILLS: how often authd and identityd are each killed, 10 unless it says otherwise; CS_KILLS=100 is the thorough run.
CS_SEED: the moments of an earlier run, which prints its seed."""
import collections
import contextlib
import datetime
import ipaddress
import json
import os
import random
import signal
import socket
import threading
import time
from pathlib import Path

import grpc
import pytest

from lab import protos
from lab.cluster import Cluster, policy, required, sh, wait_until
from lab.nodes import labels

A, E = protos.auth, protos.endpoints
KILLS = int(os.environ.get("CS_KILLS", 10))
OTHERS = 10  # kills of what is neither authd nor identityd
SEED = int(os.environ.get("CS_SEED", random.SystemRandom().randrange(1 << 32)))
PING, COLD, FORBIDDEN = 5000, 5001, 5002
PING_S = 0.005
RECOVERY_S = 30
CHURN_INTERFACES = 3
PLACED = 3


class Worker:
    """A thread that does one thing again and again; what it raises comes out of stop()."""

    def __init__(self):
        self.ending, self.error = threading.Event(), None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self):
        self.thread.start()
        return self

    def _run(self):
        try:
            while not self.ending.is_set():
                self.turn()
        except BaseException as e:  # handed to the caller
            self.error = e

    def stop(self):
        self.ending.set()
        self.thread.join(60)
        assert not self.thread.is_alive()
        if self.error:
            raise self.error


class Echo(Worker):
    """Counts datagrams, and sends them back."""

    def __init__(self, workload, port, answers=True):
        super().__init__()
        self.sock, self.answers, self.seen = workload.udp(port), answers, 0
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.sock.settimeout(0.2)

    def turn(self):
        with contextlib.suppress(TimeoutError):
            data, who = self.sock.recvfrom(100)
            self.seen += 1
            if self.answers:
                self.sock.sendto(data, who)

    def stop(self):
        super().stop()
        self.sock.close()


class LivePair(Worker):
    """Datagrams there and back, numbered: each of them arrives, or the pair was cut."""

    def __init__(self, client, server):
        super().__init__()
        self.name = f"{client.name} → {server.name}"
        self.sock, self.to = client.udp(), (server.ip4, PING)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.sent, self.back, self.when = 0, set(), []

    def read(self, timeout):
        self.sock.settimeout(timeout)
        with contextlib.suppress(TimeoutError, BlockingIOError):
            while True:
                self.back.add(int(self.sock.recv(100)))
                self.sock.settimeout(0)

    def turn(self):
        self.sock.sendto(b"%d" % self.sent, self.to)
        self.sent += 1
        self.when.append(time.time())
        end = time.monotonic() + PING_S
        while (left := end - time.monotonic()) > 0:
            self.read(left)

    def stop(self):
        super().stop()
        end = time.monotonic() + 5
        while len(self.back) < self.sent and time.monotonic() < end:
            self.read(0.2)
        self.sock.close()

    def lost(self):
        """When those were sent that did not come back."""
        return [datetime.datetime.fromtimestamp(self.when[i], datetime.timezone.utc).isoformat()
                for i in sorted(set(range(self.sent)) - self.back)]


class LiveConnection(Worker):
    """One TCP connection, all the time."""

    def __init__(self, client, server):
        super().__init__()
        listener = server.listen(PING)
        self.near, _ = client.connect(server, PING)
        self.far, _ = listener.accept()
        listener.close()
        for s in (self.near, self.far):
            s.settimeout(20)
        self.turns = 0

    def turn(self):
        for here, there in ((self.near, self.far), (self.far, self.near)):
            here.sendall(b"ping")
            got = b""
            while len(got) < 4:
                piece = there.recv(4 - len(got))
                assert piece, "the connection ended"
                got += piece
        self.turns += 1
        self.ending.wait(0.02)

    def stop(self):
        super().stop()
        self.near.close()
        self.far.close()


class Shout(Worker):
    """Datagrams of somebody who may not."""

    def __init__(self, workload, server):
        super().__init__()
        self.sock, self.to, self.sent = workload.udp(), (server.ip4, FORBIDDEN), 0

    def turn(self):
        self.sock.sendto(b"let me in", self.to)
        self.sent += 1
        self.ending.wait(0.01)

    def stop(self):
        super().stop()
        self.sock.close()


class Calls:
    """Stubs of a daemon that comes and goes."""

    def __init__(self, path, stub):
        self.path, self.stub, self.channel = path, stub, None

    def __call__(self, method, request, timeout=5):
        """The reply; raises RpcError, and connects anew the next time."""
        if not self.channel:
            self.channel = grpc.insecure_channel(f"unix:{self.path}", [("grpc.use_local_subchannel_pool", 1)])
        try:
            return getattr(self.stub(self.channel), method)(request, timeout=timeout)
        except grpc.RpcError as e:
            if e.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                self.close()
            raise

    def close(self):
        if self.channel:
            self.channel.close()
        self.channel = None


class ColdPairs(Worker):
    """Load on authd: pairs that are forgotten and authenticate again, all the time."""

    def __init__(self, lab):
        super().__init__()
        self.lab, self.random, self.done = lab, random.Random(SEED), 0
        self.flush = [Calls(n.instance / "authd/auth.sock", protos.auth_rpc.AuthStub) for n in lab.nodes]
        self.socks = {w: w.udp() for w in lab.cold}
        for s in self.socks.values():
            s.settimeout(0.1)

    def turn(self):
        w = self.random.choice(self.lab.cold)
        for node, call in zip(self.lab.nodes, self.flush):
            side = {"local": w.identity} if node is w.node else {"remote": w.identity}
            with contextlib.suppress(grpc.RpcError):
                call("Flush", A.AuthFlushRequest(match=A.AuthPair(**side)))
        s = self.socks[w]
        s.sendto(b"hello", (self.lab.db.ip4, COLD))
        with contextlib.suppress(TimeoutError):
            s.recv(100)
            self.done += 1
        self.ending.wait(0.01)

    def stop(self):
        super().stop()
        for call in self.flush:
            call.close()
        for s in self.socks.values():
            s.close()


class Churn(Worker):
    """Load on identityd: endpoints that come and go on one node. What was acknowledged is remembered."""

    def __init__(self, node, seen):
        super().__init__()
        self.node, self.seen, self.random = node, seen, random.Random(SEED + node.index)
        self.call = Calls(node.instance / "identityd/endpoints.sock", protos.endpoints_rpc.EndpointsStub)
        self.there = {}   # interface: (endpoint, labels, identity), acknowledged
        self.unsure = {}  # interface: endpoint whose registration had no answer
        self.number = self.answers = 0
        self.interfaces = [f"churn{i}" for i in range(CHURN_INTERFACES)]
        for name in self.interfaces:
            node.ns.ip("link", "add", name, "type", "veth", "peer", "name", f"{name}p")

    def turn(self):
        interface = self.random.choice(self.interfaces)
        try:
            if interface in self.unsure:
                self.remove(interface, self.unsure[interface])
            elif interface in self.there:
                self.remove(interface, self.there[interface][0])
            else:
                self.add(interface)
            self.answers += 1
        except grpc.RpcError as e:
            assert e.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED,
                                grpc.StatusCode.ABORTED), e
            self.ending.wait(0.02)

    def remove(self, interface, endpoint):
        try:
            self.call("UnregisterEndpoint", E.UnregisterRequest(id=endpoint))
        except grpc.RpcError as e:
            if e.code() != grpc.StatusCode.NOT_FOUND:
                self.unsure[interface] = endpoint
                self.there.pop(interface, None)
                raise
        self.unsure.pop(interface, None)
        self.there.pop(interface, None)

    def add(self, interface):
        self.number += 1
        endpoint = f"churn-{self.node.index}-{self.number}"
        n = self.random.randrange(8) if self.random.random() < 0.5 else f"{self.node.index}-{self.number}"
        text = f"k8s:app=churn;k8s:n={n}"
        address = f"10.{78 + self.node.index}.{self.number >> 8}.{self.number & 255}"  # each once: no quarantine
        spec = E.EndpointSpec(id=endpoint, labels=labels(text), interface=interface,
                              addresses=[protos.common.Address(ip=ipaddress.ip_address(address).packed)])
        self.unsure[interface] = endpoint
        reply = self.call("RegisterEndpoint", E.RegisterRequest(spec=spec, wait_for=[PLACED]), timeout=10)
        del self.unsure[interface]
        self.there[interface] = (endpoint, text, reply.identity)
        self.seen.append((text, reply.identity))

    def stop(self):
        super().stop()
        self.call.close()


class Lab:
    """Two nodes, who may talk to whom, and all that goes on while daemons die."""

    def __init__(self, c):
        self.c, self.nodes = c, c.nodes
        n1, n2 = c.node(), c.node()
        c.policy("db", policy("db", "db", required("ingress", "frontend") + cold_ingress() + "  egress: []\n"))
        c.policy("frontend", policy("frontend", "frontend", required("egress", "db")))
        c.policy("cold", policy("cold", "cold", required("egress", "db")))
        c.credentials()
        self.frontend = n1.workload("frontend", "k8s:app=frontend")
        self.cold = [n1.workload(f"cold{i}", "k8s:app=cold", f"k8s:n={i}") for i in range(4)]
        self.stranger = n1.workload("stranger", "k8s:app=stranger")
        self.db = n2.workload("db", "k8s:app=db")
        self.near = n2.workload("near", "k8s:app=frontend")
        c.start()
        for w in c.workloads.values():
            w.register(wait="enforced,svid-ready")
            w.identity = w.endpoint.get("endpoint", w.endpoint)["identity"]
        self.seen = [(";".join(sorted(w.labels)), w.identity) for w in c.workloads.values()]
        self.echo = [Echo(self.db, port).start() for port in (PING, COLD)]
        self.forbidden = Echo(self.db, FORBIDDEN, answers=False).start()

    def close(self):
        for e in [*self.echo, self.forbidden]:
            e.stop()

    # ---- what may be in the auth maps ----

    def allowed(self, node):
        """(local, remote, local to this node) of the entries that policy and placement allow there."""
        cold = [w.identity for w in self.cold]
        if node is self.nodes[0]:
            return {(i, self.db.identity, False) for i in [self.frontend.identity, *cold]}
        return ({(self.db.identity, i, False) for i in [self.frontend.identity, *cold]} |
                {(self.db.identity, self.near.identity, True), (self.near.identity, self.db.identity, True)})

    def check_maps(self):
        for node in self.nodes:
            found = {(local, remote, number == 0) for local, remote, number in entries_in_kernel(node)}
            assert found <= self.allowed(node), f"{node.name}: {found - self.allowed(node)}"

    # ---- after a kill ----

    def recover(self):
        """A pair that has no entry authenticates again."""
        w = self.cold[0]
        with w.udp() as s:
            s.settimeout(0.2)

            def cold_packet_comes_back():
                for node in self.nodes:
                    node.run_cli("auth", "flush", "--local" if node is w.node else "--remote", str(w.identity))
                s.sendto(b"hello", (self.db.ip4, COLD))
                try:
                    return s.recv(100)
                except TimeoutError:
                    return False

            wait_until(cold_packet_comes_back, "a cold pair authenticates after the restart", RECOVERY_S)


def cold_ingress():
    return """  - fromEndpoints: [{matchLabels: {"k8s:app": cold}}]
    authentication: {mode: required}
"""


def dumped(node, map):
    rows = json.loads(sh("bpftool", "-j", "map", "dump", "pinned", str(pinned(node, map))))
    return [(bytes(int(b, 16) for b in row["key"]), bytes(int(b, 16) for b in row["value"])) for row in rows]


def pinned(node, map):
    (found,) = Path("/sys/fs/bpf/countersign").glob(f"{node.instance.name}*/v*/{map}")
    return found


def numbers(data, *sizes):
    at, out = 0, []
    for size in sizes:
        out.append(int.from_bytes(data[at:at + size], "little"))
        at += size
    return out


def entries_in_kernel(node):
    """{(local, remote, node id)} that are not over, whether or not authd runs."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return {tuple(numbers(key, 4, 4, 2)) for key, value in dumped(node, "cs_auth")
            if int.from_bytes(value, "little") & ((1 << 61) - 1) > now}


def handshakers(node):
    pid = node.daemons["authd"].process.pid
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def lab():
    print(f"CS_SEED={SEED}")
    with Cluster(prefix="trest") as c:
        lab = Lab(c)
        yield lab
        lab.close()
        for daemon in ("authd", "spire-adapter", "identityd"):
            assert [n.stop(daemon) for n in lab.nodes] == [0, 0], f"{daemon}: a clean shutdown"


@contextlib.contextmanager
def going_on(lab, *load):
    """What must not stop, and what must not arrive, while the body kills."""
    pairs = [LivePair(lab.frontend, lab.db), LivePair(lab.near, lab.db)]
    for p in pairs:
        wait_until(lambda p=p: p.turn() or p.back, f"{p.name} is authenticated", RECOVERY_S)
        p.read(0.2)
        p.sent, p.back, p.when = 0, set(), []
    connection = LiveConnection(lab.frontend, lab.db)
    workers = [*pairs, connection, Shout(lab.stranger, lab.db), *load]
    for w in workers:
        w.start()
    try:
        yield
    finally:
        errors = []
        for w in reversed(workers):
            try:
                w.stop()
            except BaseException as e:  # all of them end
                errors.append(e)
    assert not errors, errors
    for p in pairs:
        assert p.sent > 20 and not p.lost(), f"{p.name}: {len(p.lost())} of {p.sent} datagrams lost: {p.lost()[:10]}"
    assert connection.turns > 0
    assert lab.forbidden.seen == 0, "nothing of the stranger arrived"
    lab.check_maps()


def kill_at_random(lab, daemon, times):
    moments = random.Random(f"{SEED} {daemon}")
    for _ in range(times):
        node = moments.choice(lab.nodes)
        time.sleep(moments.uniform(0, 0.4))  # a random moment, not a wait for anything
        node.kill(daemon)
        time.sleep(moments.uniform(0, 0.4))
        lab.check_maps()
        node.start(daemon)
        lab.recover()
        lab.check_maps()


def identities(node):
    return [(";".join(sorted(i["labels"])), i["id"], i["spiffe_id"]) for i in node.cli("identity", "list")["identities"]]


def check_identities(lab, churns):
    """What was acknowledged is there, once, at every node."""
    for churn in churns:
        node = churn.node
        there = {endpoint: identity for endpoint, _, identity in churn.there.values()}
        unsure = set(churn.unsure.values())
        wait_until(lambda: {e["id"]: e["identity"] for e in node.cli("endpoint", "list")["endpoints"]
                            if e["id"].startswith("churn-") and e["id"] not in unsure} == there,
                   f"{node.name} has the endpoints that were acknowledged, and no other", RECOVERY_S)
    for node in lab.nodes:
        check_numbers(node, set(lab.seen))


def check_numbers(node, seen):
    """What another node registered comes with the directory, a moment later; none is ever another one."""
    end = time.monotonic() + RECOVERY_S
    while True:
        there = numbers_by_labels(node)
        changed = {text: (number, there[text]) for text, number in seen if there.get(text, number) != number}
        assert not changed, f"{node.name} has changed {{labels: (acknowledged, now)}}: {changed}"
        if not (lost := {text: number for text, number in seen if text not in there}):
            return
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    others = {text: number for text, number in there.items() if (text, number) not in seen}
    assert not lost, f"{node.name} does not have {lost} after {RECOVERY_S} s, but {len(there)}, these not acknowledged: {others}"


def numbers_by_labels(node):
    """{labels: number} that this node knows: of each one, at every moment."""
    found = [i for i in identities(node) if not i[0].startswith("reserved:")]
    by_labels = {text: number for text, number, _ in found}
    assert len(by_labels) == len(found), f"{node.name}: one identity for one label set: {doubled(t for t, *_ in found)}"
    assert not (twice := doubled(n for _, n, _ in found)), f"{node.name}: one label set for one number: {twice}"
    assert not (twice := doubled(s for *_, s in found)), f"{node.name}: one label set for one SPIFFE ID: {twice}"
    return by_labels


def doubled(values):
    return [v for v, n in collections.Counter(values).items() if n > 1]


# ---- the tests ----

def test_authd_is_killed(lab):
    cold = ColdPairs(lab)
    with going_on(lab, cold):
        kill_at_random(lab, "authd", KILLS)
    assert cold.done > 0


def test_identityd_is_killed(lab):
    churns = [Churn(n, lab.seen) for n in lab.nodes]
    with going_on(lab, ColdPairs(lab), *churns):
        kill_at_random(lab, "identityd", KILLS)
    assert all(churn.answers > 0 for churn in churns)
    check_identities(lab, churns)


def test_the_adapter_is_killed(lab):
    with going_on(lab, ColdPairs(lab)):
        kill_at_random(lab, "spire-adapter", OTHERS)


def test_handshakers_are_killed(lab):
    moments = random.Random(f"{SEED} handshaker")
    with going_on(lab, ColdPairs(lab)):
        for _ in range(OTHERS):
            node = moments.choice(lab.nodes)
            time.sleep(moments.uniform(0, 0.3))  # a random moment
            wait_until(lambda node=node: handshakers(node), "a handshaker runs", RECOVERY_S)
            with contextlib.suppress(ProcessLookupError, IndexError):  # it has just died by itself
                os.kill(moments.choice(handshakers(node)), signal.SIGKILL)
            lab.recover()


def live(node, remote):
    return [(e["remote"], e["since_unix_ms"], e["remote_leaf_sha256"]) for e in node.cli("auth", "list")["entries"]
            if e["remote"] == remote]


def test_what_changed_while_authd_was_dead(lab):
    """At its start it judges anew what an earlier life wrote: what stands, stands as it was; what does not, goes."""
    n1, n2 = lab.nodes
    with going_on(lab):
        lab.recover()
        before, gone = live(n2, lab.frontend.identity), lab.cold[0]
        assert before and live(n2, gone.identity)
        n2.kill("authd")
        gone.unregister()
        forged = (lab.db.identity, lab.stranger.identity)
        key = b"".join(n.to_bytes(size, "little") for n, size in ((forged[0], 4), (forged[1], 4), (1, 2), (1, 1), (0, 1)))
        value = (time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 3_000_000_000_000).to_bytes(8, "little")
        lab.stranger.node.ns.ip("link", "set", lab.stranger.interface, "down")  # with that entry it would get through
        sh("bpftool", "map", "update", "pinned", str(pinned(n2, "cs_auth")), "key", *map(str, key), "value",
           *map(str, value))
        assert (*forged, 1) in entries_in_kernel(n2)
        n2.start("authd")
        assert (*forged, 1) not in entries_in_kernel(n2), "nothing vouches for it: gone before authd is ready"
        wait_until(lambda: not live(n2, gone.identity), "the entry of who left goes")
        assert live(n2, lab.frontend.identity) == before
        lab.stranger.node.ns.ip("link", "set", lab.stranger.interface, "up")
    

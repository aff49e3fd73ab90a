"""From a registration to packets that flow, measured. See tests/bench/spire-propagation."""
import argparse
import importlib
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import grpc
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from lab import adapter, nodes, spire, spire_partner  # noqa: E402
from lab.cluster import Cluster, policy, required  # noqa: E402
from lab.registrar import Registrar  # noqa: E402

ROUNDS, ROUNDS_MAX, PORT, WAIT_S, OURS_MS = 30, 150, 5000, 60, 50
STEPS = ("entry", "svid", "forward")


def now_ms():
    return time.monotonic() * 1000


class Spires:
    """What SPIRE itself says, and when: nothing of ours is between."""

    def __init__(self, server, agent):
        self.out = tempfile.mkdtemp(prefix="cs-protos-")
        protos = ROOT / "spire-adapter/proto"
        if protoc.main(["", f"-I{protos}", f"--python_out={self.out}", f"--grpc_python_out={self.out}",
                        str(protos / "delegated_identity.proto")]) != 0:
            raise RuntimeError("delegated_identity.proto does not compile")
        sys.path.insert(0, self.out)
        self.messages = importlib.import_module("delegated_identity_pb2")
        stubs = importlib.import_module("delegated_identity_pb2_grpc")
        self.server = grpc.insecure_channel(f"unix:{server.socket}")
        self.agent = grpc.insecure_channel(f"unix:{agent.admin}")
        self.delegated = stubs.DelegatedIdentityStub(self.agent)
        self.count = self.server.unary_unary("/spire.api.server.entry.v1.Entry/CountEntries")

    def entries(self):
        return dict(spire.varints(self.count(b"", timeout=WAIT_S))).get(1, 0)

    def wait_entry(self, before):
        """When there is one more; asked every 2 ms."""
        while self.entries() == before:
            time.sleep(0.002)
        return now_ms()

    def svid(self, identity):
        """A delegate of its own, beside the adapter: when it has the SVID."""
        request = self.messages.SubscribeToX509SVIDsRequest(
            selectors=[self.messages.Selector(type="countersign", value=f"id:{identity}")])
        call = self.delegated.SubscribeToX509SVIDs(request, timeout=WAIT_S)
        for message in call:
            if message.x509_svids:
                at = now_ms()
                call.cancel()
                return at
        raise RuntimeError("the agent ended its stream")

    def close(self):
        self.server.close()
        self.agent.close()
        shutil.rmtree(self.out, ignore_errors=True)


class Later(threading.Thread):
    """fn() in a thread; result() is what it returned."""

    def __init__(self, fn, *args):
        super().__init__(daemon=True)
        self.fn, self.args, self.value, self.error = fn, args, None, None
        self.start()

    def run(self):
        try:
            self.value = self.fn(*self.args)
        except BaseException as e:  # handed to the caller
            self.error = e

    def result(self):
        self.join(WAIT_S)
        if self.error or self.is_alive():
            raise self.error or TimeoutError(f"not within {WAIT_S} s")
        return self.value


class Bench:
    def __init__(self, c, installation):
        self.one, self.two = c.node(), c.node()
        c.policy("server", policy("server", "server", required("ingress", "client")).replace('"k8s:app": server', '"k8s:role": server'))
        c.policy("client", policy("client", "client", required("egress", "server")).replace(
            '[{matchLabels: {"k8s:app": server', '[{matchLabels: {"k8s:role": server'))
        for node in c.nodes:
            agent = installation.add_agent(node.name)
            installation.node(agent, node.name, server=node is self.one)
            tls = node.instance / "spire-adapter/tls" / ("identityd" if node is self.one else "node")
            node.settings = {
                "spire-adapter": {"source": "spire", "spire.agent_socket": agent.socket, "spire.admin_socket": agent.admin},
                "identityd": {"tls.cert": tls / "svid.pem", "tls.key": tls / "svid.key", "tls.bundle": tls / "bundle.pem"}}
            node.start("spire-adapter")
            spire.wait_for((tls / "svid.pem").exists, tls)
        c.start("identityd", "authd")
        self.registrar = Registrar(self.one.instance, f"unix:{installation.server.socket}")
        self.client = self.two.workload("client", "k8s:app=client")
        self.client.register(wait="enforced,svid-ready", timeout="30s")
        self.said = Spires(installation.server, installation.agents["node1"])
        self.follower = adapter.Follower(type("Node", (), {"sockets": self.one.instance / "spire-adapter"}))
        self.channel = grpc.insecure_channel(f"unix:{self.one.instance}/identityd/endpoints.sock")
        self.endpoints = nodes.protos.endpoints_rpc.EndpointsStub(self.channel)

    def forwarded(self, sender, echo):
        """When a datagram has come there and back; asked again every 5 ms."""
        sender.settimeout(0.005)
        while True:
            sender.sendto(b"x", echo.getsockname())
            try:
                sender.recv(10)
                return now_ms()
            except TimeoutError:
                pass

    def echo(self, sock):
        while True:
            try:
                data, sender = sock.recvfrom(10)
            except OSError:
                return
            if data == b"end":
                return
            sock.sendto(data, sender)

    def round(self, i, pressed=False):
        """{step: ms}. pressed: the client sends from the registration on, and is refused until there is an SVID."""
        w = self.one.workload(f"w{i}", f"k8s:app=w{i}", "k8s:role=server")
        echo, sender = w.udp(PORT), self.client.udp()
        echoing = Later(self.echo, echo)
        before = self.said.entries()
        spec = nodes.spec(w.name, ";".join(w.labels), [w.ip4], w.interface)
        start = now_ms()
        entry = Later(self.said.wait_entry, before)
        identity = self.endpoints.RegisterEndpoint(
            nodes.E.RegisterRequest(spec=spec, wait_for=(nodes.ENFORCED,)), timeout=WAIT_S).identity
        registered = now_ms()
        bare = Later(self.said.svid, identity)
        sending = Later(self.forwarded, sender, echo) if pressed else None
        self.follower.wait_svid(identity)
        svid = now_ms()
        forward = sending.result() if pressed else self.forwarded(sender, echo)
        sender.sendto(b"end", echo.getsockname())
        echoing.result()
        echo.close()
        sender.close()
        entry, bare = entry.result(), bare.result()
        return {"register": registered - start, "entry": entry - start, "svid": svid - entry, "forward": forward - svid,
                "spire": bare - entry, "ours": (entry - start) + (svid - bare) + (forward - svid), "total": forward - start}

    def close(self):
        self.channel.close()
        self.follower.close()
        self.said.close()
        self.registrar.stop()


def quantiles(values):
    values = sorted(values)
    return statistics.median(values), values[min(len(values) - 1, int(len(values) * 0.95))]


def show(rounds, pressed):
    print(f"\n  {'ms':58} {'p50':>8} {'p95':>8}   of {len(rounds)}")
    for key, what in (("entry", "register -> registration entry in SPIRE's server"),
                      ("svid", "entry -> SVID in the adapter"), ("forward", "SVID -> first datagram there and back"),
                      ("total", "all of it"), ("spire", "SPIRE's own share: entry -> SVID at a bare delegate"),
                      ("ours", "ours on top"), ("register", "beside: Register answers, the interface is enforced")):
        p50, p95 = quantiles([r[key] for r in rounds])
        print(f"  {what:58} {p50:8.1f} {p95:8.1f}")
    p50, p95 = quantiles([r["forward"] for r in pressed])
    print(f"  {'beside: SVID -> first datagram of who has been sending':58} {p50:8.1f} {p95:8.1f}   of {len(pressed)}")


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/spire-propagation")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    if not 1 <= args.rounds <= ROUNDS_MAX:
        parser.error(f"--rounds: from 1 to {ROUNDS_MAX}")
    make, who = spire.Spire, "a real SPIRE (its agents and its\ncache look every second)"
    if why := spire.missing():
        if spire_partner.missing():
            print(f"nothing was measured: {why}")
            return 2
        make, who = spire_partner.Partner, f"a partner that plays\nSPIRE ({why}; it looks every {spire_partner.PACE})"
    print(f"From a registration to packets that flow: two nodes (namespaces of one machine), {who}, identityd and\n"
          "the registrar beside the first node. Each round is a new workload with labels of its own.\n"
          f"machine: {os.cpu_count()} cores, Linux {platform.release()}")
    installation = make("example.org")
    try:
        with Cluster(prefix=f"prop{os.getpid() % 1000}-") as c:
            bench = Bench(c, installation)
            try:
                rounds = [bench.round(i) for i in range(args.rounds)]
                pressed = [bench.round(args.rounds + i, pressed=True) for i in range(max(1, args.rounds // 3))]
            finally:
                bench.close()
    finally:
        installation.close()
    show(rounds, pressed)
    ours, _ = quantiles([r["ours"] for r in rounds])
    print(f"\n  ours on top of SPIRE is {ours:.1f} ms in the median (less than {OURS_MS})")
    if args.json:
        figures = {}
        for key in (*STEPS, "total", "spire", "ours"):
            figures[f"{key}_ms_p50"], figures[f"{key}_ms_p95"] = (round(v, 1) for v in quantiles([r[key] for r in rounds]))
        figures["pressed_ms_p50"], figures["pressed_ms_p95"] = (
            round(v, 1) for v in quantiles([r["forward"] for r in pressed]))
        Path(args.json).write_text(json.dumps({**figures, "rounds": len(rounds), "against": installation.kind}, indent=2) + "\n")
    return 0 if ours < OURS_MS else 1


sys.exit(main())

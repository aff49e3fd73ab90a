"""Real countersign-identityd processes, in either role, and what is said to them."""
import ipaddress
import itertools
import json
import re
import subprocess
import time

import grpc

from lab import protos
from lab.daemon import BUILD, WAIT_S, Daemon
from lab.follower import Follower
from lab.process import as_user

PROGRAM = "identity/countersign-identityd"
CLI = str(BUILD / "cli/countersign")
D, E = protos.directory, protos.endpoints
REGISTERED, IDENTIFIED, PLACED, ENFORCED, SVID_READY, PUBLISHED = range(1, 7)


def ip(text):
    return protos.common.Address(ip=ipaddress.ip_address(text).packed)


def labels(text):
    """k8s:app=web;k8s:tier=front"""
    return [protos.common.Label(source=m[1], key=m[2], value=m[3])
            for m in re.finditer(r"([^:;]+):([^=;]+)=([^;]*)", text)]


def spec(id, text, addresses, interface, **more):
    return E.EndpointSpec(id=id, labels=labels(text), addresses=[ip(a) for a in addresses], interface=interface, **more)


def reason_of(error):
    """The reason in the trailers of a grpc.RpcError, or ""."""
    return dict(error.trailing_metadata() or ()).get("countersign-reason", "")


class Identityd(Daemon):
    def __init__(self, instance, *sets, role="all", node="n1", domain="example.org", settings=None, **options):
        self.instance, self.sockets, self.node = instance, instance / "identityd", node
        self.made = dict(role=role, node=node, domain=domain, **options), sets, settings or {}
        mine = {"log.level": "debug"}
        if role == "all":
            mine |= {"trust_domain": domain, "node.name": node, "cluster.listen": "127.0.0.1:0", "address.quarantine": "0"}
        mine |= settings or {}
        self.channels = []
        args = [f"{k}={v}" for k, v in mine.items()] + list(sets)
        super().__init__(PROGRAM, "--instance", instance, "--role", role,
                         *itertools.chain(*(("--set", a) for a in args)), **options)

    def again(self, settings=None, **options):
        """Another process with the same settings, and these."""
        mine, sets, before = self.made
        return Identityd(self.instance, *sets, settings={**before, **(settings or {})}, **{**mine, **options})

    @property
    def alive(self):
        return self.process.poll() is None

    @property
    def port(self):
        """Of the cluster role; the log tells it."""
        end = time.monotonic() + WAIT_S
        while not (m := re.search(r'"port":(\d+)', self.output())):
            assert time.monotonic() < end
        return int(m[1])

    def channel(self, name):
        channel = grpc.insecure_channel(f"unix:{self.sockets / name}.sock",
                                        [("grpc.max_receive_message_length", 64 << 20),
                                         ("grpc.use_local_subchannel_pool", 1)])
        self.channels.append(channel)
        return channel

    @property
    def endpoints(self):
        return protos.endpoints_rpc.EndpointsStub(self.channel("endpoints"))

    def register(self, spec, wait_for=(PLACED,), timeout=WAIT_S):
        return self.endpoints.RegisterEndpoint(E.RegisterRequest(spec=spec, wait_for=wait_for), timeout=timeout)

    def list(self):
        return {e.spec.id: e for e in self.endpoints.List(E.ListRequest(), timeout=WAIT_S).endpoints}

    def follow(self, **request):
        return Follower(self.channel("directory"), **request)

    def once(self, **request):
        f = self.follow(once=True, **request)
        error = f.wait_end()
        assert error is None, error
        return f

    def report(self, **report):
        met, step, reason = report.pop("met"), report.pop("step"), report.pop("reason", "")
        condition = E.Condition(step=step, met=met, reason=protos.common.Reason(name=reason))
        self.endpoints.Report(E.ReportRequest(reports=[E.Report(condition=condition, **report)]), timeout=WAIT_S)

    def cli(self, *args, code=0, user=None):
        """The command line on this instance; its standard output (and error, for another code than 0)."""
        p = subprocess.run([*as_user(user), CLI, "--instance", str(self.instance), *args], capture_output=True, text=True,
                           timeout=WAIT_S, cwd="/")
        assert p.returncode == code, (args, p.returncode, p.stdout, p.stderr)
        return p.stdout if code == 0 else p.stdout + p.stderr

    def json(self, *args, code=0):
        return json.loads(self.cli(*args, "-o", "json", code=code))

    def status(self):
        with grpc.insecure_channel(f"unix:{self.sockets}/status.sock", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            return protos.status_rpc.StatusStub(channel).Get(protos.status.StatusRequest(), timeout=WAIT_S)

    def wait_check(self, name, ok, says="", timeout=WAIT_S):
        """Until a status check is (not) ok and says that; polls, because Status has no stream."""
        end = time.monotonic() + timeout
        while True:
            check = {c.name: c for c in self.status().checks}[name]
            if check.ok == ok and says in f"{check.reason.name}: {check.reason.detail}":
                return check
            assert time.monotonic() < end, check
            time.sleep(0.05)

    def hang_up(self):
        for channel in self.channels:
            channel.close()
        self.channels = []

    def stop(self):
        self.hang_up()
        return super().stop()

    def kill(self):
        self.hang_up()
        super().kill()


def condition(status, step):
    return {c.step: c for c in status.conditions}[step]

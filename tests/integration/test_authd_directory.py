"""What countersign-authd makes of a directory, said word by word by grpcio: whole revisions or nothing, resuming, and a
directory that breaks its word."""
import ipaddress
import queue
import re
import shutil
import subprocess
import tempfile
import time
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from lab import protos
from lab.cluster import Netns, sh
from lab.daemon import BUILD, WAIT_S, Daemon

D, E = protos.directory, protos.endpoints
NS = "tdirauthd"


def ip(text):
    return protos.common.Address(ip=ipaddress.ip_address(text).packed)


def node(name, *addresses, **more):
    return D.Record(node=D.Node(name=name, addresses=[ip(a) for a in addresses], port=4250, **more))


def identity(number):
    return D.Record(identity=D.Identity(id=number, spiffe_id=f"spiffe://example.org/identity/{number}", incarnation=1))


def placement(number, name):
    return D.Record(placement=D.Placement(identity=number, node=name))


def endpoint(name, id, number, *addresses, interface=None, ifindex=0, incarnation=5):
    local = D.LocalEndpoint(interface=interface, ifindex=ifindex, incarnation=incarnation) if interface else None
    return D.Record(endpoint=D.Endpoint(node=name, id=id, identity=number, addresses=[ip(a) for a in addresses],
                                        local=local))


def default(number, verdict):
    d = D.Decision(verdict=verdict)
    return D.Record(policy_default=D.PolicyDefault(local=number, from_endpoint=d, from_other=d, to_endpoint=d, to_other=d))


START = [node("n1", "127.0.0.1", self=True), node("n2", "10.9.0.2"), identity(256), identity(257), placement(257, "n2"),
         endpoint("n2", "web", 257, "10.1.0.1")]


class Directory(protos.directory_rpc.DirectoryServicer, protos.endpoints_rpc.EndpointsServicer):
    """Says what the test puts into `say`, to one follower after the other. None ends the call."""

    def __init__(self, dir):
        self.dir, self.say = dir, queue.Queue()
        self.requests, self.reports, self.revision = queue.Queue(), queue.Queue(), 0
        dir.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self):
        self.server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        protos.directory_rpc.add_DirectoryServicer_to_server(self, self.server)
        protos.endpoints_rpc.add_EndpointsServicer_to_server(self, self.server)
        for name in ("directory.sock", "endpoints.sock"):
            (self.dir / name).unlink(missing_ok=True)
            assert self.server.add_insecure_port(f"unix:{self.dir / name}")
        self.server.start()

    def stop(self):
        self.server.stop(None).wait()

    def Follow(self, request, context):
        say = self.say = queue.Queue()  # what is said from here on is for this follower, whether or not the last one's call has ended
        context.add_callback(lambda: say.put(None))
        self.requests.put(request)
        while (batch := say.get()) is not None:
            yield batch

    def Report(self, request, context):
        for r in request.reports:
            self.reports.put(r)
        return E.ReportReply()

    def batch(self, *records, epoch=7, **more):
        self.revision += 1
        self.say.put(D.DirectoryBatch(position=D.Position(epoch=epoch, revision=self.revision), records=records, **more))

    def called(self):
        return self.requests.get(timeout=WAIT_S)

    def reported(self, id):
        while True:
            r = self.reports.get(timeout=WAIT_S)
            if r.endpoint == id:
                return r


class Home:
    def __init__(self):
        self.dir = Path(tempfile.mkdtemp(prefix="tdirauthd-"))
        self.dir.chmod(0o755)
        self.instance = self.dir / NS
        self.ns = Netns(NS)
        self.instance.mkdir()
        self.directory = Directory(self.instance / "identityd")
        self.authd, self.status = None, None

    def start(self):
        self.authd = Daemon(shutil.which("nsenter"), *self.ns.enter()[1:], BUILD / "authmap/countersign-authd", "--instance", self.instance,
                            "--set", "handshaker.user=nobody", "--set", f"handshaker.path={BUILD / 'authmap/handshaker/countersign-handshaker'}")
        self.channel = grpc.insecure_channel(f"unix:{self.instance}/authd/status.sock")
        self.status = protos.status_rpc.StatusStub(self.channel)
        return self

    def known(self, kind):
        text = b"".join(c.text for c in self.status.Metrics(protos.status.MetricsRequest(), timeout=WAIT_S)).decode()
        return int(float(re.search(rf'^countersign_known{{[^}}]*kind="{kind}"}} (\S+)$', text, re.M)[1]))

    def end(self):
        if self.status:
            self.channel.close()
            self.authd.stop()
        self.directory.stop()
        self.ns.delete()
        shutil.rmtree(f"/sys/fs/bpf/countersign/{NS}", ignore_errors=True)
        shutil.rmtree(self.dir, ignore_errors=True)


@pytest.fixture
def home():
    h = Home()
    try:
        yield h.start()
    finally:
        h.end()


def wait_known(home, kind, number):
    """The product's own number, asked for again."""
    end = time.monotonic() + WAIT_S
    while (n := home.known(kind)) != number:
        assert time.monotonic() < end, (kind, n, number)
        time.sleep(0.01)


def test_a_full_state_counts_when_it_is_complete(home):
    d = home.directory
    request = d.called()
    assert not request.HasField("resume") and not request.once
    d.batch(*START[:3])
    d.batch()  # a heartbeat in between
    d.batch(*START[3:])
    assert home.known("identities") == 0, "nothing before `synced`"
    d.batch(complete=True, synced=True)
    wait_known(home, "endpoints", 1)
    assert home.known("identities") == 2 and home.known("nodes") == 2


def test_a_revision_in_pieces_is_one(home):
    d = home.directory
    d.called()
    d.batch(*START, complete=True, synced=True)
    wait_known(home, "endpoints", 1)
    d.batch(identity(258))
    d.batch(identity(259))
    assert home.known("identities") == 2
    d.batch(identity(260), complete=True)
    wait_known(home, "identities", 5)


def test_it_resumes_where_it_was(home):
    d = home.directory
    d.called()
    d.batch(*START, complete=True, synced=True)
    d.batch(identity(258), complete=True)
    wait_known(home, "identities", 3)
    d.batch(identity(999))  # never completed
    d.say.put(None)
    request = d.called()
    assert (request.resume.epoch, request.resume.revision) == (7, 2)
    d.revision = 2
    d.batch(identity(259), complete=True)
    wait_known(home, "identities", 4)  # 999 is not among them


@pytest.mark.parametrize("what", ["address", "prefix", "endpoint", "revocation", "epoch"])
def test_a_broken_word_is_taken_as_none(home, what):
    """Nothing of a revision with one malformed record is taken, and everything is asked for anew."""
    d = home.directory
    d.called()
    d.batch(*START, complete=True, synced=True)
    wait_known(home, "identities", 2)
    bad = {
        "address": D.Record(node=D.Node(name="n3", addresses=[protos.common.Address(ip=b"12345")])),
        "prefix": D.Record(prefix=D.PrefixIdentity(prefix=protos.common.Prefix(ip=b"\x0a\0\0\1", bits=8), identity=1 << 24)),
        "endpoint": endpoint("n2", "many", 257, *[f"10.2.0.{i}" for i in range(1, 6)]),
        "revocation": D.Record(revocation=D.Revocation(id="of-what")),
        "epoch": identity(259),
    }[what]
    d.batch(identity(258), bad, complete=True, epoch=8 if what == "epoch" else 7)
    request = d.called()
    assert not request.HasField("resume")
    assert home.known("identities") == 2
    d.batch(*START, identity(258), complete=True, synced=True)
    wait_known(home, "identities", 3)


def test_reports_again_after_each_connection(home):
    sh("ip", "-n", NS, "link", "add", "veth1", "type", "veth", "peer", "name", "veth1p")
    index = int(sh("ip", "-n", NS, "-o", "link", "show", "veth1").split(":")[0])
    d = home.directory
    d.called()
    local = endpoint("n1", "db", 256, "10.1.0.2", interface="veth1", ifindex=index)
    d.batch(*START, placement(256, "n1"), default(256, 2), local, complete=True, synced=True)
    report = d.reported("db")
    assert report.condition.met and report.condition.step == E.STEP_ENFORCED and report.incarnation == 5
    d.stop()
    d.reports = queue.Queue()
    d.start()
    assert d.called().resume.epoch == 7
    assert d.reported("db").condition.met
    # Another one with the same interface, and one whose interface is another now.
    d.batch(endpoint("n1", "db2", 256, "10.1.0.3", interface="veth1", ifindex=index),
            endpoint("n1", "db3", 256, "10.1.0.4", interface="veth9", ifindex=index + 1), complete=True)
    assert d.reported("db2").condition.reason.name == "interface-taken"
    report = d.reported("db3")
    assert not report.condition.met and report.condition.reason.name == "interface-missing"
    # Not placed any more: closed, and said so with the incarnation of the registration.
    d.batch(endpoint("n1", "db", 0, "10.1.0.2", interface="veth1", ifindex=index, incarnation=6), complete=True)
    report = d.reported("db")
    assert not report.condition.met and report.incarnation == 6
    # A bridge has a way round the check.
    sh("ip", "-n", NS, "link", "add", "br1", "type", "bridge")
    index = int(sh("ip", "-n", NS, "-o", "link", "show", "br1").split(":")[0])
    d.batch(endpoint("n1", "db4", 256, "10.1.0.5", interface="br1", ifindex=index), complete=True)
    report = d.reported("db4")
    assert not report.condition.met and report.condition.reason.name == "interface-unsuitable"


def test_the_user_of_handshakers_must_exist():
    p = subprocess.run([BUILD / "authmap/countersign-authd", "--instance", "/tmp/tdirauthd-none", "--set",
                        "handshaker.user=nobody-has-this", "--check-config"], capture_output=True, text=True, timeout=WAIT_S)
    assert p.returncode == 2 and "useradd" in p.stderr
    p = subprocess.run([BUILD / "authmap/countersign-authd", "--instance", "/tmp/tdirauthd-none", "--set",
                        "handshaker.user=", "--check-config"], capture_output=True, text=True, timeout=WAIT_S)
    assert p.returncode == 0

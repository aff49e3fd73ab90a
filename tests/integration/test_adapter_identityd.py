"""The real adapter beside the real identityd: from a registration to an SVID, over restarts of either, and over two nodes
whose mTLS certificates come from the built-in CA."""
import subprocess
import time

import grpc
import pytest

from lab import adapter as lab
from lab.daemon import BUILD, WAIT_S
from lab.interfaces import Interfaces
from lab.node_tls import served
from lab.nodes import SVID_READY, E, Identityd, condition, spec


class Lab:
    def __init__(self, base):
        self.base, self.things, self.interfaces, self.numbers = base, [], Interfaces(), iter(range(1, 250))

    def keep(self, thing):
        self.things.append(thing)
        return thing

    def adapter(self, node="n1", ca="ca"):
        return self.keep(lab.Adapter(self.base / node, self.base / ca, node=node))

    def identityd(self, node="n1", **options):
        return self.keep(Identityd(self.base / node, node=node, **options))

    def follow(self, adapter):
        return self.keep(lab.Follower(adapter))

    def spec(self, id, app=None):
        return spec(id, f"k8s:app={app or id}", [f"10.1.0.{next(self.numbers)}"], self.interfaces.new())

    def killed(self, thing):
        thing.kill()
        self.things.remove(thing)
        thing.clean()

    def end(self):
        try:
            for thing in reversed(self.things):
                thing.close() if hasattr(thing, "close") else thing.stop()
        finally:
            self.interfaces.close()


@pytest.fixture
def home(tmp_path):
    home = Lab(tmp_path)
    yield home
    home.end()


def test_register_waits_for_the_svid(home):
    d, a = home.identityd(), home.adapter()
    f = home.follow(a)
    status = d.register(home.spec("web"), wait_for=(SVID_READY,))
    assert condition(status, SVID_READY).met
    svid = f.wait_svid(status.identity)
    assert svid.spiffe_id == status.spiffe_id
    signer = home.keep(lab.Signer(a))
    reason, signature = signer.sign(status.identity, svid.generation)
    assert reason == 0
    lab.verify_signature(svid, signature)
    # A second endpoint of the same labels has what the identity has.
    again = d.register(home.spec("web-2", app="web"), wait_for=(SVID_READY,))
    assert again.identity == status.identity
    assert f.state.svids[status.identity].generation == svid.generation

    for id in ("web", "web-2"):
        assert signer.sign(status.identity, svid.generation)[0] == 0
        d.endpoints.UnregisterEndpoint(E.UnregisterRequest(id=id), timeout=WAIT_S)
    assert f.wait(lambda s: not s.has(status.identity)).svids[status.identity].withdrawn
    assert signer.sign(status.identity, svid.generation)[0] == lab.REASON["no-local-svid"]


def test_without_an_adapter_nothing_is_svid_ready(home):
    d = home.identityd()
    with pytest.raises(grpc.RpcError) as e:
        d.register(home.spec("web"), wait_for=(SVID_READY,), timeout=1)
    assert e.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    home.adapter()  # late, but it comes
    assert condition(d.register(home.spec("web-2", app="web"), wait_for=(SVID_READY,)), SVID_READY).met


def test_restarts_of_either_lose_nothing(home):
    d, a = home.identityd(), home.adapter()
    f = home.follow(a)
    web = home.spec("web")
    status = d.register(web, wait_for=(SVID_READY,))
    before = f.wait_svid(status.identity)
    home.killed(d)
    d = home.identityd()
    status = d.register(web, wait_for=(SVID_READY,))  # the condition is told again, without a new SVID
    assert condition(status, SVID_READY).met
    assert home.follow(a).wait_svid(status.identity).generation == before.generation
    home.killed(a)
    a = home.adapter()
    after = home.follow(a).wait(lambda s: s.synced and s.has(status.identity)).svids[status.identity]
    assert after.generation != before.generation and after.spiffe_id == before.spiffe_id
    assert condition(d.register(web, wait_for=(SVID_READY,)), SVID_READY).met


def issue(home, *args, out):
    subprocess.run([BUILD / lab.PROGRAM, "--set", "trust_domain=example.org", "--set", f"local_ca.dir={home.base / 'ca'}",
                    *args, "--out", home.base / out], check=True, stdout=subprocess.DEVNULL)
    return {"tls.cert": home.base / out / "svid.pem", "tls.key": home.base / out / "svid.key",
            "tls.bundle": home.base / out / "bundle.pem"}


def test_two_nodes_with_certificates_of_the_built_in_ca(home):
    server = home.identityd(settings={**issue(home, "--issue-server", out="server"), "node.addresses": "10.0.0.1"})
    tls = issue(home, "--issue-node", "n2", out="n2-tls")
    node = home.identityd("n2", role="node", settings={
        **tls, "node.addresses": "10.0.0.2", "cluster.server": f"127.0.0.1:{server.port}"})
    one, two = home.adapter(), home.adapter("n2")
    a = server.register(home.spec("a"), wait_for=(SVID_READY,))
    b = node.register(home.spec("b"), wait_for=(SVID_READY,))
    assert a.identity != b.identity
    here, there = one.once(), two.once()
    assert set(here.svids) == {1, a.identity} and set(there.svids) == {1, b.identity}  # each node its own
    assert here.bundles["example.org"].authorities == there.bundles["example.org"].authorities


def test_certificates_that_are_written_anew_are_used(home):
    server = home.identityd(settings={**issue(home, "--issue-server", out="server"), "node.addresses": "10.0.0.1"})
    tls = issue(home, "--issue-node", "n2", out="n2-tls")
    first = served(server.port, tls)
    issue(home, "--issue-server", out="server")
    end = time.monotonic() + WAIT_S
    while (now := served(server.port, tls)).serial_number == first.serial_number:
        assert time.monotonic() < end, server.output()
    # Files that cannot be used, here another's, change nothing; they are named once.
    issue(home, "--issue-node", "n2", out="server")
    while "the own certificate's files cannot be used" not in server.output():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert served(server.port, tls).serial_number == now.serial_number
    node = home.identityd("n2", role="node", settings={
        **tls, "node.addresses": "10.0.0.2", "cluster.server": f"127.0.0.1:{server.port}"})
    assert node.register(home.spec("b")).identity
    assert server.output().count("the own certificate's files cannot be used") == 1

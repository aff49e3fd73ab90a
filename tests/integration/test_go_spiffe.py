"""go-spiffe, which most applications with SPIFFE in Go use: what it makes of the certificates and bundles of the built-in CA,
and whether its TLS and ours let each other in."""
import json
import socket
import subprocess
import threading

import pytest
from cryptography import x509

from lab import adapter as lab
from lab import handshaker, peers, pki
from lab.daemon import BUILD, WAIT_S
from lab.identityd import Identityd, endpoint, identity
from lab.nodes import Identityd as RealIdentityd
from lab.process import with_descriptor_3

pytestmark = pytest.mark.skipif(peers.missing() is not None, reason=str(peers.missing()))
DOMAIN, A = "example.org", 100001
NODE, SERVER, WORKLOAD = (f"spiffe://{DOMAIN}{path}" for path in (
    "/countersign/node/n1", "/countersign/identityd", f"/identity/{A}"))


class Failed(Exception):
    """go-spiffe's words."""


def go(*args, sock=None):
    """Runs it; what it prints, or Failed. sock: it is one end of this connection."""
    command = [peers.program("spiffe-peer"), *map(str, args)]
    if sock:
        command = [*with_descriptor_3(sock.fileno()), *command]
    done = subprocess.run(command, text=True, capture_output=True, timeout=WAIT_S, pass_fds=[sock.fileno()] if sock else ())
    if sock:
        sock.close()
    if done.returncode:
        raise Failed(done.stderr.strip())
    return json.loads(done.stdout)


class Go(threading.Thread):
    """The same, while the other end is played."""

    def __init__(self, *args, sock):
        super().__init__()
        self.args, self.sock, self.result, self.failed = args, sock, None, None
        self.start()

    def run(self):
        try:
            self.result = go(*self.args, sock=self.sock)
        except Failed as e:
            self.failed = str(e)

    def end(self):
        self.join()
        return self.result


class CA:
    """The built-in CA, and what it issues for nodes."""

    def __init__(self, dir, domain=DOMAIN):
        self.dir, self.domain = dir, domain
        self.files = {"n1": self.issue("n1", "--issue-node", "n1"), "server": self.issue("server", "--issue-server")}

    def issue(self, name, *args):
        out = self.dir / name
        subprocess.run([BUILD / lab.PROGRAM, "--set", f"trust_domain={self.domain}", "--set", f"local_ca.dir={self.dir / 'ca'}",
                        *args, "--out", out], check=True, stdout=subprocess.DEVNULL)
        return out / "svid.pem", out / "svid.key", out / "bundle.pem"


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return CA(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another built-in CA of the same trust domain."""
    return CA(tmp_path_factory.mktemp("other"))


@pytest.fixture
def node(ca, tmp_path):
    """A workload with an SVID of the built-in CA: its adapter, and what the adapter says of it."""
    directory = Identityd(tmp_path / "node/identityd", [identity(A, WORKLOAD), endpoint("a", A)])
    adapter = lab.Adapter(tmp_path / "node", ca.dir / "ca")
    follower = lab.Follower(adapter)
    try:
        svid = follower.wait_svid(A)
        bundle = follower.wait(lambda s: DOMAIN in s.bundles).bundles[DOMAIN]
        yield adapter, svid, bundle
    finally:
        follower.close()
        adapter.stop()
        directory.stop()


def pem(path, ders):
    path.write_bytes(b"".join(pki.pem(x509.load_der_x509_certificate(d)) for d in ders))
    return path


# ---- files ----

@pytest.mark.parametrize("name,id", [("n1", NODE), ("server", SERVER)])
def test_what_is_issued_for_nodes_is_an_svid(ca, name, id):
    assert go("load", *ca.files[name], DOMAIN) == {"id": id, "authorities": 1}


def test_what_is_not_one_is_told(ca, other, tmp_path):
    chain, key, bundle = ca.files["n1"]
    for what, args in {
            "leaf certificate does not match private key": (chain, other.files["n1"][1], bundle, DOMAIN),
            "unknown authority": (chain, key, other.files["n1"][2], DOMAIN),
            'no X.509 bundle found for trust domain: "example.org"': (chain, key, bundle, "other.example"),
            "leaf certificate SPIFFE ID must have a non-root path": (bundle, key, bundle, DOMAIN)}.items():
        with pytest.raises(Failed, match=what):
            go("load", *args)


def test_a_workloads_chain_and_the_bundle_of_the_command_line(node, ca, other, tmp_path):
    adapter, svid, bundle = node
    chain = pem(tmp_path / "chain.pem", svid.chain)
    shown = json.loads(subprocess.run([BUILD / "cli/countersign", "bundle", "show", DOMAIN, "--instance", adapter.instance, "-o",
                                       "json"], check=True, capture_output=True, timeout=WAIT_S).stdout)
    printed = tmp_path / "printed.pem"
    printed.write_text("".join(c["pem"] for c in shown["certificates"]))
    for file in (printed, pem(tmp_path / "bundle.pem", bundle.authorities), ca.files["n1"][2]):
        assert go("verify", chain, file, DOMAIN) == {"id": WORKLOAD, "authorities": 1}
    with pytest.raises(Failed, match="unknown authority"):
        go("verify", chain, other.files["n1"][2], DOMAIN)
    with pytest.raises(Failed):  # an authority is nobody's SVID
        go("verify", printed, printed, DOMAIN)


# ---- between workloads: the handshaker's TLS, with keys that only the adapter has ----

@pytest.fixture
def shaker(node):
    """A handshaker that knows the workload, and signs by the adapter's own socket."""
    adapter, svid, bundle = node
    monitor = handshaker.Monitor()
    monitor.serve(adapter, bundle, svid)
    yield monitor
    assert monitor.close() == 0


def test_go_dials_us(shaker, ca):
    ours, theirs = handshaker.connected()
    peer = Go("client", *ca.files["n1"], DOMAIN, WORKLOAD, f"{A}.{DOMAIN}", sock=theirs)
    request = shaker.accept(ours)
    verdict = shaker.wait(request)
    assert (verdict.local, verdict.remote_spiffe_id) == (A, NODE)
    shaker.answer(request)
    assert shaker.wait(request).reason == "none"
    assert peer.end() == {"id": WORKLOAD, "authorities": 1, "read": "close_notify"}, peer.failed


def test_we_dial_go(shaker, ca):
    ours, theirs = handshaker.connected()
    peer = Go("server", *ca.files["n1"], DOMAIN, WORKLOAD, sock=theirs)
    request = shaker.dial(ours, A, 100002, NODE)
    verdict = shaker.wait(request)
    assert verdict.remote_spiffe_id == NODE
    shaker.answer(request)
    assert shaker.wait(request).reason == "none"
    assert peer.end() == {"id": WORKLOAD, "authorities": 1}, peer.failed


def test_go_refuses_whom_it_did_not_dial(shaker, ca, other):
    for bundle, id, words in ((ca, NODE, "unexpected ID"), (other, WORKLOAD, "unknown authority")):
        ours, theirs = handshaker.connected()
        chain, key, _ = ca.files["n1"]
        peer = Go("client", chain, key, bundle.files["n1"][2], DOMAIN, id, f"{A}.{DOMAIN}", sock=theirs)
        done = shaker.wait(shaker.accept(ours))
        assert isinstance(done, handshaker.Done) and done.reason == "verdict-alert", done
        assert peer.end() is None and words in peer.failed


def test_we_refuse_an_svid_of_another_ca(shaker, ca, other):
    chain, key, _ = other.files["n1"]
    ours, theirs = handshaker.connected()
    peer = Go("client", chain, key, ca.files["n1"][2], DOMAIN, WORKLOAD, f"{A}.{DOMAIN}", sock=theirs)
    assert shaker.wait(shaker.accept(ours)).reason == "untrusted"
    assert peer.end()["read"] not in ("close_notify", "data")
    ours, theirs = handshaker.connected()
    peer = Go("server", chain, key, ca.files["n1"][2], DOMAIN, WORKLOAD, sock=theirs)
    assert shaker.wait(shaker.dial(ours, A, 100002, NODE)).reason == "untrusted"
    assert peer.end() is None and "tls" in peer.failed


# ---- between nodes: identityd's mutual TLS ----

def tls(files):
    return dict(zip(("tls.cert", "tls.key", "tls.bundle"), files))


def test_go_dials_identityd(ca, other, tmp_path):
    server = RealIdentityd(tmp_path / "one", node="n1", settings={**tls(ca.files["server"]), "node.addresses": "10.0.0.1"})
    try:
        def dial(files, id=SERVER, alpn="h2"):
            return go("client", *files, DOMAIN, id, "identityd", *filter(None, [alpn]),
                      sock=socket.create_connection(("127.0.0.1", server.port)))
        assert dial(ca.files["n1"]) == {"id": SERVER, "authorities": 1, "read": "data"}, "HTTP/2 begins"
        with pytest.raises(Failed, match="unexpected ID"):
            dial(ca.files["n1"], NODE)
        with pytest.raises(Failed, match="unknown authority"):
            dial(other.files["n1"])
        chain, key, _ = other.files["n1"]
        assert dial((chain, key, ca.files["n1"][2]))["read"] not in ("data", "close_notify"), "it is not let in"
    finally:
        server.stop()


def test_identityd_dials_go(ca, tmp_path):
    """The server is go-spiffe's: the node lets itself in, and is let in."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        node = RealIdentityd(tmp_path / "two", role="node", wait=False, settings={
            **tls(ca.files["n1"]), "node.addresses": "10.0.0.2", "cluster.server": f"127.0.0.1:{listener.getsockname()[1]}"})
        try:
            listener.settimeout(WAIT_S)
            conn, _ = listener.accept()
            assert go("server", *ca.files["server"], DOMAIN, NODE, sock=conn) == {"id": NODE, "authorities": 1}
            conn, _ = listener.accept()  # the node is no server: refused, by us
            with pytest.raises(Failed):
                go("server", *ca.files["n1"], DOMAIN, NODE, sock=conn)
        finally:
            node.stop()

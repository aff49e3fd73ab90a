"""The real countersign-spire-adapter: whom it gets SVIDs for, what it signs, for whom, and what it survives."""
import datetime as dt
import hashlib
import os
import random
import signal
import socket
import stat
import struct
import subprocess
import time

import grpc
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from lab import adapter as lab
from lab import protos
from lab.daemon import BUILD, NOBODY, WAIT_S, Daemon
from lab.identityd import Identityd, deleted, endpoint, identity
from lab.process import as_user

A, B, C = 70001, 70002, 70003
STEP = protos.endpoints.STEP_SVID_READY


def spiffe(name):
    return f"spiffe://example.org/identity/{name}"


RECORDS = [identity(A, spiffe("a")), identity(B, spiffe("b")), identity(C, spiffe("c")),
           endpoint("a", A), endpoint("b", B, node="n2", local=False), endpoint("nobody", 0)]


class Node:
    """One instance directory with everything that runs on it; stops what it started, and looks at how it ended."""

    def __init__(self, base):
        self.instance, self.ca, self.things = base / "node", base / "ca", []

    def keep(self, thing):
        self.things.append(thing)
        return thing

    def identityd(self, records=RECORDS, **options):
        return self.keep(Identityd(self.instance / "identityd", records, **options))

    def adapter(self, *sets, **options):
        return self.keep(lab.Adapter(self.instance, options.pop("ca", self.ca), *sets, **options))

    def follow(self, adapter):
        return self.keep(lab.Follower(adapter))

    def signer(self, adapter):
        return self.keep(lab.Signer(adapter))

    def drop(self, thing):
        self.things.remove(thing)

    def end(self):
        for thing in reversed(self.things):
            thing.close() if hasattr(thing, "close") else thing.stop()


@pytest.fixture
def node(tmp_path):
    n = Node(tmp_path)
    yield n
    n.end()


@pytest.fixture
def up(node):
    """identityd, adapter and a follower that is synced and has A's SVID."""
    node.d = node.identityd()
    node.a = node.adapter()
    node.f = node.follow(node.a)
    node.f.wait(lambda s: s.synced and s.has(A) and s.has(1))
    return node


# ---- who gets an SVID ----

def test_svids_are_for_local_identities_only(up):
    state = up.a.once()
    assert set(state.svids) == {1, A}
    assert state.svids[A].spiffe_id == spiffe("a")
    assert state.svids[1].spiffe_id == "spiffe://example.org/countersign/node/n1"
    assert all(s.source == "local-ca" for s in state.svids.values())
    assert set(up.d.requests.get(timeout=WAIT_S).kinds) == {protos.directory.KIND_IDENTITY, protos.directory.KIND_ENDPOINT}

    up.d.push(endpoint("c", C))
    assert up.f.wait_svid(C).spiffe_id == spiffe("c")
    up.d.push(endpoint("b", B, node="n2", local=False), endpoint("c2", C))
    assert set(up.a.once().svids) == {1, A, C}


def test_the_last_endpoint_takes_the_svid_with_it(up):
    generation = up.f.state.svids[A].generation
    up.d.push(endpoint("a2", A))
    up.d.push(deleted(endpoint("a", A)))
    up.d.push(endpoint("c", C))  # a mark in the stream: by now the two before it are done
    up.f.wait_svid(C)
    assert up.f.state.svids[A].generation == generation
    signer = up.signer(up.a)
    assert signer.sign(A, generation)[0] == 0
    up.d.push(deleted(endpoint("a2", A)))
    gone = up.f.wait(lambda s: not s.has(A)).svids[A]
    assert gone.withdrawn and gone.reason.name == "no-local-endpoint" and not gone.chain
    assert signer.sign(A, generation) == (lab.REASON["no-local-svid"], b"")
    assert A not in up.a.once().svids
    up.d.push(endpoint("a", A))
    assert up.f.wait_svid(A).generation != generation


def test_an_identity_of_another_trust_domain_gets_none_and_a_reason(up):
    up.d.push(identity(70009, "spiffe://other.org/x"), endpoint("x", 70009))
    svid = up.f.wait(lambda s: s.svids[70009].reason.name != "no-local-svid" if 70009 in s.svids else False).svids[70009]
    assert svid.generation == 0 and not svid.withdrawn
    assert svid.reason.name == "trust-domain-mismatch"
    assert "other.org" in svid.reason.detail


def test_synced_is_not_said_before_the_directory_says_so(node):
    adapter = node.adapter()
    with pytest.raises(grpc.RpcError) as e:
        adapter.once(timeout=1)
    assert e.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    follower = node.follow(adapter)
    follower.wait(lambda s: s.has(1))  # the node's own needs no directory
    d = node.identityd(hold_sync=True)
    d.requests.get(timeout=WAIT_S)
    with pytest.raises(grpc.RpcError) as e:
        adapter.once(timeout=1)
    assert not follower.state.synced
    assert A not in follower.state.svids
    d.push(synced=True)
    follower.wait(lambda s: s.synced and s.has(A))


# ---- what the SVIDs are ----

def test_the_chain_verifies_and_has_spires_profile(up, tmp_path):
    svid = up.f.state.svids[A]
    bundle = up.f.state.bundles["example.org"]
    leaf, root = lab.leaf(svid), x509.load_der_x509_certificate(bundle.authorities[0])
    assert len(svid.chain) == 1 and len(bundle.authorities) == 1 and bundle.generation != 0
    root.public_key().verify(leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))
    names = leaf.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    assert [n.value for n in names] == [spiffe("a")]
    usage = leaf.extensions.get_extension_for_oid(ExtensionOID.KEY_USAGE)
    assert usage.critical and usage.value.digital_signature and not usage.value.key_cert_sign
    assert set(leaf.extensions.get_extension_for_oid(ExtensionOID.EXTENDED_KEY_USAGE).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert leaf.subject.rfc4514_string() == "O=SPIRE,C=US"
    assert leaf.not_valid_before.replace(tzinfo=dt.timezone.utc).timestamp() == svid.not_before_unix_s
    assert leaf.not_valid_after.replace(tzinfo=dt.timezone.utc).timestamp() == svid.not_after_unix_s
    assert svid.not_after_unix_s - svid.not_before_unix_s == 3600 + 10
    assert svid.leaf_sha256 == hashlib.sha256(svid.chain[0]).digest()
    for name, cert in (("leaf", leaf), ("root", root)):
        (tmp_path / f"{name}.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    subprocess.run(["openssl", "verify", "-x509_strict", "-CAfile", tmp_path / "root.pem", tmp_path / "leaf.pem"], check=True)


def test_adapters_of_one_machine_may_share_a_ca_and_another_ca_is_not_trusted(tmp_path):
    nodes = [Node(tmp_path / name) for name in ("one", "two", "three")]
    roots, leaves = [], []
    try:
        for n, ca in zip(nodes, ("shared", "shared", "own")):
            n.identityd()
            state = n.follow(n.adapter(ca=tmp_path / ca)).wait(lambda s: s.synced and s.has(A))
            roots.append(x509.load_der_x509_certificate(state.bundles["example.org"].authorities[0]))
            leaves.append(lab.leaf(state.svids[A]))
        assert roots[0] == roots[1] != roots[2]
        roots[0].public_key().verify(leaves[1].signature, leaves[1].tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))
        with pytest.raises(InvalidSignature):
            roots[0].public_key().verify(leaves[2].signature, leaves[2].tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))
    finally:
        for n in nodes:
            n.end()


# ---- signing ----

@pytest.mark.parametrize("kind", [lab.CLIENT, lab.SERVER, lab.AUTHENTICATOR])
@pytest.mark.parametrize("length", [32, 48])
def test_signs_handshakes(up, kind, length):
    svid, digest = up.f.state.svids[A], os.urandom(length)
    reason, signature = up.signer(up.a).sign(A, svid.generation, kind=kind, digest=digest)
    assert reason == 0
    lab.verify_signature(svid, signature, kind, digest)
    with pytest.raises(InvalidSignature):
        lab.verify_signature(svid, signature, kind % 3 + 1, digest)


def test_signs_for_the_node_itself(up):
    svid = up.f.state.svids[1]
    reason, signature = up.signer(up.a).sign(1, svid.generation)
    assert reason == 0
    lab.verify_signature(svid, signature)


def test_refuses_to_sign_with_a_reason(up):
    generation = up.f.state.svids[A].generation
    signer = up.signer(up.a)
    assert signer.sign(B, generation) == (lab.REASON["no-local-svid"], b"")  # not local
    assert signer.sign(A, generation + 1000) == (lab.REASON["no-local-svid"], b"")
    assert signer.sign(A, generation, scheme=0x0804) == (lab.REASON["algorithm-refused"], b"")
    assert signer.sign(A, generation)[0] == 0  # and the connection lives
    metrics = up.a.metrics()
    def count(result):
        return metrics[f'countersign_signatures_total{{daemon="spire-adapter",result="{result}"}}']
    assert (count("no-local-svid"), count("algorithm-refused"), count("signed")) == (2, 1, 1)


@pytest.mark.parametrize("what", ["short", "long", "kind", "hash length", "trailing bytes"])
def test_a_malformed_request_ends_the_connection(up, what):
    generation = up.f.state.svids[A].generation
    signer = up.signer(up.a)
    assert signer.sign(A, generation)[0] == 0
    if what == "short":
        signer.socket.send(b"x" * 71)
    elif what == "long":
        signer.socket.send(b"x" * 73)
    elif what == "kind":
        signer.send(A, generation, kind=4)
    elif what == "hash length":
        signer.send(A, generation, digest=b"x" * 20)
    else:
        signer.socket.send(struct.pack("<QQIHBB48s", 1, generation, A, lab.ECDSA_P256, 1, 32, b"x" * 33))
    assert signer.receive() is None
    assert up.signer(up.a).sign(A, generation)[0] == 0  # others are not disturbed


def test_more_than_eight_at_once_are_answered_all_the_same(up):
    """P-256 is signed at once, so a burst is never eight unanswered; order and completeness are what counts."""
    generation = up.f.state.svids[A].generation
    signer = up.signer(up.a)
    sent = [signer.send(A, generation) for _ in range(30)]
    answers = [signer.receive() for _ in sent]
    assert [a[0] for a in answers] == sent
    assert all(a[1] == 0 for a in answers)


ASK = """
import socket, sys
path, kind, request, wait_s = sys.argv[1:]
with socket.socket(socket.AF_UNIX, getattr(socket, kind)) as s:
    s.settimeout(float(wait_s))
    try:
        s.connect(path)
        if request:
            s.send(bytes.fromhex(request))
        print(s.recv(4096).hex())
    except (PermissionError, BrokenPipeError, ConnectionResetError) as e:
        print(type(e).__name__)
"""


def ask_as_nobody(path, kind, request=b""):
    """The first bytes that another user is answered, or the name of the error."""
    said = subprocess.run([*as_user(NOBODY), "/usr/bin/python3", "-c", ASK, str(path), kind, request.hex(), str(WAIT_S)],
                          cwd="/", capture_output=True, text=True, timeout=2 * WAIT_S, check=True).stdout.strip()
    return said if said.endswith("Error") else bytes.fromhex(said)


@pytest.fixture
def open_path(tmp_path):
    """Lets other users in as far as the instance's directory."""
    for p in (tmp_path, *tmp_path.parents):
        if p == p.parent or p.stat().st_uid != os.getuid() or str(p) == "/tmp":
            break
        p.chmod(p.stat().st_mode | 0o011)


@pytest.mark.skipif(os.getuid() != 0, reason="needs a second user")
def test_nobody_but_authd_may_ask(open_path, up):
    path = up.a.sockets / "sign.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ask_as_nobody(path, "SOCK_SEQPACKET") == "PermissionError"
    path.chmod(0o666)  # if the mode were not there, the kernel's word about the caller still is
    assert ask_as_nobody(path, "SOCK_SEQPACKET") == b""
    metrics = up.a.metrics()
    assert metrics['countersign_signatures_total{daemon="spire-adapter",result="role-refused"}'] == 1


@pytest.mark.skipif(os.getuid() != 0, reason="needs a second user")
@pytest.mark.parametrize("role,follows,signs", [
    (None, False, False), ("viewer", True, False), ("operator", True, False), ("agent", True, False),
    ("adapter", True, False), ("authd", True, True)])
def test_what_each_role_may(open_path, node, role, follows, signs):
    node.identityd()
    adapter = node.adapter(*([f"roles.{role}=uid:{NOBODY}"] if role else []))
    generation = node.follow(adapter).wait(lambda s: s.synced and s.has(A)).svids[A].generation
    (adapter.sockets / "sign.sock").chmod(0o666)
    hears = ask_as_nobody(adapter.sockets / "svids.sock", "SOCK_STREAM")  # HTTP/2's first frames, or the end
    answer = ask_as_nobody(adapter.sockets / "sign.sock", "SOCK_SEQPACKET", lab.sign_request(1, A, generation))
    assert (hears not in (b"", "ConnectionResetError")) == follows
    assert (len(answer) == 528 and lab.sign_answer(answer)[1] == 0) == signs


# ---- rotation ----

def test_rotates_at_half_life_and_the_old_generation_still_signs(node):
    node.identityd()
    adapter = node.adapter("local_ca.svid_ttl=5s")
    follower, signer = node.follow(adapter), node.signer(adapter)
    old = follower.wait_svid(A)
    new = follower.wait_svid(A, other_than=old.generation)
    assert new.chain[0] != old.chain[0]
    assert old.not_after_unix_s > new.not_before_unix_s + 10  # before the old one ended
    for svid in (old, new):
        reason, signature = signer.sign(A, svid.generation)
        assert reason == 0
        lab.verify_signature(svid, signature)
    metrics = adapter.metrics()
    assert metrics['countersign_svid_rotations_total{daemon="spire-adapter",result="renewed"}'] >= 1
    assert metrics['countersign_svid_first_seconds_count{daemon="spire-adapter"}'] >= 1
    assert follower.state.bundles["example.org"].generation != 0
    seen = metrics[f'countersign_svid_expiration_timestamp_seconds{{daemon="spire-adapter",identity="{A}",'
                   f'spiffe_id="{spiffe("a")}"}}']
    assert seen >= old.not_after_unix_s


def test_killed_and_started_again_it_has_new_keys(up):
    old, root = up.f.state.svids[A], up.f.state.bundles["example.org"].authorities[0]
    up.a.kill()
    up.drop(up.a)
    up.a.clean()
    adapter = up.adapter()  # over the sockets that the dead one left
    state = up.follow(adapter).wait(lambda s: s.synced and s.has(A))
    new = state.svids[A]
    assert abs(new.generation - old.generation) > 1 << 20  # random, not counted on
    assert new.chain[0] != old.chain[0]
    assert state.bundles["example.org"].authorities[0] == root  # the CA is what lasts
    signer = up.signer(adapter)
    assert signer.sign(A, old.generation) == (lab.REASON["no-local-svid"], b"")
    reason, signature = signer.sign(A, new.generation)
    lab.verify_signature(new, signature)


def test_killed_at_random_moments_it_always_comes_back(node):
    node.identityd()
    roots = set()
    for _ in range(10):
        adapter = lab.Adapter(node.instance, node.ca, "local_ca.svid_ttl=5s", wait=False)
        time.sleep(random.uniform(0, 0.15))  # the moment, not a wait: also before it is ready, and while it makes the CA
        adapter.kill()
        adapter.clean()
    for _ in range(2):
        adapter = node.adapter()
        state = node.follow(adapter).wait(lambda s: s.synced and s.has(A))
        roots.add(bytes(state.bundles["example.org"].authorities[0]))
        lab.verify_signature(state.svids[A], node.signer(adapter).sign(A, state.svids[A].generation)[1])
        adapter.kill()
        node.drop(adapter)
        adapter.clean()
    assert len(roots) == 1
    assert {p.name for p in node.ca.iterdir()} <= {"ca.pem", "lock", ".ca.pem.new"}


# ---- identityd comes and goes ----

def test_reports_svid_ready(up):
    report = up.d.next_report()
    while not report.condition.met:  # it may have been told before it was issued
        assert report.condition.reason.name == "no-local-svid"
        report = up.d.next_report()
    assert (report.identity, report.endpoint, report.condition.step) == (A, "", STEP)
    assert report.condition.since_unix_ms == up.f.state.svids[A].since_unix_ms
    up.d.push(endpoint("a2", A))  # a new endpoint of it has to hear of it too
    report = up.d.next_report()
    assert report.identity == A and report.condition.met
    up.d.push(identity(70009, "spiffe://other.org/x"), endpoint("x", 70009))
    report = up.d.next_report()
    while report.condition.reason.name != "trust-domain-mismatch":
        report = up.d.next_report()
    assert report.identity == 70009 and not report.condition.met


def test_a_report_that_fails_is_repeated(node):
    d = node.identityd()
    d.report_error = grpc.StatusCode.UNAVAILABLE
    adapter = node.adapter()
    node.follow(adapter).wait(lambda s: s.synced and s.has(A))
    adapter_check(adapter, "reports", False)
    d.report_error = None
    assert d.next_report().identity == A
    adapter_check(adapter, "reports", True)


def adapter_check(adapter, name, ok, reason=None):
    """Checks follow events by moments, and a source takes a moment to refuse; ask until it is so."""
    end = time.monotonic() + WAIT_S
    while True:
        checks = {c.name: c for c in adapter.status().checks}
        if checks[name].ok == ok and reason in (None, checks[name].reason.name):
            return checks[name]
        assert time.monotonic() < end, f"{name} is not {ok} for {reason}: {checks[name]}"


def test_what_is_known_survives_identityd(up):
    generation = up.f.state.svids[A].generation
    up.d.next_report()
    up.d.stop()
    up.drop(up.d)
    check = adapter_check(up.a, "directory", False)
    assert check.reason.name == "directory-stale"
    state = up.a.once()  # still the full state
    assert state.synced and state.svids[A].generation == generation
    assert up.signer(up.a).sign(A, generation)[0] == 0

    d = up.identityd([*RECORDS[:3], endpoint("c", C)], hold_sync=True)  # it comes back, and A has moved away meanwhile
    d.requests.get(timeout=WAIT_S)
    assert up.signer(up.a).sign(A, generation)[0] == 0  # not before synced
    d.push(synced=True)
    assert up.f.wait(lambda s: not s.has(A) and s.has(C)).svids[A].withdrawn
    report = d.next_report()
    while not (report.identity == C and report.condition.met):  # A may be reported once more before the new state is there
        report = d.next_report()
    adapter_check(up.a, "directory", True)


def test_a_directory_that_says_nothing_is_dialled_anew(up):
    """The one here sends no heartbeats, so after 15 s it looks hung."""
    up.d.requests.get(timeout=WAIT_S)
    generation = up.f.state.svids[A].generation
    up.d.requests.get(timeout=WAIT_S)
    assert up.signer(up.a).sign(A, generation)[0] == 0


def test_reports_again_when_identityd_was_restarted(up):
    up.d.next_report()
    up.d.stop()
    up.drop(up.d)
    generation = up.f.state.svids[A].generation
    d = up.identityd()
    report = d.next_report()
    assert report.identity == A and report.condition.met
    assert up.a.once().svids[A].generation == generation  # and nothing else happened


# ---- the process ----

def test_status_says_how_it_is(up):
    adapter_check(up.a, "directory", True)
    adapter_check(up.a, "svids", True)
    status = up.a.status()
    assert (status.daemon, status.node) == ("spire-adapter", "n1")
    up.d.push(identity(70009, "spiffe://other.org/x"), endpoint("x", 70009))
    check = adapter_check(up.a, "svids", False, "trust-domain-mismatch")
    assert "2 of 3" in check.reason.detail


def test_keys_are_locked_in_memory_and_never_dumped(up):
    status = dict(line.split(":", 1) for line in open(f"/proc/{up.a.pid}/status").read().splitlines())
    assert int(status["VmLck"].split()[0]) >= 4096
    limits = open(f"/proc/{up.a.pid}/limits").read()
    assert next(line.split()[4] for line in limits.splitlines() if line.startswith("Max core file size")) == "0"
    assert up.a.metrics()['countersign_key_memory_bytes{daemon="spire-adapter"}'] >= 3 * 32  # CA, node, A


@pytest.mark.skipif(os.getuid() != 0, reason="needs a second user")
def test_without_locked_memory_it_does_not_start(open_path, node):
    for d in (node.instance, node.ca):
        d.mkdir(mode=0o700)
        os.chown(d, NOBODY, NOBODY)
    adapter = lab.Adapter(node.instance, node.ca, user=NOBODY, limits=["prlimit", "--memlock=0:0"], wait=False)
    assert adapter.wait() == 1
    assert "ulimit -l" in adapter.output()
    adapter.clean()
    adapter = lab.Adapter(node.instance, node.ca, user=NOBODY)  # the negative twin
    adapter.stop()


def test_stops_cleanly(up):
    up.drop(up.a)
    up.a.stop()
    assert up.f.wait_end() == grpc.StatusCode.UNAVAILABLE
    assert not list(up.a.sockets.glob("*.sock"))


def test_never_logs_a_key(up):
    pem = (up.ca / "ca.pem").read_text()
    secret = "".join(pem.split("-----BEGIN PRIVATE KEY-----")[1].split("-----END")[0].split())
    up.drop(up.a)
    log = up.a.stop()
    assert "serving" in log
    assert "PRIVATE KEY" not in log and secret[40:60] not in log


# ---- bad use ----

def run(*args):
    return subprocess.run([BUILD / lab.PROGRAM, *map(str, args)], capture_output=True, text=True, timeout=WAIT_S)


def test_bad_settings_are_refused_by_name(tmp_path):
    base = ["--instance", tmp_path / "i", "--set", f"local_ca.dir={tmp_path / 'ca'}"]
    named = [*base, "--set", "trust_domain=example.org"]
    for args, words in (
            (base, "trust_domain is not set"),
            (named, "node.name is not set"),
            ([*named, "--set", "node.name=a/b"], "node.name"),
            ([*base, "--set", "trust_domain=Example.org", "--set", "node.name=n1"], "trust_domain"),
            ([*named, "--set", "node.name=n1", "--set", "local_ca.ttl=1h"], "local_ca.ttl"),
            ([*named, "--set", "node.name=n1", "--set", "local_ca.svid_ttl=1s"], "local_ca.svid_ttl"),
            ([*named, "--set", "node.name=n1", "--set", "source=vault"], "vault"),
            ([*named, "--issue-node", "n1"], "--out"),
            ([*named, "--issue-node", "a/b", "--out", tmp_path / "o"], "a/b"),
            ([*named, "--issue-node", "", "--out", tmp_path / "o"], "node name"),
            ([*named, "--set", "node.name=n1", "--out", tmp_path / "o"], "--out")):
        p = run(*args)
        assert p.returncode == 2, (args, p.stdout, p.stderr)
        assert words in p.stderr
    assert not (tmp_path / "ca").exists() and not (tmp_path / "o").exists() and not (tmp_path / "i").exists()


def test_a_socket_that_cannot_be_is_an_error(node):
    for name in ("svids.sock", "sign.sock"):
        (node.instance / "spire-adapter").mkdir(parents=True, exist_ok=True)
        (node.instance / "spire-adapter" / name).write_text("somebody's")
        adapter = lab.Adapter(node.instance, node.ca, wait=False)
        assert adapter.wait() == 1
        assert name in adapter.output()
        adapter.clean()
        assert (node.instance / "spire-adapter" / name).read_text() == "somebody's"
        (node.instance / "spire-adapter" / name).unlink()
    node.adapter()
    second = lab.Adapter(node.instance, node.ca, wait=False)
    assert second.wait() == 1
    assert "another" in second.output()
    second.clean()


def test_a_ca_that_others_can_read_is_refused(node):
    node.adapter().stop()
    node.things.clear()
    (node.ca / "ca.pem").chmod(0o644)
    adapter = lab.Adapter(node.instance, node.ca, wait=False)
    assert adapter.wait() == 1
    assert "chmod 0600" in adapter.output()
    adapter.clean()


# ---- without a daemon ----

def test_the_ca_and_node_certificates(tmp_path):
    base = ["--set", "trust_domain=example.org", "--set", f"local_ca.dir={tmp_path / 'ca'}"]
    first, second = run(*base, "--ca-init"), run(*base, "--ca-init")
    assert first.returncode == second.returncode == 0
    assert first.stdout.startswith("made the built-in CA of spiffe://example.org")
    assert second.stdout.startswith("there already")
    assert "this machine only" in first.stdout
    assert first.stdout.splitlines()[2] == second.stdout.splitlines()[2]  # the same fingerprint
    for args, path in ((["--issue-node", "n1"], "/countersign/node/n1"), (["--issue-server"], "/countersign/identityd")):
        out = tmp_path / path.strip("/").replace("/", "-")
        p = run(*base, *args, "--out", out)
        assert p.returncode == 0 and f"spiffe://example.org{path}" in p.stdout, p.stderr
        assert stat.S_IMODE((out / "svid.key").stat().st_mode) == 0o600
        subprocess.run(["openssl", "verify", "-x509_strict", "-CAfile", out / "bundle.pem", out / "svid.pem"], check=True,
                       stdout=subprocess.DEVNULL)
        cert = x509.load_pem_x509_certificate((out / "svid.pem").read_bytes())
        key = serialization.load_pem_private_key((out / "svid.key").read_bytes(), None)
        assert cert.public_key().public_numbers() == key.public_key().public_numbers()
        names = cert.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
        assert [n.value for n in names] == [f"spiffe://example.org{path}"]
    p = run("--set", "trust_domain=other.org", "--set", f"local_ca.dir={tmp_path / 'ca'}", "--ca-init")
    assert p.returncode == 1 and "a directory of its own" in p.stderr

"""countersign-handshaker: the real program, driven as countersign-authd drives it. Keys, certificates, signatures and
bad peers are made by python-cryptography, Python's ssl and the openssl command."""
import contextlib
import hashlib
import os
import random
import select
import socket
import ssl
import struct
import subprocess
import threading

import pytest

from lab import handshaker as hs
from lab import pki
from lab.tls import Files, after_handshake, day_ago, pump, reset, yes

A, B = 300, 301  # numeric identities


def id_path(identity):
    return f"/identity/{identity}"


def spiffe(identity):
    return f"spiffe://{pki.TRUST_DOMAIN}{id_path(identity)}"


@pytest.fixture(scope="module")
def ca():
    return pki.Authority()


@pytest.fixture
def monitors():
    made = []

    def make(authorities, svids, fault=None):
        m = hs.Monitor()
        made.append(m)
        m.bundle(pki.TRUST_DOMAIN, authorities)
        for identity, svid in svids.items():
            m.svid(identity, svid)
        m.signer(fault)
        return m

    yield make
    assert [m.close() for m in made] == [0] * len(made)


@pytest.fixture
def pair(ca, monitors):
    """Two nodes: A lives on the first, B on the second."""
    return monitors([ca], {A: ca.svid(id_path(A))}), monitors([ca], {B: ca.svid(id_path(B))})


def start(dialler, acceptor, **options):
    a, b = hs.connected()
    accepted = acceptor.accept(b)
    return dialler.dial(a, A, B, options.pop("remote", spiffe(B)), **options), accepted


def leaf_facts(authority, svid):
    return struct.pack("32s32s32s20s4x", hashlib.sha256(pki.der(svid.leaf)).digest(),
                       hashlib.sha256(pki.der(authority.cert)).digest(),
                       authority.cert.extensions.get_extension_for_class(pki.x509.SubjectKeyIdentifier).value.digest,
                       svid.leaf.serial_number.to_bytes(20, "big"))


# ---- two of ours ----


@pytest.mark.parametrize("root", ["p256", "rsa2048"])
@pytest.mark.parametrize("left", ["p256", "p384", "rsa2048"])
@pytest.mark.parametrize("right", ["p256", "p384", "rsa2048"])
def test_both_accept(monitors, root, left, right):
    ca = pki.Authority(kind=root)
    a, b = ca.svid(id_path(A), left, days=0.5), ca.svid(id_path(B), right)
    dialler, acceptor = monitors([ca], {A: a}), monitors([ca], {B: b})
    dial, accept = start(dialler, acceptor)
    v = acceptor.wait(accept)
    assert (v.role, v.local, v.remote_spiffe_id) == (hs.ACCEPTOR, B, spiffe(A))
    assert (v.local_svid, v.remote_svid, v.local_bundle, v.remote_bundle) == (1000 + B, 0, 7, 7)
    assert v.local_leaf == leaf_facts(ca, b) and v.remote_leaf == leaf_facts(ca, a)
    assert v.not_after == int(a.leaf.not_valid_after.replace(tzinfo=pki.dt.timezone.utc).timestamp())
    assert not select.select([dialler.sock], [], [], 0.05)[0], "the dialler knows nothing before the acceptor answers"
    acceptor.answer(accept)
    assert acceptor.wait(accept).reason == "none"
    v = dialler.wait(dial)
    assert (v.role, v.local, v.remote_spiffe_id) == (hs.DIALLER, A, spiffe(B))
    assert v.local_leaf == leaf_facts(ca, a) and v.remote_leaf == leaf_facts(ca, b)
    dialler.answer(dial)
    done = dialler.wait(dial)
    assert done.reason == "none" and 0 < done.micros < 5_000_000


@pytest.mark.parametrize("reason, alert", [("peer-not-placed", 46), ("spiffe-id-unknown", 46), ("peer-node-unknown", 49),
                                           ("revoked", 49), ("map-write-failed", 80)])
def test_acceptor_refuses_after_the_handshake(pair, reason, alert):
    dial, accept = start(*pair)
    pair[1].wait(accept)
    pair[1].answer(accept, reason)
    done = pair[1].wait(accept)
    assert (done.reason, done.alert) == (reason, alert)
    done = pair[0].wait(dial)
    assert (done.reason, done.alert) == ("verdict-alert", alert)


def test_dialler_refuses_its_own_verdict(pair):
    dial, accept = start(*pair)
    pair[1].wait(accept)
    pair[1].answer(accept)
    pair[0].wait(dial)
    pair[0].answer(dial, "stale-verdict")
    assert pair[0].wait(dial).reason == "stale-verdict"


def test_through_an_intermediate(monitors):
    root = pki.Authority()
    middle = root.intermediate()
    dialler, acceptor = monitors([root], {A: middle.svid(id_path(A))}), monitors([root], {B: root.svid(id_path(B))})
    dial, accept = start(dialler, acceptor)
    v = acceptor.wait(accept)
    assert v.remote_leaf[32:64] == hashlib.sha256(pki.der(root.cert)).digest()
    acceptor.answer(accept)
    assert dialler.wait(dial).role == hs.DIALLER


def test_loopback(ca, monitors):
    a, b = ca.svid(id_path(A)), ca.svid(id_path(B))
    m = monitors([ca], {A: a, B: b})
    request = m.dial(None, A, B, spiffe(B))
    v = m.wait(request)
    assert (v.role, v.local, v.local_svid, v.remote_svid) == (hs.LOOPBACK, A, 1000 + A, 1000 + B)
    assert v.local_leaf == leaf_facts(ca, a) and v.remote_leaf == leaf_facts(ca, b)
    m.answer(request)
    assert m.wait(request).reason == "none"


def test_loopback_with_an_svid_of_another_ca(ca, monitors):
    m = monitors([ca], {A: ca.svid(id_path(A)), B: pki.Authority().svid(id_path(B))})
    assert m.wait(m.dial(None, A, B, spiffe(B))).reason == "untrusted"


def test_no_svid_no_endpoint(ca, monitors):
    dialler, acceptor = monitors([ca], {A: ca.svid(id_path(A))}), monitors([ca], {B: None})
    dial, accept = start(dialler, acceptor)
    assert acceptor.wait(accept).reason == "no-local-svid"
    assert dialler.wait(dial).reason == "verdict-alert"
    acceptor.svid(B, False)
    dial, accept = start(dialler, acceptor)
    assert acceptor.wait(accept).reason == "no-local-endpoint"
    assert acceptor.wait(acceptor.dial(hs.connected()[0], B, A, spiffe(A))).reason == "no-local-endpoint"


def test_a_rotation_in_between(pair, ca):
    """What began with one generation ends with it."""
    dial, accept = start(*pair)
    pair[1].svid(B, ca.svid(id_path(B)), generation=5)
    assert pair[1].wait(accept).local_svid in (1000 + B, 5)
    dial, accept = start(*pair)
    assert pair[1].wait(accept).local_svid == 5


@pytest.mark.parametrize("what, reason", [("gone", "no-bundle"), ("empty", "untrusted"), ("other", "untrusted")])
def test_bundles(pair, what, reason):
    pair[0].bundle(pki.TRUST_DOMAIN, {"gone": None, "empty": [], "other": [pki.Authority()]}[what])
    a, _ = hs.connected()
    assert pair[0].wait(pair[0].dial(a, A, B, spiffe(B))).reason == reason


def test_two_domains(monitors):
    """Each domain's CA speaks for its own domain only."""
    ours, theirs = pki.Authority(), pki.Authority("other.org")
    a, b = ours.svid(id_path(A)), theirs.svid(id_path(B))
    dialler, acceptor = monitors([ours], {A: a}), monitors([ours], {B: b})
    for m in (dialler, acceptor):
        m.bundle("other.org", [theirs], generation=8)
    dial, accept = start(dialler, acceptor, remote=b.spiffe_id, domain="other.org")
    v = acceptor.wait(accept)
    assert (v.local_bundle, v.remote_bundle) == (8, 7)
    acceptor.answer(accept)
    assert dialler.wait(dial).remote_bundle == 8
    acceptor.svid(B, ours.svid(b.spiffe_id))
    dial, accept = start(dialler, acceptor, remote=b.spiffe_id, domain="other.org")
    assert acceptor.wait(accept).reason == "untrusted"


def test_sni_of_another_domain(pair):
    dial, accept = start(*pair, domain="other.org")
    assert pair[1].wait(accept).reason == "trust-domain-mismatch"


def test_peer_is_another_identity(pair):
    dial, accept = start(*pair, remote=spiffe(999))
    assert pair[0].wait(dial).reason == "spiffe-id-mismatch"
    assert pair[1].wait(accept).reason == "verdict-alert"


def test_cancel_and_deadline(pair):
    a, silent = hs.connected()
    request = pair[0].dial(a, A, B, spiffe(B))
    pair[0].cancel(request)
    assert pair[0].wait(request).reason == "stale-verdict"
    a, silent = hs.connected()
    assert pair[0].wait(pair[0].dial(a, A, B, spiffe(B), seconds=0.1)).reason == "peer-timeout"
    a, b = hs.connected()
    assert pair[1].wait(pair[1].accept(b, seconds=0.1)).reason == "peer-timeout"
    a, b = hs.connected()
    assert pair[1].wait(pair[1].accept(b, seconds=-1)).reason == "peer-timeout"


def test_too_many_in_flight(pair):
    ends = [hs.connected() for _ in range(257)]
    requests = [pair[1].accept(b) for _, b in ends]
    assert pair[1].wait(requests[256]).reason == "too-many"
    for a, _ in ends:
        a.close()
    assert {pair[1].wait(r).reason for r in requests[:256]} == {"not-tls"}


# ---- the signer ----


@pytest.mark.parametrize("name, fault", [
    ("silent", lambda a: None),
    ("another sequence number", lambda a: struct.pack("<Q", 1 << 40) + a[8:]),
    ("an impossible length", lambda a: a[:12] + struct.pack("<I", 513) + a[16:]),
    ("no signature", lambda a: a[:12] + struct.pack("<I", 0) + a[16:]),
    ("half an answer", lambda a: a[:100]),
    ("too long an answer", lambda a: a + b"x"),
    ("refuses", lambda a: a[:8] + struct.pack("<I", hs.REASON["too-many"]) + a[12:]),
])
def test_signer_faults(ca, monitors, name, fault):
    dialler = monitors([ca], {A: ca.svid(id_path(A))}, fault)
    acceptor = monitors([ca], {B: ca.svid(id_path(B))})
    dial, accept = start(dialler, acceptor)
    assert dialler.wait(dial).reason == ("too-many" if name == "refuses" else "signer-unavailable")
    acceptor.wait(accept)
    dialler.signer()  # the adapter came back
    dial, accept = start(dialler, acceptor)
    assert acceptor.wait(accept).role == hs.ACCEPTOR


def test_signer_gone(pair):
    pair[0].signing.sock.shutdown(socket.SHUT_RDWR)
    dial, accept = start(*pair)
    assert pair[0].wait(dial).reason == "signer-unavailable"


def test_signature_of_another_key(ca, monitors):
    """Who has the certificate but not the key is found out, in both roles."""
    good, thief = ca.svid(id_path(A)), pki.key()
    dialler = monitors([ca], {A: good})
    dialler.svids[(A, 1000 + A)] = pki.Svid(thief, good.chain, good.spiffe_id)
    acceptor = monitors([ca], {B: ca.svid(id_path(B))})
    dial, accept = start(dialler, acceptor)
    assert acceptor.wait(accept).reason == "signature-invalid"
    assert dialler.wait(dial).reason == "verdict-alert"
    a, b = hs.connected()
    accept = dialler.accept(b)
    dial = acceptor.dial(a, B, A, spiffe(A))
    assert acceptor.wait(dial).reason == "signature-invalid"
    assert dialler.wait(accept).reason == "verdict-alert"


# ---- bad peers: diallers ----


def dial_by_python(acceptor, context, sni=f"{B}.{pki.TRUST_DOMAIN}"):
    """How the acceptor's request ended, and what the Python client saw."""
    a, b = hs.connected()
    accept = acceptor.accept(b)
    seen = []

    def client():
        try:
            with context.wrap_socket(a, server_hostname=sni) as s:
                seen.append(s.recv(10))
        except OSError as e:
            seen.append(e)

    t = threading.Thread(target=client)
    t.start()
    end = acceptor.wait(accept)
    if isinstance(end, hs.Verdict):
        acceptor.answer(accept)
        end = acceptor.wait(accept)
    t.join(10)
    return end, seen[0]


@pytest.fixture
def acceptor(ca, monitors):
    return monitors([ca], {B: ca.svid(id_path(B))})


def test_python_is_accepted(acceptor, ca, tmp_path):
    end, seen = dial_by_python(acceptor, Files(tmp_path, ca.svid(id_path(A)), ca).client())
    assert end.reason == "none" and seen == b""


@pytest.mark.parametrize("reason, make", [
    ("svid-expired", lambda ca: ca.svid(id_path(A), start=day_ago(), days=-0.1)),
    ("svid-expired", lambda ca: ca.svid(id_path(A), start=day_ago() + pki.dt.timedelta(days=2), days=3)),
    ("untrusted", lambda ca: pki.Authority().svid(id_path(A))),
    ("no-bundle", lambda ca: pki.Authority("unknown.org").svid(id_path(A))),
    ("svid-profile", lambda ca: ca.svid(id_path(A), uris=[spiffe(A), spiffe(B)])),
    ("svid-profile", lambda ca: ca.svid(id_path(A), uris=[])),
    ("svid-profile", lambda ca: ca.svid(id_path(A), uris=[f"spiffe://{pki.TRUST_DOMAIN}"])),
    ("svid-profile", lambda ca: ca.svid(id_path(A), ca=True)),
    ("algorithm-refused", lambda ca: ca.svid(id_path(A), "rsa1024")),
    # Its algorithm is not among those that we ask for, so a client with this key alone has nothing to show.
    ("no-certificate", lambda ca: ca.svid(id_path(A), key=pki.ec.generate_private_key(pki.ec.SECP521R1()))),
])
def test_bad_client_leaf(acceptor, ca, tmp_path, reason, make):
    end, seen = dial_by_python(acceptor, Files(tmp_path, make(ca), ca).client())
    assert end.reason == reason, end
    assert isinstance(seen, OSError)


def test_client_without_a_certificate(acceptor, ca, tmp_path):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.check_hostname = False
    c.load_verify_locations(Files(tmp_path, ca.svid(id_path(A)), ca).ca)
    end, seen = dial_by_python(acceptor, c)
    assert end.reason == "no-certificate" and end.alert == 116


@pytest.mark.parametrize("sni", [f"0{B}.{pki.TRUST_DOMAIN}", f"0x12d.{pki.TRUST_DOMAIN}", f"+{B}.{pki.TRUST_DOMAIN}",
                                 f"{B}", f"{B}.", "localhost", f"4294967297.{pki.TRUST_DOMAIN}", f"{B}.EXAMPLE.org", None])
def test_bad_sni(acceptor, ca, tmp_path, sni):
    end, seen = dial_by_python(acceptor, Files(tmp_path, ca.svid(id_path(A)), ca).client(), sni)
    assert end.reason == "sni-invalid" and isinstance(seen, OSError)


def test_tls12(acceptor, ca, tmp_path):
    c = Files(tmp_path, ca.svid(id_path(A)), ca).client()
    c.maximum_version = ssl.TLSVersion.TLSv1_2
    end, seen = dial_by_python(acceptor, c)
    assert end.reason == "not-tls" and end.alert == 70


def test_alpn(acceptor, ca, tmp_path):
    c = Files(tmp_path, ca.svid(id_path(A)), ca).client()
    c.set_alpn_protocols(["countersign/9"])
    assert dial_by_python(acceptor, c)[0].reason == "protocol-refused"


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", random.Random(1).randbytes(600), b"\x16\x03\x01\xff\xff" + bytes(100)],
                         ids=["http", "random", "record too long"])
def test_garbage(acceptor, sent):
    a, b = hs.connected()
    accept = acceptor.accept(b)
    a.sendall(sent)
    with contextlib.suppress(OSError):  # it may have hung up already
        a.shutdown(socket.SHUT_WR)
    assert acceptor.wait(accept).reason in ("not-tls", "verdict-truncated")


def test_a_chain_of_a_megabyte(acceptor, ca, tmp_path):
    """By the openssl command, which sends whatever it is given."""
    svid = ca.svid(id_path(A))
    files = Files(tmp_path, svid, ca)
    many = tmp_path / "many.pem"
    many.write_bytes(pki.pem(ca.cert) * 1500)
    a, b = hs.connected()
    accept = acceptor.accept(b)
    relay = socket.create_server(("127.0.0.1", 0))
    p = subprocess.Popen(["openssl", "s_client", "-connect", "127.0.0.1:%d" % relay.getsockname()[1], "-cert", files.chain,
                          "-key", files.key, "-cert_chain", str(many), "-servername", f"{B}.{pki.TRUST_DOMAIN}", "-tls1_3",
                          "-quiet"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    c, _ = relay.accept()
    threads = [threading.Thread(target=pump, args=ends) for ends in ((c, a), (a, c))]
    for t in threads:
        t.start()
    assert acceptor.wait(accept).reason == "chain-too-large"
    p.stdin.close()
    p.wait(10)
    for t in threads:
        t.join(10)
    for s in (relay, a, c):
        s.close()


def test_a_leaf_appended_second_counts_for_nothing(acceptor, ca, tmp_path):
    """A stranger's valid leaf behind one's own: the first is the one whose key was proved."""
    mine, stolen = ca.svid(id_path(A)), ca.svid(id_path(999))
    end, seen = dial_by_python(acceptor, Files(tmp_path, pki.Svid(mine.key, [mine.leaf, stolen.leaf], ""), ca).client())
    assert end.reason == "svid-profile"


# ---- bad peers: acceptors ----


def dialled(dialler, serve):
    """How our dialler's request ends when serve(socket) is at the other end."""
    a, b = hs.connected()
    failed = []

    def server():
        try:
            serve(b)
        except OSError as e:
            failed.append(e)
        b.close()

    t = threading.Thread(target=server)
    t.start()
    request = dialler.dial(a, A, B, spiffe(B))
    end = dialler.wait(request)
    t.join(10)
    return end


@pytest.fixture
def dialler(ca, monitors):
    return monitors([ca], {A: ca.svid(id_path(A))})


def server_context(tmp_path, ca, svid=None):
    c = Files(tmp_path, svid or ca.svid(id_path(B)), ca).server()
    c.num_tickets = 0
    return c


def test_close_notify_alone_is_yes(dialler, ca, tmp_path):
    end = dialled(dialler, after_handshake(server_context(tmp_path, ca), yes))
    assert isinstance(end, hs.Verdict) and end.remote_spiffe_id == spiffe(B)


@pytest.mark.parametrize("tickets", [0, 2])
@pytest.mark.parametrize("reason, act", [
    ("verdict-garbage", lambda s: s.send(b"x")),
    ("verdict-truncated", lambda s: os.close(s.detach())),
    ("verdict-truncated", reset),
])
def test_anything_but_close_notify_is_no(dialler, ca, tmp_path, reason, act, tickets):
    context = server_context(tmp_path, ca)
    context.num_tickets = tickets
    assert dialled(dialler, after_handshake(context, act)).reason == reason


@pytest.mark.parametrize("reason, make", [
    ("svid-expired", lambda ca: ca.svid(id_path(B), start=day_ago(), days=-0.1)),
    ("untrusted", lambda ca: pki.Authority().svid(id_path(B))),
    ("svid-profile", lambda ca: ca.svid(id_path(B), uris=[spiffe(B), spiffe(A)])),
    ("svid-profile", lambda ca: ca.svid(id_path(B), ca=True)),
    ("spiffe-id-mismatch", lambda ca: ca.svid(id_path(999))),
    ("trust-domain-mismatch", lambda ca: ca.svid("spiffe://other.org/identity/301")),
])
def test_bad_server_leaf(dialler, ca, tmp_path, reason, make):
    end = dialled(dialler, after_handshake(server_context(tmp_path, ca, make(ca)), lambda s: s.recv(1)))
    assert end.reason == reason, end


def test_server_of_tls12(dialler, ca, tmp_path):
    c = server_context(tmp_path, ca)
    c.maximum_version = ssl.TLSVersion.TLSv1_2
    assert dialled(dialler, after_handshake(c, lambda s: None)).reason in ("not-tls", "verdict-alert")


@pytest.mark.parametrize("act, reason", [
    (lambda s: s.sendall(b"SSH-2.0-OpenSSH\r\n" + bytes(100)), "not-tls"),
    (lambda s: None, "verdict-truncated"),
])
def test_not_a_tls_server(dialler, act, reason):
    def serve(s):
        s.recv(10000)
        act(s)
        s.shutdown(socket.SHUT_WR)

    assert dialled(dialler, serve).reason == reason


# ---- the monitor's own protocol ----


@pytest.mark.parametrize("message", [
    b"x", bytes(16), struct.pack("<IIQ", 99, 0, 1), struct.pack("<IIQ", hs.CANCEL, 1, 1), struct.pack("<IIQ", hs.CANCEL, 0, 0),
    struct.pack("<IIQq", hs.ACCEPT, 0, 1, 0), struct.pack("<IIQ", hs.SIGNER, 0, 0), struct.pack("<IIQ", hs.READY, 0, 0),
    struct.pack("<IIQII", hs.ANSWER, 0, 1, 5000, 0), bytes(5000),
    struct.pack("<IIQQ256s", hs.BUNDLE, 0, 0, 7, b"example.org"),
    struct.pack("<IIQQ256s", hs.BUNDLE, 0, 0, 0, b"a" * 256),
])
def test_a_malformed_message_ends_the_handshaker(message):
    m = hs.Monitor()
    m.send(message)
    assert m.receive()[0] is None
    assert m.close() == 0


def test_a_list_that_is_not_sealed_ends_the_handshaker():
    m = hs.Monitor()
    fd = os.memfd_create("list", os.MFD_ALLOW_SEALING)
    m.send(struct.pack("<IIQQ256s", hs.BUNDLE, 0, 0, 7, b"example.org"), fd)
    os.close(fd)
    assert m.receive()[0] is None
    assert m.close() == 0


def test_started_by_hand():
    p = subprocess.run([hs.PROGRAM], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert p.returncode == 2 and "started by countersign-authd" in p.stderr

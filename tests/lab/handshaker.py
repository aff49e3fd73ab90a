"""Plays countersign-authd for a real countersign-handshaker, and spire-adapter's signer for its keys."""
import array
import fcntl
import os
import re
import select
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

from cryptography import x509

from lab import pki
from lab.daemon import WAIT_S
from lab.process import with_descriptor_3

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("CS_BUILD", ROOT / "build/release"))
PROGRAM = BUILD / "authmap/handshaker/countersign-handshaker"
SVID, BUNDLE, SIGNER, DIAL, ACCEPT, CANCEL, ANSWER, READY, VERDICT, DONE = 1, 2, 3, 16, 17, 18, 19, 32, 33, 34
DIALLER, ACCEPTOR, LOOPBACK = 1, 2, 3
F_ADD_SEALS, SEAL_ALL = 1033, 1 | 2 | 4 | 8

# From the contract itself.
REASON = {name: int(number) for number, name in re.findall(
    r'X\((\d+), \w+, "([a-z0-9-]+)"', (ROOT / "include/countersign/reason.h").read_text())}
REASON_NAME = {number: name for name, number in REASON.items()}


class Signer(threading.Thread):
    """sign.sock's other end: signs for svids[(identity, generation)]; fault(answer) may return other bytes, or None for
    silence."""

    def __init__(self, sock, svids, fault=None):
        super().__init__(daemon=True)
        self.sock, self.svids, self.fault, self.count = sock, svids, fault, 0
        self.start()

    def run(self):
        while True:
            try:
                request = self.sock.recv(4096)
                if not request:
                    return
                answer = self.answer(request)
                if answer is not None:
                    self.sock.send(answer)
            except OSError:
                return

    def answer(self, request):
        seq, generation, identity, scheme, kind, hash_len, digest = struct.unpack("<QQIHBB48s", request)
        svid = self.svids.get((identity, generation))
        sig = svid.sign_tls13(scheme, kind, digest[:hash_len]) if svid else b""
        self.count += 1
        answer = struct.pack("<QII512s", seq, 0 if svid else REASON["no-local-svid"], len(sig), sig)
        return self.fault(answer) if self.fault else answer


class Verdict:
    def __init__(self, b):
        (self.role, self.local, self.local_svid, self.remote_svid, self.local_bundle, self.remote_bundle,
         self.not_after) = struct.unpack_from("<IIQQQQq", b, 16)
        self.local_leaf, self.remote_leaf = b[64:184], b[184:304]
        self.remote_spiffe_id = b[304:304 + 2049].split(b"\0")[0].decode()


class Done:
    def __init__(self, b):
        reason, self.alert, self.micros, _, detail = struct.unpack_from("<IIII128s", b, 16)
        self.reason, self.detail = REASON_NAME[reason], detail.split(b"\0")[0].decode()

    def __repr__(self):
        return f"Done({self.reason}, alert={self.alert}, {self.detail!r})"


class Held:
    """An SVID as its adapter tells of it: without the key."""

    def __init__(self, svid):
        self.chain, self.spiffe_id = [x509.load_der_x509_certificate(d) for d in svid.chain], svid.spiffe_id


class Root:
    def __init__(self, der):
        self.cert = x509.load_der_x509_certificate(der)


class Monitor:
    def __init__(self):
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = subprocess.Popen([*with_descriptor_3(theirs.fileno()), PROGRAM], pass_fds=(theirs.fileno(),),
                                        stderr=subprocess.PIPE)
        theirs.close()
        self.request, self.svids, self.got = 0, {}, []
        assert self.receive()[0] == READY

    def close(self):
        """The exit code."""
        self.sock.close()
        code = self.process.wait(WAIT_S)
        self.process.stderr.close()
        return code

    def send(self, message, fd=None):
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
        self.sock.sendmsg([message], control)

    def receive(self, timeout=WAIT_S):
        """(type, request, bytes); (None, None, b"") at the end."""
        assert select.select([self.sock], [], [], timeout)[0], "the handshaker says nothing"
        b = self.sock.recv(65536)
        return struct.unpack_from("<I4xQ", b)[:2] + (b,) if b else (None, None, b"")

    def wait(self, request, timeout=WAIT_S):
        """The next message about one request, as Verdict or Done."""
        end = time.monotonic() + timeout
        while True:
            for i, (kind, r, b) in enumerate(self.got):
                if r == request:
                    del self.got[i]
                    return Verdict(b) if kind == VERDICT else Done(b)
            message = self.receive(max(0, end - time.monotonic()))
            assert message[0] is not None, "the handshaker ended"
            self.got.append(message)

    @staticmethod
    def sealed(certs):
        fd = os.memfd_create("list", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.write(fd, b"".join(struct.pack("<I", len(c)) + c for c in certs))
        fcntl.fcntl(fd, F_ADD_SEALS, SEAL_ALL)
        return fd

    def svid(self, identity, svid, generation=None):
        """svid None: lives here, has none; False: does not live here."""
        generation = generation if generation is not None else 1000 + identity
        spiffe_id = svid.spiffe_id if svid else "spiffe://x/y" if svid is None else ""
        message = struct.pack("<IIQQqII2049s7x", SVID, 0, 0, generation if svid else 0, 0, identity, 0, spiffe_id.encode())
        if not svid:
            self.send(message)
            return
        fd = self.sealed([pki.der(c) for c in svid.chain])
        self.send(message, fd)
        os.close(fd)
        self.svids[(identity, generation)] = svid

    def bundle(self, trust_domain, authorities, generation=7):
        """authorities None: the bundle is gone."""
        message = struct.pack("<IIQQ256s", BUNDLE, 0, 0, generation if authorities is not None else 0, trust_domain.encode())
        if authorities is None:
            self.send(message)
            return
        fd = self.sealed([pki.der(a.cert) for a in authorities])
        self.send(message, fd)
        os.close(fd)

    def signer(self, fault=None):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)  # as authd's loop has it
        self.send(struct.pack("<IIQ", SIGNER, 0, 0), theirs.fileno())
        theirs.close()
        self.signing = Signer(ours, self.svids, fault)
        return ours

    def serve(self, adapter, bundle, *svids):
        """What a real adapter says, and its sign.sock, where its keys are."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as signer:
            signer.connect(str(adapter.sockets / "sign.sock"))
            signer.setblocking(False)
            self.send(struct.pack("<IIQ", SIGNER, 0, 0), signer.fileno())
        for svid in svids:
            self.svid(svid.identity, Held(svid), svid.generation)
        self.bundle(bundle.trust_domain, [Root(d) for d in bundle.authorities], bundle.generation)

    @staticmethod
    def deadline(seconds):
        return int((time.clock_gettime(time.CLOCK_MONOTONIC) + seconds) * 1000)

    def dial(self, sock, local, remote, remote_spiffe_id, sni=None, seconds=5, domain=pki.TRUST_DOMAIN):
        """sock None: both ends here."""
        self.request += 1
        sni = sni if sni is not None else f"{remote}.{domain}"
        self.send(struct.pack("<IIQqIIII272s2049s7x", DIAL, 0, self.request, self.deadline(seconds),
                              DIALLER if sock else LOOPBACK, local, remote, 0, sni.encode(), remote_spiffe_id.encode()),
                  sock.fileno() if sock else None)
        if sock:
            sock.close()
        return self.request

    def accept(self, sock, seconds=5):
        self.request += 1
        self.send(struct.pack("<IIQq", ACCEPT, 0, self.request, self.deadline(seconds)), sock.fileno())
        sock.close()
        return self.request

    def cancel(self, request):
        self.send(struct.pack("<IIQ", CANCEL, 0, request))

    def answer(self, request, reason="none"):
        self.send(struct.pack("<IIQII", ANSWER, 0, request, REASON[reason], 0))


def connected():
    """Two ends of a TCP connection on loopback."""
    listener = socket.create_server(("127.0.0.1", 0))
    a = socket.create_connection(listener.getsockname())
    b, _ = listener.accept()
    listener.close()
    return a, b

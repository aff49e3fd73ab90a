"""A real countersign-spire-adapter, a follower of its Svids by grpcio, and a client of its sign.sock."""
import itertools
import queue
import re
import socket
import struct
import threading
import time

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from lab import protos
from lab.daemon import ROOT, WAIT_S
from lab.watched import Watched

PROGRAM = "spire-adapter/countersign-spire-adapter"
REASON = {name: int(number) for number, name in re.findall(
    r'X\((\d+), \w+, "([a-z0-9-]+)"', (ROOT / "include/countersign/reason.h").read_text())}
CLIENT, SERVER, AUTHENTICATOR = 1, 2, 3
CONTEXT = {CLIENT: b"TLS 1.3, client CertificateVerify", SERVER: b"TLS 1.3, server CertificateVerify",
           AUTHENTICATOR: b"Exported Authenticator"}
ECDSA_P256 = 0x0403


class Adapter(Watched):
    def __init__(self, instance, ca_dir, *sets, node="n1", domain="example.org", **options):
        self.instance, self.sockets = instance, instance / "spire-adapter"
        settings = {"trust_domain": domain, "node.name": node, "local_ca.dir": ca_dir, "log.level": "debug"}
        args = [f"{k}={v}" for k, v in settings.items()] + list(sets)
        super().__init__(PROGRAM, "--instance", instance, *itertools.chain(*(("--set", a) for a in args)), **options)

    def once(self, timeout=WAIT_S):
        """The list, as a command line would get it."""
        with grpc.insecure_channel(f"unix:{self.sockets / 'svids.sock'}") as channel:
            state = State()
            for batch in protos.svids_rpc.SvidsStub(channel).Follow(
                    protos.svids.FollowSvidsRequest(once=True), timeout=timeout):
                state.apply(batch)
            return state


class State:
    def __init__(self):
        self.svids, self.bundles, self.synced = {}, {}, False

    def apply(self, batch):
        self.svids.update((s.identity, s) for s in batch.svids)
        self.bundles.update((b.trust_domain, b) for b in batch.bundles)
        self.synced |= batch.synced

    def has(self, identity):
        return identity in self.svids and self.svids[identity].generation != 0


class Follower:
    """Follows Svids; state is what it was told so far."""

    def __init__(self, adapter):
        self.channel = grpc.insecure_channel(f"unix:{adapter.sockets / 'svids.sock'}")
        self.call = protos.svids_rpc.SvidsStub(self.channel).Follow(protos.svids.FollowSvidsRequest())
        self.state, self.batches, self.code = State(), queue.Queue(), None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            for batch in self.call:
                self.batches.put(batch)
        except grpc.RpcError as e:
            self.code = e.code()
        self.batches.put(None)

    def wait(self, what, timeout=WAIT_S):
        """Until what(state) is true."""
        end = time.monotonic() + timeout
        while not what(self.state):
            batch = self.batches.get(timeout=max(0.01, end - time.monotonic()))
            assert batch is not None, f"the call ended: {self.code}"
            self.state.apply(batch)
        return self.state

    def wait_svid(self, identity, other_than=0):
        return self.wait(lambda s: s.has(identity) and s.svids[identity].generation != other_than).svids[identity]

    def wait_end(self):
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()
        return self.code

    def close(self):
        self.call.cancel()
        self.thread.join()
        self.channel.close()


def sign_request(seq, identity, generation, kind=CLIENT, digest=bytes(range(32)), scheme=ECDSA_P256):
    return struct.pack("<QQIHBB48s", seq, generation, identity, scheme, kind, len(digest), digest)


def sign_answer(answer):
    assert len(answer) == 528
    seq, reason, length, signature = struct.unpack("<QII512s", answer)
    assert not any(signature[length:])
    return seq, reason, signature[:length]


class Signer:
    def __init__(self, adapter):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(WAIT_S)
        self.socket.connect(str(adapter.sockets / "sign.sock"))
        self.seq = itertools.count(1000)

    def send(self, identity, generation, kind=CLIENT, digest=bytes(range(32)), scheme=ECDSA_P256):
        seq = next(self.seq)
        self.socket.send(sign_request(seq, identity, generation, kind, digest, scheme))
        return seq

    def receive(self):
        """(sequence, reason, signature); None: the connection is over."""
        answer = self.socket.recv(4096)
        if not answer:
            return None
        return sign_answer(answer)

    def sign(self, *args, **more):
        seq = self.send(*args, **more)
        answer = self.receive()
        assert answer is not None, "the signer hung up"
        assert answer[0] == seq
        return answer[1:]

    def close(self):
        self.socket.close()


def leaf(svid):
    return x509.load_der_x509_certificate(svid.chain[0])


def verify_signature(svid, signature, kind=CLIENT, digest=bytes(range(32))):
    """Raises if this is not what RFC 8446 4.4.3 has one sign."""
    leaf(svid).public_key().verify(signature, b" " * 64 + CONTEXT[kind] + b"\0" + digest, ec.ECDSA(hashes.SHA256()))

"""Real countersign-identityd processes, in either role, with interfaces for endpoints and certificates for mTLS."""
import datetime as dt
import ipaddress
import itertools
import os
import queue
import re
import select
import socket
import ssl
import subprocess
import threading
import time

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lab import protos
from lab.daemon import WAIT_S, Daemon

PROGRAM = "identity/countersign-identityd"
D, E = protos.directory, protos.endpoints
REGISTERED, IDENTIFIED, PLACED, ENFORCED, SVID_READY = range(1, 6)
_numbers = itertools.count()


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


class Interfaces:
    """veth pairs in this network namespace with names of their own; gone at the end."""

    def __init__(self):
        self.names = []

    def new(self, kind="veth", name=None):
        name = name or f"ci{os.getpid() % 100000}n{next(_numbers)}"
        more = ["peer", "name", f"{name}p"] if kind == "veth" else []
        subprocess.run(["ip", "link", "add", name, "type", kind, *more], check=True)
        self.names.append(name)
        return name

    def macvlan(self, parent):
        name = f"ci{os.getpid() % 100000}n{next(_numbers)}"
        subprocess.run(["ip", "link", "add", name, "link", parent, "type", "macvlan"], check=True)
        self.names.insert(0, name)
        return name

    def delete(self, name):
        subprocess.run(["ip", "link", "del", name], check=True)
        self.names.remove(name)

    def close(self):
        for name in self.names[:]:
            subprocess.run(["ip", "link", "del", name], check=False)


class CA:
    """A CA of the nodes, by python3-cryptography."""

    def __init__(self, dir, domain="example.org"):
        self.dir, self.domain = dir, domain
        dir.mkdir(parents=True, exist_ok=True)
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "nodes")])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self.root = (self._builder(name, self.key.public_key(), name, f"spiffe://{domain}", usage)
                     .add_extension(x509.BasicConstraints(True, None), True).sign(self.key, hashes.SHA256()))

    def _builder(self, subject, key, issuer, uri, usage, life=dt.timedelta(hours=1)):
        now = dt.datetime.utcnow()
        return (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
                .serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(minutes=1))
                .not_valid_after(now + life)
                .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), not list(subject))
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
                .add_extension(usage, True))

    def issue(self, path, life=dt.timedelta(hours=1)):
        """Settings tls.* for spiffe://<domain><path>."""
        out = self.dir / f"cert{next(_numbers)}"
        out.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        leaf = (self._builder(x509.Name([]), key.public_key(), self.root.subject, f"spiffe://{self.domain}{path}", usage, life)
                .add_extension(x509.BasicConstraints(False, None), True)
                .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH,
                                                      x509.ExtendedKeyUsageOID.CLIENT_AUTH]), False)
                .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
                .sign(self.key, hashes.SHA256()))
        pem = serialization.Encoding.PEM
        (out / "svid.pem").write_bytes(leaf.public_bytes(pem))
        (out / "svid.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8,
                                                         serialization.NoEncryption()))
        (out / "bundle.pem").write_bytes(self.root.public_bytes(pem))
        return {"tls.cert": out / "svid.pem", "tls.key": out / "svid.key", "tls.bundle": out / "bundle.pem"}

    def server(self):
        return self.issue("/countersign/identityd")

    def node(self, name, **more):
        return self.issue(f"/countersign/node/{name}", **more)


def served(port, files):
    """The leaf that the cluster role shows now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(files["tls.cert"], files["tls.key"])
    with socket.create_connection(("127.0.0.1", port)) as s, context.wrap_socket(s) as tls:
        return x509.load_der_x509_certificate(tls.getpeercert(True))


class TlsProxy:
    """Lets grpcio, which knows nothing of SPIFFE IDs, speak mTLS with any certificate: a Unix socket in front of it."""

    def __init__(self, path, port, files, version=ssl.TLSVersion.TLSv1_3):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.context.maximum_version = version
        self.context.set_alpn_protocols(["h2"])
        if files:
            self.context.load_cert_chain(files["tls.cert"], files["tls.key"])
        self.port, self.error, self.socket = port, None, socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        self.channel = grpc.insecure_channel(f"unix:{path}", [("grpc.use_local_subchannel_pool", 1)])

    def _accept(self):
        while True:
            try:
                near, _ = self.socket.accept()
            except OSError:
                return
            try:
                far = self.context.wrap_socket(socket.create_connection(("127.0.0.1", self.port)))
            except OSError as e:
                self.error = e
                near.close()
                continue
            threading.Thread(target=self._pump, args=(near, far), daemon=True).start()

    def _pump(self, near, far):
        """One thread: an SSL object is not for two."""
        far.setblocking(False)
        try:
            while True:
                if not far.pending():
                    select.select([near, far], [], [])
                if select.select([near], [], [], 0)[0]:
                    if not (data := near.recv(65536)):
                        break
                    far.setblocking(True)
                    far.sendall(data)
                    far.setblocking(False)
                try:
                    if not (data := far.recv(65536)):
                        break
                    near.sendall(data)
                except ssl.SSLWantReadError:
                    pass
        except OSError as e:
            self.error = e
        near.close()
        far.close()

    def stop(self):
        self.channel.close()
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    alive = True


class Follower:
    """Follows a directory as directory.proto says: records of incomplete batches wait, `synced` replaces."""

    def __init__(self, channel, **request):
        self.call = protos.directory_rpc.DirectoryStub(channel).Follow(D.FollowRequest(**request))
        self.batches, self.error = queue.Queue(), None
        self.state, self.waiting, self.position, self.synced = {}, [], None, 0
        self.silent_ms, self.beats = None, 0
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            for batch in self.call:
                self.batches.put(batch)
        except grpc.RpcError as e:
            self.error = e
        self.batches.put(None)

    @staticmethod
    def key(record):
        kind = record.WhichOneof("record")
        r = getattr(record, kind)
        return kind, {"node": lambda: r.name, "identity": lambda: r.id, "placement": lambda: (r.identity, r.node),
                      "endpoint": lambda: (r.node, r.id), "prefix": lambda: (bytes(r.prefix.ip), r.prefix.bits),
                      "policy": lambda: r.name, "policy_row": lambda: (r.local, r.remote),
                      "policy_default": lambda: r.local, "depends_on": lambda: r.name,
                      "revocation": lambda: r.id}[kind]()

    def apply(self, batch):
        self.silent_ms = batch.silent_ms
        if not batch.records and not batch.complete:
            self.beats += 1
        self.waiting += batch.records
        if not batch.complete:
            assert not batch.synced
            return
        if batch.synced:
            self.synced += 1
            self.state = {}
        for record in self.waiting:
            if record.deleted:
                self.state.pop(self.key(record), None)
            else:
                self.state[self.key(record)] = getattr(record, record.WhichOneof("record"))
        self.waiting = []
        self.position = (batch.position.epoch, batch.position.revision)

    def wait(self, what, timeout=WAIT_S):
        """Until what(self) is true (not None)."""
        end = time.monotonic() + timeout
        while not (found := what(self)):
            batch = self.batches.get(timeout=max(0.01, end - time.monotonic()))
            assert batch is not None, f"the stream ended: {self.error}"
            self.apply(batch)
        return found

    def wait_synced(self):
        self.wait(lambda f: f.synced)
        return self

    def wait_end(self):
        """All that came, and the status (None: OK)."""
        while (batch := self.batches.get(timeout=WAIT_S)) is not None:
            self.apply(batch)
        return self.error

    def get(self, kind, key):
        return self.state.get((kind, key))

    def all(self, kind):
        return {k[1]: v for k, v in self.state.items() if k[0] == kind}

    def close(self):
        self.call.cancel()
        self.thread.join()


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

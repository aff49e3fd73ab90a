"""The nodes' mTLS without any code of ours: a CA, and a way for grpcio through it."""
import datetime as dt
import itertools
import select
import socket
import ssl
import threading

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_numbers = itertools.count()


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
        self.deaf = False  # True: nothing that the server says is read any more
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
                if self.deaf or not far.pending():
                    select.select([near] if self.deaf else [near, far], [], [])
                if select.select([near], [], [], 0)[0]:
                    if not (data := near.recv(65536)):
                        break
                    far.setblocking(True)
                    far.sendall(data)
                    far.setblocking(False)
                if self.deaf:
                    continue
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

"""Our gRPC server and client as programs that echo (tests/integration/grpc_echo_*.c), and certificates for them."""
import datetime
import ipaddress
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_tools import protoc

from lab import process
from lab.daemon import BUILD, WAIT_S
from lab.tree import ROOT

PROTOS = ROOT / "tests" / "integration"
SERVER = BUILD / "integration" / "grpc_echo_server"
CLIENT = BUILD / "integration" / "grpc_echo_client"
UID = f"uid:{os.getuid()}"


@pytest.fixture(scope="session")
def echo(tmp_path_factory):
    out = tmp_path_factory.mktemp("proto")
    assert protoc.main(["", f"-I{PROTOS}", f"--python_out={out}", f"--grpc_python_out={out}", "echo.proto"]) == 0
    sys.path.insert(0, str(out))
    import echo_pb2
    import echo_pb2_grpc
    return type("echo", (), {"pb": echo_pb2, "rpc": echo_pb2_grpc})


class Program:
    """A test program whose lines are waited for."""

    def __init__(self, *args, user=None):
        self.process = subprocess.Popen([*process.as_user(*user or (None,)), *map(str, args)], text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.lines, self.errors = queue.Queue(), []
        self.seen = []
        self.threads = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for t in self.threads:
            t.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def _read_errors(self):
        self.errors += list(self.process.stderr)

    def wait_line(self, pattern):
        end = time.monotonic() + WAIT_S
        while True:
            line = self.lines.get(timeout=max(0.01, end - time.monotonic()))
            assert line is not None, f"ended before {pattern!r}: {self.seen} {self.errors}"
            self.seen.append(line)
            if m := re.match(pattern, line):
                return m

    def end(self, sig=signal.SIGTERM):
        if sig and self.process.poll() is None:
            self.process.send_signal(sig)
        code = self.process.wait(WAIT_S)
        for t in self.threads:
            t.join()
        while (line := self.lines.get()) is not None:
            self.seen.append(line)
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def clean_end(self, sig=signal.SIGTERM):
        code = self.end(sig)
        assert code == 0, (code, self.errors)
        assert self.seen[-1] == "closed"  # uv_loop_close() == 0 was asserted before it


@pytest.fixture
def server(tmp_path):
    """Starts our server; every one must end in order, with nothing left in its loop."""
    started = []

    def start(*args, viewer=UID, operator=None, path=None):
        path = path or tmp_path / f"s{len(started)}.sock"
        args = ["--unix", path, "--viewer", viewer, *(["--operator", operator] if operator else []), *args]
        s = Program(SERVER, *args)
        started.append(s)
        s.path, s.target = path, f"unix:{path}"
        s.port = int(s.wait_line(r"ready (\d+)")[1])
        return s
    yield start
    for s in started:
        if s.process.poll() is None:
            s.clean_end()


@pytest.fixture
def stub(echo):
    channels = []

    def connect(target, credentials=None, options=()):
        options = [("grpc.use_local_subchannel_pool", 1), *options]
        channel = (grpc.secure_channel(target, credentials, options) if credentials
                   else grpc.insecure_channel(target, options))
        channels.append(channel)
        return echo.rpc.EchoStub(channel)
    yield connect
    for c in channels:
        c.close()


def client(target, method, *args, user=None):
    """Our client; returns what came of its calls."""
    p = subprocess.run([*process.as_user(*user or (None,)), *map(str, (CLIENT, *args, target, method))],
                       capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr
    return [json.loads(line) for line in p.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    """Directories with cert.pem, key.pem, ca.pem for these names, made by python-cryptography."""
    now = datetime.datetime.utcnow()

    def make(name, issuer=None, days=1):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        san = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        cert = (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer[0].subject if issuer else subject)
                .public_key(key.public_key()).serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(days=2)).not_valid_after(now + datetime.timedelta(days=days))
                .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
                .add_extension(x509.SubjectAlternativeName(san), False)
                .sign(issuer[1] if issuer else key, hashes.SHA256()))
        return cert, key

    def pem(cert):
        return cert.public_bytes(serialization.Encoding.PEM)
    ca, foreign = make("ca"), make("foreign ca")
    root = tmp_path_factory.mktemp("pki")

    def write(name, issuer, days=1, trusts=ca):
        d = root / name
        d.mkdir()
        cert, key = make(name, issuer, days)
        (d / "cert.pem").write_bytes(pem(cert))
        (d / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                                      serialization.NoEncryption()))
        (d / "ca.pem").write_bytes(pem(trusts[0]))
        return d
    dirs = {n: write(n, ca) for n in ("server", "node1", "stranger")}
    dirs["expired"] = write("expired", ca, days=-1)
    dirs["foreign"] = write("foreign", foreign)
    return dirs


@pytest.fixture
def tls_server(server, pki):
    def start(*args, name="server"):
        s = server("--tcp", "127.0.0.1:0", "--tls", pki[name], *args)
        s.target = f"localhost:{s.port}"
        return s
    return start


def grpcio_credentials(d, server=False):
    cert, key, ca = ((d / f).read_bytes() for f in ("cert.pem", "key.pem", "ca.pem"))
    if server:
        return grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=True)
    return grpc.ssl_channel_credentials(ca, key, cert)

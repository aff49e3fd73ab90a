"""Real etcd: Debian's 3.4 (etcd-server) and a current one (tests/peers/etcd), one member or three, on addresses of loopback
that nobody else uses. Nothing of it is left when a test ends."""
import base64
import contextlib
import datetime as dt
import ipaddress
import json
import os
import random
import select
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lab import peers, pki
from lab.daemon import WAIT_S
from lab.process import as_user

VERSIONS = ("3.4", "3.7")
HEARTBEAT_MS, ELECTION_MS = 50, 500


def program(version):
    """The path of that etcd; skips the test where there is none."""
    if version == "3.4":
        return shutil.which("etcd") or pytest.skip("no etcd in PATH (Debian: etcd-server)")
    if why := peers.missing():
        pytest.skip(f"etcd {version}: {why}")
    return peers.program("etcd")


def free_address():
    """An address of loopback on which nobody listens at etcd's ports."""
    while True:
        address = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.{random.randint(2, 254)}"
        with socket.socket() as client, socket.socket() as peer:
            try:
                client.bind((address, 2379))
                peer.bind((address, 2380))
                return address
            except OSError:
                pass


class Ca:
    """A CA for etcd: names and addresses, no SPIFFE IDs."""

    def __init__(self, directory, name="etcd CA"):
        self.dir, self.key = Path(directory), pki.key()
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.cert = self._sign(self.key, self.name, [(x509.BasicConstraints(True, 0), True)])
        self.file = self.dir / f"{name.replace(' ', '-')}.pem"
        self.file.write_bytes(pki.pem(self.cert))

    def _sign(self, key, name, extensions):
        now = dt.datetime.utcnow()
        b = x509.CertificateBuilder(self.name, name, key.public_key(), x509.random_serial_number(),
                                    now - dt.timedelta(hours=1), now + dt.timedelta(days=1))
        for extension, critical in extensions:
            b = b.add_extension(extension, critical)
        return b.sign(self.key, hashes.SHA256())

    def issue(self, common, *, addresses=(), names=()):
        """(certificate, key) as paths of PEM files."""
        key, alt = pki.key(), [*(x509.DNSName(n) for n in names),
                               *(x509.IPAddress(ipaddress.ip_address(a)) for a in addresses)]
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        cert = self._sign(key, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]),
                          [(usage, False), *([(x509.SubjectAlternativeName(alt), False)] if alt else [])])
        paths = self.dir / f"{common}.pem", self.dir / f"{common}.key"
        paths[0].write_bytes(pki.pem(cert))
        paths[1].write_bytes(pki.key_pem(key))
        return paths


class Member:
    """One process, its data and its addresses. Ends are abrupt unless a test says otherwise."""

    def __init__(self, cluster, name):
        self.cluster, self.name, self.address = cluster, name, free_address()
        self.scheme = "https" if cluster.ca else "http"
        self.url, self.peer_url = f"{self.scheme}://{self.address}:2379", f"http://{self.address}:2380"
        self.data = cluster.dir / name
        self.process = self.user = None

    def start(self, wait=True):
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = self.cluster.dir / f"{self.name}.notify"
        path.unlink(missing_ok=True)
        notify.bind(str(path))
        path.chmod(0o777)
        self.log = (self.cluster.dir / f"{self.name}.log").open("ab")
        self.process = subprocess.Popen([*as_user(self.user), *self._command()], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        env={**os.environ, "NOTIFY_SOCKET": str(path), "ETCD_UNSUPPORTED_ARCH": ""})
        self.notify = notify
        if wait:
            self.wait_ready()

    def _command(self):
        c = self.cluster
        args = {"name": self.name, "data-dir": self.data, "listen-client-urls": self.url,
                "advertise-client-urls": self.url, "listen-peer-urls": self.peer_url,
                "initial-advertise-peer-urls": self.peer_url, "initial-cluster-token": c.token,
                "initial-cluster": ",".join(f"{m.name}={m.peer_url}" for m in c.members),
                "heartbeat-interval": HEARTBEAT_MS, "election-timeout": ELECTION_MS, **c.settings}
        if c.ca:
            cert, key = c.ca.issue(self.name, addresses=[self.address], names=[f"{self.name}.etcd.test"])
            args |= {"cert-file": cert, "key-file": key, "trusted-ca-file": c.ca.file, "client-cert-auth": "true"}
        if c.version == "3.4":
            args |= {"logger": "zap", "log-level": "warn"}
        return [str(program(c.version)), *(f"--{name}={value}" for name, value in args.items())]

    def run_as(self, user):
        """Before its start: a user of its own, by whom its packets can be told."""
        self.user = user
        self.data.mkdir(mode=0o700)
        os.chown(self.data, user, user)
        self.cluster.dir.chmod(0o777)

    @contextlib.contextmanager
    def isolated(self):
        """The other members and it do not hear of each other; its clients do. It must run_as a user."""
        table = f"cs_etcd_{os.getpid()}_{self.user}"
        rules = "\n".join(f"meta skuid {self.user} tcp {port} 2380 drop" for port in ("dport", "sport"))
        text = f"table inet {table} {{ chain out {{ type filter hook output priority 0;\n{rules}\n}}\n}}\n"
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
        try:
            yield
        finally:
            subprocess.run(["nft", "delete", "table", "inet", table], check=True)

    def wait_ready(self):
        pidfd = os.pidfd_open(self.process.pid)
        try:
            ready, _, _ = select.select([self.notify, pidfd], [], [], WAIT_S)
            assert self.notify in ready, f"etcd {self.name} is not ready:\n{self.output()[-4000:]}"
        finally:
            os.close(pidfd)
            self.notify.close()

    def output(self):
        return (self.cluster.dir / f"{self.name}.log").read_text()

    def pause(self):
        """It stands still when this returns."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        """kill -9, with whatever is on disk."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(WAIT_S)
            self.log.close()

    def call(self, path, body=None, token=None):
        """etcd's JSON gateway: what the code under test has no part in."""
        headers = {"Content-Type": "application/json", **({"Authorization": token} if token else {})}
        request = urllib.request.Request(f"{self.url}/v3/{path}", json.dumps(body or {}).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=10, context=self.cluster.context) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as e:
            raise RuntimeError(f"{path}: {e.read().decode()}") from None

    def status(self):
        return self.call("maintenance/status")

    def put(self, key, value, **more):
        return int(self.call("kv/put", {"key": b64(key), "value": b64(value), **more})["header"]["revision"])

    def get(self, key, **more):
        return [unb64(kv.get("value", "")) for kv in self.call("kv/range", {"key": b64(key), **more}).get("kvs", [])]

    def revision(self):
        return int(self.call("kv/range", {"key": b64("x")})["header"]["revision"])

    def compact(self, revision):
        self.call("kv/compaction", {"revision": str(revision), "physical": True})


def b64(text):
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def unb64(text):
    return base64.b64decode(text).decode()


class Etcd:
    """A cluster. settings: more of etcd's flags, by name."""

    def __init__(self, version="3.4", members=1, tls=False, **settings):
        self.version, self.settings = version, {k.replace("_", "-"): v for k, v in settings.items()}
        program(version)
        self.dir = Path(tempfile.mkdtemp(prefix="cs-etcd-"))
        self.token = self.dir.name
        self.ca = Ca(self.dir) if tls else None
        self.context = None
        if tls:
            self.context = ssl.create_default_context(cafile=str(self.ca.file))
            self.context.load_cert_chain(*self.ca.issue("lab"))
        self.members = []
        self.members += [Member(self, f"m{i}") for i in range(members)]

    def start(self):
        for m in self.members:
            m.start(wait=False)
        for m in self.members:
            m.wait_ready()
        return self

    @property
    def urls(self):
        return [m.url for m in self.members]

    def leader(self):
        """The member that leads, by the others' word too."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            alive = [m for m in self.members if m.process.poll() is None]
            with contextlib.suppress(OSError, RuntimeError):
                said = {m: m.status() for m in alive}
                leaders = {s.get("leader", "0") for s in said.values()}
                if len(leaders) == 1 and leaders != {"0"}:
                    return next(m for m, s in said.items() if s["header"]["member_id"] in leaders)
            time.sleep(0.02)
        pytest.fail("etcd elects no leader")

    def enable_auth(self, user, password, prefix="/", may="READWRITE"):
        """A user who may do that below prefix, and root."""
        m = self.members[0]
        for name, secret in (("root", "root"), (user, password)):
            m.call("auth/user/add", {"name": name, "password": secret})
            m.call("auth/role/add", {"name": name})
            m.call("auth/user/grant", {"user": name, "role": name})
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        m.call("auth/role/grant", {"name": user, "perm": {"permType": may, "key": b64(prefix),
                                                          "range_end": b64(end)}})
        m.call("auth/enable")

    def rows(self, prefix):
        """{key without the prefix: value} of all that begin with it."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        said = self.leader().call("kv/range", {"key": b64(prefix), "range_end": b64(end)})
        return {unb64(kv["key"]).removeprefix(prefix): unb64(kv.get("value", "")) for kv in said.get("kvs", [])}

    def stop(self):
        for m in self.members:
            if m.process and m.process.poll() is None:
                m.process.send_signal(signal.SIGCONT)
            m.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

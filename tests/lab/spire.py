"""A real SPIRE on loopback: one server and agents, which stand for nodes. Found by SPIRE_BIN (a directory) or PATH.
lab.spire_partner has the same in a partner that plays it."""
import base64
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from lab import pki
from lab.daemon import WAIT_S

PROGRAMS = ("spire-server", "spire-agent")
POLL_S = 0.02  # SPIRE tells nobody when it is ready
ADAPTER = "/countersign/spire-adapter"


def find(name):
    return shutil.which(name, path=os.environ.get("SPIRE_BIN") or None)


def missing():
    """Why there is none here; None: there is."""
    return None if all(map(find, PROGRAMS)) else "no spire-server and spire-agent in SPIRE_BIN or PATH"


def wait_for(what, text, timeout=WAIT_S):
    end = time.monotonic() + timeout
    while not (found := what()):
        assert time.monotonic() < end, f"not within {timeout} s: {text() if callable(text) else text}"
        time.sleep(POLL_S)
    return found


def connects(path):
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(str(path))
            return True
        except OSError:
            return False


def quiet_port():
    """For a program that wants a number: free, and below those that Linux gives by itself, so that it stays free until the
    program takes it, also when it is started again."""
    while True:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", random.randrange(20000, 32000))) as s:
            return s.getsockname()[1]


class Program:
    """spire-server or spire-agent with a configuration; it can be killed and started again."""

    def __init__(self, program, dir, config, *args):
        self.program, self.dir, self.process = find(program), dir, None
        self.config = dir / "config.hcl"
        self.config.write_text(config)
        self.log = dir / "log"
        self.begin(*args)

    def begin(self, *args):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([self.program, "run", "-config", self.config, *args], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)

    def wait_socket(self, path):
        def up():
            assert self.process.poll() is None, f"{self.program} ended:\n{self.log.read_text()}"
            return connects(path)
        wait_for(up, f"{path}:\n{self.log.read_text()}")

    def end(self, number=signal.SIGKILL):
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(WAIT_S)


class Server(Program):
    """ca_key: ec-p256, rsa-2048, rsa-4096, ... as SPIRE calls them. ca_name: common name of every CA. machines: an authority
    (pki) of the certificates by which agents may attest, instead of by a token."""

    def __init__(self, dir, domain, ca_key="ec-p256", ca_name=None, machines=None):
        self.domain, self.socket = domain, dir / "api.sock"
        self.port = quiet_port()
        subject = f'ca_subject = {{ country = ["US"], organization = ["SPIRE"], common_name = "{ca_name}" }}' if ca_name else ""
        (dir / "machines.pem").write_bytes(pki.pem(machines.cert) if machines else b"")
        x509pop = f'NodeAttestor "x509pop" {{ plugin_data {{ ca_bundle_path = "{dir}/machines.pem" }} }}' if machines else ""
        super().__init__("spire-server", dir, f'''
server {{
  trust_domain = "{domain}"
  data_dir = "{dir}"
  bind_address = "127.0.0.1"
  bind_port = {self.port}
  socket_path = "{self.socket}"
  ca_key_type = "{ca_key}"
  {subject}
  ca_ttl = "24h"
  agent_ttl = "1h"
  default_x509_svid_ttl = "1h"
  ratelimit {{ attestation = false }}
  experimental {{ cache_reload_interval = "1s" }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{dir}/db.sqlite3" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  {x509pop}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{dir}/keys.json" }} }}
}}''')
        self.wait_socket(self.socket)

    def bundle(self):
        """The authorities of its trust domain, as PEM."""
        return subprocess.run([self.program, "bundle", "show", "-socketPath", self.socket], text=True, capture_output=True,
                              check=True, timeout=WAIT_S).stdout

    def authority(self):
        """Certificate and key of the CA, as PEM: what somebody has who has taken the server over."""
        pem = serialization.Encoding.PEM
        keys = json.loads((self.dir / "keys.json").read_text())["keys"]
        keys = {k.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo): k for k in (
            serialization.load_der_private_key(base64.b64decode(der), None) for der in keys.values())}
        cert = x509.load_pem_x509_certificate(self.bundle().encode())
        key = keys[cert.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)]
        return cert.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8,
                                                          serialization.NoEncryption())

    def again(self):
        self.begin()
        self.wait_socket(self.socket)

    def call(self, *args, input=None):
        """What a subcommand says, as JSON."""
        done = subprocess.run([self.program, *args, "-socketPath", self.socket, "-output", "json"], input=input, text=True,
                              capture_output=True, timeout=WAIT_S)
        assert done.returncode == 0, f"{' '.join(map(str, args))}:\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout)


class Agent(Program):
    """paths: it looks at the paths of programs, so that selectors may name them. It hashes them too, once per stream. machine:
    a certificate (pki) by which it attests, so that its id is its own and no alias."""

    def __init__(self, dir, server, name, paths=False, machine=None):
        self.server, self.name = server, name
        (dir / "pub").mkdir()
        (dir / "adm").mkdir()
        self.socket, self.admin = dir / "pub/api.sock", dir / "adm/admin.sock"
        if machine:
            (dir / "machine.pem").write_bytes(pki.pem(machine.leaf))
            (dir / "machine.key").write_bytes(pki.key_pem(machine.key))
            attestor = f'"x509pop" {{ plugin_data {{ private_key_path = "{dir}/machine.key" certificate_path = "{dir}/machine.pem" }} }}'
            args = []
            self.id = f"spiffe://{server.domain}/spire/agent/x509pop/{hashlib.sha1(pki.der(machine.leaf)).hexdigest()}"
        else:
            attestor = '"join_token" { plugin_data {} }'
            self.id = f"spiffe://{server.domain}/node/{name}"
            args = ["-joinToken", server.call("token", "generate", "-spiffeID", self.id)["value"]]
        super().__init__("spire-agent", dir, f'''
agent {{
  trust_domain = "{server.domain}"
  data_dir = "{dir}"
  server_address = "127.0.0.1"
  server_port = {server.port}
  socket_path = "{self.socket}"
  admin_socket_path = "{self.admin}"
  authorized_delegates = ["spiffe://{server.domain}{ADAPTER}"]
  insecure_bootstrap = true
  experimental {{ sync_interval = "1s" }}
}}
plugins {{
  NodeAttestor {attestor}
  KeyManager "disk" {{ plugin_data {{ directory = "{dir}" }} }}
  WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = {str(paths).lower()} }} }}
}}''', *args)
        self.wait_socket(self.admin)

    def again(self):
        self.begin()
        self.wait_socket(self.admin)

    def cached_svids(self):
        """By SPIRE's own word: Debug.GetInfo of the admin socket, field 5; it looks every 5 s."""
        with grpc.insecure_channel(f"unix:{self.admin}") as channel:
            info = channel.unary_unary("/spire.agent.debug.v1.Debug/GetInfo")(b"", timeout=WAIT_S)
        return dict(varints(info)).get(5, 0)


def varints(message):
    """(field, value) of the varint fields of a packed protobuf message."""
    at = 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
    while at < len(message):
        field, kind = divmod(number(), 8)
        if kind == 0:
            yield field, number()
        else:
            assert kind == 2, kind
            length = number()
            at += length


class Installation:
    """What a test says to a SPIRE, be it real or played: entries, bundles, authorities."""

    def __init__(self, domain):
        self.domain = domain
        self.dir = Path(tempfile.mkdtemp(prefix="cs-spire-", dir="/tmp"))  # short: sockets are in it
        self.agents = {}

    def id(self, path):
        return f"spiffe://{self.domain}{path}"

    def _description(self, agent, path, selector, ttl, federates):
        kind, _, value = selector.partition(":")
        return {"spiffe_id": {"trust_domain": self.domain, "path": path},
                "parent_id": {"trust_domain": self.domain, "path": agent.id.removeprefix(f"spiffe://{self.domain}")},
                "selectors": [{"type": kind, "value": value}], "x509_svid_ttl": ttl or 0, "federates_with": list(federates)}

    def entry(self, agent, path, selector, ttl=None, federates=()):
        """One registration entry; its id."""
        return self.entries([(agent, path, selector, ttl, federates)])[0]

    def entries(self, wanted):
        results = self.create([self._description(*one) for one in wanted])
        assert all(r["status"]["code"] == 0 for r in results), results
        return [r["entry"]["id"] for r in results]

    def node(self, agent, node, ttl=None, server=False):
        """What the adapter of a node needs: its own entry, and the node's; both match every process of root."""
        paths = [ADAPTER, f"/countersign/node/{node}"] + ["/countersign/identityd"] * server
        return self.entries([(agent, path, "unix:uid:0", ttl, ()) for path in paths])

    def identity(self, agent, number, ttl=None, federates=()):
        return self.entry(agent, f"/identity/{number}", f"countersign:id:{number}", ttl, federates)

    def trust(self, other):
        """Federation, this direction of it: the other's authorities verify the other's identities here."""
        self.set_bundle(other.domain, other.server.bundle())

    def close(self):
        self.end()
        shutil.rmtree(self.dir, ignore_errors=True)


class Spire(Installation):
    """domain's server; agents by add_agent(). server: options of Server."""
    kind = "real"

    def __init__(self, domain="example.org", **server):
        super().__init__(domain)
        (self.dir / "server").mkdir()
        self.server = Server(self.dir / "server", domain, **server)

    def add_agent(self, name, **options):
        """options: of Agent."""
        (self.dir / name).mkdir()
        self.agents[name] = Agent(self.dir / name, self.server, name, **options)
        return self.agents[name]

    def create(self, entries):
        """Entries as the API has them, in JSON; the result of each."""
        def plain(entry):
            return {**entry, **{k: self.id(entry[k]["path"]) for k in ("spiffe_id", "parent_id")}}
        return self.server.call("entry", "create", "-data", "-",
                                input=json.dumps({"entries": list(map(plain, entries))}))["results"]

    def update(self, entry, agent, path, selector, ttl=None, federates=()):
        domains = [a for f in federates for a in ("-federatesWith", f"spiffe://{f}")]
        self.server.call("entry", "update", "-entryID", entry, "-parentID", agent.id, "-spiffeID", self.id(path), "-selector",
                         selector, *(("-x509SVIDTTL", str(ttl)) if ttl else ()), *domains)

    def delete(self, *ids):
        for id in ids:
            self.server.call("entry", "delete", "-entryID", id)

    def list(self):
        """All entries, as the API has them."""
        return self.server.call("entry", "show")["entries"]

    def set_bundle(self, domain, pem):
        self.server.call("bundle", "set", "-id", f"spiffe://{domain}", input=pem)

    def prepare(self):
        return self.server.call("localauthority", "x509", "prepare")["prepared_authority"]["authority_id"]

    def old(self):
        return self.server.call("localauthority", "x509", "show")["old"]["authority_id"]

    def step(self, step, id):
        """With an authority: activate, taint or revoke it."""
        self.server.call("localauthority", "x509", step, "-authorityID", id)

    def end(self):
        for program in [*self.agents.values(), self.server]:
            program.end()

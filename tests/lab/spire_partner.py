"""SPIRE, played by tests/peers/spire-partner: the same words as lab.spire has, and the faults that a real one will not make
on demand. Its README.md lists them."""
import http.client
import json
import re
import socket
import subprocess

from lab import peers
from lab.daemon import WAIT_S
from lab.spire import ADAPTER, Installation, connects, wait_for

missing = peers.missing
PACE = "300ms"  # of the server's cache and of the agents' sync


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=WAIT_S)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Refused(Exception):
    """What the partner, or the API behind it, answered."""


class Control:
    def __init__(self, path):
        self.path = path

    def __call__(self, method, path, body=None):
        connection = Connection(self.path)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status != 200:
            raise Refused(text.strip())
        return json.loads(text)


def fault(kind, on="", count=0, **more):
    """more: text, code, value, every."""
    return {"kind": kind, "on": on, "count": count, **more}


class Played:
    """A server or an agent of the partner."""

    def __init__(self, control, path):
        self.control, self.path = control, path

    def say(self, what, body=None):
        self.control("POST", f"{self.path}/{what}", body)

    def state(self):
        return self.control("GET", self.path)

    def faults(self, *list):
        """These, and no others any more."""
        self.say("faults", list)

    def end(self, number=None):
        self.say("kill")

    def begin(self):
        self.say("start")


class Server(Played):
    def __init__(self, control, dir):
        super().__init__(control, "/server")
        self.socket = dir / "server/api.sock"
        self.port = self.state()["port"]

    def again(self):
        self.begin()
        wait_for(lambda: connects(self.socket), self.socket)

    def bundle(self):
        """The authorities of its trust domain, as PEM."""
        return self.state()["bundle"]

    def authority(self):
        """Certificate and key of the CA that signs, as PEM."""
        return self.state()["authority"].encode()


class Agent(Played):
    def __init__(self, control, domain, name, **options):
        super().__init__(control, f"/agents/{name}")
        self.name, self.id = name, f"spiffe://{domain}/node/{name}"
        made = control("POST", "/agents", {"name": name, "alias": self.id, "delegates": [f"spiffe://{domain}{ADAPTER}"],
                                           **options})
        self.attested, self.socket, self.admin = made["id"], made["socket"], made["admin"]
        wait_for(lambda: connects(self.admin), self.admin)

    def again(self):
        self.begin()
        wait_for(lambda: connects(self.admin), self.admin)

    def cached_svids(self):
        return self.state()["svids"]

    def twist(self, *list):
        """Faults, and every stream that is open speaks again."""
        self.faults(*list)
        self.say("wake")


class Partner(Installation):
    kind = "partner"

    def __init__(self, domain="example.org", ca_key="ec-p256", ca_name=""):
        """As lab.spire.Server."""
        super().__init__(domain)
        program = peers.program("spire-partner")
        self.log = self.dir / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [program, "-dir", self.dir, "-domain", domain, "-reload", PACE, "-sync", PACE, "-ca-key-type", ca_key,
                 "-ca-name", ca_name],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def up():
            assert self.process.poll() is None, self.log.read_text()
            return connects(self.dir / "control.sock")
        wait_for(up, "the partner's control channel")
        self.control = Control(self.dir / "control.sock")
        self.server = Server(self.control, self.dir)

    def add_agent(self, name, **options):
        """options: attest_us, what looking at a caller takes; wedge_at, how many calls may wait for a first message."""
        options = {"attest_us": 500, "wedge_at": 64, **options}
        self.agents[name] = Agent(self.control, self.domain, name, **options)
        return self.agents[name]

    def rpc(self, service, method, **request):
        return self.control("POST", f"/rpc/spire.api.server.{service}/{method}", request)

    def create(self, entries):
        return self.rpc("entry.v1.Entry", "BatchCreateEntry", entries=entries)["results"]

    def update(self, entry, agent, path, selector, ttl=None, federates=()):
        whole = {**self._description(agent, path, selector, ttl, federates), "id": entry}
        results = self.rpc("entry.v1.Entry", "BatchUpdateEntry", entries=[whole])["results"]
        assert results[0]["status"]["code"] == 0, results

    def delete(self, *ids):
        results = self.rpc("entry.v1.Entry", "BatchDeleteEntry", ids=ids)["results"]
        assert all(r["status"]["code"] == 0 for r in results), results

    def list(self):
        return self.rpc("entry.v1.Entry", "ListEntries")["entries"]

    def set_bundle(self, domain, pem):
        authorities = [{"asn1": "".join(text.split())} for text in re.findall(r"-BEGIN CERTIFICATE-+(.*?)-+END", pem, re.S)]
        results = self.rpc("bundle.v1.Bundle", "BatchSetFederatedBundle",
                           bundle=[{"trust_domain": domain, "x509_authorities": authorities}])["results"]
        assert results[0]["status"]["code"] == 0, results

    def prepare(self):
        return self.rpc("localauthority.v1.LocalAuthority", "PrepareX509Authority")["prepared_authority"]["authority_id"]

    def old(self):
        return self.rpc("localauthority.v1.LocalAuthority", "GetX509AuthorityState")["old"]["authority_id"]

    def step(self, step, id):
        self.rpc("localauthority.v1.LocalAuthority", f"{step.capitalize()}X509Authority", authority_id=id)

    def clock(self, offset_s):
        self.control("POST", "/clock", {"offset_s": offset_s})

    def end(self):
        self.process.kill()
        self.process.wait(WAIT_S)
        said = self.log.read_text()
        assert "panic:" not in said and "DATA RACE" not in said, said

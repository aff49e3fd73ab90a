"""countersign against the real daemons of one node, in a network namespace of its own, with two workloads on a bridge.
authd comes last: what is said without it is seen first."""
import json
import os
import re
import socket
import subprocess
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab.daemon import BUILD, NOBODY, WAIT_S, Daemon
from lab.netns import Netns
from lab.process import as_user

CLI = BUILD.resolve() / "cli/countersign"
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root for a network namespace")

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: front}}]
    authentication: {mode: required}
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
"""


class Node:
    def __init__(self, folder):
        self.path, self.folder, self.daemons = folder / f"cli-{os.getpid()}", folder, []
        self.ns, self.workloads = Netns("cli"), [Netns("cli0"), Netns("cli1")]
        self.ns.ip("link", "add", "br0", "type", "bridge")
        self.ns.ip("addr", "add", "10.0.1.1/24", "dev", "br0")
        self.ns.ip("link", "set", "br0", "up")
        for i, w in enumerate(self.workloads):
            self.ns.ip("link", "add", f"v{i}", "type", "veth", "peer", "name", "eth0", "netns", w.name)
            self.ns.ip("link", "set", f"v{i}", "master", "br0", "up")
            w.ip("addr", "add", f"10.0.1.{5 + i}/24", "dev", "eth0")
            w.ip("link", "set", "eth0", "up")
        (folder / "policy").mkdir()
        (folder / "policy" / "db.yaml").write_text(POLICY)

    def start(self, program, *args):
        with self.ns.entered():
            self.daemons.append(Daemon(program, "--instance", self.path, *args))

    def stop(self):
        for d in reversed(self.daemons):
            d.stop()
        self.ns.exec(BUILD.resolve() / "authmap/countersign-authd", "--instance", self.path, "--detach", check=False)
        for ns in (self.ns, *self.workloads):
            ns.close()

    def ask(self, *args, user=None):
        return subprocess.run(["nsenter", f"--net={self.ns.path}", *as_user(user), CLI, "--instance", str(self.path), *args],
                              capture_output=True, text=True, timeout=WAIT_S, cwd="/")

    def run(self, *args, code=0, user=None):
        p = self.ask(*args, user=user)
        assert p.returncode == code, (p.returncode, p.stdout, p.stderr)
        return p

    def json(self, *args, code=0):
        return json.loads(self.run(*args, "-o", "json", code=code).stdout)

    def register(self, name, interface, address, *args, code=0):
        return self.run("endpoint", "register", "--id", name, "--label", f"k8s:app={name}", "--label",
                        "k8s:io.kubernetes.pod.namespace=default", "--address", address, "--interface", interface, *args,
                        "-o", "json", code=code)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    n = Node(tmp_path_factory.mktemp("cli"))
    try:
        common = ("--set", "trust_domain=example.org", "--set", "node.name=n1", "--set")
        n.start("identity/countersign-identityd", *common, "node.addresses=10.0.1.1", "--set",
                f"policy.dir={n.folder}/policy")
        n.start("spire-adapter/countersign-spire-adapter", *common, f"local_ca.dir={n.folder}/ca")
        yield n
    finally:
        n.stop()


@pytest.fixture(scope="module")
def db(node):
    """An endpoint that has got as far as it gets without authd."""
    return json.loads(node.register("db", "v0", "10.0.1.5", "--wait", "placed,svid-ready").stdout)


def test_registered(node, db):
    assert db["spiffe_id"] == f"spiffe://example.org/identity/{db['identity']}" and db["node"] == "n1"
    assert {c["step"]: c["met"] for c in db["conditions"]} == {
        "registered": True, "identified": True, "placed": True, "svid-ready": True, "enforced": False}
    assert node.json("endpoint", "list")["endpoints"][0]["conditions"][0]["met"] is True


def test_wait_fails_without_authd(node, db):
    p = node.register("web", "v1", "10.0.1.66", "--timeout", "1s", code=4)
    assert "endpoint web is registered, but not enforced within 1s: datapath-down" in p.stderr
    assert json.loads(p.stdout)["id"] == "web"
    assert node.json("endpoint", "unregister", "web") == {"unregistered": "web"}
    assert "not-registered" in node.run("endpoint", "unregister", "web", code=3).stderr
    # its address is not another identity's at once: who cannot wait for so long hears so at once
    p = node.register("other", "v1", "10.0.1.66", "--timeout", "1s", code=4)
    assert re.search("which is longer than this call waits.*address-in-quarantine", p.stderr)
    node.run("endpoint", "unregister", "other")


def test_refused(node, db):
    assert "interface-taken" in node.register("web", "v0", "10.0.1.6", code=3).stderr
    assert "address-taken" in node.register("web", "v1", "10.0.1.5", code=3).stderr
    assert node.run("endpoint", "register", "--id", "web", "--label", "nosuchsource\x01:a=b", "--address", "10.0.1.7",
                    "--interface", "v1", code=3).stderr.count("\n") == 1


def test_lists(node, db):
    identity = node.json("identity", "list")["identities"][0]
    assert abs(identity.pop("created_unix_ms") / 1000 - time.time()) < 600
    assert identity == {"id": db["identity"], "spiffe_id": db["spiffe_id"], "endpoints": 1,
                        "labels": ["k8s:app=db", "k8s:io.kubernetes.pod.namespace=default"],
                        "nodes": [{"node": "n1", "authority": "self"}]}
    n1 = node.json("node", "list")["nodes"][0]
    assert (n1["name"], n1["addresses"], n1["self"], n1["port"]) == ("n1", ["10.0.1.1"], True, 4250)
    policy = node.json("policy", "list")["policies"][0]
    assert policy["name"] == "default/db"
    assert "wider-than-written" in {f["kind"] for f in policy["findings"]}
    svids = {s["identity"]: s for s in node.json("svid", "list")["svids"]}
    assert svids[db["identity"]]["state"] == "ready" and svids[db["identity"]]["spiffe_id"] == db["spiffe_id"]
    assert re.search(r"\bin (59|60)m\b", node.run("svid", "list").stdout)


def test_status_and_metrics(node, db):
    daemons = {d["daemon"]: d for d in node.json("status", code=1)["daemons"]}
    assert daemons["identityd"]["running"] and daemons["spire-adapter"]["running"] and not daemons["authd"]["running"]
    assert (daemons["identityd"]["role"], daemons["identityd"]["leadership"]) == ("all", "leader") and daemons["identityd"]["node"] == "n1"
    with node.ns.entered():
        x = Daemon("cli/countersign", "--instance", node.path, "exporter", "--listen", "127.0.0.1:0")
    url = re.search(r'"url":"([^"]+)"', x.output())[1]
    text = node.ns.exec("/usr/bin/python3", "-c", "import sys, urllib.request as u; "
                        "print(u.urlopen(sys.argv[1]).read().decode())", url)
    up = {s.labels["daemon"]: s.value for f in text_string_to_metric_families(text) for s in f.samples
          if s.name == "countersign_up"}
    assert up == {"identityd": 1, "spire-adapter": 1, "authd": 0}
    x.stop()


def test_without_a_role(node, db):
    """Nobody's questions are not answered, and the sentence says why."""
    for folder in (node.path, *node.path.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    err = node.run("identity", "list", user=NOBODY, code=1).stderr
    assert "your user has no role there" in err and "directory.sock" in err
    table = node.run("status", user=NOBODY, code=1).stdout
    assert re.search(r"^identityd +no access ", table, re.M) and re.search(r"^authd +down ", table, re.M), table


def test_policy_check(node):
    """The real compiler: findings are told, and a file that does not parse has its line."""
    def check(*args):
        return subprocess.run([CLI, "policy", "check", *args], capture_output=True, text=True, timeout=WAIT_S)
    good = node.folder / "policy/db.yaml"
    p = check(good)
    assert p.returncode == 0 and "wider-than-written" in p.stdout, (p.stdout, p.stderr)
    assert check("--strict", good).returncode == 1
    assert json.loads(check(good, "-o", "json").stdout)
    bad = node.folder / "bad.yaml"
    bad.write_text(POLICY.replace("endpointSelector", "endpointSelektor"))
    p = check(bad)
    assert p.returncode == 1 and "bad.yaml" in p.stdout + p.stderr and "endpointSelektor" in p.stdout + p.stderr
    assert check(node.folder / "none.yaml").returncode == 2


# ---- with authd ----

@pytest.fixture(scope="module")
def front(node, db):
    """authd runs, and a second workload is there whose first datagram to db has authenticated the pair."""
    if not os.path.ismount("/sys/fs/bpf"):
        subprocess.run(["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"], check=True)
    node.start("authmap/countersign-authd", "--set", "handshaker.user=", "--set",
               f"handshaker.path={BUILD.resolve()}/authmap/handshaker/countersign-handshaker")
    made = json.loads(node.register("front", "v1", "10.0.1.6", "--wait", "enforced,svid-ready").stdout)
    node.register("db", "v0", "10.0.1.5")
    return made


def send(node):
    """A datagram from front to db, until it arrives."""
    with node.workloads[0].entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(("10.0.1.5", 9999))
    with node.workloads[1].entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.settimeout(WAIT_S)
        sender.sendto(b"hello", ("10.0.1.5", 9999))
        assert receiver.recv(16) == b"hello"


def test_all_is_well(node, db, front):
    end = time.monotonic() + WAIT_S  # authd looks at itself once a second
    while (p := node.ask("status")).returncode and time.monotonic() < end:
        pass
    assert p.returncode == 0 and p.stdout.count("healthy") == 3, p.stdout
    assert {c["step"] for c in front["conditions"] if c["met"]} == {
        "registered", "identified", "placed", "enforced", "svid-ready"}
    assert re.search(r"^front +v1 +10\.0\.1\.6 +\d+ +ready ", node.run("endpoint", "list").stdout, re.M)


def test_auth_list_and_explain(node, db, front):
    before = node.json("auth", "explain", "db", "10.0.1.6")
    assert (before["local"], before["remote"], before["entry"]) == (db["identity"], front["identity"], None)
    assert before["to"]["verdict"] == "require" and not before["to"]["passes"]
    send(node)
    entries = {(e["local"], e["remote"]): e for e in node.json("auth", "list")["entries"]}
    e = entries[db["identity"], front["identity"]]
    assert e["state"] == "live" and e["role"] == "loopback" and e["remote_spiffe_id"] == front["spiffe_id"]
    assert re.search(rf"^ *{db['identity']} +{front['identity']} +n1 +live +in (59|60)m ", node.run("auth", "list").stdout, re.M)
    assert node.json("auth", "list", "--remote", "9999")["entries"] == []
    out = node.run("auth", "explain", "v0", "10.0.1.6").stdout
    assert "  to    passes, policy says require by default/db ingress[0]\n" in out
    assert "(world)" in node.run("auth", "explain", "db", "192.0.2.9").stdout
    assert "not-registered" in node.run("auth", "explain", "nobody", "10.0.1.6", code=3).stderr


def test_auth_flush(node, db, front):
    send(node)
    assert node.json("auth", "flush", "--remote", str(front["identity"]))["flushed"] == 1
    assert node.json("auth", "list", "--remote", str(front["identity"]))["entries"] == []
    assert node.json("auth", "flush", "--remote", str(front["identity"]))["flushed"] == 0
    send(node)  # back at once
    assert node.json("auth", "list", "--remote", str(front["identity"]))["entries"][0]["state"] == "live"
    assert "nosuchnode" in node.run("auth", "flush", "--node", "nosuchnode", code=3).stderr

"""countersign against the real identityd and spire-adapter of one node, in a network namespace of its own."""
import json
import os
import re
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab.daemon import BUILD, NOBODY, WAIT_S, Daemon
from lab.netns import Netns

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
        self.ns, self.path, self.folder, self.daemons = Netns("cli"), folder / "n1", folder, []
        self.ns.ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        self.ns.ip("link", "set", "v0", "up")
        (folder / "policy").mkdir()
        (folder / "policy" / "db.yaml").write_text(POLICY)

    def start(self, program, *args):
        with self.ns.entered():
            self.daemons.append(Daemon(program, "--instance", self.path, "--set", "trust_domain=example.org", "--set",
                                       "node.name=n1", *args))

    def stop(self):
        for d in reversed(self.daemons):
            d.stop()
        self.ns.close()

    def run(self, *args, code=0, user=None):
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        p = subprocess.run(["nsenter", f"--net={self.ns.path}", *as_user, CLI, "--instance", str(self.path), *args],
                           capture_output=True, text=True, timeout=WAIT_S, cwd="/")
        assert p.returncode == code, (p.returncode, p.stdout, p.stderr)
        return p

    def json(self, *args, code=0):
        return json.loads(self.run(*args, "-o", "json", code=code).stdout)

    def register(self, name, interface, address, *args, code=0):
        return self.run("endpoint", "register", "--id", name, "--label", f"k8s:app={name}", "--address", address,
                        "--interface", interface, *args, "-o", "json", code=code)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    n = Node(tmp_path_factory.mktemp("cli"))
    try:
        n.start("identity/countersign-identityd", "--set", "node.addresses=192.0.2.1", "--set",
                f"policy.dir={n.folder}/policy")
        n.start("spire-adapter/countersign-spire-adapter", "--set", f"local_ca.dir={n.folder}/ca")
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
    p = node.register("web", "v1", "10.0.1.6", "--timeout", "500ms", code=4)
    assert "endpoint web is registered, but not enforced within 500ms: datapath-down" in p.stderr
    assert json.loads(p.stdout)["id"] == "web"
    assert node.json("endpoint", "unregister", "web") == {"unregistered": "web"}
    assert "not-registered" in node.run("endpoint", "unregister", "web", code=3).stderr


def test_refused(node, db):
    assert "interface-taken" in node.register("web", "v0", "10.0.1.6", code=3).stderr
    assert "address-taken" in node.register("web", "v1", "10.0.1.5", code=3).stderr
    assert node.run("endpoint", "register", "--id", "web", "--label", "nosuchsource\x01:a=b", "--address", "10.0.1.7",
                    "--interface", "v1", code=3).stderr.count("\n") == 1


def test_lists(node, db):
    identity = node.json("identity", "list")["identities"][0]
    assert identity == {"id": db["identity"], "spiffe_id": db["spiffe_id"], "labels": ["k8s:app=db"], "endpoints": 1,
                        "nodes": [{"node": "n1", "authority": "self"}]}
    n1 = node.json("node", "list")["nodes"][0]
    assert (n1["name"], n1["addresses"], n1["self"], n1["port"]) == ("n1", ["192.0.2.1"], True, 4250)
    policy = node.json("policy", "list")["policies"][0]
    assert policy["name"] == "default/db"
    assert "wider-than-written" in {f["kind"] for f in policy["findings"]}
    svids = {s["identity"]: s for s in node.json("svid", "list")["svids"]}
    assert svids[db["identity"]]["state"] == "ready" and svids[db["identity"]]["spiffe_id"] == db["spiffe_id"]
    assert re.search(r"\bin (59|60)m\b", node.run("svid", "list").stdout)


def test_status_and_metrics(node, db):
    daemons = {d["daemon"]: d for d in node.json("status", code=1)["daemons"]}
    assert daemons["identityd"]["running"] and daemons["spire-adapter"]["running"] and not daemons["authd"]["running"]
    assert daemons["identityd"]["role"] == "all" and daemons["identityd"]["node"] == "n1"
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
    assert "has your user a role there" in err and "directory.sock" in err


def test_policy_check(node):
    """The real compiler: findings are told, and a file that does not parse has its line."""
    path = {"PATH": f"{BUILD.resolve() / 'identity'}:{os.environ['PATH']}"}

    def check(*args):
        return subprocess.run([CLI, "policy", "check", *args], capture_output=True, text=True,
                              env=path, timeout=WAIT_S)
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

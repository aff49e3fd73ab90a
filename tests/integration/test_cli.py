"""countersign, as people type it, against services of grpcio: what they answer is what is shown, and whatever goes wrong
is said. (What the real daemons answer is in their own tests.)"""
import concurrent.futures
import contextlib
import datetime as dt
import json
import os
import pty
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client.parser import text_string_to_metric_families

from lab.daemon import NOBODY
from lab.process import as_user
from lab.protos import (auth, auth_rpc, common, directory, directory_rpc, endpoints, endpoints_rpc, status, status_rpc,
                        svids, svids_rpc)

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("CS_BUILD", ROOT / "build" / "release")).resolve()
CLI = BUILD / "cli" / "countersign"
WAIT_S = 60

SOCKETS = {
    "identityd": {"status.sock": (status_rpc, "Status"), "directory.sock": (directory_rpc, "Directory"),
                  "endpoints.sock": (endpoints_rpc, "Endpoints")},
    "spire-adapter": {"status.sock": (status_rpc, "Status"), "svids.sock": (svids_rpc, "Svids")},
    "authd": {"status.sock": (status_rpc, "Status"), "auth.sock": (auth_rpc, "Auth")},
}


class Node:
    """An instance directory whose services are fakes: {"Directory.Follow": function(request, context)}."""

    def __init__(self, path):
        self.path, self.servers, self.requests = path, [], []

    def serve(self, daemon, **methods):
        for socket, (rpc, service) in SOCKETS[daemon].items():
            mine = {name.split("_", 1)[1]: fn for name, fn in methods.items() if name.startswith(service + "_")}
            if not mine:
                continue
            fake = type(service, (getattr(rpc, service + "Servicer"),), {
                name: (lambda fn: lambda _self, request, context: self._call(fn, request, context))(fn)
                for name, fn in mine.items()})()
            folder = self.path / daemon
            folder.mkdir(exist_ok=True, parents=True)
            server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
            getattr(rpc, f"add_{service}Servicer_to_server")(fake, server)
            server.add_insecure_port(f"unix:{folder}/{socket}")
            server.start()
            self.servers.append(server)

    def _call(self, fn, request, context):
        self.requests.append(request)
        return fn(request, context)

    def stop(self):
        for s in self.servers:
            s.stop(None).wait()

    def run(self, *args, code=0, **kw):
        p = subprocess.run([CLI, *args, "--instance", str(self.path)], capture_output=True, text=True, timeout=WAIT_S, **kw)
        assert p.returncode == code, (p.returncode, p.stdout, p.stderr)
        return p

    def json(self, *args, code=0):
        return json.loads(self.run(*args, "-o", "json", code=code).stdout)

    def table(self, *args, code=0):
        return self.run(*args, code=code).stdout.splitlines()


@pytest.fixture
def node(tmp_path):
    n = Node(tmp_path / "n1")
    yield n
    n.stop()


def now_ms():
    return int(time.time() * 1000)


def ip(*b):
    return common.Address(ip=bytes(b))


def label(source, key, value):
    return common.Label(source=source, key=key, value=value)


# ---- usage ----

def usage(*args):
    p = subprocess.run([CLI, *args], capture_output=True, text=True, timeout=WAIT_S)
    return p.returncode, p.stdout, p.stderr


COMMANDS = ["status", "identity list", "identity lint", "identity gc", "revocation add", "revocation list", "revocation remove", "store copy",
            "store new-epoch", "endpoint list", "endpoint register", "endpoint unregister", "node list",
            "policy list", "policy check", "svid list", "svid inspect", "bundle list", "bundle show", "auth list", "auth explain", "auth flush", "bootstrap spire",
            "exporter"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command):
    code, out, err = usage(*command.split(), "--help")
    assert code == 0 and not err
    assert out.startswith(f"countersign {command}: ")
    assert f"Usage: countersign {command}" in out
    assert re.search(rf"\nExamples:\n  countersign {command}", out) or f"  countersign {command}" in out
    assert "Exit codes: 0 fine, 1 failure, 2 wrong usage, 3 refused or not found, 4 not yet" in out


def test_help_of_the_program():
    for args in ([], ["help"], ["--help"], ["-h"]):
        code, out, err = usage(*args) if args else usage("--help")
        assert code == 0 and not err
        for command in COMMANDS:
            assert f"\n  {command} " in out
    assert usage("--version")[1].startswith("countersign 0.")


@pytest.mark.parametrize("args, says", [
    ([], "a command is missing"),
    (["stauts"], "did you mean 'status'?"),
    (["identity"], "'identity' needs one more word: list, lint, gc; "),
    (["identity", "lst"], "did you mean 'identity list'?"),
    (["frobnicate"], "there is no command 'frobnicate'"),
    (["status", "-o", "xml"], "--output xml: write table or json"),
    (["status", "--instanc", "/x"], "did you mean --instance?"),
    (["status", "extra"], "usage: countersign status; see"),
    (["status", "--timeout", "5"], "--timeout: '5' is not a duration"),
    (["status", "--timeout", "0"], "at least 1ms"),
    (["auth", "explain", "db"], "usage: countersign auth explain ENDPOINT|INTERFACE ADDRESS"),
    (["auth", "explain", "db", "10.0.0.0/8"], "'10.0.0.0/8' is no IP address"),
    (["auth", "list", "--local", "x"], "--local x: not a number from 1 to"),
    (["auth", "list", "--local", "0"], "--local 0: not a number from 1 to"),
    (["auth", "list", "--local", "4294967296"], "not a number from 1 to 4294967295"),
    (["auth", "flush"], "say what to flush"),
    (["auth", "flush", "--all", "--local", "5"], "--all alone"),
    (["endpoint", "register", "--id", "db"], "--label LABEL is missing"),
    (["endpoint", "register", "--id", "db", "--id", "db2"], "--id is given twice"),
    (["exporter", "-o", "json"], "has no JSON form"),
    (["exporter", "--listen", "localhost:1"], "write ADDRESS:PORT"),
    (["exporter", "--listen", "127.0.0.1:70000"], "write ADDRESS:PORT"),
    (["exporter", "--listen", "127.0.0.1:"], "write ADDRESS:PORT"),
    (["exporter", "--listen", "::1:80"], "write ADDRESS:PORT"),
    (["status", "--instance", "/" + "x" * 120], "shorter"),
])
def test_wrong_usage(args, says):
    code, out, err = usage(*args)
    if args[:1] == ["status"] and "--instance" in args:
        assert says in out and code == 1  # it is an answer about every daemon
        return
    assert code == 2 and not out and err.startswith("countersign: ") and says in err, (code, out, err)
    assert err.count("\n") == 1


REGISTER = ["endpoint", "register", "--id", "db", "--label", "k8s:app=db", "--address", "10.0.1.5", "--interface", "cs-db"]


@pytest.mark.parametrize("args, says", [
    (["--label", "app=db"], "'app=db' is no label; write SOURCE:KEY=VALUE"),
    (["--label", "k8s:app"], "is no label"),
    (["--label", ":app=db"], "is no label"),
    (["--label", "k8s:=db"], "is no label"),
    (["--address", "10.0.1"], "'10.0.1' is no IP address"),
    (["--wait", "ready"], "--wait ready: not a list of registered, identified, placed, enforced, svid-ready"),
    (["--wait", "enforced,"], "not a list of"),
    (["--wait", ""], "not a list of"),
])
def test_wrong_registration(node, args, says):
    assert says in node.run(*REGISTER, *args, code=2).stderr


def test_options_before_the_command(node):
    serve_status(node)
    p = subprocess.run([CLI, "--instance", str(node.path), "-o", "json", "status"], capture_output=True, text=True)
    assert json.loads(p.stdout)["healthy"] is True and p.returncode == 0


# ---- status ----

def reply(daemon, healthy=True, checks=(), **kw):
    return status.StatusReply(daemon=daemon, version="0.1.0", role="all", node="node1", healthy=healthy,
                              started_unix_ms=now_ms() - 3 * 3600_000, checks=checks, **kw)


def serve_status(node, **replies):
    for daemon in SOCKETS:
        r = replies.get(daemon.replace("-", "_"), reply(daemon))
        node.serve(daemon, Status_Get=lambda _r, _c, r=r: r)


def test_status_healthy(node):
    serve_status(node)
    lines = node.table("status")
    assert lines[0].split() == ["DAEMON", "STATE", "STARTED", "VERSION", "ROLE", "NODE"]
    assert [line.split() for line in lines[1:]] == [
        [d, "healthy", "3h", "ago", "0.1.0", "all", "node1"] for d in ("identityd", "spire-adapter", "authd")]
    # columns are aligned
    assert {line.index("healthy") for line in lines[1:]} == {lines[0].index("STATE")}
    doc = node.json("status")
    assert doc["healthy"] is True and doc["instance"] == str(node.path)
    assert [d["daemon"] for d in doc["daemons"]] == ["identityd", "spire-adapter", "authd"]
    assert doc["daemons"][0]["error"] is None
    assert [d["leadership"] for d in doc["daemons"]] == ["", "", ""]


@pytest.mark.parametrize("role,leadership,shown", [
    ("cluster", status.LEADERSHIP_LEADER, "cluster, leader"), ("cluster", status.LEADERSHIP_FOLLOWER, "cluster, follower"),
    ("all", status.LEADERSHIP_LEADER, "all"), ("node", status.LEADERSHIP_NONE, "node")])
def test_status_of_the_cluster_role(node, role, leadership, shown):
    r = reply("identityd", leadership=leadership)
    r.role = role
    serve_status(node, identityd=r)
    assert re.split(r"  +", node.table("status")[1])[4] == shown
    says = {status.LEADERSHIP_LEADER: "leader", status.LEADERSHIP_FOLLOWER: "follower", status.LEADERSHIP_NONE: ""}
    assert (node.json("status")["daemons"][0]["role"], node.json("status")["daemons"][0]["leadership"]) == (role, says[leadership])


def test_status_degraded_and_down(node):
    bad = status.Check(name="directory", ok=False, since_unix_ms=now_ms() - 90_000,
                       reason=common.Reason(name="directory-stale", detail="silent for 90 s"))
    node.serve("authd", Status_Get=lambda r, c: reply("authd", False, [status.Check(name="datapath", ok=True), bad]))
    lines = node.table("status", code=1)
    assert lines[1].split() == ["identityd", "down", "-", "-", "-", "-"]
    assert lines[3].split()[:2] == ["authd", "degraded"]
    assert f"identityd: there is no socket {node.path}/identityd/status.sock; is countersign-identityd running, and is " \
           "--instance DIR right?" in lines
    assert any(re.fullmatch(r"authd: directory: directory-stale: silent for 90 s \(since (90|9\d)s ago\)", line)
               for line in lines), lines
    assert not any("datapath" in line for line in lines)
    doc = node.json("status", code=1)
    assert doc["healthy"] is False
    assert doc["daemons"][2]["checks"][1] == {
        "name": "directory", "ok": False, "since_unix_ms": bad.since_unix_ms,
        "reason": {"name": "directory-stale", "detail": "silent for 90 s"}}


def test_colour_only_on_a_terminal(node):
    serve_status(node)
    assert "\x1b" not in node.run("status").stdout

    def on_terminal(env):
        master, slave = pty.openpty()
        p = subprocess.Popen([CLI, "status", "--instance", str(node.path)], stdout=slave, env={**os.environ, **env})
        os.close(slave)
        out = b""
        with contextlib.suppress(OSError):  # EIO at the end
            while chunk := os.read(master, 65536):
                out += chunk
        os.close(master)
        assert p.wait(WAIT_S) == 0
        return out
    assert b"\x1b[32mhealthy\x1b[0m" in on_terminal({"NO_COLOR": ""})
    assert b"\x1b" not in on_terminal({"NO_COLOR": "1"})


# ---- the directory ----

def batch(*records, synced=True, **kw):
    return directory.DirectoryBatch(position=directory.Position(epoch=7, revision=3), records=records, complete=synced,
                                    synced=synced, **kw)


def world():
    r = directory.Record
    return [
        r(node=directory.Node(name="node2", addresses=[ip(10, 0, 0, 2)], port=4250, path="unknown")),
        r(node=directory.Node(name="node1", addresses=[ip(10, 0, 0, 1), ip(*[0xfd] + [0] * 14 + [1])], port=4250,
                              path="wireguard", self=True)),
        r(node=directory.Node(name="node3", addresses=[ip(10, 0, 0, 3)], port=4250, path="unknown", gone=True)),
        r(identity=directory.Identity(id=257, labels=[label("k8s", "app", "db")],
                                      spiffe_id="spiffe://example.org/identity/257")),
        r(identity=directory.Identity(id=256, labels=[label("k8s", "app", "front"), label("k8s", "tier", "")],
                                      spiffe_id="spiffe://example.org/identity/256")),
        r(placement=directory.Placement(identity=257, node="node1", authority="self")),
        r(placement=directory.Placement(identity=257, node="node2", authority="static")),
        r(endpoint=directory.Endpoint(node="node1", id="db", identity=257, addresses=[ip(10, 0, 1, 5)])),
        r(endpoint=directory.Endpoint(node="node1", id="new", identity=0)),
        r(policy=directory.Policy(name="default/db", file="db.yaml", sha256=b"\x01" * 32, findings=[
            directory.Finding(rule="ingress[0]", kind="wider-than-written", text="ports are not looked at")])),
        r(policy=directory.Policy(name="default/audit", file="audit.yaml", audit=True)),
    ]


def test_identity_list(node):
    node.serve("identityd", Directory_Follow=lambda r, c: iter([batch(*world()[:6], synced=False), batch(*world()[6:])]))
    doc = node.json("identity", "list")
    assert node.requests[0].once
    assert set(node.requests[0].kinds) == {directory.KIND_IDENTITY, directory.KIND_PLACEMENT, directory.KIND_ENDPOINT}
    assert doc == {"silent_ms": 0, "identities": [
        {"id": 256, "spiffe_id": "spiffe://example.org/identity/256", "labels": ["k8s:app=front", "k8s:tier="],
         "nodes": [], "endpoints": 0, "created_unix_ms": 0},
        {"id": 257, "spiffe_id": "spiffe://example.org/identity/257", "labels": ["k8s:app=db"],
         "nodes": [{"node": "node1", "authority": "self"}, {"node": "node2", "authority": "static"}], "endpoints": 1,
         "created_unix_ms": 0}]}
    lines = node.table("identity", "list")
    assert re.split(r"  +", lines[0].strip()) == ["ID", "SPIFFE ID", "ENDPOINTS", "PLACED ON", "LABELS"]
    assert re.split(r"  +", lines[1].strip()) == ["256", "spiffe://example.org/identity/256", "0", "-",
                                                 "k8s:app=front, k8s:tier="]
    assert re.split(r"  +", lines[2].strip())[3] == "node1 (self-asserted), node2"


def test_node_list(node):
    node.serve("identityd", Directory_Follow=lambda r, c: iter([batch(*world(), silent_ms=180_000)]))
    doc = node.json("node", "list")
    assert doc["silent_ms"] == 180_000
    assert [n["name"] for n in doc["nodes"]] == ["node1", "node2", "node3"]
    assert doc["nodes"][0] == {"name": "node1", "addresses": ["10.0.0.1", "fd00::1"], "port": 4250, "path": "wireguard",
                               "self": True, "gone": False, "identities": 1, "endpoints": 2}
    lines = node.table("node", "list")
    assert [re.split(r"  +", line)[:2] for line in lines[1:4]] == [
        ["node1", "this node"], ["node2", "known"], ["node3", "gone"]]
    assert lines[4] == "The cluster role was last heard 3m ago; this is what was known then."


def test_policy_list(node):
    node.serve("identityd", Directory_Follow=lambda r, c: iter([batch(*world())]))
    assert node.json("policy", "list")["policies"] == [
        {"name": "default/audit", "file": "audit.yaml", "sha256": "", "audit": True, "findings": []},
        {"name": "default/db", "file": "db.yaml", "sha256": "01" * 32, "audit": False, "findings": [
            {"rule": "ingress[0]", "kind": "wider-than-written", "text": "ports are not looked at"}]}]
    lines = node.table("policy", "list")
    assert lines[1].split() == ["default/audit", "audit", "0", "audit.yaml"]
    assert lines[2].split() == ["default/db", "enforce", "1", "db.yaml"]
    assert lines[3] == "default/db ingress[0]: wider-than-written: ports are not looked at"


@pytest.mark.parametrize("what", ["identity", "node", "policy"])
def test_empty_directory(node, what):
    node.serve("identityd", Directory_Follow=lambda r, c: iter([batch()]))
    plural = {"identity": "identities", "node": "nodes", "policy": "policies"}[what]
    assert node.table(what, "list") == [f"no {plural}"]
    assert node.json(what, "list")[plural] == []


def test_incomplete_directory(node):
    """An answer that ends before it is complete is no list."""
    node.serve("identityd", Directory_Follow=lambda r, c: iter([batch(*world()[:3], synced=False)]))
    p = node.run("identity", "list", code=1)
    assert not p.stdout and "ended its answer before it was complete" in p.stderr


def test_hostile_texts(node):
    """Nothing that a daemon says moves the cursor or breaks the JSON."""
    evil = "a\x1b[31m\nb\u009b2J\x7f"
    node.serve("identityd", Directory_Follow=lambda r, c: iter([batch(
        directory.Record(policy=directory.Policy(name=evil, file="\x1b]0;x\x07")),
        directory.Record(policy=directory.Policy(name="long", file="x" * 5000)))]))
    out = node.run("policy", "list").stdout
    assert out.count("\n") == 3 and not re.search("[\x00-\x09\x0b-\x1f\x7f\u0080-\u009f]", out)
    assert node.json("policy", "list")["policies"][0]["name"] == evil


# ---- endpoints ----

STEPS = ["STEP_REGISTERED", "STEP_IDENTIFIED", "STEP_PLACED", "STEP_ENFORCED", "STEP_SVID_READY"]


def endpoint(name="db", met=5, reason=("no-local-svid", "the adapter is not there")):
    conditions = [endpoints.Condition(step=getattr(endpoints, s), met=i < met, since_unix_ms=now_ms() - 5000,
                                      reason=None if i < met else common.Reason(name=reason[0], detail=reason[1]))
                  for i, s in enumerate(STEPS)]
    return endpoints.EndpointStatus(
        spec=endpoints.EndpointSpec(id=name, labels=[label("k8s", "app", "db")], addresses=[ip(10, 0, 1, 5)],
                                    interface="cs-db"),
        node="node1", identity=257, spiffe_id="spiffe://example.org/identity/257", incarnation=2, conditions=conditions,
        identity_labels=[label("k8s", "app", "db")])


def test_endpoint_list(node):
    filtered = endpoint("db")
    filtered.spec.labels.append(label("k8s", "pod-template-hash", "1"))
    node.serve("identityd", Endpoints_List=lambda r, c: endpoints.ListReply(endpoints=[
        endpoint("web", 3, ("datapath-down", "")), filtered]))
    lines = node.table("endpoint", "list")
    assert re.split(r"  +", lines[1]) == ["db", "cs-db", "10.0.1.5", "257", "ready", "k8s:app=db, k8s:pod-template-hash=1",
                                           "k8s:pod-template-hash=1"]
    assert re.split(r"  +", lines[2])[4:] == ["not enforced: datapath-down", "k8s:app=db", "-"]
    doc = node.json("endpoint", "list")["endpoints"]
    assert [e["filtered_labels"] for e in doc] == [["k8s:pod-template-hash=1"], []]
    assert [e["id"] for e in doc] == ["db", "web"]
    assert doc[1]["conditions"][3]["reason"] == {"name": "datapath-down", "detail": ""}
    assert doc[1]["conditions"][0]["reason"] is None and doc[1]["conditions"][0]["step"] == "registered"


def test_register(node):
    node.serve("identityd", Endpoints_RegisterEndpoint=lambda r, c: endpoint())
    p = node.run(*REGISTER, "--label", "k8s:io.kubernetes.pod.namespace=a=b", "--address", "fd00::5", "--dhcp", "--wait",
                 "svid-ready,enforced", "--timeout", "7s")
    r = node.requests[0]
    assert list(r.wait_for) == [endpoints.STEP_SVID_READY, endpoints.STEP_ENFORCED]
    assert r.spec == endpoints.EndpointSpec(
        id="db", labels=[label("k8s", "app", "db"), label("k8s", "io.kubernetes.pod.namespace", "a=b")],
        addresses=[ip(10, 0, 1, 5), ip(*[0xfd] + [0] * 14 + [5])], interface="cs-db", dhcp=True)
    lines = p.stdout.splitlines()
    assert lines[0] == "endpoint db, identity 257, spiffe://example.org/identity/257"
    assert [line.split()[:2] for line in lines[2:]] == [
        ["registered", "yes"], ["identified", "yes"], ["placed", "yes"], ["enforced", "yes"], ["svid-ready", "yes"]]
    assert re.search(r" [5-9]s ago", lines[2])
    assert node.json(*REGISTER)["identity"] == 257
    assert list(node.requests[1].wait_for) == []


def test_register_deadline_is_sent(node):
    left = []
    node.serve("identityd", Endpoints_RegisterEndpoint=lambda r, c: left.append(c.time_remaining()) or endpoint())
    node.run(*REGISTER, "--timeout", "7s")
    node.run(*REGISTER)
    assert 1 < left[0] <= 7 and 10 < left[1] <= 30


@pytest.mark.parametrize("wait, met, says", [
    ([], 3, "endpoint db is registered, but not enforced within 300ms: no-local-svid: the adapter is not there"),
    (["--wait", "svid-ready"], 4, "endpoint db is registered, but not svid-ready within 300ms: no-local-svid"),
    (["--wait", "svid-ready,placed"], 2, "endpoint db is registered, but not placed within 300ms: no-local-svid"),
    (["--wait", "svid-ready"], 1, "but not svid-ready within 300ms, because it is not identified: no-local-svid"),
])
def test_register_wait_fails(node, wait, met, says):
    stop = threading.Event()
    node.serve("identityd", Endpoints_RegisterEndpoint=lambda r, c: (c.add_callback(stop.set), stop.wait(WAIT_S)) and endpoint(),
               Endpoints_List=lambda r, c: endpoints.ListReply(endpoints=[endpoint("other"), endpoint("db", met)]))
    p = node.run(*REGISTER, *wait, "--timeout", "300ms", code=4)
    assert says in p.stderr
    assert [line.split()[1] for line in p.stdout.splitlines()[2:]] == ["yes"] * met + ["no"] * (5 - met)


def test_register_wait_fails_at_the_server(node):
    """The server's own end of the wait is the same answer."""
    node.serve("identityd", Endpoints_List=lambda r, c: endpoints.ListReply(endpoints=[endpoint("db", 3)]),
               Endpoints_RegisterEndpoint=lambda r, c: c.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "enforced: datapath-down"))
    assert "not enforced" in node.run(*REGISTER, code=4).stderr


def test_register_without_the_store(node):
    """Said at once, because nobody knows for how long; it is registered all the same."""
    def unavailable(_request, context):
        context.set_trailing_metadata([("countersign-reason", "store-unavailable")])
        context.abort(grpc.StatusCode.UNAVAILABLE, "endpoint 'db' is registered, but not placed: store-unavailable")
    node.serve("identityd", Endpoints_RegisterEndpoint=unavailable,
               Endpoints_List=lambda r, c: endpoints.ListReply(endpoints=[endpoint("other"), endpoint("db", 2)]))
    p = node.run(*REGISTER, code=4)
    assert "'db' is registered, but not placed: store-unavailable" in p.stderr
    assert [line.split()[1] for line in p.stdout.splitlines()[2:]] == ["yes"] * 2 + ["no"] * 3


def test_register_nothing_registered(node):
    node.serve("identityd", Endpoints_List=lambda r, c: endpoints.ListReply(),
               Endpoints_RegisterEndpoint=lambda r, c: c.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "slow"))
    p = node.run(*REGISTER, code=1)
    assert "gave no answer" in p.stderr and "slow" in p.stderr and not p.stdout


def test_register_refused(node):
    def refuse(_request, context):
        context.set_trailing_metadata([("countersign-reason", "address-taken")])
        context.abort(grpc.StatusCode.ALREADY_EXISTS, "10.0.1.5 belongs to endpoint web")
    node.serve("identityd", Endpoints_RegisterEndpoint=refuse)
    p = node.run(*REGISTER, code=3)
    assert p.stderr == "countersign: countersign-identityd: 10.0.1.5 belongs to endpoint web: address-taken\n"


def test_unregister(node):
    def unregister(request, context):
        if request.id != "db":
            context.abort(grpc.StatusCode.NOT_FOUND, f"no endpoint '{request.id}'")
        return endpoints.UnregisterReply()
    node.serve("identityd", Endpoints_UnregisterEndpoint=unregister)
    assert node.table("endpoint", "unregister", "db")[0].startswith("unregistered db")
    assert node.json("endpoint", "unregister", "db") == {"unregistered": "db"}
    assert "no endpoint 'x'" in node.run("endpoint", "unregister", "x", code=3).stderr


# ---- SVIDs ----

def test_svid_list(node):
    now = int(time.time())
    node.serve("spire-adapter", Svids_Follow=lambda r, c: iter([svids.SvidBatch(svids=[
        svids.Svid(identity=258, spiffe_id="spiffe://example.org/identity/258", source="local-ca", withdrawn=True,
                   reason=common.Reason(name="not-registered")),
        svids.Svid(identity=257, spiffe_id="spiffe://example.org/identity/257", generation=0xff, chain=[b"leaf", b"ca"],
                   not_before_unix_s=now - 60, not_after_unix_s=now + 52 * 60 + 30, leaf_sha256=b"\xab" * 32,
                   source="local-ca", since_unix_ms=now_ms() - 60_000_000),
        svids.Svid(identity=259, reason=common.Reason(name="no-local-svid"))], bundles=[
            svids.Bundle(trust_domain="example.org", generation=1, authorities=[b"a", b"b"])]),
        svids.SvidBatch(synced=True)]))
    lines = node.table("svid", "list")
    assert re.split(r"  +", lines[1].strip()) == ["257", "spiffe://example.org/identity/257", "ready", "in 52m", "16h ago",
                                                 "local-ca"]
    assert "withdrawn: not-registered" in lines[2] and "none: no-local-svid" in lines[3]
    assert lines[5].split() == ["TRUST", "DOMAIN", "AUTHORITIES", "TAINTED"]
    assert lines[6].split() == ["example.org", "2", "0"]
    doc = node.json("svid", "list")
    assert [(s["identity"], s["state"]) for s in doc["svids"]] == [(257, "ready"), (258, "withdrawn"), (259, "none")]
    assert doc["svids"][0]["generation"] == "0x00000000000000ff" and doc["svids"][0]["leaf_sha256"] == "ab" * 32
    assert doc["svids"][0]["chain_length"] == 2
    assert doc["bundles"] == [{"trust_domain": "example.org", "generation": "0x0000000000000001", "authorities": 2,
                               "tainted": 0}]


def certificate(uri, name, ca=True):
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.utcnow().replace(microsecond=0)
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    return (x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key())
            .serial_number(0xabcdef).not_valid_before(now).not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca, None), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), False)
            .sign(key, hashes.SHA256()))


def test_one_svid_and_one_bundle_in_full(node):
    id = "spiffe://example.org/identity/257"
    leaf, root = certificate(id, "leaf", ca=False), certificate("spiffe://example.org", "root")
    der = [c.public_bytes(serialization.Encoding.DER) for c in (leaf, root)]
    node.serve("spire-adapter", Svids_Follow=lambda r, c: iter([svids.SvidBatch(synced=True, svids=[
        svids.Svid(identity=257, spiffe_id=id, generation=1, chain=der[:1], not_after_unix_s=int(time.time()) + 3600),
        svids.Svid(identity=25, spiffe_id="spiffe://example.org/identity/25")],
        bundles=[svids.Bundle(trust_domain="example.org", generation=2, authorities=[der[1], b"nonsense"]),
                 svids.Bundle(trust_domain="other.example", generation=3)])]))
    for word in ("257", id):
        doc = node.json("svid", "inspect", word)
        seen, = doc["certificates"]
        assert (doc["identity"], doc["state"], seen["uris"], seen["key"]) == (257, "ready", [id], "P-256")
        assert seen["serial"] == "ABCDEF" and seen["subject"] == "CN=leaf"
        assert seen["sha256"] == leaf.fingerprint(hashes.SHA256()).hex()
        assert seen["not_after_unix_s"] - seen["not_before_unix_s"] == 3600
        assert seen["pem"] == leaf.public_bytes(serialization.Encoding.PEM).decode()
    assert id in node.table("svid", "inspect", "257")[4]
    doc = node.json("bundle", "show", "example.org")
    assert [c.get("malformed", False) for c in doc["certificates"]] == [False, True]
    assert doc["certificates"][0]["subject_key_id"] == root.extensions.get_extension_for_class(
        x509.SubjectKeyIdentifier).value.digest.hex()
    assert [b["trust_domain"] for b in node.json("bundle", "list")["bundles"]] == ["example.org", "other.example"]
    assert node.table("bundle", "list")[1].split() == ["example.org", "2", "0"]
    assert "no SVID of an identity '2'" in node.run("svid", "inspect", "2", code=3).stderr
    assert "no bundle of a trust domain 'x'" in node.run("bundle", "show", "x", code=3).stderr


def test_svid_list_incomplete(node):
    node.serve("spire-adapter", Svids_Follow=lambda r, c: iter([svids.SvidBatch()]))
    assert "before it was complete" in node.run("svid", "list", code=1).stderr


# ---- auth ----

def entry(local, remote, state="live", **kw):
    return auth.AuthEntry(pair=auth.AuthPair(local=local, remote=remote, node="node2"), state=state, **kw)


def test_auth_list(node):
    now = now_ms()
    node.serve("authd", Auth_List=lambda r, c: iter([
        entry(257, 300, "refused", reason=common.Reason(name="untrusted"), until_unix_ms=now + 20_500, held_packets=2),
        entry(257, 256, until_unix_ms=now + 3600_000 - 500, not_after_unix_s=now // 1000 + 7200 - 10, role="dialler",
              remote_spiffe_id="spiffe://example.org/identity/256", remote_serial=b"\x01\x02", since_unix_ms=now)]))
    lines = node.table("auth", "list", "--local", "257", "--node", "node2", "--pending")
    r = node.requests[0]
    assert (r.match.local, r.match.remote, r.match.node, r.pending) == (257, 0, "node2", True)
    assert re.split(r"  +", lines[1].strip()) == ["257", "256", "node2", "live", "in 59m", "in 119m", "dialler", "-",
                                                 "spiffe://example.org/identity/256"]
    assert re.split(r"  +", lines[2].strip())[3:5] == ["refused: untrusted", "in 20s"]
    assert "2 packets" in lines[2]
    doc = node.json("auth", "list")["entries"]
    assert not node.requests[1].pending
    assert [e["remote"] for e in doc] == [256, 300]
    assert doc[0]["remote_serial"] == "0102" and doc[0]["reason"] is None and doc[0]["until_unix_ms"] == now + 3599_500


def test_auth_list_empty(node):
    node.serve("authd", Auth_List=lambda r, c: iter([]))
    assert node.table("auth", "list") == ["no authenticated pairs"]
    assert node.json("auth", "list") == {"entries": []}


def test_auth_explain(node):
    node.serve("authd", Auth_Explain=lambda r, c: auth.ExplainReply(
        endpoint="db", pair=auth.AuthPair(local=257, remote=256, node="node2"), to=common.VERDICT_REQUIRE,
        policy_to="default/db ingress[0]", reason_from=common.Reason(name="policy-deny"), to_passes=True,
        entry=entry(257, 256, until_unix_ms=now_ms() + 60_500)))
    out = node.run("auth", "explain", "cs-db", "10.0.2.7").stdout
    assert (node.requests[0].interface, node.requests[0].remote.ip) == ("cs-db", bytes([10, 0, 2, 7]))
    assert "endpoint db (identity 257) and 10.0.2.7 (identity 256 on node2)\n" in out
    assert "  from  is refused, policy says deny (no policy selects it): policy-deny, policy does not allow this peer\n" in out
    assert "  to    passes, policy says require by default/db ingress[0]\n" in out
    assert "live" in out and "in 60s" in out
    doc = node.json("auth", "explain", "cs-db", "fd00::7")
    assert doc["to"] == {"verdict": "require", "policy": "default/db ingress[0]", "passes": True, "reason": None}
    assert doc["from"]["reason"]["name"] == "policy-deny" and doc["entry"]["local"] == 257


def test_auth_explain_nothing(node):
    node.serve("authd", Auth_Explain=lambda r, c: auth.ExplainReply(
        endpoint="db", pair=auth.AuthPair(local=257, remote=2, node="node1"), depends_on=True, audit=True))
    out = node.run("auth", "explain", "db", "10.0.2.7").stdout
    assert out.startswith("endpoint db (identity 257) and 10.0.2.7 (world)\n")
    assert "no entry in the auth map" in out and "audit mode" in out and "depends_on" in out
    assert node.json("auth", "explain", "db", "10.0.2.7")["entry"] is None


def test_auth_flush(node):
    node.serve("authd", Auth_Flush=lambda r, c: auth.AuthFlushReply(flushed=3))
    assert node.table("auth", "flush", "--remote", "256") == ["flushed 3 entries"]
    assert node.requests[0].match.remote == 256
    assert node.json("auth", "flush", "--all") == {"flushed": 3}
    assert node.requests[1].match == auth.AuthPair()


def test_not_allowed(node):
    def refuse(_request, context):
        context.set_trailing_metadata([("countersign-reason", "role-refused")])
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "Auth/Flush needs the role operator")
    node.serve("authd", Auth_Flush=refuse)
    assert "needs the role operator: role-refused" in node.run("auth", "flush", "--all", code=3).stderr


# ---- what goes wrong ----

def test_no_daemon(node):
    for args, program in ((["identity", "list"], "identityd"), (["svid", "list"], "spire-adapter"), (["auth", "list"], "authd")):
        p = node.run(*args, code=1)
        assert not p.stdout
        assert p.stderr.startswith(f"countersign: there is no socket {node.path}/{program}/")
        assert f"is countersign-{program} running, and is --instance DIR right?" in p.stderr


def test_dead_socket(node):
    folder = node.path / "authd"
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(folder / "auth.sock"))  # and nobody listens
    err = node.run("auth", "list", code=1).stderr
    assert f"countersign-authd does not answer at {folder}/auth.sock" in err and "is it running" in err


def test_silent_daemon(node):
    stop = threading.Event()
    node.serve("authd", Auth_Explain=lambda r, c: (c.add_callback(stop.set), stop.wait(WAIT_S)) and auth.ExplainReply())
    start = time.monotonic()
    p = node.run("auth", "explain", "db", "10.0.0.1", "--timeout", "200ms", code=1)
    assert time.monotonic() - start < 30
    assert "gave no answer at" in p.stderr and "within 200ms" in p.stderr and "--timeout waits longer" in p.stderr


def test_unimplemented(node):
    node.serve("authd", Auth_List=lambda r, c: iter([]))
    p = node.run("auth", "flush", "--all", code=1)
    assert "countersign-authd: " in p.stderr and not p.stdout


def test_full_stdout(node):
    serve_status(node)
    with open("/dev/full", "w", encoding="ascii") as full:
        p = subprocess.run([CLI, "status", "--instance", str(node.path)], stdout=full, stderr=subprocess.PIPE, text=True)
    assert p.returncode == 1 and "cannot write the answer" in p.stderr


# ---- policy check ----

def test_policy_check_passes_on(tmp_path):
    """The daemon's program gets the files, and its output and exit code are ours."""
    fake = tmp_path / "countersign-identityd"
    fake.write_text('#!/bin/sh\necho "out: $*"\necho "err" >&2\nexit 7\n')
    fake.chmod(0o755)
    cli = shutil.copy(CLI, tmp_path / "away-from-the-build")
    for args, passed in ((["a.yaml", "--", "--help"], "-o table -- a.yaml --help"),
                         (["--strict", "-o", "json", "dir"], "--strict -o json -- dir")):
        p = subprocess.run([cli, "policy", "check", *args], capture_output=True, text=True,
                           env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
        assert (p.returncode, p.stdout, p.stderr) == (7, f"out: --check-policy {passed}\n", "err\n")


def test_policy_check_without_the_program(tmp_path):
    cli = shutil.copy(CLI, tmp_path / "away-from-the-build")
    p = subprocess.run([cli, "policy", "check", "a.yaml"], capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert p.returncode == 1 and "cannot start countersign-identityd" in p.stderr


# ---- bootstrap spire ----

def test_bootstrap_passes_on(tmp_path):
    """All that follows is the registrar's: its own options, --help, and what looks like one of ours."""
    fake = tmp_path / "countersign-registrar"
    fake.write_text('#!/bin/sh\necho "out: $*"\nexit 7\n')
    fake.chmod(0o755)
    cli = shutil.copy(CLI, tmp_path / "away-from-the-build")
    for front, args, passed in (([], ["--check", "--node", "a b", "-o", "json"], "--check --node a b -o json"),
                                ([], ["--help"], "--help"), (["--help"], [], "--help"),
                                (["-o", "json"], ["--timeout", "x"], "-o json --timeout x"), ([], [], "")):
        p = subprocess.run([cli, *front, "bootstrap", "spire", *args], capture_output=True, text=True,
                           env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
        assert (p.returncode, p.stdout) == (7, f"out: --bootstrap-spire{' ' if passed else ''}{passed}\n")


# ---- exporter ----

class Exporter:
    def __init__(self, node, *args, prefix=(), **kw):
        self.process = subprocess.Popen([*prefix, CLI, "exporter", "--instance", str(node.path), "--listen", "127.0.0.1:0", *args],
                                        stderr=subprocess.PIPE, text=True, **kw)
        line = json.loads(self.process.stderr.readline())
        assert line["msg"] == "serving", line
        self.url = line["url"]
        self.log = []
        self.reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr))
        self.reader.start()

    def get(self, path="/metrics", method="GET"):
        request = urllib.request.Request(self.url.replace("/metrics", path), method=method)
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as r:
                return r.status, r.headers, r.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.headers, e.read().decode()

    def families(self):
        code, headers, text = self.get()
        assert code == 200 and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        found = {}
        for f in text_string_to_metric_families(text):
            assert f.name not in found, f"{f.name} is there twice"
            found[f.name] = f
        return found

    def up(self):
        return {s.labels["daemon"]: s.value for s in self.families()["countersign_up"].samples}

    def stop(self):
        self.process.terminate()
        code = self.process.wait(WAIT_S)
        self.reader.join()
        return code


@pytest.fixture
def exporter(node):
    x = Exporter(node, "--timeout", "5s")
    yield x
    assert x.stop() == 0


def text_of(daemon, extra=""):
    return (f'# HELP countersign_build_info Version\n# TYPE countersign_build_info gauge\n'
            f'countersign_build_info{{daemon="{daemon}",version="0.1.0"}} 1\n'
            f'# HELP countersign_{daemon[:5]}_total Something\n# TYPE countersign_{daemon[:5]}_total counter\n'
            f'countersign_{daemon[:5]}_total{{daemon="{daemon}"}} 5\n' + extra).encode()


def chunks(text, size=100):
    return iter([status.MetricsChunk(text=text[i:i + size]) for i in range(0, len(text), size)])


def test_exporter(node, exporter):
    for daemon in SOCKETS:
        node.serve(daemon, Status_Metrics=lambda r, c, d=daemon: chunks(text_of(d)))
    found = exporter.families()
    assert {s.labels["daemon"]: s.value for s in found["countersign_up"].samples} == dict.fromkeys(SOCKETS, 1)
    assert {s.labels["daemon"] for s in found["countersign_build_info"].samples} == set(SOCKETS)
    assert found["countersign_authd"].samples[0].value == 5
    code, headers, text = exporter.get(method="HEAD")
    assert code == 200 and text == "" and int(headers["Content-Length"]) > 100


def test_exporter_other_requests(exporter):
    assert exporter.get("/")[0] == 200
    assert exporter.get("/other")[0] == 404
    code, headers, _ = exporter.get(method="POST")
    assert code == 405 and headers["Allow"] == "GET, HEAD"
    assert exporter.get("/" + "x" * 40000)[0] in (404, 414, 431, 400)
    with socket.create_connection(("127.0.0.1", int(exporter.url.split(":")[2].split("/")[0]))) as s:
        s.sendall(b"garbage\r\n\r\n")
        s.settimeout(WAIT_S)
        while s.recv(4096):
            pass
    assert exporter.get("/")[0] == 200


def test_exporter_daemons_come_and_go(node, exporter):
    """A daemon that is down is 0, for whatever reason, and the others are there all the same."""
    assert exporter.up() == dict.fromkeys(SOCKETS, 0)
    node.serve("authd", Status_Metrics=lambda r, c: chunks(text_of("authd")))
    assert exporter.up() == {"identityd": 0, "spire-adapter": 0, "authd": 1}
    node.serve("identityd", Status_Metrics=lambda r, c: chunks(b"this is no metric\n"))
    node.serve("spire-adapter", Status_Metrics=lambda r, c: c.abort(grpc.StatusCode.PERMISSION_DENIED, "no role"))
    found = exporter.families()
    assert {s.labels["daemon"]: s.value for s in found["countersign_up"].samples} == {
        "identityd": 0, "spire-adapter": 0, "authd": 1}
    assert "countersign_authd" in found
    node.stop()
    assert exporter.up() == dict.fromkeys(SOCKETS, 0)
    node.serve("authd", Status_Metrics=lambda r, c: chunks(text_of("authd")))
    assert exporter.up()["authd"] == 1  # at once, not after a backoff
    exporter.stop()
    said = [json.loads(line)["msg"] for line in exporter.log]
    assert "a daemon gives no metrics" in said and "a daemon gives metrics again" in said


def test_exporter_too_much(node, exporter):
    line = b'countersign_x{daemon="authd",n="%060d"} 1\n'
    node.serve("authd", Status_Metrics=lambda r, c: (status.MetricsChunk(text=line % n * 600) for n in range(1000)))
    assert exporter.up()["authd"] == 0


def test_exporter_silent_daemon(node):
    """A daemon that does not answer costs its timeout; requests beyond the limit are told to come back."""
    stop = threading.Event()
    asked = threading.Semaphore(0)

    def silent(_request, context):
        asked.release()
        stop.wait(WAIT_S)
        return iter([])
    node.serve("authd", Status_Metrics=silent)
    node.serve("identityd", Status_Metrics=lambda r, c: chunks(text_of("identityd")))
    x = Exporter(node, "--timeout", "2s")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        first = [pool.submit(x.get) for _ in range(4)]
        for _ in range(4):
            assert asked.acquire(timeout=WAIT_S)
        assert x.get()[0] == 503
        for f in first:
            code, _, text = f.result(WAIT_S)
            assert code == 200 and 'countersign_up{daemon="authd"} 0\n' in text
            assert 'countersign_up{daemon="identityd"} 1\n' in text
    stop.set()
    assert x.stop() == 0


def test_exporter_stops_in_the_middle(node):
    """SIGTERM while a request waits: the request ends, and so does the exporter."""
    stop, asked = threading.Event(), threading.Event()
    node.serve("authd", Status_Metrics=lambda r, c: (asked.set(), stop.wait(WAIT_S), iter([]))[2])
    x = Exporter(node, "--timeout", "60s")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: x.get())
        assert asked.wait(WAIT_S)
        assert x.stop() == 0
        with contextlib.suppress(OSError):
            assert 'countersign_up{daemon="authd"} 0' in waiting.result(WAIT_S)[2]
    stop.set()


def test_exporter_client_gone(node, exporter):
    """Whoever hangs up while the daemons are asked leaves nothing behind."""
    stop, asked = threading.Event(), threading.Semaphore(0)
    node.serve("authd", Status_Metrics=lambda r, c: (asked.release(), stop.wait(WAIT_S), chunks(text_of("authd")))[2])
    port = int(exporter.url.split(":")[2].split("/")[0])
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert asked.acquire(timeout=WAIT_S)
    stop.set()
    assert exporter.up()["authd"] == 1


def test_exporter_unprivileged(node):
    """It runs as nobody; whether the daemons talk to it is their roles' affair."""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    node.serve("authd", Status_Metrics=lambda r, c: chunks(text_of("authd")))
    for folder in (node.path, *node.path.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    (node.path / "authd" / "status.sock").chmod(0o666)
    x = Exporter(node, prefix=as_user(NOBODY), cwd="/")
    assert x.up()["authd"] == 1
    assert x.stop() == 0


def test_exporter_address_taken(node):
    with socket.create_server(("127.0.0.1", 0)) as s:
        address = f"127.0.0.1:{s.getsockname()[1]}"
        assert f"cannot listen on {address}: Address already in use" in node.run("exporter", "--listen", address, code=1).stderr

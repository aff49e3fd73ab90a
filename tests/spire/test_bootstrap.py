"""`countersign bootstrap spire` against a real SPIRE: what it makes is what a node needs, and what it finds is there."""
import json
import os
import subprocess

import pytest

from lab import adapter as lab
from lab import identityd
from lab.daemon import BUILD, WAIT_S
from spire_nodes import A, HOST, identity

CLI = BUILD / "cli/countersign"
ADAPTER = f"unix:path:{BUILD / lab.PROGRAM}"
REGISTRAR = f"unix:path:{BUILD / 'spire-adapter/countersign-registrar'}"


@pytest.fixture
def spire(Spire):
    spire = Spire()
    yield spire
    spire.close()


@pytest.fixture
def real(Real):
    spire = Real()
    yield spire
    spire.close()


def bootstrap(spire, *args, code=0, server=True):
    """What it prints as JSON."""
    at = ("--server-socket", spire.server.socket) if server else ()
    p = subprocess.run([CLI, "bootstrap", "spire", "--trust-domain", spire.domain, *at, "-o", "json", *args],
                       capture_output=True, text=True, timeout=WAIT_S)
    assert p.returncode == code, f"{p.returncode}\n{p.stdout}{p.stderr}"
    return json.loads(p.stdout) if p.stdout else p.stderr


def states(document):
    return {(e["parent_id"].rpartition("/")[2], e["spiffe_id"].partition("/countersign/")[2]): e["state"]
            for e in document["entries"]}


def entries(spire):
    """{(parent's name, path): entry} of what the server has."""
    return {(e["parent_id"]["path"].rpartition("/")[2], e["spiffe_id"]["path"]): e for e in spire.list()}


def findings(spire, *args, code=1):
    document = bootstrap(spire, "--check", *args, code=code)
    return {(f["kind"], f["subject"]) for f in document["findings"]}


NODES = ("--node", "n1", "--node", "n2", "--cluster-node", "n1")
ALL = {("n1", "spire-adapter"), ("n1", "node/n1"), ("n1", "identityd"), ("n1", "registrar"),
       ("n2", "spire-adapter"), ("n2", "node/n2")}


def test_made_once(spire):
    spire.add_agent("n1")
    assert states(bootstrap(spire, *NODES)) == dict.fromkeys(ALL, "made")
    made = entries(spire)
    assert {k for k, e in made.items() if e.get("admin")} == {("n1", "/countersign/registrar")}
    selectors = {path: {f"{s['type']}:{s['value']}" for s in e["selectors"]} for (_, path), e in made.items()}
    assert selectors["/countersign/registrar"] == {REGISTRAR}
    assert selectors["/countersign/spire-adapter"] == selectors["/countersign/node/n2"] == {ADAPTER}
    assert states(bootstrap(spire, *NODES)) == dict.fromkeys(ALL, "there")
    assert entries(spire) == made, "a second run changes nothing"


def test_what_is_printed_makes_the_same(real):
    """Both forms: the commands for a shell, and the document for `entry create -data -`."""
    p = subprocess.run([CLI, "bootstrap", "spire", "--print", "--trust-domain", real.domain, "--server-socket",
                        real.server.socket, "--ttl", "10m", *NODES], capture_output=True, text=True, timeout=WAIT_S)
    assert p.returncode == 0 and p.stdout.count("spire-server entry create") == len(ALL)
    path = {**os.environ, "PATH": f"{os.path.dirname(real.server.program)}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-e"], input=p.stdout, capture_output=True, text=True, env=path, timeout=WAIT_S)
    assert done.returncode == 0, done
    assert states(bootstrap(real, "--ttl", "10m", *NODES)) == dict.fromkeys(ALL, "there")
    assert {e["x509_svid_ttl"] for e in entries(real).values()} == {600}
    real.delete(*[e["id"] for e in entries(real).values()])
    document = bootstrap(real, "--print", *NODES, server=False)
    results = real.server.call("entry", "create", "-data", "-", input=json.dumps(document))["results"]
    assert [r["status"]["code"] for r in results] == [0] * len(ALL)
    assert states(bootstrap(real, *NODES)) == dict.fromkeys(ALL, "there")


def test_an_adapter_lives_by_it(real):
    """By the paths of programs: the adapter is a delegate and gets the node's SVID; this test, which is root too, is nobody."""
    agent = real.add_agent("n1", paths=True)
    bootstrap(real, "--node", "n1", "--adapter-selector", ADAPTER)
    real.identity(agent, A)
    instance = real.dir / "i-n1"
    directory = identityd.Identityd(instance / "identityd", [identity(A), identityd.endpoint("a", A)])
    adapter = lab.Adapter(instance, real.dir / "unused", "source=spire", f"spire.agent_socket={agent.socket}",
                          f"spire.admin_socket={agent.admin}")
    try:
        follower = lab.Follower(adapter)
        try:
            follower.wait(lambda s: s.has(A) and s.has(HOST))
        finally:
            follower.close()
        fetch = subprocess.run([agent.program, "api", "fetch", "x509", "-socketPath", agent.socket], capture_output=True,
                               text=True, timeout=WAIT_S)
        assert "no identity issued" in fetch.stdout + fetch.stderr
    finally:
        adapter.stop()
        directory.stop()


def test_a_node_by_its_agents_selector(spire):
    """Where agents have no alias yet: it makes one."""
    document = bootstrap(spire, "--node", "n1", "--agent-selector", "k8s_psat:agent_node_name:{node}")
    assert [e["state"] for e in document["entries"]] == ["made"] * 3
    alias = next(e for e in entries(spire).values() if e["spiffe_id"]["path"] == "/node/n1")
    assert alias["parent_id"]["path"] == "/spire/server"
    assert alias["selectors"] == [{"type": "k8s_psat", "value": "agent_node_name:n1"}]


def test_what_differs_is_not_touched(spire):
    agent = spire.add_agent("n1")
    wrong = spire.entry(agent, "/countersign/spire-adapter", "unix:uid:7\x1b[2J")
    document = bootstrap(spire, "--node", "n1", code=1)
    assert states(document) == {("n1", "spire-adapter"): "differs", ("n1", "node/n1"): "made"}
    assert document["entries"][0]["id"] == wrong and "unix:uid:7" in document["entries"][0]["text"]
    assert ("entry-differs", wrong) in findings(spire, "--node", "n1")
    assert "\x1b" not in str(document)
    spire.delete(wrong)
    assert states(bootstrap(spire, "--node", "n1"))["n1", "spire-adapter"] == "made"


# ---- --check ----

def config(dir, text, replaced=None):
    """A file with this text, in which some of it is replaced."""
    for old, new in (replaced or {}).items():
        text = text.replace(old, new)
    path = dir / f"conf{len(list(dir.iterdir()))}"
    path.write_text(text)
    return path


def test_nothing_is_wrong(real):
    agent = real.add_agent("n1", paths=True)
    bootstrap(real, "--node", "n1", "--cluster-node", "n1")
    document = bootstrap(real, "--check", "--node", "n1", "--cluster-node", "n1", "--agent-config", agent.config,
                         "--server-config", real.server.config)
    assert document == {"findings": [], "counts": {}, "not_checked": []}


def test_entries_that_are_not_there(spire):
    agent = spire.add_agent("n1")
    id = "spiffe://example.org/countersign/"
    assert findings(spire, "--node", "n1", "--node", "n2") == {
        ("entry-missing", f"{id}spire-adapter"), ("entry-missing", f"{id}node/n1"), ("entry-missing", f"{id}node/n2"),
        ("no-agent", "n2")}
    assert bootstrap(spire, "--check")["not_checked"][0].startswith("the entries of nodes")


def test_an_alias_of_an_agent_that_is_gone(real):
    agent = real.add_agent("n1")
    bootstrap(real, "--node", "n1")
    agent.end()
    [gone] = real.server.call("agent", "list")["agents"]
    real.server.call("agent", "evict", "-spiffeID", f"spiffe://example.org{gone['id']['path']}")
    assert findings(real, "--node", "n1") == {("no-agent", "n1")}


def test_a_registrar_that_is_no_admin(spire):
    agent = spire.add_agent("n1")
    registrar = spire.entry(agent, "/countersign/registrar", REGISTRAR)
    bootstrap(spire, "--node", "n1")
    [finding] = bootstrap(spire, "--check", "--node", "n1", "--cluster-node", "n1", code=1)["findings"][1:]
    assert (finding["kind"], finding["subject"]) == ("entry-differs", registrar) and "admin" in finding["text"]


def test_entries_of_others(spire):
    agent = spire.add_agent("n1")
    bootstrap(spire, "--node", "n1")
    foreign = spire.identity(agent, A)
    assert findings(spire, "--node", "n1") == {("foreign-entry", foreign)}
    assert not findings(spire, "--node", "n1", "--identities", "spiffe://example.org/elsewhere/", code=0)
    spire.delete(foreign)
    own = spire.entry(agent, "/somebody", "unix:uid:7", federates=["example.org"])
    [finding] = bootstrap(spire, "--check", "--node", "n1", code=1)["findings"]
    assert (finding["kind"], finding["subject"]) == ("own-trust-domain-federated", own)
    assert "stops syncing" in finding["text"]


def test_many_of_a_kind_are_counted(spire):
    agent = spire.add_agent("n1")
    spire.entries([(agent, f"/identity/{n}", f"countersign:id:{n}", None, ()) for n in range(600)])
    document = bootstrap(spire, "--check", code=1)
    assert document["counts"] == {"foreign-entry": 600} and len(document["findings"]) == 50


def test_federation(spire, Spire):
    agent = spire.add_agent("n1")
    assert findings(spire, "--federates-with", "other.example") == {("no-federated-bundle", "other.example")}
    other = Spire("other.example")
    try:
        spire.trust(other)
    finally:
        other.close()
    spire.entry(agent, "/somebody", "unix:uid:7", federates=["other.example"])
    assert findings(spire) == {("bundle-not-refreshed", "other.example")}


def test_a_bundle_that_is_fetched(real):
    real.server.call("federation", "create", "-trustDomain", "other.example", "-bundleEndpointURL", "https://127.0.0.1:9/",
                     "-bundleEndpointProfile", "https_web")
    assert findings(real, "--federates-with", "other.example") == {("no-federated-bundle", "other.example")}
    real.set_bundle("other.example", real.server.bundle())
    assert not findings(real, "--federates-with", "other.example", code=0)


def test_wide_selectors_and_short_lives(spire):
    agent = spire.add_agent("n1")
    [adapter, node] = spire.node(agent, "n1", ttl=5)
    assert findings(spire) == {(kind, id) for kind in ("wide-selector", "short-ttl") for id in (adapter, node)}


@pytest.mark.parametrize("replaced, finds", [
    ({'"spiffe://example.org/countersign/spire-adapter"': ""}, {"not-a-delegate"}),
    ({"example.org": "other.example"}, {"other-trust-domain", "not-a-delegate"}),
    ({"admin_socket_path": "other_path"}, {"no-admin-socket"}),
    ({"/adm/admin.sock": "/pub/adm/admin.sock"}, {"no-admin-socket"}),
    ({"discover_workload_path = true": ""}, {"paths-not-discovered"}),
    ({'sync_interval = "1s"': 'sync_interval = "30s"'}, {"slow-sync"}),
    ({'sync_interval = "1s"': 'sync_interval = "20m"'}, {"slow-sync", "short-ttl"}),
    ({}, set()),
])
def test_the_agents_file(real, tmp_path, replaced, finds):
    agent = real.add_agent("n1", paths=True)
    file = config(tmp_path, agent.config.read_text(), replaced)
    document = bootstrap(real, "--check", "--agent-config", file, code=1 if finds else 0)
    assert {f["kind"] for f in document["findings"]} == finds
    assert {f["subject"] for f in document["findings"]} == ({str(file)} if finds else set())


@pytest.mark.parametrize("replaced, finds", [
    ({"example.org": "other.example"}, {"other-trust-domain"}),
    ({'ca_ttl = "24h"': 'ca_ttl = "1h"'}, {"ttl-beyond-ca"}),
    ({'KeyManager "disk"': 'KeyManager "memory"'}, {"keys-in-memory"}),
    ({'cache_reload_interval = "1s"': 'cache_reload_interval = "1m"'}, {"slow-sync"}),
    ({}, set()),
])
def test_the_servers_file(real, tmp_path, replaced, finds):
    file = config(tmp_path, real.server.config.read_text(), replaced)
    document = bootstrap(real, "--check", "--server-config", file, code=1 if finds else 0)
    assert {f["kind"] for f in document["findings"]} == finds


def test_files_that_are_none(real, tmp_path):
    for file, says in ((tmp_path / "none", "No such file"), (config(tmp_path, "agent {"), "line 1: a block does not end"),
                       (real.server.config, "no block 'agent'")):
        assert says in bootstrap(real, "--check", "--agent-config", file, code=1)


def test_no_server(spire):
    spire.server.end()
    assert "does spire-server run here" in bootstrap(spire, "--node", "n1", code=1)

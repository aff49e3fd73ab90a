"""countersign-registrar without a SPIRE: its settings, who may ask it what, and what it says of what is missing. With one:
tests/spire/."""
import os
import socket
import subprocess
import tempfile
from pathlib import Path

import grpc
import pytest

from lab import identityd, protos
from lab.daemon import BUILD, WAIT_S
from lab.identityd import node, placement
from lab.registrar import PROGRAM, Registrar
from lab.roles import ANY, SETS, methods_of, walk
from lab.spire import wait_for


@pytest.fixture
def dir():
    """pytest's own directories are closed to other users."""
    with tempfile.TemporaryDirectory(prefix="cs-registrar-") as dir:
        os.chmod(dir, 0o755)
        yield Path(dir)


def run(*args):
    return subprocess.run([BUILD / PROGRAM, *args], capture_output=True, text=True, timeout=WAIT_S)


@pytest.mark.parametrize("sets,says", [
    ([], "trust_domain is not set"),
    (["trust_domain=EXAMPLE.org"], "trust_domain"),
    (["registrar.mark=a.b"], "registrar.mark: 'a.b' has other characters"),
    (["registrar.mark="], "registrar.mark"),
    (["registrar.parent=/node/x"], "must have {node} exactly once"),
    (["registrar.parent=/node/{node}/{node}"], "must have {node} exactly once"),
    (["registrar.parent=node/{node}"], "registrar.parent"),
    (["registrar.parent=/node//{node}"], "registrar.parent"),
    (["registrar.agent_selector=k8s_psat:agent_node_name"], "must have {node} exactly once"),
    (["registrar.spiffe_id_prefix=spiffe://example.net/identity/"], "must begin with spiffe://example.org/"),
    (["registrar.spiffe_id_prefix=spiffe://example.org/"], "and go on"),
    (["registrar.svid_ttl=1500ms"], "whole seconds"),
    (["registrar.federates_with=example.org"], "own trust domain"),
    (["registrar.federates_with=a.example,B.example"], "registrar.federates_with"),
    (["spire.server=unix:relative"], "absolute path"),
    (["registrar.linger=31d"], "registrar.linger"),
])
def test_wrong_settings(sets, says):
    domain = [] if not sets or "trust_domain" in sets[0] else ["--set", "trust_domain=example.org"]
    p = run("--check-config", *domain, *(a for s in sets for a in ("--set", s)))
    assert p.returncode == 2 and says in p.stderr, p


@pytest.mark.parametrize("sets", [
    [], ["registrar.parent=/spire/agent/x509pop/{node}"], ["registrar.agent_selector=k8s_psat:agent_node_name:{node}"],
    ["registrar.spiffe_id_prefix=spiffe://example.org/ns/prod/"], ["registrar.federates_with=a.example,b.example"],
    ["registrar.linger=0", "registrar.svid_ttl=0"]])
def test_right_settings(sets):
    p = run("--check-config", "--set", "trust_domain=example.org", *(a for s in sets for a in ("--set", s)))
    assert (p.returncode, p.stdout) == (0, "the configuration is fine\n"), p


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become other users")
def test_every_method_with_every_role(dir):
    r = Registrar(dir, f"unix:{dir}/no.sock", *SETS)
    methods = {"entries.sock": {"Entries/List": ANY, "Entries/Diff": ANY, "Entries/Sync": {"operator"}},
               "status.sock": {"Status/Get": ANY, "Status/Metrics": ANY}}
    streams = {"Entries/List", "Entries/Diff", "Entries/Sync", "Status/Metrics"}
    assert methods_of(protos.entries, protos.status) == {m for of in methods.values() for m in of}
    # No SPIRE, no directory: whoever may ask is told so.
    walk(r.sockets, methods, streams, ("OK", "UNAVAILABLE", "FAILED_PRECONDITION"))
    assert "role-refused" in r.output()
    r.stop()


def test_without_a_directory_and_without_spire(dir):
    r = Registrar(dir, f"unix:{dir}/api.sock")
    wait_for(lambda: "cannot connect" in r.check("spire").reason.detail, r.status)
    assert r.check("directory").reason.name == "directory-stale" and not r.status().healthy
    wait_for(lambda: "does not say whether it leads" in r.check("entries").reason.detail, r.status)
    for ask, code in ((r.list, "UNAVAILABLE"), (r.diff, "FAILED_PRECONDITION"), (r.sync, "FAILED_PRECONDITION")):
        with pytest.raises(grpc.RpcError) as e:
            ask()
        assert e.value.code().name == code
    # With a directory: what it would make is known, and what SPIRE has is not.
    played = identityd.Identityd(dir / "identityd", [
        node("n1"), identityd.identity(300, "spiffe://example.org/identity/300"), placement(300, "n1")])
    try:
        wait_for(lambda: r.count("wanted") == 1 and r.metrics()['countersign_registrar_active{daemon="registrar"}'] == 1, r.status)
        with pytest.raises(grpc.RpcError) as e:
            r.diff()
        assert e.value.code().name == "UNAVAILABLE" and "what SPIRE has is not known" in e.value.details()
    finally:
        r.stop()
        played.stop()


@pytest.mark.parametrize("role,leadership,active", [("all", "LEADER", 1), ("cluster", "LEADER", 1), ("cluster", "FOLLOWER", 0), ("node", "NONE", 0)])
def test_beside_whom_it_is_active(dir, role, leadership, active):
    played = identityd.Identityd(dir / "identityd", [node("n1")])
    played.role, played.leadership = role, leadership
    r = Registrar(dir, f"unix:{dir}/api.sock")
    try:
        beside_a_node = lambda: "runs beside one that has the cluster role" in r.check("entries").reason.detail
        heard = {"NONE": beside_a_node, "FOLLOWER": lambda: r.check("entries").ok}
        is_active = lambda: r.metrics()['countersign_registrar_active{daemon="registrar"}']
        wait_for(heard.get(leadership, is_active), r.status)
        assert is_active() == active and beside_a_node() == (role == "node")
    finally:
        r.stop()
        played.stop()


def test_who_is_not_heard_any_more_does_not_lead(dir):
    """One failed call is nothing; after three the last word counts no more, and nothing is written before the next one."""
    played = identityd.Identityd(dir / "identityd", [node("n1")])
    r = Registrar(dir, f"unix:{dir}/api.sock")
    is_active = lambda: r.metrics()['countersign_registrar_active{daemon="registrar"}']
    try:
        wait_for(lambda: is_active() == 1, r.status)
        played.status_failures = 1
        wait_for(lambda: played.status_failures == 0, "one that failed")
        played.status_failures = 1
        wait_for(lambda: played.status_failures == 0, "another, after one that did not")
        assert is_active() == 1 and "not active any more" not in r.output()
        played.status_failures = 1000
        wait_for(lambda: is_active() == 0, r.status)
        assert "does not say whether it leads: INTERNAL as the test wants it" in r.check("entries").reason.detail
        assert r.check("directory").ok
        played.status_failures = 0
        wait_for(lambda: is_active() == 1, r.status)
    finally:
        r.stop()
        played.stop()


def test_over_tcp_it_wants_an_svid_first(dir):
    with socket.create_server(("127.0.0.1", 0)) as server:
        r = Registrar(dir, f"127.0.0.1:{server.getsockname()[1]}", f"spire.agent_socket={dir}/agent.sock")
        wait_for(lambda: "gives no own SVID" in (d := r.check("spire").reason.detail) and f"{dir}/agent.sock" in d, r.status)
        assert r.metrics()['countersign_registrar_svid_expiration_timestamp_seconds{daemon="registrar"}'] == 0
        r.stop()


def test_two_of_one_instance(dir):
    first = Registrar(dir, f"unix:{dir}/api.sock")
    p = run("--instance", dir, "--set", "trust_domain=example.org")
    assert p.returncode == 1 and "another" in p.stderr, p
    first.stop()

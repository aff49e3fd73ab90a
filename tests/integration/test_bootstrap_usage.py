"""`countersign bootstrap spire` without a SPIRE: its usage, and what it prints. tests/spire/ has the rest."""
import json
import shlex
import subprocess

import pytest

from lab.daemon import BUILD

CLI = BUILD / "cli/countersign"


def bootstrap(*args, code=0):
    p = subprocess.run([CLI, "bootstrap", "spire", *args], capture_output=True, text=True)
    assert p.returncode == code, p
    return p


@pytest.mark.parametrize("args, says", [
    ([], "--node NAME is missing"),
    (["--node", "a/b"], "1 to 255 of the characters"),
    (["--node", "n1", "--node", "n1"], "is a --node given twice?"),
    (["--node", "n1", "--cluster-node", "n2"], "--cluster-node n2 is no --node"),
    (["--node", "n1", "--node", "n2", "--parent", "/node/n1"], "write {node}"),
    (["--node", "n1", "--adapter-selector", "unix"], "'unix' is no selector"),
    (["--node", "n1", "--adapter-selector", b"unix:user:\xff"], "is no selector"),
    (["--node", "n1", "--adapter-selector", "unix:uid:0", "--registrar-selector", "unix:uid:0"], "do not tell them apart"),
    (["--node", "n1", "--print", "--check"], "one of them"),
    (["--node", "n1", "--ttl", "soon"], "is not a duration"),
    (["--node", "n1", "--agent-config", "f"], "go with --check"),
    (["--node", "n1", "--nodes", "n2"], "did you mean --node?"),
    (["--node", "n1", "-o", "yaml"], "write table or json"),
    (["--node", "n1", "n2"], "what is 'n2'?"),
])
def test_usage(args, says):
    p = bootstrap("--trust-domain", "example.org", *args, code=2)
    assert says in p.stderr and not p.stdout


def test_no_trust_domain():
    assert "--trust-domain NAME is missing" in bootstrap("--node", "n1", code=2).stderr
    assert "--trust-domain" in bootstrap("--node", "n1", "--trust-domain", "EXAMPLE.org", code=2).stderr


def test_commands_are_for_a_shell():
    out = bootstrap("--print", "--trust-domain", "example.org", "--node", "n1", "--adapter-selector", "k8s:pod-label:a b'c",
                    "--adapter-selector", "k8s:ns:x", "--server-socket", "/run/my spire.sock").stdout
    words = shlex.split(out.replace("\\\n", ""), comments=True)
    assert words[:12] == ["spire-server", "entry", "create", "-socketPath", "/run/my spire.sock", "-parentID",
                          "spiffe://example.org/node/n1", "-spiffeID", "spiffe://example.org/countersign/spire-adapter",
                          "-selector", "k8s:pod-label:a b'c", "-selector"]
    assert words.count("create") == 2 and "-admin" not in words


def test_what_a_node_of_the_cluster_role_has_more():
    entries = json.loads(bootstrap("--print", "-o", "json", "--trust-domain", "example.org", "--node", "n1", "--node", "n2",
                                   "--cluster-node", "n2", "--parent", "/spire/agent/x509pop/{node}").stdout)["entries"]
    parent = "spiffe://example.org/spire/agent/x509pop/"
    own = "spiffe://example.org/countersign/"
    assert [(e["parent_id"], e["spiffe_id"], e["admin"]) for e in entries] == [
        (f"{parent}n1", f"{own}spire-adapter", False), (f"{parent}n1", f"{own}node/n1", False),
        (f"{parent}n2", f"{own}spire-adapter", False), (f"{parent}n2", f"{own}node/n2", False),
        (f"{parent}n2", f"{own}identityd", False), (f"{parent}n2", f"{own}registrar", True)]
    assert len({str(e["selectors"]) for e in entries}) == 2, "the registrar's differ from the adapter's"

"""Which labels make an identity, through the real identityd."""
import grpc
import pytest

from lab import protos
from lab.identity_lab import Lab, refused
from lab.nodes import IDENTIFIED, PROGRAM, REGISTERED, Daemon, condition, reason_of, spec


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.end()


def texts(labels):
    return {f"{l.source}:{l.key}={l.value}" for l in labels}


def test_what_only_multiplies_is_no_part_of_an_identity(lab):
    d = lab.all()
    one = d.register(spec("a", "k8s:app=web;k8s:pod-template-hash=1", ["10.1.0.1"], lab.veth()))
    two = d.register(spec("b", "k8s:app=web;k8s:pod-template-hash=2", ["10.1.0.2"], lab.veth()))
    other = d.register(spec("c", "k8s:app=db;k8s:pod-template-hash=1", ["10.1.0.3"], lab.veth()))
    assert one.identity == two.identity != other.identity
    assert texts(d.once().get("identity", one.identity).labels) == {"k8s:app=web"}
    # It is kept on the endpoint, and shown.
    assert texts(d.list()["a"].spec.labels) == {"k8s:app=web", "k8s:pod-template-hash=1"}
    assert texts(d.list()["a"].identity_labels) == {"k8s:app=web"}
    a = d.json("endpoint", "list")["endpoints"][0]
    assert a["identity_labels"] == ["k8s:app=web"] and a["filtered_labels"] == ["k8s:pod-template-hash=1"]
    assert "NOT IN IDENTITY" in d.cli("endpoint", "list")


def test_without_the_filter_they_are(lab):
    d = lab.all("labels.filter_defaults=false")
    one = d.register(spec("a", "k8s:app=web;k8s:pod-template-hash=1", ["10.1.0.1"], lab.veth()))
    two = d.register(spec("b", "k8s:app=web;k8s:pod-template-hash=2", ["10.1.0.2"], lab.veth()))
    assert one.identity != two.identity and texts(two.identity_labels) == {"k8s:app=web", "k8s:pod-template-hash=2"}
    assert d.json("endpoint", "list")["endpoints"][0]["filtered_labels"] == []


def test_a_filter_of_ones_own(lab):
    d = lab.all("labels.filter=k8s:role,!role-x", instance="own")
    one = d.register(spec("a", "k8s:role=web;k8s:app=1;k8s:role-x=1", ["10.1.0.1"], lab.veth()))
    assert texts(one.identity_labels) == {"k8s:role=web"}
    # Nothing is left: refused, and said why. The endpoint stays registered, and closed.
    e = refused(grpc.StatusCode.DEADLINE_EXCEEDED, d.register, spec("b", "k8s:app=1", ["10.1.0.2"], lab.veth()),
                wait_for=[IDENTIFIED], timeout=2)
    assert reason_of(e) == "labels-invalid" and "k8s:app is not" in e.details()
    assert d.list()["b"].identity == 0 and condition(d.list()["b"], REGISTERED).met
    assert not d.list()["b"].identity_labels


def test_after_a_restart_the_endpoint_is_known_before_its_claim_is_answered(lab):
    """Also with labels that its identity does not have: or each restart would close it for a moment."""
    d = lab.all()
    one = d.register(spec("a", "k8s:app=web;k8s:pod-template-hash=1", ["10.1.0.1"], lab.veth()))
    d = lab.restart(d)
    f = d.follow().wait_synced()
    assert f.get("endpoint", ("n1", "a")).identity == one.identity
    f.close()


@pytest.mark.parametrize("setting, word", [
    ("labels.filter=docker:x", "'docker' is no source"),
    ("labels.filter=\\d", "not known here"),
    ("identity.fixed=127=x", "from 128 to 255"),
    ("cluster.id=256", "cluster.id is 0 to 255"),
    ("cluster.trust_domains=2=Upper", "cluster.trust_domains"),
])
def test_settings_that_are_refused(tmp_path, setting, word):
    d = Daemon(PROGRAM, "--instance", tmp_path / "n", "--set", "trust_domain=example.org", "--set", setting, wait=False)
    assert d.wait() == 2 and word in d.output(), d.output()
    d.clean()


def test_identities_of_another_cluster_id(lab):
    d = lab.all("cluster.id=3", "identity.fixed=128=payments", instance="c3")
    assert d.register(spec("a", "k8s:app=web", ["10.1.0.1"], lab.veth())).identity == 3 << 16
    fixed = d.register(spec("b", "k8s:app=b;k8s:io.cilium.fixed-identity=payments", ["10.1.0.2"], lab.veth()))
    assert fixed.identity == 128 and texts(fixed.identity_labels) == {"reserved:payments="}
    # The range of a store cannot be changed under it: the identities that it gave would be another cluster's.
    e = Daemon(PROGRAM, "--instance", d.instance, "--set", "trust_domain=example.org", "--set", "cluster.id=4", wait=False)
    assert e.wait() != 0
    e.clean()


def test_lint(lab):
    d = lab.all("labels.filter_defaults=false", instance="lint")
    d.register(spec("a", "k8s:app=web", ["10.1.0.1"], lab.veth()))
    clean = d.json("identity", "lint")
    assert clean["warnings"] == [] and clean["identities"] == 1 and clean["unused"] == 0
    assert clean["range"] == {"first": 256, "last": 65535, "size": 65280, "in_use": 1, "resting": 0, "free": 65279}
    veth = lab.veth()
    for n in range(12):  # one endpoint whose label changes: 12 identities, of which one is used
        d.register(spec("b", f"k8s:app=web;k8s:job={1000 + n}", ["10.1.0.2"], veth))
    found = d.json("identity", "lint", code=1)
    job = found["labels"][0]
    assert job["key"] == "k8s:job" and job["multiplies"] and (job["values"], job["without"], job["unused"]) == (12, 1, 11)
    assert len(found["warnings"]) == 1 and "k8s:!job" in found["warnings"][0]
    table = d.cli("identity", "lint", code=1)
    assert "MULTIPLIES" in table and "65267 free" in table and "labels.filter" in table
    # The rule that it proposes does it.
    d = lab.restart(d, settings={"labels.filter": "k8s:!job"})
    assert d.register(spec("c", "k8s:app=web;k8s:job=1", ["10.1.0.3"], lab.veth())).identity == 256


def test_policy_knows_user_reserved_identities(lab):
    folder = lab.base / "policy"
    folder.mkdir()
    (folder / "p.yaml").write_text("""
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p}
spec:
  endpointSelector: {matchLabels: {"reserved:payments": ""}}
  ingress:
  - fromEndpoints: [{matchLabels: {"k8s:app": web}}]
    authentication: {mode: required}
""")
    d = lab.all("identity.fixed=128=payments", f"policy.dir={folder}", instance="policy")
    web = d.register(spec("web", "k8s:app=web", ["10.1.0.1"], lab.veth()))
    assert d.register(spec("p", "k8s:io.cilium.fixed-identity=payments", ["10.1.0.2"], lab.veth())).identity == 128
    f = d.follow()
    row = f.wait(lambda f: f.get("policy_row", (128, web.identity)))
    assert row.to.verdict == protos.common.VERDICT_REQUIRE
    assert f.get("policy_default", 128).to_endpoint.verdict == protos.common.VERDICT_DENY
    f.close()

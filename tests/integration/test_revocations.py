"""Revocations as records: who may make them, what they may name, and where they arrive. authd does not act on them yet."""
import os
import subprocess
import time
from pathlib import Path

import grpc
import pytest

from lab import protos
from lab.daemon import NOBODY, WAIT_S
from lab.identity_lab import Lab, refused
from lab.node_tls import CA
from lab.nodes import D, Identityd, spec

A = protos.admin


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.end()


def admin(d):
    return protos.admin_rpc.AdminStub(d.channel("admin"))


def add(d, **revocation):
    revocation.setdefault("why", "a test")
    return admin(d).AddRevocation(A.AddRevocationRequest(revocation=D.Revocation(**revocation)), timeout=WAIT_S)


def one(d):
    """Identity 256 on node n1."""
    return d.register(spec("a", "k8s:app=a", ["10.1.0.1"], d.veth)).identity


@pytest.fixture
def d(lab):
    d = lab.all()
    d.veth = lab.veth()
    return d


def test_added_listed_removed(d):
    identity = one(d)
    before = int(time.time())
    r = add(d, identity=identity)
    assert r.id.startswith("r-") and r.identity == identity and r.why == "a test"
    assert before <= r.from_unix_s <= time.time() and r.until_unix_s == r.from_unix_s + 86400
    assert r.who == ("root (uid 0)" if os.getuid() == 0 else r.who) and f"uid {os.getuid()}" in r.who
    # Every follower of the directory has it.
    f = d.follow().wait_synced()
    assert f.get("revocation", r.id) == r
    admin(d).RemoveRevocation(A.RemoveRevocationRequest(id=r.id), timeout=WAIT_S)
    f.wait(lambda f: not f.all("revocation"))
    f.close()
    refused(grpc.StatusCode.NOT_FOUND, admin(d).RemoveRevocation, A.RemoveRevocationRequest(id=r.id), timeout=WAIT_S)


def test_it_survives_a_restart(lab, d):
    r = add(d, identity=one(d), until_unix_s=int(time.time()) + 2 * 86400)
    d.kill()
    lab.things.remove(d)
    d = lab.keep(d.again())
    assert d.once().get("revocation", r.id) == r


def test_every_subject(d):
    identity = one(d)
    subjects = [dict(identity=identity), dict(node="n1"), dict(placement=D.Placement(identity=identity, node="n1")),
                dict(leaf_sha256=bytes(32)), dict(serial=D.SerialOf(serial=b"\1", authority=b"\2")), dict(authority=b"\3")]
    for subject in subjects:
        add(d, **subject)
    assert len(d.once().all("revocation")) == len(subjects)


@pytest.mark.parametrize("code, word, wrong", [
    ("INVALID_ARGUMENT", "names one of", {}),
    ("INVALID_ARGUMENT", "can never authenticate", dict(identity=2)),
    ("INVALID_ARGUMENT", "32 bytes", dict(leaf_sha256=b"x")),
    ("INVALID_ARGUMENT", "subject key id", dict(serial=D.SerialOf(serial=b"\1"))),
    ("INVALID_ARGUMENT", "say why", dict(authority=b"x", why="")),
    ("INVALID_ARGUMENT", "svid.max_life", dict(authority=b"x", until_unix_s=int(time.time()) + 3600)),
    ("INVALID_ARGUMENT", "not the caller's", dict(authority=b"x", who="somebody else")),
    ("INVALID_ARGUMENT", "not the caller's", dict(authority=b"x", id="r-1")),
    ("NOT_FOUND", "no identity 4711", dict(identity=4711)),
    ("NOT_FOUND", "no node 'n7'", dict(node="n7")),
    ("NOT_FOUND", "no node 'n7'", dict(placement=D.Placement(identity=256, node="n7"))),
])
def test_what_is_refused(d, code, word, wrong):
    one(d)
    assert word in refused(grpc.StatusCode[code], add, d, **wrong).details()
    assert not d.once().all("revocation")


def test_over_is_over(lab):
    """With the shortest life that can be configured; its time is judged by the clock that certificates are judged by."""
    d = lab.all("svid.max_life=1m", instance="short")
    r = add(d, authority=b"x")
    assert r.until_unix_s == r.from_unix_s + 60
    # Too early to go: a minute is not over. Its end is tested in identity/core, where the clock is the test's.
    assert d.once().get("revocation", r.id)


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become other users")
def test_only_an_operator(lab):
    base = Path(subprocess.check_output(["mktemp", "-d", "/tmp/cs-revocations-XXXXXX"], text=True).strip())
    base.chmod(0o755)
    try:
        d = lab.keep(Identityd(base / "n1", "roles.operator=uid:12002", "roles.viewer=uid:12001"))
        args = ("revocation", "add", "--authority", "0a:0b", "--why", "x")
        assert "role-refused" in d.cli(*args, user=12001, code=3)
        assert "closes" in d.cli(*args, user=NOBODY, code=1)
        assert '"who": "uid 12002"' in d.cli(*args, "-o", "json", user=12002)
        assert len(d.once().all("revocation")) == 1
        assert "0a0b" in d.cli("revocation", "list", user=12001)
        d.stop()
    finally:
        lab.things.clear()
        subprocess.run(["rm", "-rf", base], check=True)


def test_the_command_line(d):
    identity = one(d)
    assert "no revocations" in d.cli("revocation", "list")
    made = d.json("revocation", "add", "--identity", str(identity), "--node", "n1", "--why", "ticket 4711", "--for", "30d")
    assert made["subject"] == f"identity {identity} on node n1" and made["leaf_sha256"] is None
    assert made["until_unix_s"] - made["from_unix_s"] in range(30 * 86400, 30 * 86400 + 3)
    assert "countersign revocation remove r-" in d.cli("revocation", "add", "--serial", "3F:09", "--authority", "5bce", "--why", "x")
    listed = d.json("revocation", "list")["revocations"]
    assert {r["subject"] for r in listed} == {made["subject"], "serial 3f09 of authority 5bce"}
    table = d.cli("revocation", "list")
    assert "ticket 4711" in table and made["id"] in table
    assert d.json("revocation", "remove", made["id"]) == {"removed": made["id"]}
    assert "NOT_FOUND" not in d.cli("revocation", "remove", made["id"], code=3)
    for wrong in (("--identity", "0"), ("--leaf", "xyz"), ("--serial", "01"), ("--identity", "256", "--leaf", "00" * 32), (),
                  ("--authority", "0a", "--for", "soon")):
        d.cli("revocation", "add", "--why", "x", *wrong, code=2)
    assert "--why TEXT is missing" in d.cli("revocation", "add", "--node", "n1", code=2)
    assert "svid.max_life" in d.cli("revocation", "add", "--node", "n1", "--why", "x", "--for", "1h", code=3)
    assert len(d.json("revocation", "list")["revocations"]) == 1


def test_a_node_has_them_and_says_where_they_are_made(lab, tmp_path):
    ca = CA(tmp_path / "ca")
    cluster = lab.all(instance="cluster", settings={**ca.server(), "node.addresses": "10.0.0.1"})
    server = f"127.0.0.1:{cluster.port}"
    n2 = lab.keep(Identityd(tmp_path / "n2", role="node", node="n2",
                            settings={**ca.node("n2"), "cluster.server": server, "node.addresses": "10.0.0.2"}))
    f = n2.follow().wait_synced()
    r = add(cluster, node="n2")
    assert f.wait(lambda f: f.get("revocation", r.id)) == r
    assert r.id in n2.cli("revocation", "list")
    for args in (("add", "--node", "n2", "--why", "x"), ("remove", r.id)):
        said = n2.cli("revocation", *args, code=3)
        assert "role node" in said and server in said
    f.close()

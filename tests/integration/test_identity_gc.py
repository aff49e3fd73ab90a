"""countersign identity gc: identities that nobody uses, from unused to deleted."""
import json

import pytest

from lab.daemon import WAIT_S
from lab.identity_lab import Cluster, Lab
from lab.nodes import E, Identityd, spec


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.end()


def gc(d, *args):
    return json.loads(d.cli("identity", "gc", *args, "-o", "json"))


def states(document):
    return {i["identity"]: i["state"] for i in document["identities"]}


def unused(d, lab):
    """An identity that nobody refers to any more, 256, beside one that is in use."""
    for name in "ab":
        d.register(spec(name, f"k8s:app={name}", [f"10.1.0.{ord(name)}"], lab.veth()))
    assert gc(d, "--dry-run") == {"marked": 0, "deleted": 0, "waiting": 0, "resting": 0, "identities": []}
    assert "every identity is in use" in d.cli("identity", "gc", "--dry-run")
    d.endpoints.UnregisterEndpoint(E.UnregisterRequest(id="a"), timeout=WAIT_S)
    f = d.follow().wait_synced()
    f.wait(lambda f: not f.get("endpoint", ("n1", "a")))
    return f


def test_a_deleted_number_rests(lab):
    """By the cluster role itself, soon after gc.grace."""
    d = lab.all(settings={"gc.grace": "1s", "address.quarantine": "0s"})
    f = unused(d, lab)
    f.wait(lambda f: not f.get("identity", 256))
    plan = gc(d, "--dry-run")
    assert states(plan) == {256: "resting"} and 25 * 3600000 < plan["identities"][0]["left_ms"] <= 26 * 3600000
    # Also for the same labels, and after a restart; the other one is untouched.
    assert d.register(spec("again", "k8s:app=a", ["10.1.0.7"], lab.veth())).identity == 258
    f.close()
    d = lab.restart(d)
    assert states(gc(d, "--dry-run")) == {256: "resting"}
    assert set(d.once().all("identity")) == {257, 258}


def test_grace(lab):
    d = lab.all(settings={"address.quarantine": "0s"})
    unused(d, lab).close()
    for _ in range(2):  # nothing is done by saying it
        plan = gc(d, "--dry-run")
        assert plan["marked"] == 1 and states(plan) == {256: "mark"} and plan["identities"][0]["labels"] == "k8s:app=a;"
    assert "1 marked, 0 deleted" in d.cli("identity", "gc")
    done = gc(d)
    assert (done["marked"], done["deleted"]) == (0, 0)
    plan = gc(d, "--dry-run")
    assert states(plan) == {256: "marked"} and 0 < plan["identities"][0]["left_ms"] <= 30 * 60000
    # Somebody has these labels again: the mark is gone.
    assert d.register(spec("c", "k8s:app=a", ["10.1.0.1"], lab.veth())).identity == 256
    assert gc(d, "--dry-run")["identities"] == []


def test_not_on_a_node(lab):
    cluster = Cluster(lab)
    n2 = cluster.node("n2", "10.0.0.2")
    assert "role node" in n2.cli("identity", "gc", code=3)


def test_a_rest_that_is_too_short_is_refused(lab):
    """What was issued to the old owner of a number may outlive it by both bounds together."""
    for settings, says in (({"id.quarantine": "25h"}, "id.quarantine is 90000 s"),
                           ({"svid.max_life": "48h"}, "172800 s (svid.max_life)"),
                           ({"auth.max_ttl": "2h"}, "7200 s more (auth.max_ttl)")):
        d = Identityd(lab.base / "bad", settings=settings, wait=False)
        assert d.wait() == 2 and says in d.output() and "longer than both together" in d.output()
        d.clean()
    lab.all(settings={"id.quarantine": "25h", "svid.max_life": "12h"})

"""The real countersign-identityd: endpoints and their conditions, the directory and how one follows it, two roles over
mTLS, and what survives."""
import threading

import grpc
import pytest

from lab import protos
from lab.daemon import NOBODY, WAIT_S
from lab.nodes import (CA, D, E, ENFORCED, IDENTIFIED, PLACED, REGISTERED, SVID_READY, Identityd, Interfaces, condition, ip,
                       labels, reason_of, spec)


class Lab:
    """What a test started; stopped at its end, and looked at how it ended."""

    def __init__(self, base):
        self.base, self.things, self.interfaces = base, [], Interfaces()

    def keep(self, thing):
        self.things.append(thing)
        return thing

    def all(self, *sets, **options):
        return self.keep(Identityd(self.base / options.pop("instance", "n1"), *sets, **options))

    def veth(self):
        return self.interfaces.new()

    def end(self):
        try:
            for thing in reversed(self.things):
                thing.stop()
        finally:
            self.interfaces.close()


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.end()


def refused(code, fn, *args, **more):
    with pytest.raises(grpc.RpcError) as e:
        fn(*args, **more)
    assert e.value.code() == code, e.value
    return e.value


# ---- endpoints --------------------------------------------------------------------------------------------------------


def test_register_and_list(lab):
    d, veth = lab.all(), lab.veth()
    status = d.register(spec("web-1", "k8s:app=web;k8s:tier=front", ["10.1.0.1", "fd00::1"], veth))
    assert status.identity == 256 and status.spiffe_id == "spiffe://example.org/identity/256" and status.node == "n1"
    assert [c.met for c in status.conditions] == [True, True, True, False, False]
    assert condition(status, PLACED).reason.detail == "self-asserted"
    assert condition(status, ENFORCED).reason.name == "datapath-down"
    assert condition(status, SVID_READY).reason.name == "no-local-svid"
    assert d.list()["web-1"].identity == 256
    f = d.once()
    assert f.get("identity", 256).spiffe_id == status.spiffe_id
    assert [l.key for l in f.get("identity", 256).labels] == ["app", "tier"]
    assert f.get("placement", (256, "n1")).authority == "self"
    e = f.get("endpoint", ("n1", "web-1"))
    assert e.identity == 256 and e.local.interface == veth and e.local.ifindex > 0
    assert e.local.incarnation == status.incarnation
    assert f.get("node", "n1").self
    assert f.get("policy_default", 256).from_endpoint.verdict == protos.common.VERDICT_PASS
    # Another label set is another identity; the same one, in another order, is the same.
    assert d.register(spec("db", "k8s:app=db", ["10.1.0.2"], lab.veth())).identity == 257
    assert d.register(spec("web-2", "k8s:tier=front;k8s:app=web", ["10.1.0.3"], lab.veth())).identity == 256


def test_wait_for_enforced_is_the_default(lab):
    d, veth = lab.all(), lab.veth()
    f = d.follow().wait_synced()
    answer = d.endpoints.RegisterEndpoint.future(
        E.RegisterRequest(spec=spec("a", "k8s:app=a", ["10.1.0.1"], veth)), timeout=WAIT_S)
    e = f.wait(lambda f: (e := f.get("endpoint", ("n1", "a"))) and e.identity and e)
    d.report(endpoint="a", incarnation=e.local.incarnation + 1, step=ENFORCED, met=True)  # of an earlier one: dropped
    assert not condition(d.list()["a"], ENFORCED).met
    assert not answer.done()
    d.report(endpoint="a", incarnation=e.local.incarnation, step=ENFORCED, met=True)
    assert condition(answer.result(WAIT_S), ENFORCED).met
    assert not condition(answer.result(), SVID_READY).met
    # Again, and it is there at once.
    assert condition(d.register(spec("a", "k8s:app=a", ["10.1.0.1"], veth), wait_for=()), ENFORCED).met
    f.close()

"""An endpoint whose labels change becomes another identity, make before break. The adapter and authd are played by the test:
it says which identity has an SVID, and sees what a datapath would be told."""
import threading

import grpc
import pytest

from lab import protos
from lab.daemon import WAIT_S
from lab.identity_lab import Lab, refused
from lab.node_tls import CA
from lab.nodes import D, E, ENFORCED, PLACED, SVID_READY, Identityd, condition, reason_of, spec


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.end()


class Seen:
    """Every identity that an endpoint had in a directory, in order: (identity, incarnation of its own node)."""

    def __init__(self, d, node, id):
        self.values, self.changed = [], threading.Condition()
        self.call = protos.directory_rpc.DirectoryStub(d.channel("directory")).Follow(
            D.FollowRequest(kinds=[D.KIND_ENDPOINT]))
        self.thread = threading.Thread(target=self.run, args=(node, id), daemon=True)
        self.thread.start()

    def run(self, node, id):
        try:
            for batch in self.call:
                for r in batch.records:
                    if (r.endpoint.node, r.endpoint.id) == (node, id):
                        with self.changed:
                            self.values.append("gone" if r.deleted else r.endpoint.identity)
                            self.changed.notify_all()
        except grpc.RpcError:
            pass

    def until(self, identity):
        with self.changed:
            assert self.changed.wait_for(lambda: self.values and self.values[-1] == identity, WAIT_S), self.values
        return [v for i, v in enumerate(self.values) if i == 0 or self.values[i - 1] != v]

    def close(self):
        self.call.cancel()
        self.thread.join(WAIT_S)


def again(d, s, wait_for=(PLACED,)):
    return d.endpoints.RegisterEndpoint.future(E.RegisterRequest(spec=s, wait_for=wait_for), timeout=WAIT_S)


def placed(f, *identities):
    return f.wait(lambda f: {i for i, _ in f.all("placement")} == set(identities) or None)


@pytest.fixture
def d(lab):
    return lab.all()


def authenticating(d, lab, text="k8s:app=a"):
    """Endpoint "a", which can authenticate and is enforced: (its spec with other labels, the first status)."""
    veth = lab.veth()
    first = d.register(spec("a", text, ["10.1.0.1"], veth))
    d.report(identity=first.identity, step=SVID_READY, met=True)
    d.report(endpoint="a", incarnation=first.incarnation, step=ENFORCED, met=True)
    return (lambda text: spec("a", text, ["10.1.0.1"], veth)), first


def test_the_old_identity_until_the_new_one_can_authenticate(lab, d):
    other, first = authenticating(d, lab)
    seen, f = Seen(d, "n1", "a"), d.follow().wait_synced()
    seen.until(256)
    answer = again(d, other("k8s:app=b"), wait_for=(ENFORCED,))
    # The new one is placed, so that its SVID comes; the endpoint is what it was, under the incarnation that authd knows.
    placed(f, 256, 257)
    e = f.wait(lambda f: (e := f.get("endpoint", ("n1", "a"))).local.next_identity == 257 and e)
    assert e.identity == 256 and e.local.incarnation == first.incarnation
    status = d.list()["a"]
    assert status.identity == 256 and status.spiffe_id == first.spiffe_id and status.incarnation != first.incarnation
    assert condition(status, PLACED).reason.name == "no-local-svid" and "keeps its identity" in condition(status, PLACED).reason.detail
    assert not answer.done()
    d.report(identity=257, step=SVID_READY, met=True)
    e = f.wait(lambda f: (e := f.get("endpoint", ("n1", "a"))).identity == 257 and e)
    assert e.local.incarnation == status.incarnation and not e.local.next_identity
    placed(f, 257)
    assert seen.until(257) == [256, 257]  # and never without
    assert not answer.done()  # what was enforced was the old one
    d.report(endpoint="a", incarnation=first.incarnation, step=ENFORCED, met=True)
    assert not condition(d.list()["a"], ENFORCED).met
    d.report(endpoint="a", incarnation=status.incarnation, step=ENFORCED, met=True)
    assert answer.result(WAIT_S).identity == 257 and condition(answer.result(), SVID_READY).met
    seen.close()
    f.close()


def test_nothing_to_keep_nothing_to_wait_for(lab, d):
    """Without an SVID of the old identity there is no authenticated traffic: it moves at once, and is still never without."""
    veth = lab.veth()
    d.register(spec("a", "k8s:app=a", ["10.1.0.1"], veth))
    seen = Seen(d, "n1", "a")
    seen.until(256)
    assert d.register(spec("a", "k8s:app=b", ["10.1.0.1"], veth)).identity == 257
    assert seen.until(257) == [256, 257]
    seen.close()


def test_another_address_is_another_workload(lab, d):
    veth = lab.veth()
    d.register(spec("a", "k8s:app=a", ["10.1.0.1"], veth))
    seen = Seen(d, "n1", "a")
    seen.until(256)
    assert d.register(spec("a", "k8s:app=b", ["10.1.0.2"], veth)).identity == 257
    assert seen.until(257) == [256, 0, 257]  # closed between the two
    seen.close()


def test_it_does_not_wait_for_ever(lab, d):
    other, _ = authenticating(d, lab)
    assert again(d, other("k8s:app=b")).result(WAIT_S).identity == 257  # after 10 s
    assert "has no SVID yet; it moves all the same" in d.output()
    assert set(d.once().all("placement")) == {(257, "n1")}


def test_labels_that_make_the_same_identity(lab, d):
    other, first = authenticating(d, lab)
    status = again(d, other("k8s:app=a;k8s:pod-template-hash=2")).result(WAIT_S)
    assert status.identity == first.identity and len(status.spec.labels) == 2
    assert set(d.once().all("placement")) == {(256, "n1")}


def test_changed_again_while_it_moves(lab, d):
    other, first = authenticating(d, lab)
    f = d.follow().wait_synced()
    lost = again(d, other("k8s:app=b"))
    placed(f, 256, 257)
    answer = again(d, other("k8s:app=c"))
    assert lost.exception(WAIT_S).code() == grpc.StatusCode.ABORTED
    placed(f, 256, 258)
    assert f.get("endpoint", ("n1", "a")).local.incarnation == first.incarnation
    d.report(identity=258, step=SVID_READY, met=True)
    assert answer.result(WAIT_S).identity == 258
    placed(f, 258)
    f.close()


def test_unregistered_while_it_moves(lab, d):
    other, _ = authenticating(d, lab)
    f = d.follow().wait_synced()
    lost = again(d, other("k8s:app=b"))
    placed(f, 256, 257)
    d.endpoints.UnregisterEndpoint(E.UnregisterRequest(id="a"), timeout=WAIT_S)
    placed(f)
    assert not f.all("endpoint") and lost.exception(WAIT_S).code() == grpc.StatusCode.ABORTED
    f.close()


def test_what_may_not_run_here_does_not_keep_what_it_was(lab):
    file = lab.base / "placement.yaml"
    file.write_text('placements: [{labels: ["k8s:app=a"], nodes: [n1]}]')
    d = lab.all("placement.authority=static", f"placement.file={file}", instance="static")
    other, _ = authenticating(d, lab)
    seen, f = Seen(d, "n1", "a"), d.follow().wait_synced()
    seen.until(256)
    e = refused(grpc.StatusCode.DEADLINE_EXCEEDED, d.register, other("k8s:app=b"), timeout=2)
    assert reason_of(e) == "placement-refused"
    assert seen.until(0) == [256, 0]
    placed(f)
    seen.close()
    f.close()


def test_identityd_ends_while_it_moves(lab, d):
    other, _ = authenticating(d, lab)
    f = d.follow().wait_synced()
    lost = again(d, other("k8s:app=b"))  # kept: a future that nobody has is a call that is cancelled
    placed(f, 256, 257)
    f.close()
    d.kill()
    assert lost.exception(WAIT_S)
    lab.things.remove(d)
    d = lab.keep(d.again())
    f = d.follow().wait_synced()
    f.wait(lambda f: f.get("endpoint", ("n1", "a")).identity == 257)
    placed(f, 257)
    f.close()


def test_other_nodes_see_one_change(lab, tmp_path):
    ca = CA(tmp_path / "ca")
    n1 = lab.all(instance="n1", settings={**ca.server(), "node.addresses": "10.0.0.1"})
    n2 = lab.keep(Identityd(tmp_path / "n2", role="node", node="n2", settings={
        **ca.node("n2"), "cluster.server": f"127.0.0.1:{n1.port}", "node.addresses": "10.0.0.2"}))
    n2.follow().wait_synced().close()
    other, _ = authenticating(n2, lab)
    seen, own, f = Seen(n1, "n2", "a"), Seen(n2, "n2", "a"), n1.follow().wait_synced()
    seen.until(256), own.until(256)
    answer = again(n2, other("k8s:app=b"))
    placed(f, 256, 257)
    n2.report(identity=257, step=SVID_READY, met=True)
    assert answer.result(WAIT_S).identity == 257
    assert seen.until(257) == [256, 257] == own.until(257)
    placed(f, 257)
    n2.report(identity=258, step=SVID_READY, met=True)  # is there already: nothing to wait for
    assert n2.register(other("k8s:app=c")).identity == 258
    assert seen.until(258) == [256, 257, 258] == own.until(258)
    assert {k for k in f.all("endpoint")} == {("n2", "a")}  # what holds the place of the next identity is no endpoint
    seen.close()
    own.close()
    f.close()

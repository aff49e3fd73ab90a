"""The real countersign-identityd: endpoints and their conditions, the directory and how one follows it, two roles over
mTLS, and what survives."""
import collections
import contextlib
import datetime as dt
import json
import os
import random
import re
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from lab import protos
from lab.cluster import wait_until
from lab.daemon import WAIT_S
from lab.follower import Follower
from lab.identity_lab import Cluster, Lab, refused
from lab.node_tls import CA, TlsProxy
from lab.nodes import (D, E, ENFORCED, IDENTIFIED, PLACED, REGISTERED, SVID_READY, Identityd, condition, ip, labels, reason_of,
                       spec)
from lab.roles import SETS, call_as, methods_of, walk


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.end()


@pytest.fixture
def public_dir():
    """pytest's own directories are closed to other users."""
    with tempfile.TemporaryDirectory(prefix="cs-identityd-") as dir:
        os.chmod(dir, 0o755)
        yield Path(dir)


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


BAD_SPECS = [
    # what is wrong, code, reason, a word of the message
    (dict(id=""), "INVALID_ARGUMENT", "", "1 to 128 bytes"),
    (dict(id="x" * 129), "INVALID_ARGUMENT", "", "1 to 128 bytes"),
    (dict(id="a b"), "INVALID_ARGUMENT", "", "printable"),
    (dict(text=""), "INVALID_ARGUMENT", "labels-invalid", ""),
    (dict(text="reserved:host="), "INVALID_ARGUMENT", "labels-invalid", "reserved"),
    (dict(text="k8s:a=1;container:a=2"), "INVALID_ARGUMENT", "labels-invalid", "a"),
    (dict(addresses=[]), "INVALID_ARGUMENT", "", "at least one address"),
    (dict(addresses=["10.0.0.1", "10.0.0.1"]), "INVALID_ARGUMENT", "", "twice"),
    (dict(addresses=[f"10.0.0.{i}" for i in range(1, 6)]), "INVALID_ARGUMENT", "", "at most 4"),
    (dict(addresses=[f"fd00::{i}" for i in range(1, 6)]), "INVALID_ARGUMENT", "", "at most 4"),
    (dict(addresses=["127.0.0.1"]), "INVALID_ARGUMENT", "", "loopback"),
    (dict(addresses=["169.254.1.1"]), "INVALID_ARGUMENT", "", "link-local"),
    (dict(addresses=["fe80::1"]), "INVALID_ARGUMENT", "", "link-local"),
    (dict(addresses=["::ffff:10.0.0.1"]), "INVALID_ARGUMENT", "", "IPv4-mapped"),
    (dict(addresses=["224.0.0.1"]), "INVALID_ARGUMENT", "", "multicast"),
    (dict(addresses=["0.0.0.0"]), "INVALID_ARGUMENT", "", "unspecified"),
    (dict(interface=""), "INVALID_ARGUMENT", "interface-unsuitable", "host network"),
    (dict(interface="x" * 16), "INVALID_ARGUMENT", "interface-unsuitable", "name of an interface"),
    (dict(interface="a/b"), "INVALID_ARGUMENT", "interface-unsuitable", "name of an interface"),
    (dict(interface="nosuchinterface"), "FAILED_PRECONDITION", "interface-missing", "nosuchinterface"),
    (dict(interface="lo"), "FAILED_PRECONDITION", "interface-unsuitable", "loopback"),
    (dict(interface="BRIDGE"), "FAILED_PRECONDITION", "interface-unsuitable", "bridge"),
    (dict(interface="MACVLAN"), "FAILED_PRECONDITION", "interface-unsuitable", "macvlan"),
    (dict(interface="TAKEN"), "ALREADY_EXISTS", "interface-taken", "'first'"),
    (dict(addresses=["10.1.0.1"]), "ALREADY_EXISTS", "address-taken", "'first'"),
]


def test_what_cannot_be_registered(lab):
    d, taken, free = lab.all(), lab.veth(), lab.veth()
    bridge = lab.interfaces.new("bridge")
    macvlan = lab.interfaces.macvlan(free)
    d.register(spec("first", "k8s:app=a", ["10.1.0.1"], taken))
    names = {"BRIDGE": bridge, "MACVLAN": macvlan, "TAKEN": taken}
    for wrong, code, reason, word in BAD_SPECS:
        good = dict(id="x", text="k8s:app=x", addresses=["10.0.0.1"], interface=free)
        bad = spec(**{**good, **wrong, "interface": names.get(i := wrong.get("interface", free), i)})
        e = refused(grpc.StatusCode[code], d.register, bad, wait_for=[REGISTERED])
        assert reason_of(e) == reason, (wrong, e)
        assert word in e.details(), (wrong, e)
    address = spec("x", "k8s:app=x", [], free)
    address.addresses.add(ip=b"12345")
    assert "4 or 16 bytes" in refused(grpc.StatusCode.INVALID_ARGUMENT, d.register, address).details()
    refused(grpc.StatusCode.INVALID_ARGUMENT, d.endpoints.RegisterEndpoint, E.RegisterRequest(), timeout=WAIT_S)
    assert set(d.list()) == {"first"}
    assert set(d.once().all("endpoint")) == {("n1", "first")}


def test_deadline_names_what_is_not_met(lab):
    d, veth = lab.all(), lab.veth()
    e = refused(grpc.StatusCode.DEADLINE_EXCEEDED, d.register, spec("a", "k8s:app=a", ["10.1.0.1"], veth),
                wait_for=[REGISTERED, PLACED, SVID_READY, ENFORCED], timeout=1)
    assert "not svid-ready: no-local-svid" in e.details() and reason_of(e) == "no-local-svid"
    e = refused(grpc.StatusCode.DEADLINE_EXCEEDED, d.register, spec("a", "k8s:app=a", ["10.1.0.1"], veth),
                wait_for=[], timeout=1)
    assert "not enforced: datapath-down" in e.details() and reason_of(e) == "datapath-down"
    assert condition(d.list()["a"], PLACED).met  # it stays registered


def test_unregister(lab):
    d, veth = lab.all(), lab.veth()
    d.register(spec("a", "k8s:app=a", ["10.1.0.1"], veth))
    f = d.follow().wait_synced()
    assert f.get("endpoint", ("n1", "a")) and f.get("placement", (256, "n1")) and f.get("policy_default", 256)
    waiting = d.endpoints.RegisterEndpoint.future(
        E.RegisterRequest(spec=spec("a", "k8s:app=a", ["10.1.0.1"], veth), wait_for=[ENFORCED]), timeout=WAIT_S)
    d.endpoints.List(E.ListRequest())  # it is there
    d.endpoints.UnregisterEndpoint(E.UnregisterRequest(id="a"), timeout=WAIT_S)
    assert waiting.exception(WAIT_S).code() == grpc.StatusCode.ABORTED
    f.wait(lambda f: not f.all("endpoint") and not f.all("placement") and not f.all("policy_default"))
    assert f.get("identity", 256)  # an identity is for good
    e = refused(grpc.StatusCode.NOT_FOUND, d.endpoints.UnregisterEndpoint, E.UnregisterRequest(id="a"), timeout=WAIT_S)
    assert reason_of(e) == "not-registered"
    assert d.register(spec("b", "k8s:app=a", ["10.1.0.1"], veth)).identity == 256
    f.close()


def test_other_labels_are_another_incarnation(lab):
    d, veth = lab.all(), lab.veth()
    first = d.register(spec("a", "k8s:app=a", ["10.1.0.1"], veth))
    d.report(endpoint="a", incarnation=first.incarnation, step=ENFORCED, met=True)
    f = d.follow().wait_synced()
    second = d.register(spec("a", "k8s:app=b", ["10.1.0.2"], veth))
    assert second.incarnation != first.incarnation and second.identity == 257
    assert not condition(second, ENFORCED).met
    f.wait(lambda f: f.get("endpoint", ("n1", "a")).identity == 257 and not f.get("placement", (256, "n1")))
    d.report(endpoint="a", incarnation=first.incarnation, step=ENFORCED, met=True)
    assert not condition(d.list()["a"], ENFORCED).met
    f.close()


def test_reconcile(lab):
    d, v1, v2, v3 = lab.all(), lab.veth(), lab.veth(), lab.veth()
    d.register(spec("a", "k8s:app=a", ["10.1.0.1"], v1))
    b = d.register(spec("b", "k8s:app=b", ["10.1.0.2"], v2))
    # a goes, b stays as it is, c takes a's address and interface.
    specs = [spec("b", "k8s:app=b", ["10.1.0.2"], v2), spec("c", "k8s:app=c", ["10.1.0.1"], v1)]
    reply = d.endpoints.Reconcile(E.ReconcileRequest(specs=specs), timeout=WAIT_S)
    assert list(reply.unregistered) == ["a"] and {e.spec.id for e in reply.endpoints} == {"b", "c"}
    assert {e.spec.id: e.incarnation for e in reply.endpoints}["b"] == b.incarnation
    f = d.follow()
    f.wait(lambda f: (e := f.get("endpoint", ("n1", "c"))) and e.identity == 258 and not f.get("endpoint", ("n1", "a")))
    # One that is wrong: nothing happens.
    specs = [spec("b", "k8s:app=other", ["10.1.0.9"], v2), spec("x", "k8s:app=x", ["127.0.0.1"], v3)]
    e = refused(grpc.StatusCode.INVALID_ARGUMENT, d.endpoints.Reconcile, E.ReconcileRequest(specs=specs), timeout=WAIT_S)
    assert "specs[1] ('x')" in e.details()
    specs = [spec("p", "k8s:app=p", ["10.1.0.9"], v2), spec("q", "k8s:app=q", ["10.1.0.9"], v3)]
    e = refused(grpc.StatusCode.ALREADY_EXISTS, d.endpoints.Reconcile, E.ReconcileRequest(specs=specs), timeout=WAIT_S)
    assert reason_of(e) == "address-taken"
    assert set(d.list()) == {"b", "c"}
    # Two that swap their addresses.
    specs = [spec("b", "k8s:app=b", ["10.1.0.1"], v2), spec("c", "k8s:app=c", ["10.1.0.2"], v1)]
    d.endpoints.Reconcile(E.ReconcileRequest(specs=specs), timeout=WAIT_S)
    f.wait(lambda f: all((e := f.get("endpoint", ("n1", i))) and e.identity and list(e.addresses) == [ip(a)]
                         for i, a in (("b", "10.1.0.1"), ("c", "10.1.0.2"))))
    f.close()
    assert sorted(d.endpoints.Reconcile(E.ReconcileRequest(), timeout=WAIT_S).unregistered) == ["b", "c"]
    assert not d.list()


def test_reports(lab):
    d = lab.all()
    a = d.register(spec("a", "k8s:app=a", ["10.1.0.1"], lab.veth()))
    d.report(identity=256, step=SVID_READY, met=True)
    assert condition(d.list()["a"], SVID_READY).met
    # ... also for those that come later.
    assert condition(d.register(spec("b", "k8s:app=a", ["10.1.0.2"], lab.veth()), wait_for=[SVID_READY]), SVID_READY).met
    c = d.register(spec("c", "k8s:app=c", ["10.1.0.3"], lab.veth()))
    assert not condition(c, SVID_READY).met
    d.report(identity=256, step=SVID_READY, met=False, reason="svid-expired")
    assert condition(d.list()["b"], SVID_READY).reason.name == "svid-expired"
    d.report(endpoint="nobody", incarnation=1, step=ENFORCED, met=True)  # dropped
    d.report(endpoint="a", incarnation=a.incarnation, step=ENFORCED, met=True, reason="map-full")
    assert condition(d.list()["a"], ENFORCED).reason.name == "map-full"
    for wrong in (dict(identity=256, step=PLACED, met=True), dict(identity=0, step=ENFORCED, met=True),
                  dict(identity=256, step=SVID_READY, met=False, reason="because")):
        refused(grpc.StatusCode.INVALID_ARGUMENT, d.report, **wrong)


def test_interface_goes_and_comes(lab):
    d, veth = lab.all(), lab.veth()
    f = d.follow().wait_synced()
    a = d.register(spec("a", "k8s:app=a", ["10.1.0.1"], veth))
    d.report(endpoint="a", incarnation=a.incarnation, step=ENFORCED, met=True)
    lab.interfaces.delete(veth)
    e = f.wait(lambda f: (e := f.get("endpoint", ("n1", "a"))) and e.local.ifindex == 0 and e)
    assert e.local.incarnation != a.incarnation
    status = d.list()["a"]
    assert condition(status, ENFORCED).reason.name == "interface-missing" and not condition(status, ENFORCED).met
    d.report(endpoint="a", incarnation=e.local.incarnation, step=ENFORCED, met=True)  # said too early
    assert not condition(d.list()["a"], ENFORCED).met
    lab.interfaces.new(name=veth)
    f.wait(lambda f: f.get("endpoint", ("n1", "a")).local.ifindex > 0)
    assert condition(d.list()["a"], ENFORCED).reason.name == "datapath-down"
    f.close()


# ---- the directory ----------------------------------------------------------------------------------------------------


def test_resume(lab):
    d = lab.all()
    d.register(spec("a", "k8s:app=a", ["10.1.0.1"], lab.veth()))
    f = d.follow().wait_synced()
    f.wait(lambda f: f.get("policy_default", 256))
    f.close()
    d.register(spec("b", "k8s:app=b", ["10.1.0.2"], lab.veth()))
    g = d.follow(resume=D.Position(epoch=f.position[0], revision=f.position[1]))
    g.wait(lambda g: (e := g.get("endpoint", ("n1", "b"))) and e.identity)
    assert g.synced == 0 and not g.get("endpoint", ("n1", "a"))  # only what changed
    # Where it is: heard at once, and nothing else.
    h = d.follow(resume=D.Position(epoch=g.position[0], revision=g.position[1]))
    h.wait(lambda h: h.beats)
    assert not h.state and h.synced == 0
    d.endpoints.UnregisterEndpoint(E.UnregisterRequest(id="b"), timeout=WAIT_S)
    h.wait(lambda h: h.position)
    assert h.synced == 0
    for position in (D.Position(epoch=1, revision=g.position[1]), D.Position(epoch=g.position[0], revision=1 << 40)):
        i = d.follow(resume=position).wait_synced()
        assert i.get("endpoint", ("n1", "a")) and i.position[0] == f.position[0]
        i.close()
    g.close()
    h.close()


def test_kinds_and_once(lab):
    d = lab.all()
    d.register(spec("a", "k8s:app=a", ["10.1.0.1"], lab.veth()))
    f = d.once(kinds=[D.KIND_IDENTITY, D.KIND_NODE])
    assert {k[0] for k in f.state} == {"identity", "node"} and f.synced == 1
    f = d.follow(kinds=[D.KIND_ENDPOINT], once=True, resume=D.Position(epoch=f.position[0], revision=f.position[1]))
    assert f.wait_end() is None and set(f.state) == {("endpoint", ("n1", "a"))}
    f = d.follow(kinds=[D.KIND_UNSPECIFIED])
    assert f.wait_end().code() == grpc.StatusCode.INVALID_ARGUMENT


def test_heartbeats(lab):
    d = lab.all()
    f = d.follow().wait_synced()
    beats = f.beats
    f.wait(lambda f: f.beats >= beats + 2, timeout=15)
    assert f.silent_ms == 0
    f.close()


METHODS = {
    "endpoints.sock": {"Endpoints/RegisterEndpoint": {"agent"}, "Endpoints/UnregisterEndpoint": {"agent"},
                       "Endpoints/Reconcile": {"agent"}, "Endpoints/Report": {"adapter", "authd"},
                       "Endpoints/List": {"viewer", "operator", "agent", "adapter", "authd"}},
    "directory.sock": {"Directory/Follow": {"viewer", "operator", "agent", "adapter", "authd"}},
    "admin.sock": {"Admin/AddRevocation": {"operator"}, "Admin/RemoveRevocation": {"operator"},
                   "Admin/CollectGarbage": {"operator"},
                   "Admin/Usage": {"viewer", "operator", "agent", "adapter", "authd"}},
    "status.sock": {"Status/Get": {"viewer", "operator", "agent", "adapter", "authd"},
                    "Status/Metrics": {"viewer", "operator", "agent", "adapter", "authd"}},
}
STREAMS = {"Directory/Follow", "Status/Metrics"}


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become other users")
def test_every_method_with_every_role(public_dir, lab):
    lab.base = public_dir
    d = lab.all(*SETS)
    assert methods_of(protos.admin, protos.endpoints, protos.directory, protos.status) == \
        {m for methods in METHODS.values() for m in methods}
    walk(d.sockets, METHODS, STREAMS, ("OK", "INVALID_ARGUMENT", "NOT_FOUND"))
    assert "role-refused" in d.output()


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become other users")
def test_a_reporter_reports_its_own_step_only(public_dir, lab):
    lab.base = public_dir
    d = lab.all("roles.adapter=uid:12004", "roles.authd=uid:12005")
    a = d.register(spec("a", "k8s:app=a", ["10.1.0.1"], lab.veth()))

    def report(role, *steps):
        request = E.ReportRequest(reports=[E.Report(endpoint="a", incarnation=a.incarnation, condition=E.Condition(
            step=step, met=True)) for step in steps])
        return call_as(role, d.sockets / "endpoints.sock", "Endpoints/Report", request.SerializeToString())

    assert report("adapter", ENFORCED) == report("authd", SVID_READY) == "PERMISSION_DENIED"
    assert report("adapter", SVID_READY, ENFORCED) == "PERMISSION_DENIED"  # and nothing of it is taken
    for role in ("adapter", "authd"):
        assert report(role, PLACED) == "INVALID_ARGUMENT"
    assert not condition(d.list()["a"], ENFORCED).met and not condition(d.list()["a"], SVID_READY).met
    assert report("adapter", SVID_READY) == report("authd", ENFORCED) == "OK"
    assert condition(d.list()["a"], ENFORCED).met and condition(d.list()["a"], SVID_READY).met


# ---- restarts ---------------------------------------------------------------------------------------------------------


def test_restart(lab):
    d = lab.all()
    v1, v2 = lab.veth(), lab.veth()
    d.register(spec("a", "k8s:app=a", ["10.1.0.1"], v1))
    d.register(spec("b", "k8s:app=b", ["10.1.0.2"], v2))
    before = d.once()
    d.endpoints.UnregisterEndpoint(E.UnregisterRequest(id="b"), timeout=WAIT_S)
    d.kill()
    d.clean()
    d = lab.restart(d)
    f = d.follow().wait_synced()
    f.wait(lambda f: (e := f.get("endpoint", ("n1", "a"))) and e.identity == 256)
    assert f.position[0] != before.position[0]
    assert not f.get("endpoint", ("n1", "b"))
    for id in (256, 257):
        assert f.get("identity", id) == before.get("identity", id)  # the incarnation too
    status = d.list()["a"]
    assert condition(status, PLACED).met and not condition(status, ENFORCED).met
    f.close()


def test_only_one_process(lab):
    d = lab.all()
    second = Identityd(d.instance, wait=False)
    assert second.wait() == 1
    assert "in use" in second.output() or "answers" in second.output() or "another process" in second.output()
    second.clean()
    d.wait_check("cluster", ok=True)  # it serves before its cluster role has answered it
    assert d.status().healthy


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "\x1b[2J", "knoten\u00fc"])
def test_a_name_that_no_node_can_have(lab, name):
    d = Identityd(lab.base / "n1", node=name, wait=False)
    try:
        assert d.wait() == 1
        assert "is no name for a node: set node.name" in d.output() and "\x1b" not in d.output()
    finally:
        d.clean()


# ---- two nodes and a cluster role -------------------------------------------------------------------------------------


@pytest.fixture
def cluster(lab):
    return Cluster(lab)


def test_two_nodes(cluster, lab):
    n1, n2, n3 = cluster.n1, cluster.node("n2", "10.0.0.2"), cluster.node("n3", "10.0.0.3")
    f1, f2, f3 = (n.follow().wait_synced() for n in (n1, n2, n3))
    a = n1.register(spec("a", "k8s:app=a", ["10.1.0.1"], lab.veth()))
    b = n2.register(spec("b", "k8s:app=b", ["10.2.0.1"], lab.veth()))
    c = n3.register(spec("c", "k8s:app=a", ["10.3.0.1"], lab.veth()))
    assert (a.identity, b.identity, c.identity) == (256, 257, 256) and (b.node, c.node) == ("n2", "n3")
    for name, f in (("n1", f1), ("n2", f2), ("n3", f3)):
        where = {("n1", "a"): 256, ("n2", "b"): 257, ("n3", "c"): 256}
        f.wait(lambda f: {k: e.identity for k, e in f.all("endpoint").items()} == where)
        assert set(f.all("placement")) == {(i, n) for (n, _), i in where.items()} and set(f.all("node")) == {"n1", "n2", "n3"}
        assert [n for n, r in f.all("node").items() if r.self] == [name]
        assert [k for k, e in f.all("endpoint").items() if e.HasField("local")] == [k for k in f.all("endpoint") if k[0] == name]
        assert f.get("node", "n2").addresses[0] == ip("10.0.0.2") and f.get("node", "n2").port == 4250
        # Policy is for what is placed here.
        f.wait(lambda f: set(f.all("policy_default")) == {p[0] for p in f.all("placement") if p[1] == name})
    n3.endpoints.UnregisterEndpoint(E.UnregisterRequest(id="c"), timeout=WAIT_S)
    f2.wait(lambda f: not f.get("endpoint", ("n3", "c")) and not f.get("placement", (256, "n3")))
    assert f2.get("placement", (256, "n1"))
    for f in (f1, f2, f3):
        f.close()


def test_an_address_belongs_to_one(cluster, lab):
    n1, n2 = cluster.n1, cluster.node("n2", "10.0.0.2")
    n1.register(spec("a", "k8s:app=a", ["10.1.0.1"], lab.veth()))
    veth = lab.veth()
    e = refused(grpc.StatusCode.DEADLINE_EXCEEDED, n2.register, spec("b", "k8s:app=b", ["10.1.0.1"], veth), timeout=2)
    assert reason_of(e) == "address-taken" and "'a' on node n1" in e.details()
    assert n2.once().get("endpoint", ("n2", "b")).identity == 0  # closed
    assert not n1.once().get("endpoint", ("n2", "b"))
    # It is tried again.
    n1.endpoints.UnregisterEndpoint(E.UnregisterRequest(id="a"), timeout=WAIT_S)
    assert condition(n2.register(spec("b", "k8s:app=b", ["10.1.0.1"], veth)), PLACED).met


def test_quarantine(lab):
    cluster = Cluster(lab, **{"address.quarantine": "3s"})
    n1, n2 = cluster.n1, cluster.node("n2", "10.0.0.2")
    n1.register(spec("a", "k8s:app=a", ["10.1.0.1"], lab.veth()))
    n1.endpoints.UnregisterEndpoint(E.UnregisterRequest(id="a"), timeout=WAIT_S)
    veth = lab.veth()
    # It cannot be had in the time that the caller has: he hears so at once, and how long it takes.
    e = refused(grpc.StatusCode.FAILED_PRECONDITION, n2.register, spec("b", "k8s:app=b", ["10.1.0.1"], veth), timeout=2)
    assert reason_of(e) == "address-in-quarantine" and "in 3 s" in e.details()
    started = time.monotonic()
    assert condition(n2.register(spec("b", "k8s:app=b", ["10.1.0.1"], veth)), PLACED).met
    assert time.monotonic() - started < 10  # when the quarantine is over, not when a backoff is


def test_cluster_role_away(cluster, lab):
    n1, n2 = cluster.n1, cluster.node("n2", "10.0.0.2")
    v1, v2, v3 = lab.veth(), lab.veth(), lab.veth()
    n1.register(spec("a", "k8s:app=a", ["10.1.0.1"], v1))
    n2.register(spec("b", "k8s:app=b", ["10.2.0.1"], v2))
    f = n2.follow().wait_synced()
    f.wait(lambda f: len(f.all("placement")) == 2)
    n1.kill()
    n1.clean()
    f.wait(lambda f: f.silent_ms > 5000, timeout=20)
    assert f.get("endpoint", ("n1", "a")).identity == 256  # the last state is served on
    check = n2.wait_check("cluster", ok=False)
    assert check.reason.detail
    # Registered and closed, and why.
    e = refused(grpc.StatusCode.DEADLINE_EXCEEDED, n2.register, spec("c", "k8s:app=c", ["10.2.0.2"], v3), timeout=1)
    assert "not identified: directory-stale" in e.details()
    f.wait(lambda f: f.get("endpoint", ("n2", "c")))
    assert f.get("endpoint", ("n2", "c")).identity == 0
    n2.endpoints.UnregisterEndpoint(E.UnregisterRequest(id="b"), timeout=WAIT_S)
    # A node role that starts now serves nothing before it heard.
    n2b = lab.restart(n2)
    g = n2b.follow()
    g.wait(lambda g: g.beats)
    assert not g.state and g.synced == 0
    n1 = lab.restart(n1, settings={"cluster.listen": f"127.0.0.1:{cluster.port}"})
    assert g.wait_synced().get("endpoint", ("n1", "a"))
    g.wait(lambda g: (e := g.get("endpoint", ("n2", "c"))) and e.identity == 258)
    n2b.wait_check("cluster", ok=True)
    h = n1.follow()
    h.wait(lambda h: h.get("endpoint", ("n2", "c")) and not h.get("endpoint", ("n2", "b")))
    assert h.get("identity", 257)
    g.close()
    h.close()
    f.close()


def test_a_node_resumes_at_the_cluster_role(cluster, lab):
    """The node role's followers see the difference, not a new state."""
    n1, n2 = cluster.n1, cluster.node("n2", "10.0.0.2")
    n1.register(spec("a", "k8s:app=a", ["10.1.0.1"], lab.veth()))
    f = n2.follow().wait_synced()
    f.wait(lambda f: f.get("endpoint", ("n1", "a")))
    n1.stop()
    n1 = lab.restart(n1, settings={"cluster.listen": f"127.0.0.1:{cluster.port}"})
    n1.register(spec("b", "k8s:app=b", ["10.1.0.2"], lab.veth()))
    f.wait(lambda f: (e := f.get("endpoint", ("n1", "b"))) and e.identity == 257)
    assert f.synced == 1 and f.get("endpoint", ("n1", "a"))
    f.close()


class DeafCluster(protos.cluster_rpc.ClusterServicer, protos.directory_rpc.DirectoryServicer):
    """A cluster role that takes every Hello, says its directory once, and then nothing more in any stream."""

    def __init__(self, files):
        key, chain, root = (Path(files[f"tls.{f}"]).read_bytes() for f in ("key", "cert", "bundle"))
        self.hellos, self.first, self.hung_up = 0, True, threading.Event()
        self.server = grpc.server(futures.ThreadPoolExecutor(8))
        protos.cluster_rpc.add_ClusterServicer_to_server(self, self.server)
        protos.directory_rpc.add_DirectoryServicer_to_server(self, self.server)
        self.port = self.server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)], root, True))
        self.server.start()

    def Hello(self, request, context):
        self.hellos += 1
        return protos.cluster.HelloReply(epoch=1, trust_domain="example.org")

    def Heartbeat(self, request, context):
        return protos.cluster.HeartbeatReply()

    def ReconcileClaims(self, request, context):
        return protos.cluster.ReconcileClaimsReply()

    def Follow(self, request, context):
        first, self.first = self.first, False
        if first:
            yield D.DirectoryBatch(position=D.Position(epoch=1, revision=1), complete=True, synced=True)
            self.hung_up.wait(WAIT_S)
            return
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait()

    alive = True

    def stop(self):
        self.hung_up.set()
        self.server.stop(0).wait()


def test_a_hello_is_no_word_of_the_directory(lab):
    """directory.max_stale of authd rests on silent_ms: a cluster role that only greets must not keep it young."""
    ca = CA(lab.base / "ca")
    deaf = lab.keep(DeafCluster(ca.server()))
    n2 = lab.keep(Identityd(lab.base / "n2", role="node", node="n2", settings={
        **ca.node("n2"), "cluster.server": f"127.0.0.1:{deaf.port}", "node.addresses": "10.0.0.2"}))
    f = n2.follow().wait_synced()
    assert f.silent_ms < 5000
    f.wait(lambda f: f.silent_ms >= 5500, timeout=20)
    deaf.hung_up.set()
    heard, greeted_at = [f.silent_ms], None

    def a_beat_after_the_second_hello(f):
        nonlocal greeted_at
        heard.append(f.silent_ms)
        if deaf.hellos == 2 and greeted_at is None:
            greeted_at = f.beats
        return greeted_at is not None and f.beats > greeted_at

    f.wait(a_beat_after_the_second_hello, timeout=20)
    assert heard == sorted(heard)
    f.close()


def test_who_may_not_join(cluster, lab):
    n1 = cluster.n1
    other = CA(lab.base / "other")
    good = cluster.settings("n2", "10.0.0.2")
    # (settings, exit code or None when it runs and is refused, word)
    cases = [
        ({**good, **other.node("n2")}, "untrusted"),                                # another CA signed it
        ({**good, "node.addresses": "10.0.0.1"}, "node-address-taken"),            # n1's
        ({**good, **CA(lab.base / "foreign", "foreign.org").node("n2")}, "no-bundle"),  # another trust domain
    ]
    for i, (settings, reason) in enumerate(cases):
        d = cluster.node(f"n2-{i}", None, settings=settings)
        d.wait_check("cluster", ok=False, says=reason)
        f = d.follow()
        f.wait(lambda f: f.beats)
        assert not f.state
        f.close()
    assert not n1.once().get("node", "n2")
    # Who shows another CA's certificate is refused, and that is on record.
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    tls.set_alpn_protocols(["h2"])
    foreign = other.node("n2")
    tls.load_cert_chain(foreign["tls.cert"], foreign["tls.key"])
    raw = socket.create_connection(("127.0.0.1", cluster.port), WAIT_S)
    with raw.dup() as end, tls.wrap_socket(raw) as s:
        with pytest.raises(ssl.SSLError, match="ALERT"):
            s.recv(1)
        end.settimeout(WAIT_S)
        assert end.recv(1) == b""  # the record is written before the connection is closed
    records = [json.loads(line) for line in n1.output().splitlines() if "turned a caller away" in line]
    assert ("audit", "untrusted") in {(r["level"], r["reason"]) for r in records}, records
    # A certificate that is for another role, or not of this name, is an error at the start.
    for settings, word in (({**good, **cluster.ca.server()}, "not a node"),
                           ({**good, "node.name": "n9"}, "node n2's"),
                           ({**good, **cluster.ca.issue("/identity/256")}, "not a node")):
        d = Identityd(lab.base / "bad", role="node", settings=settings, wait=False)
        assert d.wait() == 1 and word in d.output(), d.output()
        d.clean()
    assert cluster.node("n2", "10.0.0.2").follow().wait_synced().get("node", "n1")


def claim(id, text, *addresses):
    return protos.cluster.ClaimRequest(id=id, labels=labels(text), addresses=[ip(a) for a in addresses])


def hello(*addresses, port=4250, path="unknown"):
    return protos.cluster.HelloRequest(addresses=[ip(a) for a in addresses], port=port, path=path)


def test_the_cluster_service(cluster, lab):
    """What no node role of ours would say."""
    C = protos.cluster
    proxy = lab.keep(TlsProxy(lab.base / "x.sock", cluster.port, cluster.ca.node("x")))
    stub = protos.cluster_rpc.ClusterStub(proxy.channel)
    before_hello = [(stub.Claim, claim("a", "k8s:app=a", "10.9.0.1")), (stub.Release, C.ReleaseRequest(id="a")),
                    (stub.ReconcileClaims, C.ReconcileClaimsRequest()), (stub.Heartbeat, C.HeartbeatRequest())]
    for method, request in before_hello:
        e = refused(grpc.StatusCode.FAILED_PRECONDITION, method, request, timeout=WAIT_S)
        assert "Hello comes before" in e.details()
    for request in ({}, {"once": True}):
        f = Follower(proxy.channel, **request)
        assert f.wait_end().code() == grpc.StatusCode.FAILED_PRECONDITION and not f.state
    for bad, word in ((hello("127.0.0.1"), "loopback"), (hello("10.0.0.9", "10.0.0.9"), "twice"), (hello(port=0), "port"),
                      (hello(port=70000), "port"), (hello(path="magic"), "magic"),
                      (hello(*(f"10.0.1.{i}" for i in range(9))), "at most 8")):
        assert word in refused(grpc.StatusCode.INVALID_ARGUMENT, stub.Hello, bad, timeout=WAIT_S).details()
    e = refused(grpc.StatusCode.ALREADY_EXISTS, stub.Hello, hello("10.0.0.1"), timeout=WAIT_S)
    assert reason_of(e) == "node-address-taken" and "node n1" in e.details()
    assert Follower(proxy.channel).wait_end().code() == grpc.StatusCode.FAILED_PRECONDITION  # it was said, not taken
    reply = stub.Hello(hello("10.0.0.9"), timeout=WAIT_S)
    assert reply.trust_domain == "example.org" and reply.epoch
    e = refused(grpc.StatusCode.FAILED_PRECONDITION, stub.Hello, hello("10.0.0.9"), timeout=WAIT_S)
    assert "already" in e.details()
    for bad, code in ((claim("", "k8s:app=a", "10.9.0.1"), "INVALID_ARGUMENT"), (claim("a", "", "10.9.0.1"), "INVALID_ARGUMENT"),
                      (claim("a\n", "k8s:app=a", "10.9.0.1"), "INVALID_ARGUMENT"),
                      (claim("a", "reserved:host=", "10.9.0.1"), "INVALID_ARGUMENT"),
                      (claim("a", "k8s:app=a", "::1"), "INVALID_ARGUMENT"), (claim("a", "k8s:app=a"), "INVALID_ARGUMENT"),
                      (claim("a", "k8s:app=a", *(f"10.9.0.{i}" for i in range(1, 6))), "INVALID_ARGUMENT")):
        refused(grpc.StatusCode[code], stub.Claim, bad, timeout=WAIT_S)
    a = stub.Claim(claim("a", "k8s:app=a", "10.9.0.1"), timeout=WAIT_S)
    assert a.identity == 256 and not a.refused.name
    assert stub.Claim(claim("a", "k8s:app=a", "10.9.0.1"), timeout=WAIT_S).revision == a.revision
    b = stub.Claim(claim("b", "k8s:app=b", "10.9.0.1"), timeout=WAIT_S)
    assert b.refused.name == "address-taken" and b.identity == 0
    stub.Heartbeat(C.HeartbeatRequest(), timeout=WAIT_S)
    # The node is whom the certificate names, whatever it says; its policy is its own.
    f = Follower(proxy.channel, policy_for_node="n1").wait_synced()
    assert set(f.all("endpoint")) == {("x", "a")} and set(f.all("policy_default")) == {256}
    assert not any(n.self for n in f.all("node").values())
    f.close()
    y = lab.keep(TlsProxy(lab.base / "y.sock", cluster.port, cluster.ca.node("y")))
    other = protos.cluster_rpc.ClusterStub(y.channel)
    other.Hello(hello("10.0.0.10"), timeout=WAIT_S)
    other.Release(C.ReleaseRequest(id="a"), timeout=WAIT_S)  # not its own: nothing
    g = Follower(y.channel).wait_synced()
    assert g.get("endpoint", ("x", "a")) and not g.all("policy_default")
    reply = stub.ReconcileClaims(C.ReconcileClaimsRequest(claims=[claim("c", "k8s:app=c", "10.9.0.1")]), timeout=WAIT_S)
    assert [r.identity for r in reply.replies] == [257]
    g.wait(lambda g: set(g.all("endpoint")) == {("x", "c")})
    g.close()


def followers(d):
    """(who follow the cluster role, to how many of them a full state is on its way), as its metrics say."""
    text = b"".join(c.text for c in protos.status_rpc.StatusStub(d.channel("status")).Metrics(
        protos.status.MetricsRequest(), timeout=WAIT_S)).decode()
    return tuple(int(re.search(rf"^countersign_cluster_{name}{{.*}} (\d+)$", text, re.M)[1])
                 for name in ("followers", "full_states"))


def test_a_node_that_reads_nothing_stands_in_nobodys_way(cluster, lab):
    """Full states are sent to some at a time; one node, however often it asks, has a share of them and no more."""
    C = protos.cluster
    x, y, deaf = (lab.keep(TlsProxy(lab.base / f"{name}.sock", cluster.port, cluster.ca.node(name[0]))) for name in ("x", "y", "x2"))
    for proxy, address in ((x, "10.0.0.9"), (y, "10.0.0.10"), (deaf, "10.0.0.9")):
        protos.cluster_rpc.ClusterStub(proxy.channel).Hello(hello(address), timeout=WAIT_S)
    long = ";".join(f"k8s:{'k' * 200}{i}={'v' * 40}" for i in range(14))
    claims = [claim(f"e{i}", f"{long};k8s:n={i}", f"10.9.{i // 200}.{i % 200 + 1}") for i in range(500)]
    protos.cluster_rpc.ClusterStub(x.channel).ReconcileClaims(C.ReconcileClaimsRequest(claims=claims), timeout=WAIT_S)
    deaf.deaf = True
    follow = protos.directory_rpc.DirectoryStub(deaf.channel).Follow
    calls = [follow(D.FollowRequest()) for _ in range(40)]
    wait_until(lambda: followers(cluster.n1) >= (40, 4), "40 follow", WAIT_S)
    assert followers(cluster.n1)[1] == 4
    f = Follower(y.channel).wait_synced()
    assert len(f.all("endpoint")) == 500 and followers(cluster.n1)[1] == 4  # of which none is y's
    f.close()
    for call in calls:
        call.cancel()


def test_a_flood_of_objects(cluster, lab):
    """As much as a node may ever claim at once is taken; empty claims, whose objects are many times their bytes, are refused
    before they cost the loop more than that."""
    C = protos.cluster
    proxy = lab.keep(TlsProxy(lab.base / "x.sock", cluster.port, cluster.ca.node("x")))
    stub = protos.cluster_rpc.ClusterStub(proxy.channel)
    stub.Hello(hello("10.0.0.9"), timeout=WAIT_S)
    largest = ";".join(f"k8s:k{i:02}={'v' * 54}" for i in range(64))
    claims = [claim(f"e{i:04}".ljust(128, "x"), largest, f"10.9.{i >> 8}.{i & 255}") for i in range(1024)]
    reply = stub.ReconcileClaims(C.ReconcileClaimsRequest(claims=claims), timeout=WAIT_S)
    assert {r.identity for r in reply.replies} == {256} and not any(r.refused.name for r in reply.replies)
    reconcile = proxy.channel.unary_unary("/countersign.v1.Cluster/ReconcileClaims")
    e = refused(grpc.StatusCode.RESOURCE_EXHAUSTED, reconcile, b"\x0a\x00" * 500_000, timeout=WAIT_S)
    assert "too large when unpacked" in e.details()


def test_a_node_that_asks_without_waiting(cluster, lab):
    """Full lists one after the other, and none is waited for: what waits for the store is bounded, and is told."""
    C = protos.cluster
    proxy = lab.keep(TlsProxy(lab.base / "x.sock", cluster.port, cluster.ca.node("x")))
    stub = protos.cluster_rpc.ClusterStub(proxy.channel)
    stub.Hello(hello("10.0.0.9"), timeout=WAIT_S)
    lists = [C.ReconcileClaimsRequest(claims=[claim(f"e{i}", f"k8s:{key}=v{i}", f"10.9.{i >> 8}.{i & 255}")
                                              for i in range(1024)]) for key in ("a", "b")]
    calls = [stub.ReconcileClaims.future(lists[i % 2], timeout=WAIT_S) for i in range(40)]
    codes = collections.Counter(call.code() for call in calls)
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}, codes
    refused_ones = [call for call in calls if call.code() != grpc.StatusCode.OK]
    assert {reason_of(call) for call in refused_ones} == {"too-many"} and "node x" in refused_ones[0].details()
    reply = stub.ReconcileClaims(lists[0], timeout=WAIT_S)  # nothing of it is held against the node
    assert not any(r.refused.name for r in reply.replies)


def test_who_is_no_node(cluster, lab):
    """Certificates that no node role would start with: closed before a byte of gRPC."""
    ca = cluster.ca
    cases = {"no certificate": None, "another CA": CA(lab.base / "evil").node("n2"), "a workload": ca.issue("/identity/256"),
             "identityd": ca.server(), "two segments": ca.issue("/countersign/node/a/b"),
             "expired": ca.node("n2", life=dt.timedelta(seconds=-1))}
    for i, (what, files) in enumerate(cases.items()):
        proxy = lab.keep(TlsProxy(lab.base / f"p{i}.sock", cluster.port, files))
        e = refused(grpc.StatusCode.UNAVAILABLE, protos.cluster_rpc.ClusterStub(proxy.channel).Hello, hello(), timeout=WAIT_S)
    proxy = lab.keep(TlsProxy(lab.base / "old.sock", cluster.port, ca.node("n2"), version=ssl.TLSVersion.TLSv1_2))
    refused(grpc.StatusCode.UNAVAILABLE, protos.cluster_rpc.ClusterStub(proxy.channel).Hello, hello(), timeout=WAIT_S)
    assert set(cluster.n1.once().all("node")) == {"n1"}


# ---- policy and placement ---------------------------------------------------------------------------------------------


def policy(name, subject, *rules, extra=""):
    """A CiliumNetworkPolicy: rules are (direction, peer, mode)."""
    text = f"""apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: {name}
spec:
  endpointSelector:
    matchLabels:
      app: {subject}
{extra}"""
    for direction, peer, mode in rules:
        text += f"""  {direction}:
  - {'fromEndpoints' if direction.startswith('ingress') else 'toEndpoints'}:
    - matchLabels:
        app: {peer}
"""
        text += f"    authentication:\n      mode: {mode}\n" if mode else ""
    return text


def put(dir, name, text):
    dir.mkdir(exist_ok=True)
    (dir / f".{name}").write_text(text)
    (dir / f".{name}").rename(dir / name)


DENY, REQUIRE, PASS = protos.common.VERDICT_DENY, protos.common.VERDICT_REQUIRE, protos.common.VERDICT_PASS


def test_policy(lab):
    dir = lab.base / "policies"
    put(dir, "web.yaml", policy("web", "web", ("ingress", "client", "required")))
    d = lab.all(f"policy.dir={dir}")
    f = d.follow().wait_synced()
    d.register(spec("web", "k8s:app=web", ["10.1.0.1"], lab.veth()))
    d.register(spec("client", "k8s:app=client", ["10.1.0.2"], lab.veth()))
    row = f.wait(lambda f: f.get("policy_row", (256, 257)))
    assert row.to.verdict == REQUIRE and row.to.rule == "ingress[0]" and row.to.policy == "default/web"
    default = f.get("policy_default", 256)
    assert (default.to_endpoint.verdict, default.to_other.verdict) == (DENY, DENY)
    assert default.from_endpoint.verdict == PASS
    assert f.get("policy_default", 257).to_endpoint.verdict == PASS
    assert f.get("policy", "default/web").file == "web.yaml"
    # A second file, with a prefix.
    put(dir, "client.yml", policy("client", "client", extra="""  egress:
  - toCIDR: [192.0.2.0/24]
"""))
    prefix = f.wait(lambda f: f.get("prefix", (bytes([192, 0, 2, 0]), 24)))
    assert prefix.identity == (1 << 24 | 1) and f.get("policy_row", (257, prefix.identity))
    assert f.get("policy_default", 257).from_endpoint.verdict == DENY
    # One that does not parse: nothing changes, and it is said.
    position = f.position
    put(dir, "web.yaml", policy("web", "web", ("ingress", "client", "sometimes")))
    check = d.wait_check("policy", ok=False)
    assert f"{dir}/web.yaml:" in check.reason.detail and "sometimes" in check.reason.detail
    assert not d.status().healthy
    assert d.follow().wait_synced().get("policy_row", (256, 257)) == row and d.once().position == position
    # A new endpoint has the policy that is in force.
    d.register(spec("web-2", "k8s:app=web;k8s:v=2", ["10.1.0.3"], lab.veth()))
    assert d.once().get("policy_default", 258).to_endpoint.verdict == DENY
    # Mended.
    put(dir, "web.yaml", policy("web", "web", ("ingressDeny", "client", None)))
    d.wait_check("policy", ok=True)
    f.wait(lambda f: f.get("policy_row", (256, 257)).to.verdict == DENY)
    # Gone.
    (dir / "web.yaml").unlink()
    f.wait(lambda f: not f.get("policy", "default/web") and f.get("policy_default", 256).to_endpoint.verdict == PASS)
    (dir / "client.yml").unlink()
    f.wait(lambda f: not f.all("prefix") and not f.all("policy_row"))
    # The number of a prefix is for good.
    put(dir, "x.yaml", policy("x", "client", extra="""  egress:
  - toCIDR: [198.51.100.0/24, 192.0.2.0/24]
"""))
    f.wait(lambda f: len(f.all("prefix")) == 2)
    assert f.get("prefix", (bytes([192, 0, 2, 0]), 24)).identity == prefix.identity
    f.close()


def test_policy_that_does_not_parse_at_the_start(lab):
    dir = lab.base / "policies"
    put(dir, "a.yaml", policy("a", "a", ("ingress", "b", "sometimes")))
    d = Identityd(lab.base / "n1", f"policy.dir={dir}", wait=False)
    assert d.wait() == 1 and f"{dir}/a.yaml:" in d.output()
    d.clean()
    d = Identityd(lab.base / "n1", f"policy.dir={lab.base}/nowhere", wait=False)
    assert d.wait() == 1 and "nowhere" in d.output()
    d.clean()


def test_policy_reaches_the_nodes(lab):
    dir = lab.base / "policies"
    dir.mkdir()
    cluster = Cluster(lab, f"policy.dir={dir}")
    n1, n2 = cluster.n1, cluster.node("n2", "10.0.0.2")
    f1, f2 = n1.follow().wait_synced(), n2.follow().wait_synced()
    n1.register(spec("web", "k8s:app=web", ["10.1.0.1"], lab.veth()))
    n2.register(spec("client", "k8s:app=client", ["10.2.0.1"], lab.veth()))
    put(dir, "web.yaml", policy("web", "web", ("ingress", "client", "required")))
    f1.wait(lambda f: f.get("policy_row", (256, 257)))
    f2.wait(lambda f: f.get("policy", "default/web"))
    assert not f2.get("policy_row", (256, 257)) and set(f2.all("policy_default")) == {257}
    # web comes to n2: its row does too, which did not change.
    n2.register(spec("web-2", "k8s:app=web", ["10.2.0.2"], lab.veth()))
    f2.wait(lambda f: f.get("policy_row", (256, 257)) and f.get("policy_default", 256))
    n2.endpoints.UnregisterEndpoint(E.UnregisterRequest(id="web-2"), timeout=WAIT_S)
    f2.wait(lambda f: not f.get("policy_row", (256, 257)) and not f.get("policy_default", 256))
    assert f1.get("policy_row", (256, 257))
    f1.close()
    f2.close()


def test_static_placement(lab):
    file = lab.base / "placement.yaml"
    put(lab.base, "placement.yaml", """nodes:
  n2:
    addresses: [10.0.0.2, 10.0.0.3]
placements:
- labels: ["k8s:app=web"]
  nodes: [n2]
- labels: ["k8s:app=any"]
  nodes: ["*"]
""")
    cluster = Cluster(lab, "placement.authority=static", f"placement.file={file}")
    n1, n2 = cluster.n1, cluster.node("n2", "10.0.0.2")
    v1, v2, v3 = lab.veth(), lab.veth(), lab.veth()
    assert condition(n1.register(spec("any", "k8s:app=any", ["10.1.0.9"], lab.veth())), PLACED).met
    # n1 only claims: no identity is made for it, nobody hears of it, and the address stays free.
    e = refused(grpc.StatusCode.DEADLINE_EXCEEDED, n1.register, spec("w1", "k8s:app=web;k8s:x=1", ["10.1.0.1"], v1), timeout=1)
    assert reason_of(e) == "placement-refused" and "node n1" in e.details()
    assert not n2.follow().wait_synced().get("endpoint", ("n1", "w1"))
    w2 = n2.register(spec("w2", "k8s:app=web;k8s:x=1", ["10.1.0.1"], v2))
    assert w2.identity == 257 and condition(w2, PLACED).met and not condition(w2, PLACED).reason.detail
    f = n1.follow().wait_synced()
    assert f.get("placement", (257, "n2")).authority == "static" and not f.get("placement", (257, "n1"))
    # Its identity is known, its placement is not.
    e = refused(grpc.StatusCode.DEADLINE_EXCEEDED, n1.register, spec("w1", "k8s:app=web;k8s:x=1", ["10.1.0.7"], v1),
                wait_for=[IDENTIFIED, PLACED], timeout=1)
    assert "not placed: placement-refused" in e.details()
    # The authority changes its mind: both ways, without anybody asking.
    put(lab.base, "placement.yaml", "placements:\n- labels: ['k8s:app=web']\n  nodes: [n1]\n")
    f.wait(lambda f: not f.get("placement", (257, "n2")) and not f.get("endpoint", ("n2", "w2")))
    f.wait(lambda f: f.get("placement", (257, "n1")) and f.get("endpoint", ("n1", "w1")).identity == 257)
    g = n2.follow()
    g.wait(lambda g: (e := g.get("endpoint", ("n2", "w2"))) and e.identity == 0)
    refused(grpc.StatusCode.DEADLINE_EXCEEDED, n2.register, spec("w2", "k8s:app=web;k8s:x=1", ["10.1.0.1"], v2), timeout=1)
    c = condition(n2.list()["w2"], PLACED)
    assert not c.met and c.reason.name == "placement-refused"
    # A file that does not parse changes nothing.
    put(lab.base, "placement.yaml", "placements:\n- label: ['k8s:app=web']\n  nodes: [n2]\n")
    check = n1.wait_check("placement", ok=False)
    assert f"{file}:2: unknown key 'label'" in check.reason.detail
    assert f.get("placement", (257, "n1"))
    # Addresses of nodes are the authority's too.
    d = cluster.node("n3", "10.0.0.9")
    f.wait(lambda f: f.get("node", "n3"))
    put(lab.base, "placement.yaml", "nodes:\n  n3:\n    addresses: [10.0.0.3]\n")
    f.wait(lambda f: not f.get("node", "n3").addresses)
    d = lab.restart(d)
    d.wait_check("cluster", ok=False, says="placement-refused")
    f.close()
    g.close()


def test_depends_on(lab):
    d = lab.all("depends_on=spire=k8s:app=spire-server,dns=10.0.0.53,dns=fd00::53/128,dns=k8s:app=dns;k8s:ns=kube")
    f = d.follow().wait_synced()
    dns = f.get("depends_on", "dns")
    assert [(bytes(p.ip), p.bits) for p in dns.prefixes] == [(ip("10.0.0.53").ip, 32), (ip("fd00::53").ip, 128)]
    assert not dns.identities and not f.get("depends_on", "spire").identities
    d.register(spec("a", "k8s:app=dns", ["10.1.0.1"], lab.veth()))
    d.register(spec("b", "k8s:app=dns;k8s:ns=kube", ["10.1.0.2"], lab.veth()))
    d.register(spec("c", "k8s:app=spire-server", ["10.1.0.3"], lab.veth()))
    f.wait(lambda f: list(f.get("depends_on", "dns").identities) == [257] and
           list(f.get("depends_on", "spire").identities) == [258])
    f.close()
    for wrong, word in (("nothing", "is not NAME="), ("dns=10.0.0.53/8", "10.0.0.0/8"), ("x=;;", "")):
        bad = Identityd(lab.base / "bad", f"depends_on={wrong}", wait=False)
        assert bad.wait() in (1, 2) and word in bad.output(), bad.output()
        bad.clean()


# ---- what survives ----------------------------------------------------------------------------------------------------

KILLS = int(os.environ.get("CS_KILLS", 10))


class Load(threading.Thread):
    """Registers and unregisters on one node as fast as it goes, and remembers what it was told."""

    LABELS = 40

    def __init__(self, node, interfaces, identities, seed):
        super().__init__(daemon=True)
        self.node, self.interfaces, self.identities = node, interfaces, identities
        self.random, self.done = random.Random(seed), threading.Event()
        # By slot: the spec that is there for certain, None for none, ... for not known.
        self.slots = [None] * len(interfaces)
        self.lock, self.wrong, self.answers = threading.Lock(), [], 0

    def run(self):
        while not self.done.is_set():
            with self.lock:
                self.step()

    def step(self):
        i = self.random.randrange(len(self.slots))
        what, before = f"e{i}", self.slots[i]
        self.slots[i] = ...
        with grpc.insecure_channel(f"unix:{self.node.sockets / 'endpoints'}.sock",
                                   [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = protos.endpoints_rpc.EndpointsStub(channel)
            try:
                if before is not None and self.random.random() < 0.4:
                    stub.UnregisterEndpoint(E.UnregisterRequest(id=what), timeout=5)
                    self.slots[i] = None
                else:
                    text = f"k8s:app=a{self.random.randrange(self.LABELS)}"
                    mine = spec(what, text, [f"10.{self.node.node[1:]}.0.{i + 1}"], self.interfaces[i])
                    reply = stub.RegisterEndpoint(E.RegisterRequest(spec=mine, wait_for=[PLACED]), timeout=5)
                    self.identities[text].add(reply.identity)
                    self.slots[i] = text
                self.answers += 1
            except grpc.RpcError as e:
                if e.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED,
                                    grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INTERNAL):
                    self.wrong.append(e)


def check_survivors(load, d, identities):
    listed = {e.spec.id: ";".join(f"{l.source}:{l.key}={l.value}" for l in e.spec.labels) for e in d.list().values()}
    for i, text in enumerate(load.slots):
        if text is not ...:
            assert listed.get(f"e{i}") == text, (i, text, listed)
    assert not load.wrong


def check_identities(directory, identities):
    """identities: what was answered, by labels. All of it is there, or comes; none is ever there twice or another one."""
    def all_there(f):
        all = f.all("identity")
        by_labels = {";".join(f"{l.source}:{l.key}={l.value}" for l in r.labels): id for id, r in all.items()}
        assert len(by_labels) == len(all) and len({r.spiffe_id for r in all.values()}) == len(all)
        for text, ids in identities.items():
            assert len(ids) == 1, f"{text} has two identities: {ids}"
            assert by_labels.get(text) in {None, *ids}, f"{text} was {ids}, is {by_labels[text]}"
        return identities.keys() <= by_labels.keys()

    directory.wait(all_there)


def test_killed_under_load(cluster, lab):
    seed = int(os.environ.get("CS_SEED", time.time()))
    print(f"CS_SEED={seed} CS_KILLS={KILLS}")
    rng = random.Random(seed)
    n1 = lab.restart(cluster.n1, settings={"cluster.listen": f"127.0.0.1:{cluster.port}"})
    nodes = {"n1": n1, "n2": cluster.node("n2", "10.0.0.2")}
    identities = collections.defaultdict(set)
    loads = {name: Load(d, [lab.veth() for _ in range(6)], identities, rng.random()) for name, d in nodes.items()}
    for load in loads.values():
        load.start()
    for _ in range(KILLS):
        name = rng.choice(["n1", "n2"])
        time.sleep(rng.uniform(0.02, 0.4))  # a random moment
        d = nodes[name]
        d.kill()
        with loads[name].lock:  # its call has failed
            nodes[name] = loads[name].node = lab.restart(d)
            check_survivors(loads[name], nodes[name], identities)
    for load in loads.values():
        load.done.set()
        load.join(WAIT_S)
    directories = {}
    for name, load in loads.items():
        check_survivors(load, nodes[name], identities)
        f = directories[name] = nodes[name].follow().wait_synced()
        here = {e.spec.id for e in nodes[name].list().values()}
        for g in directories.values():
            g.wait(lambda g: {k[1] for k, e in g.all("endpoint").items() if k[0] == name and e.identity} == here)
        check_identities(f, identities)
    wait_until(lambda: nodes["n1"].once().all("identity") == nodes["n2"].once().all("identity"), "both know the same", WAIT_S)
    assert sum(load.answers for load in loads.values()) > KILLS
    for f in directories.values():
        f.close()


@contextlib.contextmanager
def fill(place):
    """No room is left on that file system, for a while."""
    with open(place / "ballast", "wb", buffering=0) as ballast:
        try:
            while ballast.write(bytes(4096)):
                pass
        except OSError:
            pass
        yield
    os.unlink(place / "ballast")


@pytest.mark.skipif(os.getuid() != 0, reason="needs to mount a file system")
def test_full_disk(lab, tmp_path):
    """The store's disk, and the one of the registrations below it, each on its own."""
    disk, registrations = tmp_path / "disk", tmp_path / "disk/n1/identityd/state/endpoints"
    mounted = []
    try:
        for place in disk, registrations:
            place.mkdir(parents=True, mode=0o700)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", place], check=True)
            mounted.append(place)
        d = lab.all(instance="disk/n1")
        veths = [lab.veth() for _ in range(4)]
        d.register(spec("a", "k8s:app=a", ["10.1.0.1"], veths[0]))
        with fill(registrations):
            # The registration itself finds no room: an error, and nothing is registered.
            e = refused(grpc.StatusCode.RESOURCE_EXHAUSTED, d.register, spec("b", "k8s:app=b", ["10.1.0.2"], veths[1]))
            assert f"the disk under {disk}/n1" in e.details() and "is full" in e.details()
            assert set(d.list()) == {"a"} and not d.once().get("endpoint", ("n1", "b"))
            assert not d.wait_check("registrations", ok=False).ok
        with fill(disk):
            # Room for the registrations, but not for the store: registered, closed, and no identity.
            i = 0
            while d.status().healthy or "store" not in {c.name for c in d.status().checks if not c.ok}:
                try:
                    d.register(spec("b", f"k8s:app=b{i}" + "".join(f";k8s:l{k}={'x' * 200}" for k in range(15)),
                                    ["10.1.0.2"], veths[1]), timeout=1)
                except grpc.RpcError as e:
                    assert e.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                i += 1
                assert i < 100
            assert "is full" in {c.name: c for c in d.status().checks}["store"].reason.detail
            before = d.once()
        status = d.register(spec("c", "k8s:app=c", ["10.1.0.3"], veths[2]))
        d.wait_check("store", ok=True)
        d.wait_check("registrations", ok=True)
        f = d.follow()  # what was registered meanwhile is claimed now
        f.wait(lambda f: f.synced and all(e.identity for e in f.all("endpoint").values()))
        f.close()
        after = d.once()
        assert len({r.spiffe_id for r in after.all("identity").values()}) == len(after.all("identity"))
        assert set(before.all("identity")) <= set(after.all("identity")) and status.identity in after.all("identity")
        d = lab.restart(d)
        f = d.follow().wait_synced()
        assert f.all("identity") == after.all("identity")
        f.close()
        d.stop()
    finally:
        for place in reversed(mounted):
            subprocess.run(["umount", "-l", place], check=True)

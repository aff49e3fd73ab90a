"""What a server of SPIRE must not be able to do to the registrar: the partner makes each fault; it is said, costs a bounded
number of calls, loses and doubles no entry, and is over when the server turns friendly."""
import os
import time

import grpc
import pytest

from lab.identityd import deleted, identity, node, placement
from lab.spire import wait_for
from lab.spire_partner import fault
from spire_nodes import GROWTH_KIB, rss_kib
from test_registrar import A, Home, admin, many, number, right

CREATE, LIST, UPDATE, DELETE = "BatchCreateEntry", "ListEntries", "BatchUpdateEntry", "BatchDeleteEntry"
DENIED, EXHAUSTED, INTERNAL, UNAVAILABLE = 7, 8, 13, 14
N = 60  # identities on two nodes each: three batches
LASTS_S = float(os.environ.get("CS_FAULT_S", "1"))  # a fault that has no end of its own


@pytest.fixture
def home(Partner):
    home = Home(Partner)
    yield home
    home.close()


def each_once(home, n=2 * N):
    """Every entry that should be there is, none is there twice."""
    hints = [e["hint"] for e in home.spire.list() if e["hint"]]
    assert len(hints) == len(set(hints)) == n


def is_settled(r):
    try:
        return r.diff() == []
    except grpc.RpcError:  # it is being found out
        return False


def converges(home, r, n=2 * N):
    """The server is friendly again."""
    home.spire.server.faults()
    right(r, n)
    wait_for(lambda: len(home.ours()) == n, "no more than these")
    each_once(home, n)
    wait_for(lambda: is_settled(r) and r.check("spire").ok and r.check("entries").ok, r.status)


def made(home, kind, n=1):
    wait_for(lambda: home.spire.server.state()["faults"].get(kind, 0) >= n, f"{kind} was made")


def calls(home):
    return sum(home.spire.server.state()["calls"].values())


# ---- whole calls ----

def test_a_call_that_is_never_answered(home):
    home.spire.server.faults(fault("silence", on=CREATE))
    home.say(*many(n=N))
    r = home.registrar("spire.call_timeout=1s")
    wait_for(lambda: "DEADLINE" in r.check("spire").reason.detail, r.status)
    before = calls(home)
    time.sleep(2 * LASTS_S)  # no synchronisation: this is how long it lasts
    assert calls(home) - before <= 12 and not home.ours()
    converges(home, r)
    assert r.writes() == {"create": 2 * N, "update": 0, "delete": 0}


def test_a_list_that_is_never_answered(home):
    home.spire.server.faults(fault("silence", on=LIST))
    home.say(*many(n=N))
    r = home.registrar("spire.call_timeout=1s")
    wait_for(lambda: "DEADLINE" in r.check("spire").reason.detail, r.status)
    assert CREATE not in home.spire.server.state()["calls"], "who knows nothing writes nothing"
    converges(home, r)


@pytest.mark.parametrize("kind,more", [("done-but-silent", {}), ("half-answer", {}), ("short-results", {}),
                                       ("size", {"value": 40 << 20})])
def test_a_call_that_was_done_all_the_same(home, kind, more):
    home.spire.server.faults(fault(kind, on=CREATE, count=2, **more))
    home.say(*many(n=N))
    r = home.registrar("spire.call_timeout=1s")
    made(home, kind, 2)
    converges(home, r)
    assert r.writes()["update"] == r.writes()["delete"] == 0


def test_a_deadline_in_the_middle_of_a_batch(home):
    home.spire.server.faults(fault("item-time", on=CREATE, value=30000, count=80))  # 50 of them take 1.5 s
    home.say(*many(n=N))
    r = home.registrar("spire.call_timeout=1s")
    wait_for(lambda: 0 < home.spire.server.state()["entries"], "some exist")
    wait_for(lambda: home.spire.server.state()["faults"].get("item-time", 0) >= 80, "the time")
    converges(home, r)
    assert r.writes()["update"] == r.writes()["delete"] == 0


@pytest.mark.parametrize("what,action", [(UPDATE, "update"), (DELETE, "delete")])
@pytest.mark.parametrize("kind", ["done-but-silent", "short-results", "status"])
def test_changes_and_ends_that_fail(home, what, action, kind):
    home.say(*many(n=N))
    r = right(home.registrar("registrar.linger=0"), 2 * N)
    r.stop()
    home.gone(r)
    home.spire.server.faults(fault(kind, on=what, count=2, code=UNAVAILABLE, text="not now"))
    r = home.registrar("registrar.linger=0", "spire.call_timeout=1s", *["registrar.svid_ttl=90s"] * (what == UPDATE))
    if what == DELETE:
        home.identityd.push(*(deleted(placement(A + i, "n1")) for i in range(N)))
    made(home, kind, 2)
    converges(home, r, 2 * N if what == UPDATE else N)
    if what == UPDATE:
        assert {e["x509_svid_ttl"] for e in home.ours().values()} == {90}
        assert r.writes()["create"] == r.writes()["delete"] == 0
    elif kind != "status":
        assert r.writes()["create"] == r.writes()["update"] == 0


@pytest.mark.parametrize("on", [CREATE, LIST])
@pytest.mark.parametrize("code,text", [(DENIED, "authorization denied for method X"), (UNAVAILABLE, "overloaded"),
                                       (EXHAUSTED, "rate limit"), (INTERNAL, "datastore-sql: disk I/O error"), (2, "x" * 2000)],
                         ids=["denied", "unavailable", "exhausted", "internal", "unknown"])
def test_a_storm_of_refusals(home, on, code, text):
    home.spire.server.faults(fault("status", on=on, code=code, text=text))
    home.say(*many(n=N))
    r = home.registrar()
    wait_for(lambda: text[:40] in r.check("spire").reason.detail, r.status)
    assert not r.check("spire").ok
    wait_for(lambda: home.spire.server.state()["calls"][on] >= 2, "it was tried again")
    before = calls(home)
    time.sleep(LASTS_S)  # no synchronisation: this is how long it lasts
    assert calls(home) - before <= 6
    assert not r.check("spire").ok
    said = r.output()
    assert said.count("SPIRE's server does not do what it is asked") == 1, said  # not per try, and not per entry
    assert "could not be written" not in said
    converges(home, r)


def test_goaway_every_second(home):
    home.spire.server.faults(fault("goaway", value=1000, every=200), fault("item-time", on=CREATE, value=20000))
    home.spire.server.end()
    home.spire.server.again()
    home.say(*many(n=N))
    r = right(home.registrar(), 2 * N)
    each_once(home)
    for i in range(5):
        home.identityd.push(number(A + 1000 + i), placement(A + 1000 + i, "n1"))
        right(r, 2 * N + i + 1)
        time.sleep(LASTS_S / 2)  # no synchronisation: GOAWAYs come in between
    state = home.spire.server.state()
    assert state["connections_ever"] > 3 and state["connections"] <= 3
    converges(home, r, 2 * N + 5)
    assert r.writes()["update"] == r.writes()["delete"] == 0


def test_connections_that_are_cut(home):
    home.spire.server.faults(fault("item-time", on=CREATE, value=4000))
    home.say(*many(n=N))
    r = home.registrar()
    for part in (10, 40, 70):
        wait_for(lambda: home.spire.server.state()["entries"] >= part, "some entries")
        home.spire.server.say("cut")
    converges(home, r)
    assert r.writes()["update"] == r.writes()["delete"] == 0


# ---- lists that are wrong ----

@pytest.mark.parametrize("rows,value,says", [(1, 0, "same page again"), (30, 0, "same page again"), (3, 1, "does not end")])
def test_pages_without_an_end(home, rows, value, says):
    agent = home.spire.add_agent("n1")
    home.spire.entries([(agent, f"/elsewhere/{i}", "unix:uid:4711", None, ()) for i in range(rows)])
    home.spire.server.faults(fault("endless-pages", value=value))
    home.say(*many(n=N))
    r = home.registrar("spire.call_timeout=1s")
    made(home, "endless-pages", 2)
    wait_for(lambda: says in r.check("spire").reason.detail, r.status)
    before = rss_kib(r.pid)
    time.sleep(2 * LASTS_S)  # no synchronisation: this is how long it lasts
    assert rss_kib(r.pid) - before < GROWTH_KIB and not home.ours()
    converges(home, r)


@pytest.mark.parametrize("kind,more", [("half-answer", {}), ("size", {"value": 40 << 20})])
def test_a_list_that_cannot_be_read(home, kind, more):
    home.say(*many(n=N))
    right(home.registrar(), 2 * N).stop()
    home.gone(home.things[-1])
    home.spire.server.faults(fault(kind, on=LIST, **more))
    r = home.registrar()
    made(home, kind)
    before = rss_kib(r.pid)
    made(home, kind, 2)
    wait_for(lambda: not r.check("spire").ok, r.status)
    assert rss_kib(r.pid) - before < GROWTH_KIB
    assert home.spire.server.state()["entries"] == 2 * N
    converges(home, r)
    assert r.writes() == {"create": 0, "update": 0, "delete": 0}


# ---- items ----

@pytest.mark.parametrize("code,text", [(INTERNAL, "datastore-sql: database is locked"), (DENIED, "no"), (3, "invalid spiffe ID"),
                                       (6, "similar entry already exists"), (5, "not found"), (99, "")],
                         ids=["internal", "denied", "invalid", "exists", "not-found", "99"])
def test_items_that_fail(home, code, text):
    home.spire.server.faults(fault("item", on=CREATE, every=3, code=code, text=text))
    home.say(*many(n=N))
    r = home.registrar()
    wait_for(lambda: r.count("right") >= N, f"the others are right\n{r.output()[-3000:]}")
    wait_for(lambda: not r.check("entries").ok or r.count("right") == 2 * N, r.status)
    converges(home, r)
    assert r.writes()["update"] == r.writes()["delete"] == 0


def test_one_identity_that_fails(home):
    home.spire.server.faults(fault("item-of", on=f"/identity/{A + 7}", code=INTERNAL, text="datastore-sql: as the test wants it"))
    home.say(*many(n=N))
    r = right(home.registrar(), 2 * N - 2, failing=2)
    check = r.check("entries")
    assert f"identity {A + 7} on n" in check.reason.detail and "as the test wants it" in check.reason.detail
    [one, two] = r.diff()
    assert {one.identity, two.identity} == {A + 7} and one.retry_unix_ms > 0
    before = home.spire.server.state()["calls"][CREATE]
    time.sleep(2 * LASTS_S)  # no synchronisation: this is how long it lasts
    assert home.spire.server.state()["calls"][CREATE] - before <= 6
    assert r.output().count("could not be written") == 2, r.output()  # once each, however often it is tried
    converges(home, r)


# ---- who the server is ----

@pytest.mark.parametrize("how,name", [("other-id", "spiffe-id-mismatch"), ("other-authority", "untrusted"),
                                      ("expired", "svid-expired")])
def test_another_server(home, how, name):
    agent = home.spire.add_agent("n1")
    admin(home, agent)
    home.spire.server.faults(fault("server-certificate", text=how))
    home.say(node("n1"), identity(A, f"spiffe://example.org/identity/{A}"), placement(A, "n1"))
    r = home.registrar(f"spire.agent_socket={agent.socket}", server=f"127.0.0.1:{home.spire.server.port}")
    wait_for(lambda: r.check("spire").reason.name == name, r.status)
    assert not home.spire.server.state()["calls"].get(LIST) and not home.ours()
    home.spire.server.faults()
    right(r, 1)
    assert r.check("spire").ok

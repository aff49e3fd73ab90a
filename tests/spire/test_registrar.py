"""The registrar and SPIRE's server: what the directory says becomes registration entries. identityd is played by the lab, so
that a test says when what is known."""
import json
import os
import subprocess
import time

import grpc
import pytest

from lab import adapter as adapter_lab
from lab import identityd, pki, registrar
from lab.daemon import BUILD, WAIT_S
from lab.identityd import deleted, identity, node, placement
from lab.spire import wait_for
from lab.spire_partner import fault

IDENTITIES = int(os.environ.get("CS_REGISTRAR_IDENTITIES", "300"))  # on two nodes each; 2,000 is the stated size
SOAK_S = int(os.environ.get("CS_REGISTRAR_SOAK_S", "2"))
A, B = 100001, 100002
OWN = "/countersign/registrar"


def number(n):
    return identity(n, f"spiffe://example.org/identity/{n}")


class Home:
    """A SPIRE, what identityd says, and registrars."""

    def __init__(self, make):
        self.spire = make("example.org")
        self.instance = self.spire.dir / "i"
        self.identityd, self.things = None, []

    def keep(self, thing):
        self.things.append(thing)
        return thing

    def say(self, *records, **more):
        self.identityd = self.keep(identityd.Identityd(self.instance / "identityd", records, **more))

    @property
    def unix(self):
        return f"unix:{self.spire.server.socket}"

    def registrar(self, *sets, server=None):
        return self.keep(registrar.Registrar(self.instance, server or self.unix, *sets))

    def gone(self, thing):
        self.things.remove(thing)

    def ours(self):
        """{hint: entry} of what SPIRE has with our mark."""
        return {e["hint"]: e for e in self.spire.list() if e["id"].startswith("countersign.")}

    def close(self):
        try:
            for thing in reversed(self.things):
                thing.stop()
        finally:
            self.spire.close()


@pytest.fixture
def home(Spire):
    home = Home(Spire)
    yield home
    home.close()


def right(r, n, failing=0):
    return wait_for(lambda: r.count("right") == n and r.count("failing") == failing and r, f"{n} entries\n{r.output()}")


def path(entry, field):
    return entry[field]["path"]


# ---- what is made, changed and deleted ----

def test_an_entry_follows_its_placement(home):
    home.say(node("n1"), node("n2"), number(A), placement(A, "n1"))
    r = right(home.registrar("registrar.svid_ttl=90s", "registrar.linger=0"), 1)
    entry = home.ours()[f"{A}@n1"]
    assert path(entry, "spiffe_id") == f"/identity/{A}" and path(entry, "parent_id") == "/node/n1"
    assert entry["selectors"] == [{"type": "countersign", "value": f"id:{A}"}] and entry["x509_svid_ttl"] == 90
    [shown] = r.list()
    assert (shown.id, shown.identity, shown.node, shown.svid_ttl_s) == (entry["id"], A, "n1", 90)
    # It moves: linger 0, so that at no time two nodes are meant to have it for long.
    home.identityd.push(deleted(placement(A, "n1")), placement(A, "n2"))
    wait_for(lambda: set(home.ours()) == {f"{A}@n2"}, "the move")
    assert home.ours()[f"{A}@n2"]["id"] != entry["id"]
    # The node goes, and with it what was its own.
    home.identityd.push(deleted(node("n2")), deleted(placement(A, "n2")))
    wait_for(lambda: not home.ours(), "no entry")
    r.wrote(create=2, delete=2)


def test_linger(home):
    home.say(node("n1"), number(A), placement(A, "n1"))
    r = right(home.registrar("registrar.linger=3s"), 1)
    before = home.ours()
    home.identityd.push(deleted(placement(A, "n1")))
    wait_for(lambda: r.count("lingering") == 1, "lingering")
    [change] = r.diff()
    assert change.action == registrar.E.ENTRY_ACTION_LINGER and change.until_unix_ms > 0
    home.identityd.push(placement(A, "n1"))  # it is back before its time: the same entry, not even touched
    right(r, 1)
    assert home.ours() == before
    home.identityd.push(deleted(placement(A, "n1")))
    wait_for(lambda: not home.ours(), "its end")
    r.wrote(create=1, delete=1)


def test_what_others_change_is_put_right_by_update(home):
    home.say(node("n1"), number(A), placement(A, "n1"))
    agent = home.spire.add_agent("n1")
    r = right(home.registrar("registrar.list_interval=1s"), 1)
    entry = home.ours()[f"{A}@n1"]
    home.spire.update(entry["id"], agent, f"/identity/{A}", "unix:uid:4711", ttl=77)
    wait_for(lambda: r.writes()["update"] == 1, "the update")
    after = home.ours()[f"{A}@n1"]
    assert after["id"] == entry["id"] and int(after["revision_number"]) == 2
    assert {k: v for k, v in after.items() if k != "revision_number"} == {k: v for k, v in entry.items() if k != "revision_number"}
    home.spire.delete(entry["id"])
    wait_for(lambda: r.writes()["create"] == 2, "it is made again")
    assert home.ours()[f"{A}@n1"]["id"] != entry["id"]  # an ID is never used again


def test_a_new_setting_is_an_update(home):
    home.say(node("n1"), number(A), placement(A, "n1"))
    r = right(home.registrar(), 1)
    r.stop()
    home.gone(r)
    r = home.registrar("registrar.svid_ttl=1h")
    right(r, 1)
    assert r.writes() == {"create": 0, "update": 1, "delete": 0}
    assert home.ours()[f"{A}@n1"]["x509_svid_ttl"] == 3600


def test_the_parent_is_the_agent_that_has_the_nodes_selector(Real):
    """Where agents attest by what they are, there need not be an alias. One that comes later is found."""
    machines = pki.Authority()
    home = Home(lambda domain: Real(domain, machines=machines))
    try:
        n1 = home.spire.add_agent("n1", machine=machines.svid("/n1", common="n1"))
        home.say(node("n1"), node("n2"), number(A), placement(A, "n1"), placement(A, "n2"))
        r = home.registrar("registrar.agent_selector=x509pop:subject:cn:{node}")
        wait_for(lambda: r.count("right") == 1 and r.count("stuck") == 1, r.status)
        assert home.spire.id(path(home.ours()[f"{A}@n1"], "parent_id")) == n1.id
        assert "none has the selector registrar.agent_selector" in r.check("entries").reason.detail
        n2 = home.spire.add_agent("n2", machine=machines.svid("/n2", common="n2"))
        right(r, 2)
        assert home.spire.id(path(home.ours()[f"{A}@n2"], "parent_id")) == n2.id != n1.id
        for agent in (n1, n2):
            wait_for(lambda: agent.cached_svids() == 1, "its one SVID")
    finally:
        home.close()


# ---- foreign entries ----

def test_foreign_entries_keep_a_registrar_from_starting(home):
    agent = home.spire.add_agent("n1")
    foreign = home.spire.identity(agent, B)
    home.say(node("n1"), number(A), placement(A, "n1"))
    r = home.registrar()
    check = wait_for(lambda: not (c := r.check("foreign")).ok and c, "the check")
    assert foreign in check.reason.detail and "entry list --foreign" in check.reason.detail
    assert foreign in r.output() and not home.ours() and not r.status().healthy
    [shown] = r.list(foreign=True)
    assert (shown.id, shown.spiffe_id) == (foreign, home.spire.id(f"/identity/{B}")) and shown.warning == ""
    with pytest.raises(grpc.RpcError) as e:
        r.sync()
    assert e.value.code() == grpc.StatusCode.FAILED_PRECONDITION and "foreign" in e.value.details()
    home.spire.delete(foreign)
    assert [(c.action, c.done) for c in r.sync()] == [(registrar.E.ENTRY_ACTION_CREATE, True)]
    assert r.check("foreign").ok
    # One that comes later is said, and not touched; and the work goes on.
    foreign = home.spire.identity(agent, B)
    home.identityd.push(number(A + 5), placement(A + 5, "n1"))
    right(r, 2)
    r.sync()
    assert not r.check("foreign").ok and foreign in [e["id"] for e in home.spire.list()]


def test_entries_elsewhere_are_nobodys_business(home):
    agent = home.spire.add_agent("n1")
    others = home.spire.node(agent, "n1")
    home.say(node("n1"), number(A), placement(A, "n1"))
    r = right(home.registrar("registrar.linger=0"), 1)
    home.identityd.push(deleted(node("n1")), deleted(placement(A, "n1")))
    wait_for(lambda: not home.ours(), "no entry of ours")
    assert set(others) <= {e["id"] for e in home.spire.list()} and r.check("foreign").ok and r.list(foreign=True) == []


def test_the_mark_of_another_cluster(home):
    home.say(node("n1"), number(A), placement(A, "n1"))
    r = right(home.registrar("registrar.mark=first"), 1)
    r.stop()
    home.gone(r)
    r = home.registrar("registrar.mark=second", "registrar.spiffe_id_prefix=spiffe://example.org/other/")
    wait_for(lambda: r.count("stuck") == 1, "stuck")
    assert "spiffe_id_prefix" in r.check("entries").reason.detail
    assert [e["id"].split(".")[0] for e in home.spire.list() if e["hint"]] == ["first"]


# ---- what is not known is not deleted ----

def test_nothing_is_deleted_while_the_directory_is_not_complete(home):
    home.say(node("n1"), number(A), placement(A, "n1"))
    r = right(home.registrar("registrar.linger=0"), 1)
    r.stop()
    home.gone(r)
    home.identityd.stop()
    home.gone(home.identityd)
    home.say(node("n1"), hold_sync=True)  # and never says that this is all
    r = home.registrar("registrar.linger=0")
    wait_for(lambda: home.identityd.requests.qsize(), "the question")
    assert not r.check("entries").ok and len(home.ours()) == 1 and r.writes()["delete"] == 0
    home.identityd.push_batch(home.identityd._batch([], complete=True, synced=True))
    wait_for(lambda: not home.ours(), "now it is known")


@pytest.mark.parametrize("then", ["its state is back", "a person says so"])
def test_the_directory_of_an_empty_store_deletes_nothing(home, then):
    all_of_it = many(n=8)
    home.say(*all_of_it)
    r = right(home.registrar("registrar.linger=0"), 16)
    before = home.ours()
    home.identityd.stop()
    home.gone(home.identityd)
    home.say()
    wait_for(lambda: r.count("held") == 16, r.status)
    check = r.check("entries")
    assert not check.ok and "16 of the 16 entries" in check.reason.detail and "--delete-missing" in check.reason.detail
    assert [(c.action, c.done, bool(c.failed.detail)) for c in r.sync()] == [(registrar.E.ENTRY_ACTION_DELETE, False, True)] * 16
    assert "failed: the directory lacks" in cli(home, "entry", "sync", "--dry-run", code=4)
    wait_for(lambda: r.output().count("entries that the directory lacks are not deleted") == 1, "one line")
    assert home.ours() == before
    if then == "a person says so":
        assert cli(home, "entry", "sync", "--delete-missing").count("done") == 16
        wait_for(lambda: r.check("entries").ok and not home.ours(), r.status)
        return
    home.identityd.stop()
    home.gone(home.identityd)
    home.say(*all_of_it)
    right(r, 16)
    assert home.ours() == before and r.writes() == {"create": 16, "update": 0, "delete": 0}


def test_what_the_directory_says_is_gone_goes_at_once(home):
    """However much it is: a word is not an absence."""
    all_of_it = many(n=8)
    home.say(*all_of_it)
    r = right(home.registrar("registrar.linger=0"), 16)
    home.identityd.push(*(deleted(record) for record in reversed(all_of_it)))
    wait_for(lambda: not home.ours(), r.status)
    r.wrote(create=16, delete=16)
    wait_for(lambda: r.check("entries").ok, r.status)


def test_a_silent_cluster_stops_all_writes(home):
    home.say(node("n1"), number(A), placement(A, "n1"))
    r = right(home.registrar("registrar.linger=0", "directory.max_stale=2s"), 1)
    home.identityd.push(silent_ms=3000)
    wait_for(lambda: r.check("entries").reason.name == "directory-stale", "the check")
    home.identityd.push(deleted(placement(A, "n1")), silent_ms=4000)
    with pytest.raises(grpc.RpcError) as e:
        r.sync()
    assert e.value.code() == grpc.StatusCode.FAILED_PRECONDITION and len(home.ours()) == 1
    home.identityd.push(silent_ms=0)
    wait_for(lambda: not home.ours(), "it goes on")


def test_without_identityd_nothing_is_deleted(home):
    home.say(node("n1"), number(A), placement(A, "n1"))
    r = right(home.registrar("registrar.linger=3s"), 1)
    home.identityd.push(deleted(placement(A, "n1")))
    wait_for(lambda: r.count("lingering") == 1, "lingering")
    home.identityd.stop()  # it may be placed there again, and who would tell?
    home.gone(home.identityd)
    wait_for(lambda: not r.check("entries").ok, r.status)
    wait_for(lambda: r.count("lingering") == 0, "its time is over")
    assert set(home.ours()) == {f"{A}@n1"} and r.writes()["delete"] == 0
    home.say(node("n1"), number(A), placement(A, "n1"))
    right(r, 1)
    assert r.writes() == {"create": 1, "update": 0, "delete": 0}


def test_beside_a_follower_nothing_is_written(home):
    home.say(node("n1"), number(A), placement(A, "n1"))
    home.identityd.leadership = "FOLLOWER"
    r = home.registrar()
    wait_for(lambda: home.identityd.requests.qsize(), "the question")
    with pytest.raises(grpc.RpcError) as e:
        r.diff()
    assert e.value.code() == grpc.StatusCode.FAILED_PRECONDITION and "not active" in e.value.details()
    assert r.check("entries").ok and not home.ours()
    home.identityd.leadership = "LEADER"
    right(r, 1)
    home.identityd.leadership = "FOLLOWER"
    wait_for(lambda: r.metrics()['countersign_registrar_active{daemon="registrar"}'] == 0, "not active any more")
    home.identityd.push(number(B), placement(B, "n1"))
    wait_for(lambda: r.count("wanted") == 2, "it listens")
    assert set(home.ours()) == {f"{A}@n1"}


# ---- size, and death on the way ----

def many(nodes=("n1", "n2"), n=IDENTITIES):
    numbers = range(A, A + n)
    return [*map(node, nodes), *map(number, numbers), *(placement(i, where) for where in nodes for i in numbers)]


def test_many_converge_and_a_second_run_writes_nothing(home):
    home.say(*many())
    r = right(home.registrar(), 2 * IDENTITIES)
    assert len(home.ours()) == 2 * IDENTITIES and r.writes() == {"create": 2 * IDENTITIES, "update": 0, "delete": 0}
    before = {e["id"]: e["revision_number"] for e in home.spire.list()}
    r.stop()
    home.gone(r)
    r = right(home.registrar(), 2 * IDENTITIES)
    assert r.sync() == [] and r.sync(dry_run=True) == [] and r.diff() == []
    assert r.writes() == {"create": 0, "update": 0, "delete": 0}
    assert {e["id"]: e["revision_number"] for e in home.spire.list()} == before


def test_killed_on_the_way(home):
    home.say(*many())
    if home.spire.kind == "partner":  # which would be done before it is killed
        home.spire.server.faults(fault("item-time", on="BatchCreateEntry", value=2000))
    for part in (IDENTITIES // 10, IDENTITIES):
        r = home.registrar()
        wait_for(lambda: len(home.ours()) >= part, "some entries")
        r.kill()
        r.clean()
        home.gone(r)
    r = right(home.registrar(), 2 * IDENTITIES)
    hints = [e["hint"] for e in home.spire.list() if e["hint"]]
    assert len(hints) == len(set(hints)) == 2 * IDENTITIES  # none twice, none missing
    assert r.writes()["update"] == r.writes()["delete"] == 0


def test_two_at_a_time_do_no_harm(home):
    home.say(*many(n=60))
    other = home.spire.dir / "j"
    home.keep(identityd.Identityd(other / "identityd", many(n=60)))
    first = home.registrar()
    second = home.keep(registrar.Registrar(other, home.unix))
    right(first, 120), right(second, 120)
    assert len(home.ours()) == 120 and first.diff() == second.diff() == []


# ---- the ways to the server ----

def admin(home, agent, admin=True):
    return home.spire.create([{"spiffe_id": {"trust_domain": "example.org", "path": OWN},
                               "parent_id": {"trust_domain": "example.org", "path": agent.id.removeprefix("spiffe://example.org")},
                               "selectors": [{"type": "unix", "value": "uid:0"}], "admin": admin}])[0]["entry"]["id"]


def test_over_tcp_as_an_admin(home):
    agent = home.spire.add_agent("n1")
    home.say(node("n1"), number(A), placement(A, "n1"))
    r = home.registrar(f"spire.agent_socket={agent.socket}", server=f"127.0.0.1:{home.spire.server.port}")
    wait_for(lambda: "no registration entry" in r.check("spire").reason.detail, r.status)
    entry = admin(home, agent)
    right(r, 1)
    assert r.check("spire").ok
    assert r.metrics()['countersign_registrar_svid_expiration_timestamp_seconds{daemon="registrar"}'] > 1e9
    # Its rights end with the entry's: what comes then fails, is said, and is tried again.
    home.spire.delete(entry)
    home.identityd.push(number(B), placement(B, "n1"))
    detail = wait_for(lambda: r.check("spire").reason.detail, "the check")
    assert "admin" in detail or "no registration entry" in detail
    admin(home, agent)
    right(r, 2)


def test_over_tcp_for_longer_than_a_connection_lives(home):
    """SPIRE's server ends each after three minutes: with CS_REGISTRAR_SOAK_S=400 two of them end under writes."""
    agent = home.spire.add_agent("n1")
    admin(home, agent)
    home.say(node("n1"), node("n2"))
    r = home.registrar(f"spire.agent_socket={agent.socket}", "registrar.linger=0", "registrar.list_interval=7s",
                       server=f"127.0.0.1:{home.spire.server.port}")
    wait_for(lambda: r.check("spire").ok, r.status)
    before_it, end, n = len(r.output()), time.monotonic() + SOAK_S, 0
    while time.monotonic() < end:
        where, before = f"n{n % 2 + 1}", f"n{(n + 1) % 2 + 1}"
        home.identityd.push(number(A), placement(A, where), *([deleted(placement(A, before))] if n else []))
        wait_for(lambda: set(home.ours()) == {f"{A}@{where}"}, home.ours)
        n += 1
    r.wrote(create=n, delete=n - 1)
    metrics = r.metrics()
    assert not [m for m in metrics if 'result="failed"' in m], metrics
    assert "is away" not in r.output()[before_it:]
    assert metrics['countersign_spire_server_connections_total{daemon="registrar"}'] >= 1 + SOAK_S // 200


def test_over_tcp_without_rights(home):
    agent = home.spire.add_agent("n1")
    admin(home, agent, admin=False)
    home.say(node("n1"), number(A), placement(A, "n1"))
    r = home.registrar(f"spire.agent_socket={agent.socket}", server=f"127.0.0.1:{home.spire.server.port}")
    wait_for(lambda: "PERMISSION_DENIED" in r.check("spire").reason.detail, r.status)
    assert not home.ours()


def test_a_server_of_another_trust_domain(home, Spire):
    agent = home.spire.add_agent("n1")
    admin(home, agent)
    home.say(node("n1"), number(A), placement(A, "n1"))
    other = Spire("example.net")
    try:
        r = home.registrar(f"spire.agent_socket={agent.socket}", server=f"127.0.0.1:{other.server.port}")
        wait_for(lambda: r.check("spire").reason.name in ("no-bundle", "trust-domain-mismatch"), r.status)
        assert [e for e in other.list() if e["hint"]] == []
    finally:
        other.close()


def test_the_server_goes_and_comes(home):
    home.say(node("n1"), number(A), placement(A, "n1"))
    r = right(home.registrar("registrar.linger=0"), 1)
    home.spire.server.end()
    wait_for(lambda: not r.check("spire").ok, "the check")
    home.identityd.push(deleted(placement(A, "n1")), number(B), placement(B, "n1"))
    home.spire.server.again()
    right(r, 1)
    wait_for(lambda: set(home.ours()) == {f"{B}@n1"}, home.ours)
    wait_for(lambda: r.check("spire").ok, r.status)


# ---- what fails ----

def test_one_that_fails_is_said_and_tried_again(home):
    home.say(node("n1"), number(A), placement(A, "n1"))
    r = home.registrar("registrar.federates_with=other.example")
    wait_for(lambda: r.count("failing") == 1, "failing")
    detail = r.check("entries").reason.detail
    assert f"identity {A} on n1" in detail and "other.example" in detail
    [change] = r.diff()
    assert "other.example" in change.failed.detail and change.retry_unix_ms > 0 and not change.done
    other = home.spire.server.bundle()
    home.spire.set_bundle("other.example", other)
    right(r, 1)
    assert home.ours()[f"{A}@n1"]["federates_with"] == ["other.example"] and r.check("entries").ok


def test_a_name_that_makes_no_spiffe_id(home):
    home.say(node("n 1"), node("n2"), number(A), placement(A, "n 1"), placement(A, "n2"))
    r = home.registrar()
    wait_for(lambda: r.count("right") == 1 and r.count("stuck") == 1, "one stuck")
    assert "makes no SPIFFE ID" in r.check("entries").reason.detail and set(home.ours()) == {f"{A}@n2"}


# ---- the command line ----

def cli(home, *args, code=0):
    p = subprocess.run([BUILD / "cli/countersign", *args, "--instance", home.instance], capture_output=True, text=True,
                       timeout=WAIT_S)
    assert p.returncode == code, p
    return p.stdout if code == 0 else p.stdout + p.stderr


def test_the_command_line(home):
    agent = home.spire.add_agent("n1")
    home.say(node("n1"), number(A), placement(A, "n1"))
    r = right(home.registrar(), 1)
    [entry] = json.loads(cli(home, "entry", "list", "-o", "json"))["entries"]
    assert (entry["identity"], entry["node"], entry["warning"]) == (A, "n1", None)
    assert f"spiffe://example.org/identity/{A}" in cli(home, "entry", "list")
    assert "no foreign entries" in cli(home, "entry", "list", "--foreign")
    assert "every entry is as it should be" in cli(home, "entry", "diff")
    home.spire.delete(entry["id"])
    assert "create" in cli(home, "entry", "sync", "--dry-run") and not home.ours()
    [change] = json.loads(cli(home, "entry", "sync", "-o", "json"))["changes"]
    assert (change["action"], change["identity"], change["node"], change["done"]) == ("create", A, "n1", True)
    assert "every entry was as it should be" in cli(home, "entry", "sync")
    foreign = home.spire.identity(agent, B, federates=["example.org"])
    [shown] = json.loads(cli(home, "entry", "list", "--foreign", "-o", "json"))["entries"]
    assert shown["id"] == foreign and "stops syncing" in shown["warning"]
    home.spire.delete(foreign)
    r.stop()
    home.gone(r)
    assert "is countersign-registrar running" in cli(home, "entry", "list", code=1)


# ---- from the directory to the SVID ----

def test_an_svid_arrives_and_goes(home):
    agent = home.spire.add_agent("n1")
    home.spire.node(agent, "n1")
    home.say(node("n1"), number(A), identityd.endpoint("e", A), placement(A, "n1"))
    home.registrar("registrar.linger=0")
    adapter = home.keep(adapter_lab.Adapter(home.instance, home.spire.dir / "unused", "source=spire",
                                            f"spire.agent_socket={agent.socket}", f"spire.admin_socket={agent.admin}"))
    follower = adapter_lab.Follower(adapter)
    try:
        follower.wait_svid(A)
        home.identityd.push(deleted(placement(A, "n1")))  # its endpoint is still there, and has no right to it any more
        follower.wait(lambda s: s.svids[A].withdrawn)
    finally:
        follower.close()

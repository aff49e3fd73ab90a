"""Our client of etcd against real ones: Debian's 3.4 and a current one, alone and three of them, killed and stopped."""
import json
import os
import queue
import random
import subprocess
import threading
import time
from pathlib import Path

import pytest

from lab.daemon import BUILD, WAIT_S
from lab.etcd import VERSIONS, Ca, Etcd

CLIENT = BUILD / "integration" / "etcd_client"
ONE = 1 << 20


class Client:
    """The client on a string: asks, and hears."""

    def __init__(self, *args):
        self.process = subprocess.Popen([str(a) for a in (CLIENT, *args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, bufsize=1)
        self.lines, self.kept, self.number = queue.Queue(), [], 0
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))
        self.lines.put(None)

    def send(self, command, *args):
        self.number += 1
        words = [command] if command.startswith("un") or command == "quit" else [command, f"q{self.number}"]
        self.process.stdin.write(" ".join(map(str, [*words, *args])) + "\n")
        return f"q{self.number}"

    def wait(self, want, timeout=WAIT_S):
        """The first line, of those not waited for yet, that fits."""
        for i, line in enumerate(self.kept):
            if want(line):
                return self.kept.pop(i)
        end = time.monotonic() + timeout
        while True:
            line = self.lines.get(timeout=max(0.01, end - time.monotonic()))
            assert line is not None, f"the client ended: {self.process.stderr.read()}"
            if want(line):
                return line
            self.kept.append(line)

    def ask(self, command, *args):
        q = self.send(command, *args)
        return self.wait(lambda line: line.get("id") == q)

    def range(self, key, end="-", limit=0, revision=0, timeout=20000):
        return self.ask("range", key, end, limit, revision, timeout)

    def put(self, key, value, lease=0, timeout=20000):
        return self.ask("put", key, value, lease, timeout)

    def watched(self):
        return self.wait(lambda line: "watched" in line)

    def watch_ended(self):
        return self.wait(lambda line: "watch" in line)

    def kept_alive(self, word="alive"):
        return self.wait(lambda line: line.get("keep") == word)

    def end(self):
        if self.process.poll() is None:
            self.send("quit")
        code, errors = self.process.wait(WAIT_S), self.process.stderr.read()
        self.thread.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()
        assert code == 0, (code, errors)


@pytest.fixture
def client():
    made = []

    def start(*args):
        made.append(Client(*args))
        return made[-1]
    yield start
    for c in made:
        c.end()


@pytest.fixture(scope="module", params=VERSIONS)
def one(request):
    """One member, for all tests that do it no harm."""
    with Etcd(request.param) as etcd:
        yield etcd


@pytest.fixture(params=VERSIONS)
def three(request):
    with Etcd(request.param, members=3) as etcd:
        etcd.leader()
        yield etcd


# ---- one member ----------------------------------------------------------------------------------------------------


def test_put_get_delete(one, client):
    c = client(*one.urls)
    put = c.put("/a/1", "one")
    assert put["outcome"] == "done" and put["succeeded"]
    got = c.range("/a/1")
    assert [(kv["key"], kv["value"], kv["modified"]) for kv in got["kvs"]] == [("/a/1", "one", put["revision"])]
    assert one.members[0].get("/a/1") == ["one"]
    c.ask("del", "/a/1")
    assert c.range("/a/1")["kvs"] == [] and one.members[0].get("/a/1") == []


def test_ranges_in_pages_at_one_revision(one, client):
    c = client(*one.urls)
    first = c.ask("many", "/pages/", 100, 10, 20000)
    c.put("/pages/000050", "later")
    page = c.range("/pages/", "/pages0", 40, first["revision"])
    keys = [kv["key"] for kv in page["kvs"]]
    assert page["more"] and len(keys) == 40 and keys == sorted(keys)
    rest = c.range("/pages/000040", "/pages0", 0, first["revision"])
    assert not rest["more"] and len(rest["kvs"]) == 60
    assert rest["kvs"][10]["value"] == "\0" * 10  # not what was put later


def test_transactions_hold_only_if_the_revision_does(one, client):
    c = client(*one.urls)
    at = c.put("/cas", "first")["revision"]
    won = c.ask("cas", "/cas", at, "second", 20000)
    assert (won["outcome"], won["succeeded"], won["kvs"]) == ("done", True, [])
    lost = c.ask("cas", "/cas", at, "third", 20000)
    assert (lost["outcome"], lost["succeeded"], lost["kvs"][0]["value"]) == ("done", False, "second")
    new = c.ask("cas", "/cas-new", 0, "made", 20000)
    assert new["succeeded"] and not c.ask("cas", "/cas-new", 0, "again", 20000)["succeeded"]


def test_what_is_too_large_is_refused_and_does_nothing(one, client):
    c = client(*one.urls)
    for q in c.put("/large", f"*{2 * ONE}"), c.ask("many", "/large/", 129, 1, 20000):
        assert (q["outcome"], q["error"]) == ("not done", "EMSGSIZE"), q
    assert c.ask("many", "/large/", 128, 1, 20000)["outcome"] == "done"
    assert c.range("/large")["kvs"] == []


def test_an_answer_that_is_too_large_is_refused(one, client):
    c = client(*one.urls)
    for i in range(20):
        assert c.put(f"/answer/{i}", f"*{ONE}")["outcome"] == "done"
    got = c.range("/answer/", "/answer0")
    assert (got["outcome"], got["error"]) == ("not done", "EMSGSIZE")
    assert len(c.range("/answer/", "/answer0", 10)["kvs"]) == 10
    for i in range(20):
        c.ask("del", f"/answer/{i}")


def test_lease_keeps_its_keys_until_it_is_revoked(one, client):
    c = client(*one.urls)
    lease = c.ask("grant", 60)
    assert lease["outcome"] == "done" and lease["ttl"] == 60
    c.put("/leased", "x", lease["lease"])
    assert c.range("/leased")["kvs"][0]["lease"] == lease["lease"]
    c.send("keep", lease["lease"], 60)
    assert 30000 < c.kept_alive()["left_ms"] <= 60000
    assert c.ask("revoke", lease["lease"])["outcome"] == "done"
    assert c.range("/leased")["kvs"] == []
    assert c.ask("revoke", lease["lease"])["error"] == "ENOENT"
    refused = c.put("/leased", "x", lease["lease"])
    assert (refused["outcome"], refused["error"]) == ("not done", "ENOENT")


def test_lease_that_is_kept_lives_and_one_that_is_not_ends(one, client):
    c = client(*one.urls)
    kept, left = c.ask("grant", 2), c.ask("grant", 2)
    assert kept["ttl"] == 2  # etcd's least would be more with slower elections
    from_revision = c.put("/kept", "x", kept["lease"])["revision"]
    c.put("/left", "x", left["lease"])
    c.send("keep", kept["lease"], 2)
    c.send("watch", "/left", "-", from_revision, 0)
    while not c.watched()["events"][0]["deleted"]:
        pass
    assert c.range("/kept")["kvs"]  # as old as the other
    c.send("unkeep")
    c.send("keep", left["lease"], 2)
    c.kept_alive("lost")


# ---- watching ------------------------------------------------------------------------------------------------------


def test_watch_tells_whole_revisions_from_the_one_it_is_asked_for(one, client):
    c = client(*one.urls)
    first = c.put("/w/a", "1")["revision"]
    second = c.ask("many", "/w/m", 100, 10, 20000)["revision"]
    c.put("/not-w", "1")
    c.send("watch", "/w/", "/w0", first + 1, 0)
    assert [e["modified"] for e in c.wait(lambda x: x.get("watched") == second)["events"]] == [second] * 100
    third = one.members[0].put("/w/a", "2")
    seen = c.watched()
    assert (seen["watched"], seen["events"][0]["value"], len(seen["events"])) == (third, "2", 1)
    c.ask("del", "/w/a")
    gone = c.watched()["events"]
    assert [(e["key"], e["deleted"]) for e in gone] == [("/w/a", True)]


def test_watch_of_a_revision_in_pieces_is_told_once_and_whole(one, client):
    """100 keys of 12 KB are more than etcd puts into one answer of a fragmented watch of many revisions."""
    c = client(*one.urls)
    from_revision = c.put("/frag", "x")["revision"]
    made = [c.ask("many", "/frag/", 100, 12000, 20000)["revision"] for _ in range(4)]
    c.send("watch", "/frag/", "/frag0", from_revision, 0)
    for revision in made:
        seen = c.watched()
        assert (seen["watched"], len(seen["events"])) == (revision, 100)


def test_watch_of_a_compacted_revision_says_so(one, client):
    c = client(*one.urls)
    first = c.put("/compact", "1")["revision"]
    last = [c.put("/compact", str(i))["revision"] for i in range(3)][-1]
    one.members[0].compact(last)
    c.send("watch", "/compact", "-", first, 0)
    ended = c.watch_ended()
    assert (ended["watch"], ended["error"]) == ("compacted", "ESTALE") and str(last) in ended["text"]
    old = c.range("/compact", revision=first)
    assert (old["outcome"], old["error"]) == ("not done", "ESTALE")
    c.send("watch", "/compact", "-", last, 0)  # the twin: what is kept can be watched
    assert c.watched()["watched"] == last


@pytest.mark.parametrize("interval", ["100ms", "1h"])
@pytest.mark.parametrize("version", VERSIONS)
def test_progress_keeps_a_quiet_watch_from_being_compacted(version, client, interval):
    """Nothing happens to what is watched, and much to the rest. etcd's notices of progress move the watch on; without them
    (the twin) it finds its place compacted when it has to connect again."""
    with Etcd(version, experimental_watch_progress_notify_interval=interval) as etcd:
        m, c = etcd.members[0], client(*etcd.urls)
        revision = c.put("/quiet", "1")["revision"]
        c.send("watch", "/quiet", "-", revision, 0)
        c.watched()
        last = [c.put("/loud", "x")["revision"] for _ in range(20)][-1]
        if interval == "100ms":
            c.kept.clear()
            for _ in range(3):  # one may have been under way, and one be the answer to a question
                c.wait(lambda line: "alive" in line)
        m.compact(last)
        m.kill()
        m.start()
        if interval == "1h":
            assert c.watch_ended()["watch"] == "compacted"
        else:
            again = m.put("/quiet", "2")
            assert c.watched()["watched"] == again


def test_watch_of_another_store_says_so(one, client):
    c = client(*one.urls)
    revision = c.put("/other", "1")["revision"]
    c.send("watch", "/other", "-", revision, 12345)
    ended = c.watch_ended()
    assert (ended["watch"], ended["error"]) == ("compacted", "ESTALE") and "another store" in ended["text"]


def test_watch_lives_through_a_restart_of_its_member(client):
    with Etcd() as etcd:
        m = etcd.members[0]
        c = client(*etcd.urls)
        revision = c.put("/r", "1")["revision"]
        c.send("watch", "/r", "-", revision, 0)
        assert c.watched()["watched"] == revision
        m.kill()
        m.start()
        revisions = [m.put("/r", str(i)) for i in range(10)]
        assert [c.watched()["watched"] for _ in range(10)] == revisions


# ---- nobody answers ------------------------------------------------------------------------------------------------


def test_without_etcd_nothing_is_done(client):
    with Etcd() as etcd:
        etcd.members[0].kill()
        c = client(*etcd.urls)
        put, got = c.put("/x", "1", timeout=500), c.range("/x", timeout=500)
    assert (put["outcome"], got["outcome"]) == ("not done", "not done")
    assert put["error"] in ("ETIMEDOUT", "EHOSTUNREACH") and "refused" in put["text"]


def test_a_stopped_etcd_may_have_done_it(client):
    with Etcd() as etcd:
        m = etcd.members[0]
        c = client(*etcd.urls)
        c.put("/x", "1")
        m.pause()
        put = c.put("/x", "2", timeout=700)
        assert (put["outcome"], put["error"]) == ("perhaps", "ETIMEDOUT")
        assert c.range("/x", timeout=700)["outcome"] == "not done"
        m.resume()
        assert c.range("/x")["kvs"][0]["value"] in ("1", "2")


def test_an_etcd_that_is_killed_may_have_done_it(client):
    with Etcd() as etcd:
        m = etcd.members[0]
        c = client(*etcd.urls)
        c.put("/x", "1")
        m.pause()
        q = c.send("put", "/x", "2", 0, 20000)
        c.ask("endpoint")  # the put is on its way
        with pytest.raises(queue.Empty):
            c.wait(lambda line: line.get("id") == q, timeout=0.3)
        m.kill()
        assert c.wait(lambda line: line.get("id") == q)["outcome"] == "perhaps"


def test_a_full_etcd_says_so(client):
    with Etcd(quota_backend_bytes=4 * ONE) as etcd:
        c = client(*etcd.urls)
        assert c.put("/full/0", f"*{ONE}")["outcome"] == "done"
        puts = (c.put(f"/full/{i}", f"*{ONE}") for i in range(1, 100))  # it counts what it has written, later
        last = next(q for q in puts if q["outcome"] != "done")
        assert (last["outcome"], last["error"]) == ("not done", "ENOSPC")
        assert c.range("/full/0")["outcome"] == "done"


# ---- three members -------------------------------------------------------------------------------------------------


def member_of(etcd, c):
    url = c.ask("endpoint")["endpoint"]
    return next(m for m in etcd.members if m.url == url)


@pytest.mark.parametrize("three,how", [("3.4", "pause"), ("3.7", "kill")], indirect=["three"])
def test_another_member_takes_over(three, client, how):
    """Whatever happens to the member in use: reads answer, the watch goes on, the lease lives."""
    c = client(*three.urls)
    lease = c.ask("grant", 10)["lease"]
    revision = c.put("/t", "1", lease)["revision"]
    c.send("watch", "/t", "-", revision, 0)
    assert c.watched()["watched"] == revision
    c.send("keep", lease, 10)
    c.kept_alive()
    used = member_of(three, c)
    getattr(used, how)()
    assert c.range("/t")["outcome"] == "done"
    other = member_of(three, c)
    assert other is not used
    three.leader() if how == "kill" else None
    while (put := c.put("/t", "2", lease))["outcome"] != "done":
        assert put["outcome"] == "perhaps"
    assert c.watched()["events"][0]["value"] == "2"
    c.kept_alive()
    assert c.range("/t")["kvs"]


@pytest.mark.skipif(os.getuid() != 0, reason="cuts a member off by its user: needs root")
@pytest.mark.parametrize("version", VERSIONS)
def test_an_isolated_member_is_left(version, client):
    """It answers, and its connections are fine, but it has lost its cluster: watch, lease and calls move on."""
    etcd = Etcd(version, members=3)
    lone, other = etcd.members[2], etcd.members[0]
    lone.run_as(60000 + random.randint(1, 4000))
    with etcd:
        etcd.leader()
        c = client(lone.url, other.url)
        lease = c.ask("grant", 10)["lease"]
        revision = c.put("/i", "1", lease)["revision"]
        c.send("watch", "/i", "-", revision, 0)
        c.watched()
        c.send("keep", lease, 10)
        c.kept_alive()
        assert member_of(etcd, c) is lone
        with lone.isolated():
            while c.put("/i", "2", lease, timeout=2000)["outcome"] != "done":
                pass
            assert member_of(etcd, c) is other
            assert c.watched()["events"][-1]["value"] == "2"
            c.kept_alive()
            assert lone.status().get("leader", "0") == "0"  # it is alone indeed


def test_a_member_without_its_cluster_is_left(three, client):
    """Two of three are gone, one comes back: the one that was alone says that it has no leader."""
    a, b, lone = three.members
    c = client(lone.url, a.url)
    revision = c.put("/l", "1")["revision"]
    c.send("watch", "/l", "-", revision, 0)
    c.watched()
    assert member_of(three, c) is lone
    a.kill()
    b.kill()
    put = c.put("/l", "2", timeout=3000)
    assert put["outcome"] != "done"
    a.start(wait=False)
    b.start(wait=False)
    while c.put("/l", "3")["outcome"] != "done":
        pass
    while c.watched()["events"][-1]["value"] != "3":
        pass


# ---- who may -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=VERSIONS)
def tls(request):
    with Etcd(request.param, tls=True) as etcd:
        yield etcd


def tls_args(etcd, name="client"):
    cert, key = etcd.ca.issue(name)
    return ["--ca", etcd.ca.file, "--cert", cert, "--key", key]


def test_tls(tls, client):
    c = client(*tls_args(tls), *tls.urls)
    assert c.put("/tls", "1")["outcome"] == "done"
    assert c.range("/tls")["kvs"][0]["value"] == "1"
    named = client(*tls_args(tls), "--server-name", "m0.etcd.test", *tls.urls)
    assert named.range("/tls")["outcome"] == "done"


@pytest.mark.parametrize("what", ["no certificate", "another CA", "another name", "a certificate of another CA", "no CA"])
def test_tls_refusals(tls, client, what, tmp_path):
    args = tls_args(tls, "refused")
    if what == "no certificate":
        args = args[:2]
    elif what == "another CA":
        args[1] = Ca(tmp_path, "stranger").file
    elif what == "another name":
        args += ["--server-name", "m1.etcd.test"]
    elif what == "no CA":
        args[1] = tmp_path / "ca.pem"
    else:
        cert, key = Ca(tmp_path, "stranger").issue("client")
        args[3], args[5] = cert, key
    got = client(*args, *tls.urls).range("/tls", timeout=1500)
    assert got["outcome"] == "not done" and got["error"] in ("ETIMEDOUT", "EHOSTUNREACH")
    if what == "another CA":
        assert "certificate" in got["text"]
    if what == "another name":
        assert "mismatch" in got["text"]
    if what == "no CA":
        assert f"{tmp_path}/ca.pem of etcd.ca: No such file" in got["text"]


@pytest.mark.parametrize("version", VERSIONS)
def test_password(version, client):
    with Etcd(version) as etcd:
        etcd.enable_auth("cs", "secret", "/cs/")
        m = etcd.members[0]
        c = client("--user", "cs", "--password", "secret", *etcd.urls)
        revision = c.put("/cs/a", "1")["revision"]
        c.send("watch", "/cs/", "/cs0", revision, 0)
        assert c.watched()["watched"] == revision
        beyond = c.put("/other", "1")
        assert (beyond["outcome"], beyond["error"]) == ("not done", "EACCES")
        c.send("unwatch")
        c.send("watch", "/other", "-", 0, 0)
        assert (c.watch_ended())["watch"] == "failed"
        # A restarted member has forgotten its tokens: the client asks for a new one and goes on.
        c.send("watch", "/cs/", "/cs0", revision + 1, 0)
        m.kill()
        m.start()
        second = c.put("/cs/a", "2")
        assert second["outcome"] == "done"
        assert c.watched()["watched"] == second["revision"]
        wrong = client("--user", "cs", "--password", "guess", *etcd.urls).range("/cs/a")
        assert (wrong["outcome"], wrong["error"]) == ("not done", "EACCES")
        nobody = client(*etcd.urls).range("/cs/a")
        assert (nobody["outcome"], nobody["error"]) == ("not done", "EACCES")


def test_a_password_for_an_etcd_that_asks_for_none_is_an_error(one, client):
    got = client("--user", "cs", "--password", "secret", *one.urls).range("/x")
    assert (got["outcome"], got["error"]) == ("not done", "EACCES") and "not enabled" in got["text"]


@pytest.mark.parametrize("args,says", [
    (["http://192.0.2.1:2379"], "only an address of this machine"),
    (["http://localhost:2379"], "only an address of this machine"),
    (["https://etcd:2379"], "no file with the CA"),
    (["etcd:2379"], "write https://HOST:PORT"),
    (["--user", "x", "http://127.0.0.1:2379"], "user and password"),
    (["--cert", "x", "http://127.0.0.1:2379"], "a client certificate and its key"),
    ([], "1 to 16 endpoints"),
])
def test_options_that_do_not_fit(args, says):
    p = subprocess.run([CLIENT, *args], capture_output=True, text=True, timeout=WAIT_S, stdin=subprocess.DEVNULL)
    assert p.returncode == 1 and says in p.stderr

"""The store in etcd: the rules' own suite on real ones, and what only several replicas and a failing etcd can show."""
import json
import os
import random
import select
import shutil
import signal
import subprocess
import time

import pytest

from lab.daemon import BUILD, WAIT_S
from lab.etcd import VERSIONS, Etcd

CLIENT = BUILD / "integration" / "store_etcd_client"
SUITE = BUILD / "unit" / "test_identity_store_rules"
LEASE_S = 2
ONE = 1 << 20


class Replica:
    """One process with the backend."""

    def __init__(self, *args):
        self.process = subprocess.Popen([str(a) for a in (CLIENT, *args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, bufsize=1)

    def send(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")

    def hear(self):
        ready, _, _ = select.select([self.process.stdout], [], [], WAIT_S)
        line = self.process.stdout.readline() if ready else ""
        assert line, f"no answer; exit code {self.process.poll()}"
        return json.loads(line)

    def ask(self, *words):
        self.send(*words)
        return self.hear()

    def load(self):
        """All rows, without the store's own."""
        said = self.ask("load")
        assert said["result"] == "ok", said
        return said["revisions"][0]

    def news(self):
        """Waits for what others wrote; the revisions."""
        said = self.ask("news")
        assert said["result"] == "ok", said
        return said["revisions"]

    def write(self, *writes):
        return self.ask("write", *writes)["result"]

    def lead(self, name):
        assert self.ask("campaign", name)["result"] == "ok"
        said = self.ask("lead")
        assert said["leads"] and said["leader"] == name
        return said

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def end(self):
        if self.process.poll() is None:
            self.resume()
            try:
                self.send("quit")
            except BrokenPipeError:
                pass
            _, errors = self.process.communicate(timeout=WAIT_S)
            assert self.process.returncode == 0, (self.process.returncode, errors)


@pytest.fixture
def replica():
    made = []

    def start(etcd, *args, lease=LEASE_S, timeout=5000):
        made.append(Replica("--lease", lease, "--timeout", timeout, *args, *etcd.urls))
        return made[-1]
    yield start
    for r in made:
        r.end()


@pytest.fixture(params=VERSIONS)
def etcd(request):
    with Etcd(request.param) as etcd:
        yield etcd


@pytest.fixture(params=VERSIONS)
def three(request):
    with Etcd(request.param, members=3) as etcd:
        etcd.leader()
        yield etcd


@pytest.mark.parametrize("version,members", [("3.4", 3), ("3.7", 1)])
def test_the_rules_hold_in_etcd(version, members):
    """The suite that SQLite passes too."""
    with Etcd(version, members) as etcd:
        etcd.leader()
        p = subprocess.run([SUITE], env={**os.environ, "COUNTERSIGN_TEST_ETCD": ",".join(etcd.urls)}, text=True,
                           capture_output=True, timeout=5 * WAIT_S)
    assert p.returncode == 0, p.stdout + p.stderr
    assert "FAILED" not in p.stdout + p.stderr and "PASSED" in p.stdout + p.stderr


def test_rows_travel_once_and_in_whole_revisions(etcd, replica):
    a, b = replica(etcd), replica(etcd)
    assert a.load() == {} and b.load() == {}
    a.lead("a")
    assert a.write("meta=1", "x/1=one", "x/2=two") == "ok"
    assert a.write("meta=2", "x/1=", "x/2-") == "ok"
    got = b.news()
    if len(got) == 1:
        got += b.news()
    assert got == [{"meta": "1", "x/1": "one", "x/2": "two"}, {"meta": "2", "x/1": "", "x/2": None}]
    assert a.ask("poll")["revisions"] == [] and b.ask("poll")["revisions"] == []
    assert a.load() == b.load() == {"meta": "2", "x/1": ""}
    assert b.ask("state")["leader"] == "a"


def test_only_the_leader_writes(etcd, replica):
    a, b = replica(etcd), replica(etcd)
    a.load(), b.load()
    nobody = a.ask("write", "meta=1")
    assert (nobody["result"], nobody["reason"]) == ("EPERM", "not-leader")
    a.lead("a")
    b.ask("campaign", "b")
    assert a.write("meta=1", "x=a") == "ok"
    b.news()
    refused = b.ask("write", "meta=2", "x=b")
    assert (refused["result"], refused["reason"]) == ("EPERM", "not-leader") and "a does" in refused["text"]
    assert a.load() == {"meta": "1", "x": "a"}


def test_two_clusters_share_an_etcd(etcd, replica):
    a, b = replica(etcd, "--prefix", "/one/"), replica(etcd, "--prefix", "/one/two/")
    for r, name in (a, "a"), (b, "b"):
        r.load()
        r.lead(name)
        assert r.write("meta=1", f"x={name}") == "ok"
    assert b.load() == {"meta": "1", "x": "b"}
    assert a.load() == {"meta": "1", "x": "a"}


def test_who_resigns_is_followed_at_once(etcd, replica):
    a, b = replica(etcd, lease=60), replica(etcd, lease=60)
    a.load(), b.load()
    first = a.lead("a")
    b.ask("campaign", "b")
    assert not b.ask("state")["leads"]
    began = time.monotonic()
    a.ask("resign")
    b.ask("lead")
    assert time.monotonic() - began < 20  # not the lease's minute
    assert not a.ask("state")["leads"]
    assert a.write("meta=1") == "EPERM" and b.write("meta=1") == "ok"
    a.ask("campaign", "a")
    b.end()  # an end in order resigns too
    again = a.ask("lead")
    assert again["term"] > first["term"]


def test_a_killed_leader_is_followed_after_its_lease(etcd, replica):
    a, b = replica(etcd), replica(etcd)
    a.load(), b.load()
    a.lead("a")
    assert a.write("meta=1", "x=a") == "ok"
    b.ask("campaign", "b")
    a.kill()
    assert b.ask("lead")["leader"] == "b"
    assert b.write("meta=2", "x=b") == "EAGAIN"  # not before it has heard what a wrote
    assert b.news() == [{"meta": "1", "x": "a"}]
    assert b.write("meta=2", "x=b") == "ok"


def test_a_paused_leader_can_damage_nothing(etcd, replica):
    a, b = replica(etcd), replica(etcd)
    a.load(), b.load()
    a.lead("a")
    assert a.write("meta=1", "x=a") == "ok"
    b.ask("campaign", "b")
    a.pause()
    a.send("write", "meta=2", "x=late")  # it will read this as the leader that it believes to be
    b.ask("lead")
    b.news()
    assert b.write("meta=2", "x=b") == "ok"
    a.resume()
    assert a.hear()["result"] == "EPERM"
    assert b.load() == {"meta": "2", "x": "b"}
    assert a.news()[-1] == {"meta": "2", "x": "b"}
    state = a.ask("state")
    assert not state["leads"] and state["leader"] == "b"


def test_leading_ends_by_itself_when_etcd_is_silent(etcd, replica):
    a = replica(etcd, timeout=500)
    a.load()
    a.lead("a")
    etcd.members[0].pause()
    end = time.monotonic() + WAIT_S
    while a.ask("state")["leads"] and time.monotonic() < end:
        time.sleep(0.05)
    state = a.ask("state")
    assert not state["leads"] and state["silent_ms"] >= LEASE_S * 1000 / 2
    refused = a.ask("write", "meta=1")
    assert (refused["result"], refused["reason"]) == ("ETIMEDOUT", "store-unavailable")
    etcd.members[0].resume()
    a.ask("lead")
    while (result := a.write("meta=2")) != "ok":
        assert result in ("EAGAIN", "EPERM")
        a.ask("poll" if result == "EAGAIN" else "lead")


def settle(a, number):
    """Writes until it is known to be written; what was heard meanwhile."""
    heard = []
    while (result := a.write(f"meta={number}", "x=settled")) != "ok":
        assert result in ("EAGAIN", "ETIMEDOUT", "EHOSTUNREACH", "EPERM"), result
        if result == "EAGAIN":
            heard += a.ask("poll")["revisions"]
        elif result == "EPERM":
            a.ask("lead")
    return heard


@pytest.mark.parametrize("how", ["pause", "kill"])
def test_what_may_have_happened_is_found_out(etcd, replica, how):
    """A write without an answer either came true, and is told, or never will be."""
    a, m = replica(etcd, lease=60, timeout=400), etcd.members[0]
    watcher = replica(etcd)
    a.load(), watcher.load()
    a.lead("a")
    number, unsure = 0, {}
    for i in range(int(os.environ.get("CS_STORE_ROUNDS", "3"))):
        number += 1
        m.pause()
        a.send("write", f"meta={number}", f"x=unsure{number}")
        assert a.hear()["result"] in ("ETIMEDOUT", "EHOSTUNREACH")
        unsure[number] = f"unsure{number}"
        if how == "kill":
            m.kill()
            m.start()
        else:
            m.resume()
        number += 1
        heard = settle(a, number)
        assert heard in ([], [{"meta": str(number - 1), "x": unsure[number - 1]}]), heard
        seen = []
        while not seen or seen[-1]["meta"] != str(number):
            seen += watcher.news()
        assert seen == [*heard, {"meta": str(number), "x": "settled"}]  # nothing came true that was not told
        assert a.load() == {"meta": str(number), "x": "settled"}


def test_a_place_that_was_compacted_is_read_anew(etcd, replica):
    a, b = replica(etcd), replica(etcd, lease=60)
    a.load()
    b.load()
    b.lead("b")
    assert b.write("meta=1", "gone=1", "stays=1") == "ok"
    assert a.news()[-1]["meta"] == "1"
    a.pause()
    for i in range(2, 10):  # more than the window of a's stream, so that the rest stays with etcd
        assert b.write(f"meta={i}", f"x/{i}=*{ONE}", *(["gone-"] if i == 2 else [])) == "ok"
    m = etcd.members[0]
    m.compact(m.revision())
    m.kill()  # what a's connection still holds goes with it
    m.start()
    assert b.write("meta=10") in ("ok", "ETIMEDOUT")
    a.resume()
    said = a.ask("news")
    while not said["whole"]:  # what had arrived before it was paused
        said = a.ask("news")
    assert said["revisions"][0] == a.load()
    assert "gone" not in said["revisions"][0] and said["revisions"][0]["stays"] == "1"


def test_a_store_that_was_set_back_is_read_anew(replica):
    """An old copy of etcd's data is put back: same cluster, older revision."""
    with Etcd() as etcd:
        m = etcd.members[0]
        a, b = replica(etcd), replica(etcd, lease=60)
        a.load(), b.load()
        b.lead("b")
        assert b.write("meta=1", "x=1") == "ok"
        m.kill()
        shutil.copytree(m.data, etcd.dir / "backup")
        m.start()
        for i in range(2, 8):
            while (result := b.write(f"meta={i}", f"x={i}")) != "ok":
                assert result in ("EAGAIN", "ETIMEDOUT", "EHOSTUNREACH"), result
                if result == "EAGAIN":
                    b.ask("poll")
        while a.news()[-1]["meta"] != "7":
            pass
        m.kill()
        shutil.rmtree(m.data)
        shutil.copytree(etcd.dir / "backup", m.data)
        m.start()
        said = a.ask("news")
        assert said["whole"] and said["revisions"] == [{"meta": "1", "x": "1"}]


@pytest.mark.parametrize("three,how", [("3.4", "pause"), ("3.7", "kill")], indirect=["three"])
def test_the_leader_outlives_a_member(three, replica, how):
    """The member that the leader talks to goes; leadership, writes and followers go on."""
    a, b = replica(three, lease=15, timeout=1500), replica(three)
    a.load(), b.load()
    term = a.lead("a")["term"]
    assert a.write("meta=1", "x=1") == "ok"
    getattr(three.members[0], how)()
    settle(a, 2)
    assert a.ask("state") | {"silent_ms": 0} == {"leads": True, "term": term, "leader": "a", "silent_ms": 0}
    while b.news()[-1]["meta"] != "2":
        pass


def test_more_rows_than_a_page_and_large_ones(etcd, replica):
    a = replica(etcd, lease=60)
    a.load()
    a.lead("a")
    for block in range(30):
        assert a.write(f"meta={block}", *(f"n/{block * 119 + i:05}=v" for i in range(119))) == "ok"
    for i in range(20):
        assert a.write(f"meta=l{i}", f"large/{i:02}=*{ONE}") == "ok"
    rows = a.load()
    assert len(rows) == 1 + 30 * 119 + 20
    assert [v for k, v in rows.items() if k.startswith("large/")] == [ONE] * 20
    assert sorted(k for k in rows if k.startswith("n/")) == [f"n/{i:05}" for i in range(30 * 119)]


def test_without_etcd_there_is_an_error_and_its_reason(replica):
    with Etcd() as etcd:
        etcd.members[0].kill()
        said = replica(etcd, timeout=500).ask("load")
    assert said["result"] in ("ETIMEDOUT", "EHOSTUNREACH") and said["reason"] == "store-unavailable"


@pytest.mark.parametrize("seed", range(int(os.environ.get("CS_STORE_SEEDS", "1"))))
def test_three_replicas_count_together(three, replica, seed):
    """Whoever leads adds one; replicas and members are paused and killed at random. Each number is written once."""
    rng = random.Random(seed)
    replicas = [replica(three, timeout=1500) for _ in range(3)]
    known = [r.load() for r in replicas]
    for i, r in enumerate(replicas):
        r.ask("campaign", f"r{i}")
    written, end = [], time.monotonic() + float(os.environ.get("CS_STORE_SECONDS", "6"))
    while time.monotonic() < end:
        member = rng.choice(three.members)
        hurt = rng.choice(["member", "replica", "nothing", "nothing"])
        victim = rng.randrange(3)
        if hurt == "member":
            member.pause()
        elif hurt == "replica":
            replicas[victim].pause()
        for i, r in enumerate(replicas):
            if hurt == "replica" and i == victim:
                continue
            said = r.ask("poll")
            for rows in said["revisions"]:
                known[i] = {**({} if said["whole"] else known[i]), **rows}
            number = int(known[i].get("meta", "0")) + 1
            result = r.write(f"meta={number}", f"n/{number:05}=r{i}")
            if result == "ok":
                known[i] |= {"meta": str(number)}
                written.append((number, f"r{i}"))
        member.resume()
        replicas[victim].resume()
    rows = {int(k[2:]): v for k, v in three.rows("/countersign/facts/").items() if k.startswith("n/")}
    assert sorted(rows) == list(range(1, len(rows) + 1))  # no hole
    numbers = [n for n, _ in written]
    assert len(numbers) == len(set(numbers)) and len(numbers) > 3, "a number was acknowledged twice, or nothing was"
    assert all(rows[n] == who for n, who in written)  # nothing acknowledged was lost or overwritten

"""The store under everything that goes wrong at once: random clients, replicas and members of etcd killed (-9) and stopped,
leases that run out, leaders that wake up too late, wall clocks that jump. Each replica is tests/integration/store_replica.c:
the store and its rules, nothing else. What all of them say is compared:

  no label set ever has two live numbers, no number two live label sets, no SPIFFE ID two numbers;
  no number comes back before its quarantine is over;
  no follower sees a position go back, or a hole: two replicas at one revision know the same;
  what was acknowledged is there.

STORE_PROPERTY_OPERATIONS=200000 for a long run, STORE_PROPERTY_SEED to repeat the choices of one."""
import hashlib
import itertools
import os
import queue
import random
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from lab import etcd
from lab.daemon import BUILD, WAIT_S

OPERATIONS = int(os.environ.get("STORE_PROPERTY_OPERATIONS", 10000))
SEED = os.environ.get("STORE_PROPERTY_SEED")
CLIENTS, LABELS, ADDRESSES, ENDPOINTS = 24, 40, 60, 2
FIRST_ID, LAST_ID = 300, 329
QUARANTINE_S = 1.5
HEARD_LATE_S = 0.5  # that a number is deleted is heard when it is on disk and its line was read; its rest began before that
OPERATIONS_PER_HURT = 700  # at least so often something is killed, stopped or misled
PATIENCE_S = 1.0  # of a client, until it goes on with another endpoint


class Broken(AssertionError):
    pass


class World:
    """What all replicas said, compared. Every method with the lock held."""

    def __init__(self):
        self.lock = threading.RLock()
        self.digests = {}      # (epoch, revision) -> digest, who
        self.incarnations = {} # incarnation -> (id, labels, SPIFFE ID)
        self.newest = {}       # id -> incarnation, as far as anybody heard
        self.gone = {}         # incarnation -> no earlier than when it was deleted
        self.collecting = {}   # garbage collections whose end is not known: token -> when it began
        self.acknowledged = 0  # the highest revision with an answer
        self.trouble = []

    def complain(self, what):
        self.trouble.append(what)

    def state(self, who, epoch, revision, identities, claims, retired):
        digest = hashlib.sha256(repr((sorted(identities.items()), sorted(claims.items()), sorted(retired))).encode()).digest()
        before, other = self.digests.setdefault((epoch, revision), (digest, who))
        if before != digest:
            self.complain(f"{who} and {other} know different things at revision {revision}")
        for column, what in ((0, "label set"), (1, "SPIFFE ID"), (2, "incarnation")):
            values = [i[column] for i in identities.values()]
            if len(set(values)) != len(values):
                self.complain(f"{who} at {revision}: a {what} twice: {identities}")
        if set(identities) & retired:
            self.complain(f"{who} at {revision}: lives and rests: {set(identities) & retired}")
        if missing := set(claims.values()) - set(identities):
            self.complain(f"{who} at {revision}: claims of {missing}, which are not there")

    def appeared(self, who, number, labels, spiffe_id, incarnation):
        known = self.incarnations.setdefault(incarnation, (number, labels, spiffe_id))
        if known != (number, labels, spiffe_id):
            self.complain(f"{who}: incarnation {incarnation} was {known}, is {(number, labels, spiffe_id)}")
        if not FIRST_ID <= number <= LAST_ID:
            self.complain(f"{who}: {number} is outside the range")
        last = self.newest.get(number)
        if last == incarnation or incarnation in self.gone:
            return  # heard of already
        now = time.monotonic()
        if last is not None and now - self.gone.get(last, 0) < QUARANTINE_S - HEARD_LATE_S and last in self.gone:
            self.complain(f"{who}: {number} came back after {now - self.gone[last]:.3f} s")
        self.newest[number] = incarnation

    def disappeared(self, incarnation):
        self.gone.setdefault(incarnation, min(self.collecting.values(), default=time.monotonic()))


class Replica:
    names = itertools.count(1)

    def __init__(self, world, args):
        self.world, self.name = world, f"r{next(self.names)}"
        self.identities, self.claims, self.retired = {}, {}, set()
        self.position, self.leads, self.ready = None, False, threading.Event()
        self.waiting, self.numbers = {}, itertools.count(1)
        self.lowest = world.acknowledged
        self.errors = tempfile.TemporaryFile()
        env = {**os.environ, "STORE_IDS": f"{FIRST_ID}-{LAST_ID}", "STORE_QUARANTINE_MS": str(int(QUARANTINE_S * 1000)),
               "STORE_NAME": self.name}
        self.process = subprocess.Popen([BUILD / "integration/store_replica", *args], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.errors, text=True, bufsize=1, env=env)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            if not line.endswith("\n"):
                break  # it was killed while it wrote
            try:
                with self.world.lock:
                    self.said(line.split())
            except Exception as e:  # noqa: BLE001: shown by the test
                self.world.complain(f"{self.name} said {line!r}: {e!r}")
                break
        with self.world.lock:
            waiting, self.waiting = self.waiting, None
        for answer in waiting.values():
            answer.put(("died",))

    def said(self, words):
        if words[0] == ">":
            if answer := self.waiting.pop(words[1], None):
                if words[2] == "ok" and self.position:
                    self.world.acknowledged = max(self.world.acknowledged, self.position[1])
                answer.put(words[2:])
        elif words[0] == "i":
            number, labels, spiffe_id, incarnation = int(words[1]), *words[2:5]
            before = self.identities.get(number)
            if before and before[2] != incarnation:
                self.world.disappeared(before[2])  # a whole read tells only the difference
            self.identities[number] = (labels, spiffe_id, incarnation)
            self.world.appeared(self.name, number, labels, spiffe_id, incarnation)
        elif words[0] == "-i":
            if self.identities.pop(int(words[1]), None):
                self.world.disappeared(words[4])
        elif words[0] == "c":
            self.claims[words[1], words[2]] = int(words[3])
        elif words[0] == "-c":
            del self.claims[words[1], words[2]]
        elif words[0] == "t":
            self.retired.add(int(words[1]))
        elif words[0] == "-t":
            self.retired.remove(int(words[1]))
        elif words[0] == "=":
            self.moved(words[1], int(words[2]))
        elif words[:2] == ["!", "role"]:
            self.leads = words[2] == "leads"

    def moved(self, epoch, revision):
        if self.position is None and revision < self.lowest:
            self.world.complain(f"{self.name} began at {revision}, but {self.lowest} was acknowledged")
        if self.position and (self.position[0] != epoch or self.position[1] >= revision):
            self.world.complain(f"{self.name} went from {self.position} to {(epoch, revision)}")
        self.position = epoch, revision
        self.world.state(self.name, epoch, revision, self.identities, self.claims, self.retired)
        self.ready.set()

    def ask(self, *words):
        """A queue that gets the answer: its words, or ("died",)."""
        answer = queue.SimpleQueue()
        number = str(next(self.numbers))
        with self.world.lock:
            if self.waiting is None:
                answer.put(("died",))
                return answer
            self.waiting[number] = answer
        try:
            self.process.stdin.write(" ".join([number, *map(str, words)]) + "\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # the reader says that it died
        return answer

    def signal(self, what):
        if self.process.poll() is None:
            self.process.send_signal(what)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait(WAIT_S)
        self.reader.join(WAIT_S)
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.stdout.close()
        self.errors.seek(0)
        said = self.errors.read().decode()
        self.errors.close()
        return said


class Run:
    def __init__(self, args, replicas, members=()):
        self.seed = int(SEED) if SEED else random.randrange(1 << 32)
        print(f"seed {self.seed}")
        self.world, self.args, self.members = World(), args, members
        self.replicas = [Replica(self.world, args) for _ in range(replicas)]
        self.done, self.counts = threading.Event(), {}
        self.possible = {}  # endpoint -> the label sets (or None) that it may have now
        self.paused, self.hurts = [], 0

    def count(self, what, n=1):
        with self.world.lock:
            self.counts[what] = self.counts.get(what, 0) + n

    @property
    def operations(self):
        return self.counts.get("ok", 0) + self.counts.get("refused", 0)

    def leader(self, choose):
        replicas = list(self.replicas)
        leading = [r for r in replicas if r.leads and r.waiting is not None]
        return choose.choice(leading or replicas)

    def ask(self, choose, *words):
        """(answer, None), or (None, queue) when nothing was said for a while."""
        answer = self.leader(choose).ask(*words)
        try:
            return answer.get(timeout=PATIENCE_S), None
        except queue.Empty:
            return None, answer

    # ---- who does what --------------------------------------------------------------------------------------------

    def client(self, n):
        choose, fresh = random.Random(self.seed * 100 + n), itertools.count()
        mine = [(f"n{n}", f"e{next(fresh)}") for _ in range(ENDPOINTS)]
        while not self.done.is_set():
            at = choose.randrange(len(mine))
            endpoint, release = mine[at], choose.random() < 0.35
            labels = None if release else f"k8s:app={choose.randrange(LABELS)};"
            words = ["release", *endpoint] if release else ["claim", *endpoint, labels, f"10.9.0.{choose.randrange(ADDRESSES)}"]
            before = self.possible.setdefault(endpoint, {None})
            self.possible[endpoint] = before | {labels}
            said, _ = self.ask(choose, *words)
            if said is None:  # somebody sleeps on it: it may still come true, whenever that is
                self.count("unanswered")
                self.possible[endpoint] = None
                mine[at] = (f"n{n}", f"e{next(fresh)}")
            elif said[0] == "ok":
                self.count("ok")
                self.possible[endpoint] = {labels}
            elif said[0] == "refused":
                self.count("refused")
                self.count(said[1])
                self.possible[endpoint] = before
            else:
                self.count("not answered" if said[0] == "died" else f"error {said[1]}")
                time.sleep(0.03)
                if said[:2] == ["error", "-1"]:
                    self.possible[endpoint] = before  # it does not lead: nothing happened

    def collector(self):
        choose = random.Random(self.seed * 100 + 99)
        while not self.done.wait(0.05):
            token = object()
            with self.world.lock:
                self.world.collecting[token] = time.monotonic()
            said, later = self.ask(choose, "gc", choose.choice((0, 50, 200)), choose.choice((2, 100)))
            if said and (said[0] == "ok" or said[:2] == ["error", "-1"]):
                self.count("collected")
                with self.world.lock:
                    del self.world.collecting[token]
            # else it may have happened, or still happen, and nobody heard: it counts from when it began

    def pause(self, replica, seconds):
        replica.signal(signal.SIGSTOP)
        self.count("paused")
        self.paused.append((time.monotonic() + seconds, replica))

    def wake(self, all=False):
        now = time.monotonic()
        for end, replica in list(self.paused):
            if all or now >= end:
                replica.signal(signal.SIGCONT)
                self.paused.remove((end, replica))

    def replace(self, at):
        old = self.replicas[at]
        self.paused = [(end, r) for end, r in self.paused if r is not old]
        said = old.kill()
        if said:
            self.world.complain(f"{old.name}: {said}")
        self.replicas[at] = Replica(self.world, self.args)
        self.count("killed")

    def hurt(self, choose):
        # Each of them once, then as it comes.
        what = (0.1, 0.4, 0.6, 0.77, 0.9)[self.hurts] if self.hurts < 5 else choose.random()
        at = choose.randrange(len(self.replicas))
        leading = [i for i, r in enumerate(self.replicas) if r.leads]
        if what < 0.3:
            self.replace(leading[0] if leading and choose.random() < 0.6 else at)
        elif what < 0.5:
            if not self.paused:
                self.pause(self.replicas[leading[0] if leading else at], choose.choice((0.2, 1, 3, 5)))
        elif what < 0.75:
            self.replicas[at].ask("clock", choose.choice((-1, 1)) * choose.randrange(1, 10 * 86400 * 1000))
            self.count("clock")
        elif what < 0.8:
            self.replicas[at].ask("resign")
            self.replicas[at].ask("campaign")
        elif self.members:
            hit = self.members if choose.random() < 0.25 else [choose.choice(self.members)]
            for m in hit:
                m.kill()
            self.done.wait(choose.choice((0, 0.3, 1)))
            for m in hit:
                m.start(wait=False)
            for m in hit:
                m.wait_ready()
            self.count("etcd killed", len(hit))

    def chaos(self):
        choose = random.Random(self.seed * 100 + 98)
        while not self.done.wait(choose.uniform(0.1, 0.8)):
            self.wake()
            self.hurt(choose)
            self.hurts += 1

    # ---- the whole ------------------------------------------------------------------------------------------------

    def guarded(self, fn, *args):
        def run():
            try:
                fn(*args)
            except Exception as e:  # noqa: BLE001
                self.world.complain(f"{fn.__name__}: {e!r}")
                self.done.set()
        return threading.Thread(target=run, daemon=True)

    def run(self, operations):
        for r in self.replicas:
            assert r.ready.wait(WAIT_S), "no replica has a store"
        threads = [self.guarded(self.client, n) for n in range(CLIENTS)]
        threads += [self.guarded(self.collector), self.guarded(self.chaos)]
        for t in threads:
            t.start()
        last, since = 0, time.monotonic()
        while ((self.operations < operations or self.hurts < operations / OPERATIONS_PER_HURT) and not self.world.trouble
               and not self.done.wait(0.05)):
            if self.operations > last:
                last, since = self.operations, time.monotonic()
            if time.monotonic() - since > WAIT_S:
                self.world.complain(f"nothing was answered for {WAIT_S} s")
        self.done.set()
        for t in threads:
            t.join(2 * WAIT_S)
        self.wake(all=True)
        self.settle()
        print(f"{self.operations} operations, {self.hurts} hurts, revision {self.replicas[0].position[1]}, {dict(sorted(self.counts.items()))}")
        if self.world.trouble:
            raise Broken("\n".join([f"seed {self.seed}", *self.world.trouble[:20]]))

    def settle(self):
        """All replicas anew, at one revision, with what was acknowledged."""
        for at in range(len(self.replicas)):
            self.replace(at)
        end = time.monotonic() + WAIT_S
        choose = random.Random(0)
        while time.monotonic() < end:
            said, _ = self.ask(choose, "claim", "end", "end", "k8s:app=0;", "10.9.1.1")
            if said and said[0] in ("ok", "refused"):
                break
            time.sleep(0.05)
        else:
            raise Broken(f"seed {self.seed}: nobody leads at the end")
        while len({r.position for r in self.replicas}) > 1 and time.monotonic() < end:
            time.sleep(0.05)
        with self.world.lock:
            positions = {r.position for r in self.replicas}
            if len(positions) > 1:
                self.world.complain(f"the replicas stay apart: {positions}")
            r = self.replicas[0]
            for endpoint, possible in self.possible.items():
                number = r.claims.get(endpoint)
                labels = r.identities[number][0] if number else None
                if possible is not None and labels not in possible:
                    self.world.complain(f"{endpoint} has {labels}, and should have one of {possible}")

    def end(self):
        self.done.set()
        for r in self.replicas:
            r.kill()


def go(run, operations=OPERATIONS):
    try:
        run.run(operations)
        return run
    finally:
        run.end()


def test_sqlite(tmp_path):
    run = go(Run(["sqlite", tmp_path / "store.db"], 1))
    assert {"killed", "paused", "clock"} <= set(run.counts)


@pytest.mark.parametrize("version,members", [("3.4", 1), ("3.7", 3)])
def test_etcd(version, members):
    with etcd.Etcd(version, members) as cluster:
        run = go(Run(["etcd", "/property/", *cluster.urls], 3, cluster.members))
    assert {"killed", "paused", "clock", "etcd killed"} <= set(run.counts)


def test_the_world_complains():
    """The judge itself: each rule, broken once."""
    def world(*lines):
        w = World()
        r = Replica.__new__(Replica)
        r.world, r.name, r.identities, r.claims, r.retired = w, "r", {}, {}, set()
        r.position, r.ready, r.lowest = None, threading.Event(), 0
        for line in lines:
            r.said(line.split())
        return " ".join(w.trouble)
    one = "i 300 k8s:a=1; spiffe://x/300 11"
    assert world(one, "c n e 300", "= 5 1", "-c n e 300", f"-{one}", "t 300", "= 5 2") == ""
    assert "a label set twice" in world(one, "i 301 k8s:a=1; spiffe://x/301 12", "= 5 1")
    assert "a SPIFFE ID twice" in world(one, "i 301 k8s:a=2; spiffe://x/300 12", "= 5 1")
    assert "lives and rests" in world(one, "t 300", "= 5 1")
    assert "which are not there" in world("c n e 300", "= 5 1")
    assert "went from" in world("= 5 2", "= 5 2") and "went from" in world("= 5 2", "= 5 1")
    assert "came back after" in world(one, "= 5 1", f"-{one}", "= 5 2", "i 300 k8s:a=2; spiffe://x/300 12", "= 5 3")
    assert "incarnation 11 was" in world(one, f"-{one}", "i 301 k8s:a=1; spiffe://x/301 11", "= 5 1")
    assert "outside the range" in world("i 299 k8s:a=1; spiffe://x/299 11")
    w = World()
    w.state("a", 1, 7, {}, {("n", "e"): 300}, set())
    w.state("b", 1, 7, {}, {}, set())
    assert any("know different things" in t for t in w.trouble)

"""Three real replicas of the cluster role over etcd: random nodes that claim and release, and followers of the directory that
go from replica to replica by their position, while replicas and etcd are killed (-9) and leaders are stopped for longer than
their lease. What must hold (test_store_property.py looks at the stores alone, and at numbers that come back):

  no label set has two live numbers, no number two label sets, no SPIFFE ID two numbers, for any follower at any position;
  a follower's position never goes back, and after a resumed call nothing is missing: two followers at one position know the
  same, whichever replicas they heard it from;
  what was acknowledged is there.

IDENTITY_PROPERTY_OPERATIONS=50000 for a long run, IDENTITY_PROPERTY_SEED to repeat the choices of one."""
import hashlib
import itertools
import os
import queue
import random
import signal
import threading
import time

import grpc
import pytest

from lab import etcd, protos
from lab.daemon import WAIT_S
from lab.follower import Follower
from lab.identity_lab import Lab, Replicas
from lab.node_tls import TlsProxy
from lab.nodes import D, ip, labels

OPERATIONS = int(os.environ.get("IDENTITY_PROPERTY_OPERATIONS", 5000))
SEED = os.environ.get("IDENTITY_PROPERTY_SEED")
REPLICAS, CLIENTS, FOLLOWERS, LABELS, ENDPOINTS = 3, 24, 4, 200, 8
OPERATIONS_PER_HURT = 700
C = protos.cluster


class Node:
    """A node's certificate, and a way to each replica; what it asks goes to who leads."""

    def __init__(self, run, name, address):
        self.run, self.name = run, name
        self.hello = C.HelloRequest(addresses=[ip(address)], port=4250, path="unknown")
        files = run.replicas.ca.node(name)
        self.proxies = [run.lab.keep(TlsProxy(run.lab.base / f"{name}-{i}.sock", port, files))
                        for i, port in enumerate(run.replicas.ports)]
        self.at, self.greeted = 0, False

    def stub(self, i):
        return protos.cluster_rpc.ClusterStub(self.proxies[i].channel)

    def greet(self, i):
        """A connection counts from its Hello on."""
        try:
            self.stub(i).Hello(self.hello, timeout=3)
        except grpc.RpcError as e:
            if e.code() != grpc.StatusCode.FAILED_PRECONDITION or "already" not in e.details():
                raise

    def ask(self, method, request):
        """The answer, or None: nobody who leads answered, and it may have come true."""
        try:
            if not self.greeted:
                self.greet(self.at)
            self.greeted = True
            return getattr(self.stub(self.at), method)(request, timeout=3)
        except grpc.RpcError as e:
            self.run.count(f"{e.code().name.lower()}")
            self.at, self.greeted = (self.at + 1) % len(self.proxies), False
            return None


class Watcher(threading.Thread):
    """Follows the directory, now at this replica, now at that, always from where it was."""

    def __init__(self, run, n):
        super().__init__(daemon=True)
        self.run_, self.choose = run, random.Random(run.seed * 100 + 50 + n)
        self.node = Node(run, f"f{n}", f"10.0.1.{n + 1}")
        self.state, self.position, self.epochs = {}, None, set()

    def run(self):
        while not self.run_.done.is_set():
            try:
                self.follow(self.choose.randrange(len(self.node.proxies)), self.choose.uniform(0.3, 3))
            except grpc.RpcError:
                time.sleep(0.05)
            except Exception as e:  # noqa: BLE001: shown by the test
                self.run_.complain(f"{self.node.name}: {e!r}")
                return

    def follow(self, i, seconds, once=None):
        self.node.greet(i)
        resume = {"resume": D.Position(epoch=self.position[0], revision=self.position[1])} if self.position else {}
        f = Follower(self.node.proxies[i].channel, **resume)
        f.state, f.position = dict(self.state), self.position
        end = time.monotonic() + seconds
        try:
            while (once and not once()) or (not once and time.monotonic() < end and not self.run_.done.is_set()):
                try:
                    batch = f.batches.get(timeout=0.2)
                except queue.Empty:
                    continue
                if batch is None:
                    return
                before = f.synced
                f.apply(batch)
                if batch.complete:
                    self.moved(f, reloaded=f.synced > before)
        finally:
            f.close()

    def moved(self, f, reloaded):
        new = f.position
        if self.position and new[0] == self.position[0] and new[1] < self.position[1]:
            self.run_.complain(f"{self.node.name} went back from {self.position} to {new}")
        self.run_.count("reloaded" if reloaded else "batches")
        if new != self.position or reloaded:
            self.run_.state(self.node.name, new, f.state)
        self.state, self.position = dict(f.state), new
        self.epochs.add(new[0])


class Run:
    def __init__(self, lab, etcd):
        self.seed = int(SEED) if SEED else random.randrange(1 << 32)
        print(f"seed {self.seed}")
        self.lab, self.etcd = lab, etcd
        self.replicas = Replicas(lab, etcd, REPLICAS)
        self.lock, self.counts, self.trouble, self.digests = threading.Lock(), {}, [], {}
        self.done, self.stopped, self.possible, self.hurts = threading.Event(), None, {}, 0

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def complain(self, what):
        with self.lock:
            self.trouble.append(what)

    @property
    def operations(self):
        return self.counts.get("taken", 0) + self.counts.get("refused", 0)

    def state(self, who, position, records):
        identities = [r for (kind, _), r in records.items() if kind == "identity"]
        for what, values in (("label set", [str(i.labels) for i in identities]), ("SPIFFE ID", [i.spiffe_id for i in identities])):
            if len(set(values)) != len(values):
                self.complain(f"{who} at {position}: a {what} twice")
        known = {i.id for i in identities}
        for (kind, key), r in records.items():
            if kind in ("endpoint", "placement") and r.identity not in known:
                self.complain(f"{who} at {position}: {kind} {key} has identity {r.identity}, which is not there")
        text = "\n".join(sorted(f"{key} {r}" for key, r in records.items()))
        digest = hashlib.sha256(text.encode()).hexdigest()
        with self.lock:
            before, other = self.digests.setdefault(position, (digest, who))
            if before != digest:
                self.trouble.append(f"{who} and {other} know different things at {position}")

    # ---- who does what ----------------------------------------------------------------------------------------------

    def client(self, n):
        choose, node = random.Random(self.seed * 100 + n), Node(self, f"x{n}", f"10.0.2.{n + 1}")
        addresses = itertools.cycle(range(1, 250))
        while not self.done.is_set():
            endpoint = (node.name, f"e{choose.randrange(ENDPOINTS)}")
            text = None if choose.random() < 0.3 else f"k8s:app=a{choose.randrange(LABELS)}"
            before = self.possible.get(endpoint, {None})
            self.possible[endpoint] = before | {text}
            if text:
                said = node.ask("Claim", C.ClaimRequest(id=endpoint[1], labels=labels(text),
                                                        addresses=[ip(f"10.9.{n}.{next(addresses)}")]))
            else:
                said = node.ask("Release", C.ReleaseRequest(id=endpoint[1]))
            if said is None:
                continue
            refused = text and said.refused.name
            self.count("refused" if refused else "taken")
            self.possible[endpoint] = before if refused else {text}

    def hurt(self, choose):
        at = choose.randrange(REPLICAS)
        leading = next((i for i, r in enumerate(self.replicas.all) if r.alive and r is not self.stopped and self.leads(r)), at)
        # Each of the three once, then as it comes.
        what = (0.1, 0.5, 0.8)[self.hurts] if self.hurts < 3 else choose.random()
        if what < 0.45:
            at = leading if choose.random() < 0.6 else at
            if self.replicas.all[at] is self.stopped:
                return
            old = self.replicas.all[at]
            old.kill()
            old.clean()
            self.lab.things.remove(old)
            self.done.wait(choose.choice((0, 0.5)))
            self.replicas.start(at)
            self.count("killed")
        elif what < 0.7 and not self.stopped:
            self.stopped = self.replicas.all[leading]
            os.kill(self.stopped.pid, signal.SIGSTOP)
            self.count("stopped")
            threading.Timer(choose.choice((0.5, 4, 6)), self.wake).start()
        elif what >= 0.7:
            m = choose.choice(self.etcd.members)
            m.kill()
            self.done.wait(choose.choice((0, 0.5)))
            m.start()
            self.count("etcd killed")

    def leads(self, replica):
        try:
            return replica.status().leadership == protos.status.LEADERSHIP_LEADER
        except grpc.RpcError:
            return False

    def wake(self):
        with self.lock:
            stopped, self.stopped = self.stopped, None
        if stopped and stopped.alive:
            os.kill(stopped.pid, signal.SIGCONT)

    def guarded(self, fn, *args):
        def run():
            try:
                fn(*args)
            except Exception as e:  # noqa: BLE001
                self.complain(f"{fn.__name__}: {e!r}")
                self.done.set()
        return threading.Thread(target=run, daemon=True)

    def chaos(self):
        choose = random.Random(self.seed * 100 + 98)
        while not self.done.wait(choose.uniform(0.5, 2)):
            self.hurt(choose)
            self.hurts += 1

    # ---- the whole --------------------------------------------------------------------------------------------------

    def run(self):
        self.replicas.leader()
        watchers = [Watcher(self, n) for n in range(FOLLOWERS)]
        threads = [*watchers, *(self.guarded(self.client, n) for n in range(CLIENTS)), self.guarded(self.chaos)]
        for t in threads:
            t.start()
        last, since = 0, time.monotonic()
        while ((self.operations < OPERATIONS or self.hurts < OPERATIONS / OPERATIONS_PER_HURT) and not self.trouble
               and not self.done.wait(0.05)):
            if self.operations > last:
                last, since = self.operations, time.monotonic()
            if time.monotonic() - since > WAIT_S:
                self.complain(f"nothing was answered for {WAIT_S} s")
        self.done.set()
        for t in threads:
            t.join(2 * WAIT_S)
        self.wake()
        self.settle(watchers)
        print(f"{self.operations} operations, {self.hurts} hurts, {dict(sorted(self.counts.items()))}")
        assert not self.trouble, "\n".join([f"seed {self.seed}", *self.trouble[:20]])

    def settle(self, watchers):
        """One more claim that everybody hears of, from a replica of their own; then all agree, and nothing is lost."""
        node, end = Node(self, "last", "10.0.3.1"), time.monotonic() + WAIT_S
        while not node.ask("Claim", C.ClaimRequest(id="end", labels=labels("k8s:app=end"), addresses=[ip("10.9.200.1")])):
            assert time.monotonic() < end, f"seed {self.seed}: nobody leads at the end"
            time.sleep(0.1)
        for n, w in enumerate(watchers):
            while ("endpoint", ("last", "end")) not in w.state:
                assert time.monotonic() < end, f"seed {self.seed}: {w.node.name} does not hear of the end"
                try:
                    w.follow(n % REPLICAS, 0, once=lambda: ("endpoint", ("last", "end")) in w.state)
                except grpc.RpcError:
                    time.sleep(0.1)
            if len(w.epochs) != 1:
                self.complain(f"{w.node.name} saw epochs {w.epochs}")
        state = watchers[0].state
        for endpoint, possible in self.possible.items():
            record = state.get(("endpoint", endpoint))
            text = "".join(f"k8s:{l.key}={l.value}" for l in state["identity", record.identity].labels) if record else None
            if text not in possible:
                self.complain(f"{endpoint} has {text}, and should have one of {possible}")


@pytest.mark.parametrize("version,members", [("3.4", 1), ("3.7", 3)])
def test_replicas(tmp_path, version, members):
    lab = Lab(tmp_path)
    with etcd.Etcd(version, members) as cluster:
        run = Run(lab, cluster)
        try:
            run.run()
        finally:
            run.done.set()
            run.wake()
            lab.end()
    assert {"killed", "stopped", "etcd killed"} <= set(run.counts)

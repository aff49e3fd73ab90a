"""Nodes for the scenarios: an agent of SPIRE, an adapter, and identityd, played by the lab or for real."""
from lab import adapter as lab
from lab import identityd
from lab.daemon import BUILD
from lab.interfaces import Interfaces
from lab.spire import wait_for

A, B = 100001, 100002
HOST = 1


def identity(number, domain="example.org"):
    return identityd.identity(number, f"spiffe://{domain}/identity/{number}")


# What a fault may cost a daemon in memory: tables, caches, and the allocator's slack. A sanitizer keeps what was freed.
GROWTH_KIB = (400 if "asan" in BUILD.name else 16) << 10


def rss_kib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


class Node:
    """An agent of SPIRE, an adapter, and what the lab's identityd says to it."""

    def __init__(self, home, name, numbers):
        self.home, self.name, self.instance = home, name, home.spire.dir / f"i-{name}"
        self.agent = home.spire.add_agent(name)
        self.identityd = identityd.Identityd(self.instance / "identityd", [
            *map(identity, numbers), *(identityd.endpoint(f"e{n}", n, node=name) for n in numbers)])
        self.adapter = self.follower = self.signer = None

    def start(self, *sets):
        self.adapter = lab.Adapter(self.instance, self.home.spire.dir / "unused", "source=spire",
                                   f"spire.agent_socket={self.agent.socket}", f"spire.admin_socket={self.agent.admin}",
                                   *sets, node=self.name)
        self.follower = lab.Follower(self.adapter)
        return self

    def sign(self, svid):
        if not self.signer:
            self.signer = lab.Signer(self.adapter)
        reason, signature = self.signer.sign(svid.identity, svid.generation)
        if reason == 0:
            lab.verify_signature(svid, signature)
        return reason

    def leave(self, number):
        self.identityd.push(identityd.deleted(identityd.endpoint(f"e{number}", number, node=self.name)))

    def check(self):
        return next(c for c in self.adapter.status().checks if c.name == "spire")

    def lines(self, text):
        return [line for line in self.adapter.output().splitlines() if text in line]

    def subscriptions(self):
        metrics = self.adapter.metrics()
        return {state: metrics[f'countersign_spire_subscriptions{{daemon="spire-adapter",state="{state}"}}']
                for state in ("open", "waiting", "queued")}

    def close(self):
        for thing in (self.signer, self.follower):
            if thing:
                thing.close()
        if self.adapter:
            self.adapter.stop()
        self.identityd.stop()


class Home:
    def __init__(self, spire):
        self.spire, self.nodes = spire, []

    def node(self, name="n1", numbers=(A,), **options):
        """options: of Spire.node. The adapter is not started yet."""
        node = Node(self, name, numbers)
        self.nodes.append(node)
        node.entries = self.spire.node(node.agent, name, **options)
        return node

    def close(self):
        try:
            for node in self.nodes:
                node.close()
        finally:
            self.spire.close()


class RealHome:
    """identityd for real: its mutual TLS is by SVIDs that the adapter of each node hands over as files."""

    def __init__(self, spire):
        self.spire, self.things, self.interfaces = spire, [], Interfaces()

    def keep(self, thing):
        self.things.append(thing)
        return thing

    def adapter(self, name, server=False, ttl=None):
        """An agent of SPIRE and the adapter beside it; the settings tls.* for identityd, once the files are there."""
        agent = self.spire.add_agent(name)
        self.spire.node(agent, name, ttl=ttl, server=server)
        adapter = self.keep(lab.Adapter(self.spire.dir / f"i-{name}", self.spire.dir / "unused", "source=spire",
                                        f"spire.agent_socket={agent.socket}", f"spire.admin_socket={agent.admin}",
                                        node=name))
        dir = adapter.sockets / "tls" / ("identityd" if server else "node")
        wait_for(lambda: (dir / "svid.pem").exists(), dir)
        return adapter, agent, {"tls.cert": dir / "svid.pem", "tls.key": dir / "svid.key", "tls.bundle": dir / "bundle.pem"}

    def close(self):
        try:
            for thing in reversed(self.things):
                thing.stop()
        finally:
            self.interfaces.close()
            self.spire.close()

"""What tests of identityd start, in one hand that ends it."""
import time

import grpc
import pytest

from lab import protos
from lab.daemon import WAIT_S
from lab.interfaces import Interfaces
from lab.node_tls import CA
from lab.nodes import Identityd


class Lab:
    """What a test started; stopped at its end, and looked at how it ended."""

    def __init__(self, base):
        self.base, self.things, self.interfaces = base, [], Interfaces()

    def keep(self, thing):
        self.things.append(thing)
        return thing

    def all(self, *sets, **options):
        return self.keep(Identityd(self.base / options.pop("instance", "n1"), *sets, **options))

    def restart(self, d, **options):
        """The same instance and settings again; what was there of the process is stopped."""
        if d in self.things:
            self.things.remove(d)
        if d.process.poll() is None:
            d.stop()
        return self.keep(d.again(**options))

    def veth(self):
        return self.interfaces.new()

    def end(self):
        try:
            for thing in reversed(self.things):
                if thing.alive:
                    thing.stop()
        finally:
            self.interfaces.close()


def refused(code, fn, *args, **more):
    with pytest.raises(grpc.RpcError) as e:
        fn(*args, **more)
    assert e.value.code() == code, e.value
    return e.value


class Cluster:
    """A cluster role on n1, node roles beside it."""

    def __init__(self, lab, *sets, **settings):
        self.lab, self.ca = lab, CA(lab.base / "ca")
        self.n1 = lab.all(*sets, settings={**self.ca.server(), "node.addresses": "10.0.0.1", **settings})
        self.port = self.n1.port

    def settings(self, name, address, **more):
        return {**self.ca.node(name), "cluster.server": f"127.0.0.1:{self.port}", "node.addresses": address, **more}

    def node(self, name, address, settings=None, **options):
        return self.lab.keep(Identityd(self.lab.base / name, role="node", node=name,
                                       settings=settings or self.settings(name, address), **options))


class Replicas:
    """Replicas of the cluster role over one etcd, and node roles that know all of them."""

    def __init__(self, lab, etcd, n=2, **settings):
        self.lab, self.etcd, self.ca, self.settings = lab, etcd, CA(lab.base / "ca"), settings
        self.all = [self._start(f"c{i}") for i in range(n)]
        self.ports = [r.port for r in self.all]
        self.server = ",".join(f"127.0.0.1:{p}" for p in self.ports)

    def _start(self, name, **more):
        return self.lab.keep(Identityd(self.lab.base / name, role="cluster", node=name, settings={
            **self.ca.server(), "trust_domain": "example.org", "node.name": name, "cluster.listen": "127.0.0.1:0",
            "address.quarantine": "0", "etcd.endpoints": ",".join(self.etcd.urls), "etcd.lease": "2s", **self.settings,
            **more}))

    def start(self, i, **more):
        """The replica of that number again, at its port."""
        self.all[i] = self._start(f"c{i}", **{"cluster.listen": f"127.0.0.1:{self.ports[i]}", **more})
        return self.all[i]

    def node(self, name, address, **more):
        return self.lab.keep(Identityd(self.lab.base / name, role="node", node=name, settings={
            **self.ca.node(name), "cluster.server": self.server, "node.addresses": address, **more}))

    def leader(self, among=None):
        """Of those (of all that run) the one that says it leads; waits until there is one."""
        end = time.monotonic() + WAIT_S
        while True:
            for r in among or [r for r in self.all if r.alive]:
                if r.status().leadership == protos.status.LEADERSHIP_LEADER:
                    return r
            assert time.monotonic() < end, [r.output()[-2000:] for r in self.all]
            time.sleep(0.05)

    def follower(self):
        leader = self.leader()
        return next(r for r in self.all if r.alive and r is not leader)

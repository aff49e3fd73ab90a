"""identityd's mutual TLS by SVIDs of SPIRE, which the adapter of each node hands over as files and renews."""
import calendar
import ssl
import time

import pytest

from lab.node_tls import served
from lab.nodes import SVID_READY, Identityd, condition, spec
from lab.spire import wait_for
from spire_nodes import RealHome

TTL = 20


@pytest.fixture
def home(Spire):
    home = RealHome(Spire())
    yield home
    home.close()


def test_two_nodes_by_spire(home):
    one, agent1, server_files = home.adapter("n1", server=True, ttl=TTL)
    two, agent2, node_files = home.adapter("n2", ttl=TTL)
    server = home.keep(Identityd(home.spire.dir / "i-n1", node="n1", settings={
        **server_files, "node.addresses": "10.0.0.1"}))
    first = served(server.port, node_files)
    node = home.keep(Identityd(home.spire.dir / "i-n2", role="node", settings={
        **node_files, "node.addresses": "10.0.0.2", "cluster.server": f"127.0.0.1:{server.port}"}))

    def register(d, agent, id, address):
        """As the registrar would do it: the entry follows the registration."""
        what = spec(id, f"k8s:app={id}", [address], home.interfaces.new())
        status = d.register(what)
        home.spire.identity(agent, status.identity, ttl=TTL)
        return d.register(what, wait_for=(SVID_READY,))
    a, b = register(server, agent1, "a", "10.1.0.1"), register(node, agent2, "b", "10.1.0.2")
    assert condition(a, SVID_READY).met and condition(b, SVID_READY).met
    here, there = one.once(), two.once()
    assert {n for n, s in here.svids.items() if s.generation} == {1, a.identity}
    assert {n for n, s in there.svids.items() if s.generation} == {1, b.identity}

    # Beyond the life of every certificate of the start: identityd reads what the adapter writes.
    end = calendar.timegm(first.not_valid_after.timetuple())

    def renewed():
        try:
            leaf = served(server.port, node_files)
        except ssl.SSLError:  # key and chain of two moments
            return False
        return time.time() > end + 1 and leaf.serial_number != first.serial_number
    wait_for(renewed, "a certificate that was renewed")
    # And a node that comes back with its renewed one is let in.
    node.kill()
    node.clean()
    home.things.remove(node)
    node = home.keep(Identityd(home.spire.dir / "i-n2", role="node", settings={
        **node_files, "node.addresses": "10.0.0.2", "cluster.server": f"127.0.0.1:{server.port}"}))
    c = register(node, agent2, "c", "10.1.0.3")
    assert condition(c, SVID_READY).met
    assert "the own certificate was renewed" in server.output()

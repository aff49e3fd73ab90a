"""Two trust domains, each with a SPIRE of its own, which trust each other: a node of one, a node of the other, and what the
CA of one is worth in the other. identityd is played by the lab: it serves one directory to both, as clusters that know each
other would."""
import contextlib
import json
import socket

import pytest

from lab import identityd, pki, protos
from lab.auth import Watch
from lab.cluster import Cluster, wait_until
from lab.daemon import WAIT_S
from lab.nodes import ip
from lab.tls import Files
from traffic import Traffic

D, REQUIRE, DENY = protos.directory, protos.common.VERDICT_REQUIRE, protos.common.VERDICT_DENY
OURS, THEIRS = "example.org", "other.example"
CLUSTER = 1 << 16  # the numbers of a cluster begin at its id times this
FRONTEND, DB, STRAY = CLUSTER + 300, 2 * CLUSTER + 300, CLUSTER + 301
PORT, AUTH_PORT = 5000, 4250


def identity(number, domain):
    return D.Record(identity=D.Identity(id=number, spiffe_id=f"spiffe://{domain}/identity/{number}", incarnation=number))


def policy(local, *remotes):
    """These pairs must authenticate, all else is denied."""
    require, deny = D.Decision(verdict=REQUIRE), D.Decision(verdict=DENY)
    for remote in remotes:
        yield D.Record(policy_row=D.PolicyRow(local=local, remote=remote, **{"from": require, "to": require}))
    yield D.Record(policy_default=D.PolicyDefault(local=local, from_endpoint=deny, from_other=deny, to_endpoint=deny,
                                                  to_other=deny))


def endpoint(workload, number, node):
    local = None
    if node is workload.node:
        link = json.loads(node.ns.ip("-j", "link", "show", workload.interface))[0]
        local = D.LocalEndpoint(interface=workload.interface, ifindex=link["ifindex"], incarnation=1)
    return D.Record(endpoint=D.Endpoint(node=workload.node.name, id=workload.name, identity=number,
                                        addresses=[ip(workload.ip4)], local=local))


class World:
    def __init__(self, Spire):
        self.spires, self.directories = {}, []
        self.cluster = Cluster(prefix="tfed")
        try:
            self.one, self.two = self.cluster.node(), self.cluster.node()
            self.frontend, self.db = self.one.workload("frontend"), self.two.workload("db")
            for domain in (OURS, THEIRS):
                self.spires[domain] = Spire(domain)
        except BaseException:
            self.close()
            raise

    def federate(self):
        ours, theirs = self.spires.values()
        ours.trust(theirs)
        theirs.trust(ours)
        return self

    def records(self, node):
        """The directory as this node's identityd says it: who lives where, and what is its own."""
        yield identity(FRONTEND, OURS)
        yield identity(STRAY, OURS)
        yield identity(DB, THEIRS)
        for n in self.cluster.nodes:
            yield D.Record(node=D.Node(name=n.name, addresses=[ip(n.address)], port=AUTH_PORT, self=n is node))
        for number, n in ((FRONTEND, self.one), (DB, self.two), (STRAY, self.two)):
            yield D.Record(placement=D.Placement(identity=number, node=n.name, authority="self"))
        yield endpoint(self.frontend, FRONTEND, node)
        yield endpoint(self.db, DB, node)
        yield from policy(FRONTEND, DB, STRAY) if node is self.one else policy(DB, FRONTEND)

    def start(self, federates=True):
        """federates: the identities' entries name the other trust domain."""
        for node, number, domain, other in ((self.one, FRONTEND, OURS, THEIRS), (self.two, DB, THEIRS, OURS)):
            spire = self.spires[domain]
            agent = spire.add_agent(node.name)
            spire.node(agent, node.name)
            spire.identity(agent, number, federates=[other] * federates)
            node.settings = {
                "spire-adapter": {"source": "spire", "trust_domain": domain, "spire.agent_socket": agent.socket,
                                  "spire.admin_socket": agent.admin},
                "authd": {"directory.max_stale": "10m"}}
            self.directories.append(identityd.Identityd(node.instance / "identityd", self.records(node)))
        self.cluster.start("spire-adapter", "authd")
        for node, number in ((self.one, FRONTEND), (self.two, DB)):
            wait_until(lambda: any(s["identity"] == number and s["state"] == "ready" for s in node.cli("svid", "list")["svids"]),
                       f"an SVID of {number}", WAIT_S)
        return self

    def bundles(self, node):
        return {b["trust_domain"] for b in node.cli("bundle", "list")["bundles"] if b["authorities"]}

    def authority(self, domain):
        return pki.Authority.load(self.spires[domain].server.authority(), domain)

    def close(self):
        try:
            self.cluster.close()
        finally:
            for thing in self.directories:
                thing.stop()
            for spire in self.spires.values():
                spire.close()


@pytest.fixture
def world(Spire):
    world = World(Spire)
    yield world
    world.close()


def entries(node):
    return node.cli("auth", "list")["entries"]


def test_a_pair_across_trust_domains(world):
    world.federate().start()
    for node in (world.one, world.two):
        wait_until(lambda: world.bundles(node) == {OURS, THEIRS}, "both bundles", WAIT_S)
    with world.db.listen(PORT):
        wait_until(lambda: world.frontend.reaches(world.db, PORT), "it reaches", WAIT_S)
    roots = {}
    for node, local, remote in ((world.one, FRONTEND, DB), (world.two, DB, FRONTEND)):
        [entry] = entries(node)
        assert (entry["local"], entry["remote"]) == (local, remote)
        roots[remote] = entry["remote_authority"]
    assert roots[FRONTEND] != roots[DB], "each is signed by its own domain"


def test_the_other_domains_authority_is_replaced(world):
    """prepared -> activated -> tainted -> revoked there, and SPIRE's federation brings it here: traffic goes on, and nothing
    rests on the old one."""
    world.federate().start()
    ours, theirs = world.spires.values()
    wait_until(lambda: world.bundles(world.one) == {OURS, THEIRS}, "both bundles", WAIT_S)
    assert {domain: world.one.cli("bundle", "show", domain)["authorities"] for domain in (OURS, THEIRS)} == {OURS: 1, THEIRS: 1}
    traffic = Traffic(world.frontend, world.db)

    def rests_on():
        return {e["remote_authority"] for e in entries(world.one)}
    [old] = rests_on()
    prepared = theirs.prepare()
    ours.trust(theirs)
    wait_until(lambda: world.one.cli("bundle", "show", THEIRS)["authorities"] == 2, "the prepared one", WAIT_S)
    theirs.step("activate", prepared)
    theirs.step("taint", old)
    wait_until(lambda: rests_on() == {prepared}, "signed by the new one", WAIT_S)
    theirs.step("revoke", old)
    ours.trust(theirs)
    wait_until(lambda: world.one.cli("bundle", "show", THEIRS)["authorities"] == 1, "without the old one", WAIT_S)
    assert rests_on() == {prepared}
    assert traffic.end().lost == 0, traffic.error


def test_without_federation_there_is_no_bundle(world):
    """The same, but no entry names the other trust domain."""
    world.federate().start(federates=False)
    watch = Watch(world.one)
    try:
        with world.db.listen(PORT):
            assert not world.frontend.reaches(world.db, PORT)
        assert watch.events.until(lambda e: e.kind == "refused")[-1].entry.reason.name == "no-bundle"
    finally:
        watch.close()
    assert not entries(world.one) and not entries(world.two)
    assert world.bundles(world.one) == {OURS} and world.bundles(world.two) == {THEIRS}


def dial(world, files):
    """As node2, to node1's authd, asking for frontend. b"": close_notify, the yes."""
    context = files.client()
    sock = world.two.ns.do(socket.create_connection, (world.one.address, AUTH_PORT), WAIT_S, (world.two.address, 0))
    with contextlib.suppress(OSError), context.wrap_socket(sock, server_hostname=f"{FRONTEND}.{OURS}") as s:
        return s.recv(10)


def test_a_ca_is_worth_nothing_in_the_other_domain(world, tmp_path):
    """Who has the key of the other domain's CA signs an identity of ours, which even is placed on its node."""
    world.federate().start()
    wait_until(lambda: world.bundles(world.one) == {OURS, THEIRS}, "both bundles", WAIT_S)
    ours, theirs = world.authority(OURS), world.authority(THEIRS)
    stray, db = f"spiffe://{OURS}/identity/{STRAY}", f"spiffe://{THEIRS}/identity/{DB}"
    watch = Watch(world.one)
    try:
        for number, (signer, name, reason) in enumerate([
                (theirs, db, None), (ours, stray, None),  # each domain signs its own
                (theirs, stray, "untrusted"), (ours, db, "untrusted"),
                (theirs, f"spiffe://{OURS}/identity/{FRONTEND}", "untrusted")]):
            world.one.cli("auth", "flush", "--all")
            dir = tmp_path / str(number)
            dir.mkdir()
            heard = dial(world, Files(dir, signer.svid(name), ours))
            end = watch.events.until(lambda e: e.kind in ("refused", "authenticated"))[-1]
            if reason:
                assert (end.kind, end.entry.reason.name, heard) == ("refused", reason, None), name
                assert not entries(world.one)
            else:
                assert (heard, end.kind) == (b"", "authenticated"), name
    finally:
        watch.close()

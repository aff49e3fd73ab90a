"""Two nodes, every daemon real, a SPIRE behind every identity: packets go on while SVIDs and authorities change, and
stop when there is no SVID that is valid."""
import os
import time

import pytest

from lab.cluster import TRUST_DOMAIN, Cluster, policy, required, wait_until
from lab.registrar import Registrar
from lab.spire import wait_for
from traffic import Traffic

PORT, TTL = 5000, 20
ROTATION_S = int(os.environ.get("CS_ROTATION_S", "60"))
OUTAGE_S = int(os.environ.get("CS_OUTAGE_S", "15"))


class World:
    def __init__(self, spire):
        self.spire = spire
        self.cluster = Cluster(prefix="tspire")
        self.one, self.two = self.cluster.node(), self.cluster.node()
        self.entries, self.server, self.registrar = {}, None, None

    def start(self, ttl, registrar=False):
        """registrar: it makes the entries, as it finds them in the directory; else the test does."""
        c = self.cluster
        c.policy("db", policy("db", "db", required("ingress", "frontend") + "  egress: []\n"))
        c.policy("frontend", policy("frontend", "frontend", required("egress", "db") + "  ingress: []\n"))
        self.frontend = self.one.workload("frontend", "k8s:app=frontend")
        self.db = self.two.workload("db", "k8s:app=db")
        for node in c.nodes:
            agent = self.spire.add_agent(node.name)
            self.spire.node(agent, node.name, server=node is self.one)
            tls = node.instance / "spire-adapter/tls" / ("identityd" if node is self.one else "node")
            node.settings = {
                "spire-adapter": {"source": "spire", "spire.agent_socket": agent.socket,
                                  "spire.admin_socket": agent.admin},
                "identityd": {"tls.cert": tls / "svid.pem", "tls.key": tls / "svid.key", "tls.bundle": tls / "bundle.pem"}}
            node.start("spire-adapter")
            wait_for(lambda: (tls / "svid.pem").exists(), tls)
        c.start("identityd", "authd")
        if registrar:
            self.registrar = Registrar(self.one.instance, f"unix:{self.spire.server.socket}", f"registrar.svid_ttl={ttl}s",
                                       "registrar.linger=0", domain=TRUST_DOMAIN)
        for w in (self.frontend, self.db):
            identity = w.register(wait="enforced")["identity"]
            if registrar:
                continue
            self.entries[w.name] = self.spire.identity(self.spire.agents[w.node.name], identity, ttl)
        for w in (self.frontend, self.db):
            w.register(wait="enforced,svid-ready")
        self.server = self.db.listen(PORT)
        return self

    def close(self):
        if self.server:
            self.server.close()
        try:
            if self.registrar:
                self.registrar.stop()
            self.cluster.close()
        finally:
            self.spire.close()


@pytest.fixture
def world(Spire):
    world = World(Spire(TRUST_DOMAIN))
    yield world
    world.close()


def entries(node):
    return node.cli("auth", "list")["entries"]


def test_from_registration_to_packets(world):
    """With all of it: nobody makes an entry by hand. What stops running loses its entry, its SVID and its pairs, and comes back."""
    world.start(3600, registrar=True)
    assert world.frontend.reaches(world.db, PORT, timeout=5)
    marked = {e["spiffe_id"]["path"]: e for e in world.spire.list() if e["id"].startswith("countersign.")}
    placed = {f"/identity/{w.endpoint['identity']}": w for w in (world.frontend, world.db)}
    assert set(marked) == set(placed)
    assert all(e["parent_id"]["path"] == f"/node/{placed[path].node.name}" for path, e in marked.items())
    identity = world.db.endpoint["identity"]
    world.db.unregister()
    wait_until(lambda: f"/identity/{identity}" not in {e["spiffe_id"]["path"] for e in world.spire.list()}, "its entry is gone", 30)
    assert not any(s["identity"] == identity for s in world.two.cli("svid", "list")["svids"])
    assert not world.frontend.reaches(world.db, PORT)
    wait_until(lambda: not entries(world.one) and not entries(world.two), "no pair is left")
    world.db.register(wait="enforced,svid-ready", timeout="30s")
    wait_until(lambda: world.frontend.reaches(world.db, PORT), "it reaches again", 30)


def test_rotation_under_traffic(world):
    world.start(TTL)
    traffic = Traffic(world.frontend, world.db)
    seen, end = set(), time.monotonic() + ROTATION_S
    while time.monotonic() < end:
        for entry in entries(world.two):
            assert entry["not_after_unix_s"] > time.time(), "an entry never outlives its certificates"
            seen.add(entry["remote_leaf_sha256"])
        time.sleep(0.5)  # no synchronisation: this is how often it is looked at
    traffic.end()
    assert traffic.lost == 0, f"{traffic.lost} of {traffic.sent} rounds lost: {traffic.error}"
    assert traffic.rounds > 20 * ROTATION_S
    assert len(seen) > ROTATION_S // TTL, "authenticated again and again, with new certificates"


def test_without_spire_the_pair_stops_at_expiry(world):
    world.start(TTL)
    assert world.frontend.reaches(world.db, PORT, timeout=5)
    world.spire.server.end()
    for agent in world.spire.agents.values():
        agent.end()
    last = max(e["not_after_unix_s"] for n in (world.one, world.two) for e in entries(n))
    wait_until(lambda: not entries(world.one) and not entries(world.two), "no entry is left", 2 * TTL)
    assert time.time() <= last + 5
    assert not world.frontend.reaches(world.db, PORT)
    svids = {s["state"]: s for s in world.one.cli("svid", "list")["svids"] if s["identity"] >= 100}
    assert svids["none"]["reason"]["name"] == "svid-expired"
    why = world.one.cli("auth", "explain", "frontend", world.db.ip4)
    assert "svid-expired" in str(why), why
    # And it goes on when SPIRE is back.
    world.spire.server.again()
    for agent in world.spire.agents.values():
        agent.again()
    wait_until(lambda: world.frontend.reaches(world.db, PORT), "it reaches again", 60)


def test_with_a_long_life_an_outage_of_spire_is_not_noticed(world):
    world.start(600)
    traffic = Traffic(world.frontend, world.db)
    before = {e["remote_leaf_sha256"] for e in entries(world.two)}
    for program in (*world.spire.agents.values(), world.spire.server):
        program.end()
    time.sleep(OUTAGE_S)  # no synchronisation: this is the outage
    world.spire.server.again()
    for agent in world.spire.agents.values():
        agent.again()
    wait_until(lambda: {e["remote_leaf_sha256"] for e in entries(world.two)} - before, "new SVIDs are authenticated", 60)
    assert traffic.end().lost == 0, traffic.error


def replace_authority(world):
    """prepared -> activated -> tainted -> revoked under traffic."""
    traffic = Traffic(world.frontend, world.db)
    old = {e["remote_authority"] for n in (world.one, world.two) for e in entries(n)}
    assert len(old) == 1
    prepared = world.spire.prepare()
    for node in (world.one, world.two):
        wait_until(lambda: all(b["authorities"] == 2 for b in node.cli("svid", "list")["bundles"]), "both authorities", 60)
    world.spire.step("activate", prepared)
    of_old = world.spire.old()
    world.spire.step("taint", of_old)

    def authorities():
        return {e["remote_authority"] for n in (world.one, world.two) for e in entries(n)}
    wait_until(lambda: authorities() and not authorities() & old, "new SVIDs are authenticated", 60)
    world.spire.step("revoke", of_old)
    for node in (world.one, world.two):
        wait_until(lambda: all(b["authorities"] == 1 for b in node.cli("svid", "list")["bundles"]), "one authority", 60)
    assert authorities() and not authorities() & old
    assert traffic.end().lost == 0, traffic.error


def test_nothing_rests_on_a_revoked_authority(world):
    replace_authority(world.start(3600))


def test_the_spire_that_ciliums_chart_installs(Spire):
    """Its CAs are RSA-4096, leaves are P-256."""
    world = World(Spire(TRUST_DOMAIN, ca_key="rsa-4096", ca_name="Cilium SPIRE CA"))
    try:
        world.start(3600)
        [root] = world.one.cli("bundle", "show", TRUST_DOMAIN)["certificates"]
        identity = next(s["identity"] for s in world.one.cli("svid", "list")["svids"] if s["identity"] >= 100)
        leaf = world.one.cli("svid", "inspect", str(identity))["certificates"][0]
        assert (root["key"], leaf["key"]) == ("RSA-4096", "P-256")
        assert "Cilium SPIRE CA" in root["subject"]
        replace_authority(world)
    finally:
        world.close()

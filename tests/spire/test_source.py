"""The adapter's source `spire`. identityd is played by the lab, which says what is local; SPIRE's registration entries are
made as the registrar would make them."""
import datetime as dt
import subprocess
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lab import adapter as lab
from lab import identityd
from lab.spire import wait_for
from spire_nodes import A, B, HOST, Home, Node, identity


@pytest.fixture
def home(Spire):
    home = Home(Spire())
    yield home
    home.close()


def signed_by(svid, bundle):
    """Raises if no authority of the bundle signed it."""
    leaf = lab.leaf(svid)
    keys = [x509.load_der_x509_certificate(a) for a in bundle.authorities]
    issuer = next(c for c in keys if x509.SubjectKeyIdentifier.from_public_key(c.public_key()).digest
                  == leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier)
    issuer.public_key().verify(leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(leaf.signature_hash_algorithm))


def uri(svid):
    return lab.leaf(svid).extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.UniformResourceIdentifier)


# ---- entries ----

def test_an_svid_comes_with_its_entry_and_goes_with_it(home):
    node = home.node().start()
    state = node.follower.wait(lambda s: A in s.svids and "no registration entry" in s.svids[A].reason.detail)
    assert state.svids[A].reason.name == "no-local-svid" and not state.svids[A].withdrawn
    entry = home.spire.identity(node.agent, A)
    svid = node.follower.wait_svid(A)
    assert svid.source == "spire" and uri(svid) == [f"spiffe://example.org/identity/{A}"]
    bundle = node.follower.wait(lambda s: "example.org" in s.bundles).bundles["example.org"]
    signed_by(svid, bundle)
    assert node.sign(svid) == 0
    home.spire.delete(entry)
    gone = node.follower.wait(lambda s: not s.has(A)).svids[A]
    assert gone.withdrawn and gone.reason.name == "no-local-svid"
    assert node.sign(svid) == lab.REASON["no-local-svid"]
    # And back: another SVID, by another entry.
    home.spire.identity(node.agent, A)
    again = node.follower.wait_svid(A)
    assert again.generation not in (0, svid.generation) and again.chain[0] != svid.chain[0]
    assert node.sign(again) == 0 and node.sign(svid) == lab.REASON["no-local-svid"]


def test_an_identity_that_leaves_loses_its_key_and_its_subscription(home):
    node = home.node(numbers=(A, B))
    for number in (A, B):
        home.spire.identity(node.agent, number)
    node.start()
    svids = {number: node.follower.wait_svid(number) for number in (A, B)}
    assert node.subscriptions() == {"open": 2, "waiting": 0, "queued": 0}
    node.leave(A)
    gone = node.follower.wait(lambda s: not s.has(A)).svids[A]
    assert gone.withdrawn and gone.reason.name == "no-local-endpoint"
    assert node.sign(svids[A]) == lab.REASON["no-local-svid"] and node.sign(svids[B]) == 0
    assert node.subscriptions() == {"open": 1, "waiting": 0, "queued": 0}


def test_a_recreated_entry_is_no_withdrawal(home):
    node = home.node()
    entry = home.spire.identity(node.agent, A)
    node.start()
    first = node.follower.wait_svid(A)
    seen = len(node.lines('"no SVID"'))
    home.spire.delete(entry)
    home.spire.identity(node.agent, A)
    second = node.follower.wait_svid(A, other_than=first.generation)
    assert not second.withdrawn and len(node.lines('"no SVID"')) == seen


def test_an_entry_of_another_spiffe_id_is_not_used(home):
    node = home.node()
    home.spire.entry(node.agent, "/identity/somebody-else", f"countersign:id:{A}")
    node.start()
    svid = node.follower.wait(lambda s: A in s.svids and s.svids[A].reason.name == "spiffe-id-mismatch").svids[A]
    assert "somebody-else" in svid.reason.detail and svid.generation == 0


def test_several_hundred_at_once_do_not_wedge_the_agent(home):
    numbers = range(200001, 200701)  # more than what was seen to wedge one
    node = home.node(numbers=numbers)
    home.spire.entries([(node.agent, f"/identity/{n}", f"countersign:id:{n}", None, ()) for n in numbers])
    node.start()
    node.follower.wait(lambda s: all(map(s.has, numbers)))
    assert node.subscriptions() == {"open": len(numbers), "waiting": 0, "queued": 0}
    # The agent still attests: a second adapter's worth of calls is answered.
    home.spire.identity(node.agent, A)
    node.identityd.push(identity(A), identityd.endpoint("late", A, node="n1"))
    node.follower.wait_svid(A)


# ---- least privilege ----

def test_each_node_holds_only_its_own(home):
    numbers = {"n1": range(100001, 100011), "n2": range(100011, 100021)}
    nodes = {name: home.node(name, numbers[name]) for name in numbers}
    entries = {}
    for name, node in nodes.items():
        made = home.spire.entries([(node.agent, f"/identity/{n}", f"countersign:id:{n}", None, ()) for n in numbers[name]])
        entries.update(zip(numbers[name], made))
        node.start()
    for name, node in nodes.items():
        node.follower.wait(lambda s: all(map(s.has, [*numbers[name], HOST])))
        held = {n for n, svid in node.adapter.once().svids.items() if svid.generation}
        assert held == {*numbers[name], HOST}
        assert node.adapter.metrics()['countersign_keys{daemon="spire-adapter"}'] == len(held)
        # The agent's own: the node's alias, the adapter's and the node's entry, and the ten.
        wait_for(lambda: node.agent.cached_svids() == 13, f"{node.agent.cached_svids()} are not 13 SVIDs", 60)
    # One moves.
    one, two = nodes["n1"], nodes["n2"]
    moved = numbers["n1"][0]
    old = one.follower.state.svids[moved]
    one.leave(moved)
    home.spire.delete(entries[moved])
    home.spire.identity(two.agent, moved)
    two.identityd.push(identity(moved), identityd.endpoint("moved", moved, node="n2"))
    two.follower.wait_svid(moved)
    one.follower.wait(lambda s: not s.has(moved))
    assert one.sign(old) == lab.REASON["no-local-svid"]
    wait_for(lambda: (one.agent.cached_svids(), two.agent.cached_svids()) == (12, 14), "one less, one more", 60)


def test_who_is_not_local_is_not_asked_for(home):
    """Entries that reach the agent, but no endpoint: no subscription, no key."""
    node = home.node(numbers=(A,))
    for number in (A, B):
        home.spire.identity(node.agent, number)
    node.start()
    node.follower.wait_svid(A)
    assert B not in node.adapter.once().svids
    assert node.subscriptions()["open"] == 1


# ---- time ----

def test_rotation_with_a_short_life(home):
    node = home.node()
    home.spire.identity(node.agent, A, ttl=20)
    node.start()
    svid = node.follower.wait_svid(A)
    quiet = len(node.lines('"no SVID"'))
    for _ in range(4):
        new = node.follower.wait_svid(A, other_than=svid.generation)
        now = time.time()
        assert new.chain[0] != svid.chain[0]
        assert new.not_before_unix_s <= now < svid.not_after_unix_s  # make before break
        assert node.sign(new) == 0 and node.sign(svid) == 0  # the old one still signs what is under way
        svid = new
    assert len(node.lines('"no SVID"')) == quiet
    metrics = node.adapter.metrics()
    assert metrics['countersign_svid_rotations_total{daemon="spire-adapter",result="renewed"}'] >= 4
    rotated = metrics[f'countersign_svid_last_rotation_timestamp_seconds{{daemon="spire-adapter",identity="{A}",'
                      f'spiffe_id="spiffe://example.org/identity/{A}"}}']
    assert abs(rotated - time.time()) < 30
    assert metrics['countersign_svid_first_seconds_count{daemon="spire-adapter"}'] == 2  # its and the node's


def test_without_the_server_it_expires_and_is_not_withdrawn(home):
    node = home.node()
    home.spire.identity(node.agent, A, ttl=5)
    node.start()
    svid = node.follower.wait_svid(A)
    home.spire.server.end()
    gone = node.follower.wait(lambda s: not s.has(A)).svids[A]
    assert gone.reason.name == "svid-expired" and not gone.withdrawn
    assert time.time() >= svid.not_after_unix_s - 1
    # A new adapter is handed the expired one, and does not take it.
    node.follower.close()
    node.adapter.stop()
    node.start()
    again = node.follower.wait(lambda s: A in s.svids and s.svids[A].reason.name == "svid-expired").svids[A]
    assert again.generation == 0 and not again.withdrawn
    home.spire.server.again()
    node.follower.wait_svid(A)


# ---- the agent ----

def test_agent_killed_and_back(home):
    node = home.node()
    home.spire.identity(node.agent, A)
    node.start()
    svid = node.follower.wait_svid(A)
    wait_for(lambda: node.check().ok, "spire is fine")
    before = [len(node.lines(text)) for text in ("SPIRE's agent gives no SVIDs", "SPIRE's agent answers")]
    node.agent.end()
    wait_for(lambda: not node.check().ok, "spire is away")
    assert "away" in node.check().reason.detail
    assert node.sign(svid) == 0 and node.adapter.once().has(A)
    node.agent.again()
    new = node.follower.wait_svid(A, other_than=svid.generation)  # a restarted agent mints anew
    assert node.sign(new) == 0
    wait_for(lambda: node.check().ok, "spire is fine again")
    after = [len(node.lines(text)) for text in ("SPIRE's agent gives no SVIDs", "SPIRE's agent answers")]
    assert [b - a for a, b in zip(before, after)] == [1, 1]  # not one a second
    assert not node.lines('"withdrawn":true')


def test_adapter_before_the_agent(home):
    node = home.node()
    home.spire.identity(node.agent, A)
    node.agent.end()
    node.start()
    svid = node.follower.wait(lambda s: A in s.svids and "away" in s.svids[A].reason.detail).svids[A]
    assert svid.reason.name == "no-local-svid" and not svid.withdrawn
    node.agent.again()
    assert node.sign(node.follower.wait_svid(A)) == 0
    assert len(node.lines("SPIRE's agent is away")) == 2  # about the agent and about A


def test_not_a_delegate_is_told_apart_from_no_entry(home):
    node = Node(home, "n1", (A,))  # without entries of its own
    home.nodes.append(node)
    home.spire.identity(node.agent, A)
    node.start()
    state = node.follower.wait(lambda s: A in s.svids and "matches the adapter's process" in s.svids[A].reason.detail)
    assert "no identity issued" in state.svids[A].reason.detail
    assert "no identity issued" in node.check().reason.detail
    stranger = home.spire.entry(node.agent, "/somebody", "unix:uid:0")
    node.follower.wait(lambda s: "authorized_delegates" in s.svids[A].reason.detail)
    assert "caller not configured as an authorized delegate" in node.check().reason.detail
    home.spire.node(node.agent, "n1")
    home.spire.delete(stranger)
    node.follower.wait_svid(A)
    wait_for(lambda: node.check().ok, "spire is fine")
    assert len(node.lines("SPIRE's agent gives no SVIDs")) == 2


# ---- authorities and bundles ----

def authorities(node):
    return list(node.follower.state.bundles["example.org"].authorities)


def test_authority_prepared_activated_tainted_revoked(home):
    node = home.node()
    home.spire.identity(node.agent, A)
    node.start()
    first = node.follower.wait_svid(A)
    old = node.follower.wait(lambda s: "example.org" in s.bundles).bundles["example.org"]
    prepared = home.spire.prepare()
    both = node.follower.wait(lambda s: len(s.bundles["example.org"].authorities) == 2).bundles["example.org"]
    assert both.generation != old.generation and set(old.authorities) < set(both.authorities)
    home.spire.step("activate", prepared)
    of_old = home.spire.old()
    quiet = len(node.lines('"no SVID"'))
    home.spire.step("taint", of_old)
    # The same authorities, and yet another generation: what was verified before is verified again.
    tainted = node.follower.wait(lambda s: s.bundles["example.org"].generation != both.generation).bundles["example.org"]
    assert set(tainted.authorities) == set(both.authorities)
    second = node.follower.wait_svid(A, other_than=first.generation)
    signed_by(second, tainted)
    assert node.sign(second) == 0 and node.sign(first) == 0
    home.spire.step("revoke", of_old)
    after = node.follower.wait(lambda s: len(s.bundles["example.org"].authorities) == 1).bundles["example.org"]
    assert after.generation not in (old.generation, both.generation, tainted.generation)
    assert set(after.authorities) == set(both.authorities) - set(old.authorities)
    signed_by(node.follower.state.svids[A], after)
    assert len(node.lines('"no SVID"')) == quiet  # the gap of the taint was none


def foreign_root(domain):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, domain)])
    now = dt.datetime.utcnow()
    root = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(True, None), True)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), True)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{domain}")]), False)
            .sign(key, hashes.SHA256()))
    return root


def test_federated_bundles_come_and_go(home):
    node = home.node()
    entry = home.spire.identity(node.agent, A)
    node.start()
    node.follower.wait_svid(A)
    root = foreign_root("other.example")
    home.spire.set_bundle("other.example", root.public_bytes(serialization.Encoding.PEM).decode())
    assert "other.example" not in node.adapter.once().bundles  # nobody here federates with it

    def update(*federates):
        home.spire.update(entry, node.agent, f"/identity/{A}", f"countersign:id:{A}", federates=federates)
    update("other.example")
    bundle = node.follower.wait(lambda s: "other.example" in s.bundles).bundles["other.example"]
    assert list(bundle.authorities) == [root.public_bytes(serialization.Encoding.DER)]
    # An open stream of the agent keeps a trust domain for ever; it is opened anew.
    update()
    node.follower.wait(lambda s: s.bundles["other.example"].generation == 0)
    assert "example.org" in node.adapter.once().bundles and authorities(node)


# ---- the node's own ----

def test_the_nodes_own_svid_as_files(home):
    node = home.node(server=True, ttl=20).start()
    node.follower.wait_svid(HOST)
    for name, path in ("node", "/countersign/node/n1"), ("identityd", "/countersign/identityd"):
        dir = node.instance / "spire-adapter/tls" / name
        wait_for(lambda: (dir / "svid.pem").exists(), dir)
        assert dir.stat().st_mode & 0o777 == 0o700
        assert all(f.stat().st_mode & 0o777 == 0o600 for f in dir.iterdir())
        before = (dir / "svid.pem").read_bytes()
        wait_for(lambda: (dir / "svid.pem").read_bytes() != before, "a renewed one")

        def fits():
            leaf = x509.load_pem_x509_certificate((dir / "svid.pem").read_bytes())
            key = serialization.load_pem_private_key((dir / "svid.key").read_bytes(), None)
            return leaf if leaf.public_key().public_numbers() == key.public_key().public_numbers() else None
        leaf = wait_for(fits, "key and chain that belong together")
        assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.UniformResourceIdentifier) == [home.spire.id(path)]
        done = subprocess.run(["openssl", "verify", "-CAfile", dir / "bundle.pem", dir / "svid.pem"], capture_output=True)
        assert done.returncode == 0, done
    home.spire.delete(node.entries[1])  # the node's
    gone = node.follower.wait(lambda s: not s.has(HOST)).svids[HOST]
    assert gone.withdrawn
    wait_for(lambda: not (node.instance / "spire-adapter/tls/node/svid.key").exists(), "its key is gone")
    assert (node.instance / "spire-adapter/tls/identityd/svid.key").exists()

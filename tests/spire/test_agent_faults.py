"""What an agent of SPIRE must not be able to do to the adapter: the partner makes each fault, it ends in one stated reason,
costs bounded memory, touches nobody else, and is over when the agent turns friendly."""
import os
import time

import pytest

from lab import adapter as lab
from lab import identityd
from lab.handshaker import Done, Monitor, Verdict
from lab.spire import wait_for
from lab.spire_partner import fault
from spire_nodes import A, B, GROWTH_KIB, HOST, Home, identity, rss_kib

DI, BUNDLES, OWN = "SubscribeToX509SVIDs", "SubscribeToX509Bundles", "FetchX509SVID"
PATH = f"/identity/{A}"
DENIED, INTERNAL, UNAVAILABLE = 7, 13, 14
LASTS_S = float(os.environ.get("CS_FAULT_S", "1"))  # a fault that has no end of its own


@pytest.fixture
def home(Partner):
    home = Home(Partner())
    yield home
    home.close()


@pytest.fixture
def node(home):
    """Two identities with entries; the adapter is not started."""
    node = home.node(numbers=(A, B))
    home.spire.identity(node.agent, A)
    home.spire.identity(node.agent, B)
    wait_for(lambda: node.agent.cached_svids() == 5, "its alias, the node's and the adapter's, and these")
    return node


def reason(node, name, text="", identity=A):
    """Waits until this identity has no SVID, for this reason."""
    def is_so(state):
        svid = state.svids.get(identity)
        return svid and not svid.generation and svid.reason.name == name and text in svid.reason.detail
    try:
        return node.follower.wait(is_so, 20).svids[identity]
    except Exception as e:
        raise AssertionError(f"wanted {name} with {text!r}; there is {node.follower.state.svids.get(identity)}") from e


def recovers(node, *identities, seconds=20):
    """The agent is friendly again: every identity has an SVID that signs."""
    node.agent.faults()
    for identity in identities or (A, B, HOST):
        node.follower.wait(lambda s: s.has(identity), seconds)
        wait_for(lambda: node.sign(node.adapter.once().svids[identity]) == 0, "it signs", seconds)
    wait_for(lambda: node.check().ok, "spire is fine", seconds)


# ---- one SVID that is wrong ----

TWISTS = {
    "other-id": ("spiffe-id-mismatch", f"{PATH}1"),
    "other-id-in-certificate": ("spiffe-id-mismatch", f"{PATH}1's"),
    "other-domain-in-certificate": ("spiffe-id-mismatch", "other.example"),
    "other-key": ("no-local-svid", "the key is not that of the certificate"),
    "no-key": ("no-local-svid", "a key of 0 bytes"),
    "garbage-key": ("no-local-svid", "not an unencrypted PKCS #8 key"),
    "p224-key": ("algorithm-refused", ""),
    "expired": ("svid-expired", "has expired"),
    "not-yet": ("svid-expired", "not valid before"),
    "ca": ("svid-profile", ""),
    "two-ids": ("svid-profile", ""),
    "no-id": ("svid-profile", ""),
    "no-chain": ("chain-too-large", "a chain of 0 certificates"),
    "long-chain": ("chain-too-large", "a chain of 6 certificates"),
    "garbage-certificate": ("certificate-malformed", ""),
    "half-certificate": ("certificate-malformed", ""),
    "bytes-after": ("certificate-malformed", ""),
}


NO_NEWS = ("expired", "not-yet", "other-key", "no-key", "garbage-key")  # the certificate's time, or a key of one that is held


@pytest.mark.parametrize("how", TWISTS)
def test_an_svid_that_is_wrong(node, how):
    name, text = TWISTS[how]
    node.agent.faults(fault("svid", on=PATH, text=how))
    node.start()
    reason(node, name, text)
    assert node.sign(node.follower.wait_svid(B)) == 0 and node.check().ok, "it is no other's fault"
    # Right, and wrong again: what is there stays, for it is still good.
    node.agent.twist()
    svid = node.follower.wait_svid(A)
    before = len(node.lines("cannot be used"))
    node.agent.twist(fault("svid", on=PATH, text=how))
    if how == "other-id":  # the set lacks the identity
        assert node.follower.wait(lambda s: not s.has(A)).svids[A].withdrawn
    else:
        if how not in NO_NEWS:
            wait_for(lambda: len(node.lines("cannot be used")) > before, "it is said")
        assert node.adapter.once().svids[A].generation == svid.generation
    node.agent.twist()
    recovers(node)


def test_an_svid_of_another_authority(node):
    """Who issued it is for those to verify to whom it is shown: they refuse it."""
    node.agent.faults(fault("svid", on=PATH, text="other-authority"))
    node.start()
    monitor = Monitor()
    try:
        svids = [node.follower.wait_svid(i) for i in (A, B)]
        bundle = node.follower.wait(lambda s: "example.org" in s.bundles).bundles["example.org"]
        monitor.serve(node.adapter, bundle, *svids)
        for local, remote in ((A, B), (B, A)):
            done = monitor.wait(monitor.dial(None, local, remote, f"spiffe://example.org/identity/{remote}"))
            assert isinstance(done, Done) and done.reason == "untrusted", done
        node.agent.twist()
        monitor.serve(node.adapter, bundle, node.follower.wait_svid(A, other_than=svids[0].generation), svids[1])
        request = monitor.dial(None, A, B, f"spiffe://example.org/identity/{B}")
        assert isinstance(verdict := monitor.wait(request), Verdict), verdict
        monitor.answer(request)
        assert monitor.wait(request).reason == "none"
    finally:
        monitor.close()


@pytest.mark.parametrize("how", ["other-id-in-certificate", "other-key", "garbage-key", "expired", "not-yet", "ca",
                                 "garbage-certificate", "half-certificate", "no-chain"])
def test_an_own_svid_that_is_wrong(node, how):
    tls = node.instance / "spire-adapter/tls/node"
    node.agent.faults(fault("own-svid", on="/countersign/node/n1", text=how))
    node.start()
    reason(node, TWISTS[how][0], identity=HOST)
    assert not (tls / "svid.pem").exists() and not (tls / "svid.key").exists()
    node.follower.wait_svid(A)
    node.agent.twist()
    node.follower.wait_svid(HOST)
    wait_for(lambda: (tls / "svid.pem").exists(), "the files")
    recovers(node)


@pytest.mark.parametrize("how", ["empty", "garbage", "half"])
def test_an_own_bundle_that_is_wrong(node, how):
    node.agent.faults(fault("own-bundle", text=how))
    node.start()
    reason(node, "no-bundle" if how == "empty" else "certificate-malformed", identity=HOST)
    assert not (node.instance / "spire-adapter/tls/node/svid.pem").exists()
    node.agent.twist()
    recovers(node)


# ---- calls ----

@pytest.mark.parametrize("code,text,name,said", [
    (DENIED, "no identity issued", "no-local-svid", "no registration entry of this agent matches"),
    (DENIED, "caller not configured as an authorized delegate", "no-local-svid", "authorized_delegates"),
    (UNAVAILABLE, "workload attestation failed", "no-local-svid", "workload attestation failed"),
    (12, "unknown service", "no-local-svid", "UNIMPLEMENTED"),
    (INTERNAL, "could not serialize response", "no-local-svid", "INTERNAL"),
    (2, "\x01\xff" * 300, "no-local-svid", "UNKNOWN ?ÿ?ÿ"),
    (2, "x" * 100000, "no-local-svid", "INTERNAL the server"),  # more headers than are taken
    (99, "no such code", "no-local-svid", ""),
], ids=["no-entry", "no-delegate", "unavailable", "unimplemented", "internal", "unknown", "endless", "99"])
def test_a_storm_of_refusals(node, code, text, name, said):
    node.agent.faults(fault("status", on=DI, code=code, text=text), fault("status", on=BUNDLES, code=code, text=text))
    node.start()
    reason(node, name, said)
    lines, calls = len(node.adapter.output().splitlines()), sum(node.agent.state()["calls"].values())
    time.sleep(LASTS_S)  # no synchronisation: this is the storm
    assert sum(node.agent.state()["calls"].values()) - calls <= 12 and len(node.adapter.output().splitlines()) - lines <= 12
    recovers(node)


def test_refusals_of_what_is_there(node):
    """An agent that sends everybody away: nothing is withdrawn, and one line says it."""
    node.start()
    svid = node.follower.wait_svid(A)
    node.agent.faults(*(fault("status", on=on, code=DENIED, text="no identity issued") for on in (DI, BUNDLES, OWN)))
    node.agent.say("reopen")
    wait_for(lambda: not node.check().ok, "the check")
    assert node.sign(svid) == 0 and len(node.lines("SPIRE's agent gives no SVIDs")) == 1
    assert not node.lines('"withdrawn":true')
    recovers(node)


def test_calls_that_end_well_and_at_once(node):
    """OK after the first message, again and again."""
    node.agent.faults(fault("end", on=DI, code=0), fault("end", on=BUNDLES, code=0), fault("end", on=OWN, code=0))
    node.start()
    node.follower.wait_svid(A)
    calls = sum(node.agent.state()["calls"].values())
    time.sleep(LASTS_S)  # no synchronisation: this is how long it lasts
    assert sum(node.agent.state()["calls"].values()) - calls < 40
    assert not node.lines('"withdrawn":true')
    recovers(node)


@pytest.mark.parametrize("on", [DI, BUNDLES, OWN])
def test_silence(home, node, on):
    node.agent.faults(fault("silence", on=on))
    node.start("spire.first_message=1s")
    if on == DI:
        reason(node, "no-local-svid", "has said nothing about it for 1 s")
        wait_for(lambda: "answers no call" in node.check().reason.detail or node.check().ok, "the check")
    elif on == OWN:
        node.follower.wait_svid(A)
        assert not node.adapter.once().has(HOST)
    else:
        node.follower.wait_svid(A)
        assert "example.org" not in node.adapter.once().bundles
    assert node.agent.state()["waiting_max"] <= 64
    node.agent.faults()
    recovers(node, seconds=45)
    node.follower.wait(lambda s: "example.org" in s.bundles and s.bundles["example.org"].generation, 45)


def test_an_entry_that_cannot_be_signed(home, node):
    home.spire.server.faults(fault("no-signature", on="/identity/777"))
    home.spire.entry(node.agent, "/identity/777", f"countersign:id:{A}")  # it blocks the subscription of A for good
    wait_for(lambda: node.agent.state()["cached"] == 6, "the agent has it")
    node.start("spire.first_message=1s")
    reason(node, "no-local-svid", "has said nothing about it for 1 s")
    assert node.sign(node.follower.wait_svid(B)) == 0 and node.check().ok
    home.spire.server.faults()
    recovers(node, seconds=30)


def test_so_many_at_once_that_an_agent_is_slow(home):
    """Each look at the caller takes 5 ms; more than 64 that wait would wedge it for good."""
    numbers = range(200001, 200301)
    node = home.node(numbers=numbers)
    agent = home.spire.add_agent("slow", attest_us=5000)
    node.agent, node.entries = agent, home.spire.node(agent, "n1")
    home.spire.entries([(agent, f"/identity/{n}", f"countersign:id:{n}", None, ()) for n in numbers])
    node.start()
    node.follower.wait(lambda s: all(map(s.has, numbers)))
    state = agent.state()
    assert state["waiting_max"] <= 64 and not state["wedged"], state


def test_a_wedged_agent(node):
    """It takes calls and answers none, for good; after its restart everything is there."""
    node.start("spire.first_message=1s")
    svid = node.follower.wait_svid(A)
    node.agent.faults(fault("silence"))
    node.agent.say("reopen")
    wait_for(lambda: "restart it" in node.check().reason.detail, "the check", 20)
    assert node.sign(svid) == 0
    node.agent.faults()
    node.agent.end()
    node.agent.again()
    recovers(node, seconds=30)


# ---- connections and messages ----

@pytest.mark.parametrize("on", [DI, BUNDLES, OWN])
@pytest.mark.parametrize("kind,more", [
    ("half-frame", {"value": 40}), ("half-frame", {"value": 40, "text": "stall"}), ("half-frame", {"value": 0, "text": "stall"}),
    ("half-message", {}), ("garbage", {}), ("size", {"value": 2 << 20}), ("size", {"value": 40 << 20}),
], ids=["cut", "stuck", "stuck-at-once", "half", "garbage", "2-MiB", "40-MiB"])
def test_messages_that_cannot_be_read(node, on, kind, more):
    node.agent.faults(fault(kind, on=on, **more))
    node.start("spire.first_message=1s")
    wait_for(lambda: node.agent.state()["faults"].get(kind, 0) >= 1, "it was made")
    if on == DI:
        state = node.follower.wait(lambda s: A in s.svids and not s.has(A) and s.svids[A].reason.detail, 20)
        assert state.svids[A].reason.name == "no-local-svid" and not state.svids[A].withdrawn
    before = rss_kib(node.adapter.pid)
    time.sleep(LASTS_S)  # no synchronisation: this is how long it lasts
    assert rss_kib(node.adapter.pid) - before < GROWTH_KIB
    recovers(node, seconds=45)
    node.follower.wait(lambda s: "example.org" in s.bundles and s.bundles["example.org"].generation, 45)


@pytest.mark.parametrize("grace", [0, 200])
def test_goaway_every_second(home, grace):
    """grace 0: calls that run may go on, on connections that are on their way out."""
    node = home.node(numbers=(A, B))
    home.spire.identity(node.agent, A)
    wait_for(lambda: node.agent.cached_svids() == 4, "they are minted")
    node.agent.faults(fault("goaway", value=1000, every=grace))
    node.agent.say("reopen")
    node.start()
    svid = node.follower.wait_svid(A)
    lines = len(node.adapter.output().splitlines())
    end = time.monotonic() + 3 * LASTS_S
    connections = 0
    while time.monotonic() < end:  # no synchronisation: this is how long it lasts
        assert node.sign(svid) == 0
        connections = max(connections, node.agent.state()["connections"])
        time.sleep(0.2)
    assert connections <= 12
    assert not node.lines('"withdrawn":true') and not node.lines("SPIRE's agent gives no SVIDs")
    assert len(node.adapter.output().splitlines()) - lines < 60
    home.spire.identity(node.agent, B)
    assert node.sign(node.follower.wait_svid(B)) == 0
    node.agent.faults()
    node.agent.say("reopen")
    recovers(node)


def test_endless_duplicates(home, node):
    node.start()
    svid = node.follower.wait_svid(A)
    node.follower.wait_svid(HOST)
    node.agent.twist(*(fault("duplicates", on=on) for on in (DI, BUNDLES, OWN)))
    wait_for(lambda: node.agent.state()["messages"] > 2000, "they come")
    before, seen = rss_kib(node.adapter.pid), node.agent.state()["messages"]
    end = time.monotonic() + 2 * LASTS_S
    while time.monotonic() < end:  # no synchronisation: this is how long it lasts
        begin = time.monotonic()
        assert node.sign(svid) == 0 and node.adapter.once().svids[A].generation == svid.generation
        assert time.monotonic() - begin < 10, "it has time for others"
    assert node.agent.state()["messages"] > seen
    assert rss_kib(node.adapter.pid) - before < GROWTH_KIB
    recovers(node)


def test_what_is_wrong_is_said_once_however_often_it_comes(home, node):
    node.agent.faults(fault("svid", on=PATH, text="two-ids"), fault("own-svid", on="/countersign/node/n1", text="ca"),
                      *(fault("duplicates", on=on) for on in (DI, OWN)))
    node.start()
    reason(node, "svid-profile"), reason(node, TWISTS["ca"][0], identity=HOST)
    wait_for(lambda: node.agent.state()["messages"] > 2000, "they come")
    assert len(node.lines("an SVID of SPIRE cannot be used")) == len(node.lines("an own SVID of SPIRE cannot be used")) == 1
    node.agent.twist()
    node.follower.wait_svid(A), node.follower.wait_svid(HOST)
    node.agent.twist(fault("svid", on=PATH, text="two-ids"))  # it was right meanwhile
    wait_for(lambda: len(node.lines("an SVID of SPIRE cannot be used")) == 2, "it is said again")
    node.agent.twist()
    recovers(node)


@pytest.mark.parametrize("kind,value", [("copies", 300), ("missing-parts", 0), ("federates", 5000)])
def test_sets_that_hold_too_much(node, kind, value):
    node.agent.faults(fault(kind, value=value))
    node.start()
    before = rss_kib(node.adapter.pid)
    assert node.sign(node.follower.wait_svid(A)) == 0, "the SVID is in it"
    for _ in range(20):
        node.agent.say("wake")
    assert node.sign(node.follower.wait_svid(B)) == 0
    assert rss_kib(node.adapter.pid) - before < GROWTH_KIB
    recovers(node)


def test_a_set_that_comes_and_goes(node):
    """Gaps shorter than the grace are none; one that lasts is a withdrawal."""
    node.start("spire.withdrawal_grace=1s")
    svid = node.follower.wait_svid(A)
    for _ in range(10):
        node.agent.twist(fault("empty-set"))
        node.agent.twist()
    assert node.sign(svid) == 0 and not node.lines('"withdrawn":true')
    node.agent.twist(fault("empty-set"))
    assert node.follower.wait(lambda s: not s.has(A)).svids[A].withdrawn
    assert node.sign(svid) == lab.REASON["no-local-svid"]
    node.agent.twist()
    recovers(node)


# ---- bundles ----

@pytest.mark.parametrize("how,value,is_there", [
    ("missing", 0, False), ("empty", 0, False), ("garbage", 0, False), ("half", 0, False), ("many", 65, False), ("many", 64, True),
    ("bad-name", 0, True), ("domains", 255, True), ("domains", 1000, None),
])
def test_bundles_that_are_wrong(node, how, value, is_there):
    node.start()
    good = node.follower.wait(lambda s: "example.org" in s.bundles and s.bundles["example.org"].generation).bundles["example.org"]
    node.follower.wait_svid(A)
    before = rss_kib(node.adapter.pid)
    node.agent.faults(fault("bundle", text=how, value=value))
    node.agent.say("reopen")  # a new stream, whose first message counts
    if is_there is False:
        gone = node.follower.wait(lambda s: not s.bundles["example.org"].generation).bundles["example.org"]
        assert not gone.authorities
    elif is_there is None:
        wait_for(lambda: node.lines("more than 256 trust domains") or node.lines("bundles of more than"), "the limit")
        assert len(node.adapter.once().bundles) <= 256
    else:
        wait_for(lambda: node.agent.state()["faults"].get("bundle", 0) >= 1, "it was made")
        assert node.adapter.once().bundles["example.org"].authorities
    assert node.sign(node.adapter.once().svids[B]) == 0
    assert rss_kib(node.adapter.pid) - before < GROWTH_KIB
    node.agent.faults()
    node.agent.say("reopen")
    node.follower.wait(lambda s: {n: list(b.authorities) for n, b in s.bundles.items() if b.generation}
                       == {"example.org": list(good.authorities)})
    recovers(node)


# ---- time ----

@pytest.mark.parametrize("offset_s,text", [(3 * 3600, "not valid before"), (-3 * 3600, "has expired")])
def test_a_clock_that_jumps(home, node, offset_s, text):
    """The whole SPIRE is in another time: what it signs now is not valid now."""
    node.start()
    svid = node.follower.wait_svid(A)
    home.spire.clock(offset_s)
    node.agent.end()
    node.agent.again()  # it mints everything anew
    wait_for(lambda: node.agent.cached_svids() >= 5, "they are minted")
    home.spire.identity(node.agent, 100003)
    node.identityd.push(identity(100003), identityd.endpoint("late", 100003, node="n1"))
    reason(node, "svid-expired", text, identity=100003)
    assert node.sign(svid) == 0, "the one that is there is valid"
    home.spire.clock(0)
    node.agent.end()
    node.agent.again()
    recovers(node, A, B, 100003)

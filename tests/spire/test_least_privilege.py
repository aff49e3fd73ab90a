"""Each node has the keys of what runs there and no others: twenty identities on two nodes, with identityd, the registrar, the
adapters and SPIRE for real. Asked of the agents themselves, as a delegate could, and of the adapters."""
import importlib
import shutil
import sys
import tempfile

import grpc
import pytest
from grpc_tools import protoc

from lab.daemon import ROOT, WAIT_S
from lab.nodes import PLACED, SVID_READY, E, Identityd, condition, reason_of, spec
from lab.registrar import Registrar
from lab.spire import wait_for
from spire_nodes import RealHome

ALL = 20
HOST = 1


@pytest.fixture(scope="module")
def delegated():
    """SPIRE's Delegated Identity API, for a client of our own."""
    out, protos = tempfile.mkdtemp(prefix="cs-protos-"), ROOT / "spire-adapter/proto"
    assert protoc.main(["", f"-I{protos}", f"--python_out={out}", f"--grpc_python_out={out}",
                        str(protos / "delegated_identity.proto")]) == 0
    sys.path.insert(0, out)
    yield importlib.import_module("delegated_identity_pb2"), importlib.import_module("delegated_identity_pb2_grpc")
    sys.path.remove(out)
    shutil.rmtree(out)


def gives(agent, numbers, delegated):
    """The SPIFFE IDs whose keys this agent would give to a delegate who asks for all of these numbers."""
    messages, stubs = delegated
    selectors = [messages.Selector(type="countersign", value=f"id:{n}") for n in numbers]
    with grpc.insecure_channel(f"unix:{agent.admin}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = stubs.DelegatedIdentityStub(channel).SubscribeToX509SVIDs(
            messages.SubscribeToX509SVIDsRequest(selectors=selectors), timeout=WAIT_S)
        ids = {s.x509_svid.id.path for s in next(call).x509_svids if s.x509_svid_key}
        call.cancel()
    return ids


class Where:
    """One of the two nodes."""

    def __init__(self, adapter, agent, identityd):
        self.adapter, self.agent, self.identityd, self.numbers = adapter, agent, identityd, {}
        self.base = agent.cached_svids()

    def held(self):
        return {n for n, s in self.adapter.once().svids.items() if s.generation} - {HOST}

    def register(self, home, i, wait=(SVID_READY,)):
        what = spec(f"w{i}", f"k8s:app=w{i}", [f"10.1.{len(self.numbers)}.{i + 1}"], home.interfaces.new())
        status = self.identityd.register(what, wait_for=wait)
        self.numbers[i] = status.identity
        return status


def check(where, everything, delegated):
    mine = set(where.numbers.values())
    assert where.held() == mine
    wait_for(lambda: gives(where.agent, everything, delegated) == {f"/identity/{n}" for n in mine}, "what the agent gives")
    wait_for(lambda: where.agent.cached_svids() == where.base + len(mine), "how many SVIDs the agent holds")


@pytest.fixture
def home(Spire):
    home = RealHome(Spire())
    yield home
    home.close()


def build(home, placements):
    (home.spire.dir / "placement.yaml").write_text("placements:\n" + "".join(
        f"- labels: ['k8s:app=w{i}']\n  nodes: [{', '.join(nodes)}]\n" for i, nodes in placements.items()))
    one, agent1, server_files = home.adapter("n1", server=True)
    two, agent2, node_files = home.adapter("n2")
    server = home.keep(Identityd(home.spire.dir / "i-n1", "placement.authority=static",
                                 f"placement.file={home.spire.dir / 'placement.yaml'}",
                                 settings={**server_files, "node.addresses": "10.0.0.1"}))
    node = home.keep(Identityd(home.spire.dir / "i-n2", role="node", settings={
        **node_files, "node.addresses": "10.0.0.2", "cluster.server": f"127.0.0.1:{server.port}"}))
    registrar = home.keep(Registrar(home.spire.dir / "i-n1", f"unix:{home.spire.server.socket}", "registrar.linger=0"))
    wait_for(lambda: agent1.cached_svids() >= 3 and agent2.cached_svids() >= 2, "the SVIDs of the daemons")
    return Where(one, agent1, server), Where(two, agent2, node), registrar


def test_each_node_has_the_keys_of_what_runs_there(home, delegated):
    one, two, registrar = build(home, {**{i: ("n1", "n2")[i % 2:][:1] for i in range(1, ALL)}, 0: ("n1", "n2")})
    for i in range(ALL):
        (one, two)[i % 2].register(home, i, wait=(PLACED,))
    for where in (one, two):
        for what in [e.spec for e in where.identityd.list().values()]:
            assert condition(where.identityd.register(what, wait_for=(SVID_READY,)), SVID_READY).met
    everything = [*one.numbers.values(), *two.numbers.values()]
    assert len(set(everything)) == ALL
    wait_for(lambda: registrar.count("right") == ALL, registrar.status)
    check(one, everything, delegated)
    check(two, everything, delegated)

    # One moves.
    one.identityd.endpoints.UnregisterEndpoint(
        E.UnregisterRequest(id="w0"), timeout=WAIT_S)
    moved = one.numbers.pop(0)
    assert two.register(home, 0).identity == moved
    check(two, everything, delegated)
    check(one, everything, delegated)
    entries = {(e.identity, e.node) for e in registrar.list()}
    assert entries == {(n, "n1") for n in one.numbers.values()} | {(n, "n2") for n in two.numbers.values()}


def test_a_node_that_claims_what_it_must_not_gets_no_key(home, delegated):
    one, two, registrar = build(home, {1: ("n1",), 2: ("n2",)})
    mine = one.register(home, 1).identity
    with pytest.raises(grpc.RpcError) as e:  # n2 says that w1 runs there too
        two.identityd.register(spec("stolen", "k8s:app=w1", ["10.1.9.9"], home.interfaces.new()), wait_for=(PLACED,), timeout=5)
    assert reason_of(e.value) == "placement-refused"
    other = two.register(home, 2).identity  # what comes after it has come through: the claim was heard, and refused
    assert {(e.identity, e.node) for e in registrar.list()} == {(mine, "n1"), (other, "n2")}
    check(two, [mine, other], delegated)
    check(one, [mine, other], delegated)

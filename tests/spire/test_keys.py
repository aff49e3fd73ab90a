"""Where the private key of a workload is: SPIRE hands the same one to this test, which then looks for it."""
import importlib
import re
import sys

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from grpc_tools import protoc

from lab.daemon import ROOT, WAIT_S
from spire_nodes import A, Home

SHADOW = 1 << 30  # bytes; a sanitizer reserves regions of terabytes, which hold nothing of the program


@pytest.fixture
def home(Spire):
    home = Home(Spire())
    yield home
    home.close()


@pytest.fixture
def delegated(tmp_path):
    protos = ROOT / "spire-adapter/proto"
    assert protoc.main(["", f"-I{protos}", f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}",
                        str(protos / "delegated_identity.proto")]) == 0
    sys.path.insert(0, str(tmp_path))
    yield importlib.import_module("delegated_identity_pb2"), importlib.import_module("delegated_identity_pb2_grpc")
    sys.path.remove(str(tmp_path))


def key_of(delegated, agent, number):
    """PKCS #8 and scalar, as the agent gives them to a delegate: this process is root, as the adapter is."""
    messages, stubs = delegated
    with grpc.insecure_channel(f"unix:{agent.admin}") as channel:
        stub = stubs.DelegatedIdentityStub(channel)
        request = messages.SubscribeToX509SVIDsRequest(
            selectors=[messages.Selector(type="countersign", value=f"id:{number}")])
        for message in stub.SubscribeToX509SVIDs(request, timeout=WAIT_S):
            if message.x509_svids:
                pkcs8 = message.x509_svids[0].x509_svid_key
                key = serialization.load_der_private_key(pkcs8, None)
                return pkcs8, key.private_numbers().private_value.to_bytes(32, "big")


def places(pid, *wanted):
    """[(index of wanted, is the memory locked)] of what is found in the memory of a process."""
    found = []
    with open(f"/proc/{pid}/smaps") as smaps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        regions, start = [], None
        for line in smaps:
            if m := re.match(r"([0-9a-f]+)-([0-9a-f]+) (r|-)", line):
                start, end, readable = int(m[1], 16), int(m[2], 16), m[3] == "r"
            elif line.startswith("VmFlags:") and readable and end - start < SHADOW:
                regions.append((start, end, " lo" in line))
        for start, end, locked in regions:
            try:
                mem.seek(start)
                data = mem.read(end - start)
            except (OSError, ValueError, OverflowError):  # vvar and the like
                continue
            found += [(i, locked) for i, what in enumerate(wanted) for _ in re.finditer(re.escape(what), data)]
    return found


def test_the_key_is_in_locked_memory_only_and_goes_with_the_identity(home, delegated):
    node = home.node()
    home.spire.identity(node.agent, A)
    node.start()
    svid = node.follower.wait_svid(A)
    pkcs8, scalar = key_of(delegated, node.agent, A)
    wanted = pkcs8, scalar, scalar[::-1]  # OpenSSL keeps numbers the other way round
    assert node.sign(svid) == 0
    found = places(node.adapter.pid, *wanted)
    assert found, "it is somewhere, or this test looks in the wrong place"
    assert all(locked for _, locked in found), found
    node.leave(A)
    node.follower.wait(lambda s: not s.has(A))
    assert places(node.adapter.pid, *wanted) == []

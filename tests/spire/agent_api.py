"""What an agent of SPIRE says, message by message, and its server, call by call: without any code of ours but the protos."""
import importlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time

import grpc
from grpc_tools import protoc

from lab import peers
from lab.daemon import ROOT, WAIT_S

_out = tempfile.TemporaryDirectory(prefix="cs-protos-")
_protos = ROOT / "spire-adapter/proto"
assert protoc.main(["", f"-I{_protos}", f"--python_out={_out.name}", f"--grpc_python_out={_out.name}",
                    *(str(_protos / p) for p in ("delegated_identity.proto", "workload.proto"))]) == 0
sys.path.insert(0, _out.name)
di, di_rpc = importlib.import_module("delegated_identity_pb2"), importlib.import_module("delegated_identity_pb2_grpc")
workload, workload_rpc = importlib.import_module("workload_pb2"), importlib.import_module("workload_pb2_grpc")
sys.path.remove(_out.name)


class Stream:
    """A call that streams: every message with its time."""

    def __init__(self, socket, start):
        self.channel = grpc.insecure_channel(f"unix:{socket}", [("grpc.use_local_subchannel_pool", 1)])
        self.call, self.messages, self.error = start(self.channel), queue.Queue(), None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            for message in self.call:
                self.messages.put(message)
        except grpc.RpcError as e:
            self.error = e
        self.messages.put(None)

    def next(self, timeout=WAIT_S):
        """The next message; the error that ended the call."""
        message = self.messages.get(timeout=timeout)
        return self.error if message is None else message

    def until(self, what, timeout=WAIT_S):
        """All messages up to the first that is such, with it."""
        seen, end = [], time.monotonic() + timeout
        while not seen or not what(seen[-1]):
            message = self.messages.get(timeout=max(0.01, end - time.monotonic()))
            assert message is not None, self.error
            seen.append(message)
        return seen

    def quiet(self, seconds):
        """Nothing comes for that long."""
        try:
            raise AssertionError(f"unexpected: {self.messages.get(timeout=seconds)}")
        except queue.Empty:
            return True

    def close(self):
        self.call.cancel()
        self.thread.join()
        self.channel.close()


def selectors(*texts):
    return [di.Selector(type=t.partition(":")[0], value=t.partition(":")[2]) for t in texts]


def svids(agent, *texts):
    request = di.SubscribeToX509SVIDsRequest(selectors=selectors(*texts))
    return Stream(agent.admin, lambda c: di_rpc.DelegatedIdentityStub(c).SubscribeToX509SVIDs(request))


def certificates(message):
    """{trust domain: DER certificates one after the other} of a message of bundles."""
    return {b.trust_domain: b.authorities for b in message.ca_certificates}


def bundles(agent):
    return Stream(agent.admin, lambda c: di_rpc.DelegatedIdentityStub(c).SubscribeToX509Bundles(
        di.SubscribeToX509BundlesRequest()))


def own(agent, header="true"):
    metadata = [("workload.spiffe.io", header)] if header else []
    return Stream(agent.socket, lambda c: workload_rpc.SpiffeWorkloadAPIStub(c).FetchX509SVID(
        workload.X509SVIDRequest(), metadata=metadata))


class Refused(Exception):
    """The status that a call ended with."""


def server(spire, service, method, **request):
    """A unary call of spire.api.server, by a client in Go."""
    done = subprocess.run([peers.program("spire-partner"), "-call", spire.server.socket, f"spire.api.server.{service}/{method}"],
                          input=json.dumps(request), text=True, capture_output=True, timeout=WAIT_S)
    if done.returncode:
        raise Refused(done.stderr.strip())
    return json.loads(done.stdout)

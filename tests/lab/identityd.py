"""Plays identityd's node role for the daemons that follow it: Directory and Endpoints.Report by grpcio, so that a test
says exactly what the directory says, and when. For faults that a real one does not make on demand."""
import queue
from concurrent import futures

import grpc

from lab import protos
from lab.daemon import WAIT_S
from lab.follower import Follower

D = protos.directory


def identity(number, spiffe_id):
    return D.Record(identity=D.Identity(id=number, spiffe_id=spiffe_id))


def endpoint(name, number, node="n1", local=True):
    here = D.LocalEndpoint(interface=f"if-{name}", ifindex=7) if local else None
    return D.Record(endpoint=D.Endpoint(node=node, id=name, identity=number, local=here))


def node(name):
    return D.Record(node=D.Node(name=name))


def placement(number, node):
    return D.Record(placement=D.Placement(identity=number, node=node, authority="static"))


KEYS = {"identity": ("id",), "node": ("name",), "placement": ("identity", "node"), "endpoint": ("node", "id")}


def deleted(record):
    kind = record.WhichOneof("record")
    out = D.Record(deleted=True)
    for field in KEYS[kind]:
        setattr(getattr(out, kind), field, getattr(getattr(record, kind), field))
    return out


class Identityd(protos.directory_rpc.DirectoryServicer, protos.endpoints_rpc.EndpointsServicer,
                protos.status_rpc.StatusServicer):
    """dir: DIR/identityd of the instance. records: the state at the start."""

    def __init__(self, dir, records=(), hold_sync=False):
        self.dir, self.hold_sync = dir, hold_sync
        self.state = {Follower.key(r): r for r in records}
        self.followers, self.requests, self.reports = [], queue.Queue(), queue.Queue()
        self.status_failures = 0  # so many calls of Status.Get fail
        self.revision, self.report_error = 1, None
        self.role, self.leadership = "all", "LEADER"
        dir.mkdir(parents=True, exist_ok=True)
        self.server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        protos.directory_rpc.add_DirectoryServicer_to_server(self, self.server)
        protos.endpoints_rpc.add_EndpointsServicer_to_server(self, self.server)
        protos.status_rpc.add_StatusServicer_to_server(self, self.server)
        for name in ("directory.sock", "endpoints.sock", "status.sock"):
            (dir / name).unlink(missing_ok=True)
            assert self.server.add_insecure_port(f"unix:{dir / name}")
        self.server.start()

    def _batch(self, records, **more):
        return D.DirectoryBatch(position=D.Position(epoch=7, revision=self.revision), records=records, **more)

    def Follow(self, request, context):
        self.requests.put(request)
        batches = queue.Queue()
        context.add_callback(lambda: batches.put(None))
        self.followers.append(batches)
        records = list(self.state.values())
        half = len(records) // 2  # a full state comes in pieces
        yield self._batch(records[:half])
        if self.hold_sync:
            yield self._batch(records[half:])
        else:
            yield self._batch(records[half:], complete=True, synced=True)
        while True:
            batch = batches.get()
            if batch is None:
                return
            yield batch

    def push(self, *records, **more):
        """One revision; deleted() records take things away."""
        for r in records:
            if r.deleted:
                self.state.pop(Follower.key(r), None)
            else:
                self.state[Follower.key(r)] = r
        self.revision += 1
        self.push_batch(self._batch(records, complete=True, **more))

    def push_batch(self, batch):
        for batches in self.followers:
            batches.put(batch)

    def Get(self, request, context):
        if self.status_failures:
            self.status_failures -= 1
            context.abort(grpc.StatusCode.INTERNAL, "as the test wants it")
        return protos.status.StatusReply(daemon="identityd", role=self.role, healthy=True,
                                           leadership=f"LEADERSHIP_{self.leadership}")

    def Report(self, request, context):
        if self.report_error:
            context.abort(self.report_error, "as the test wants it")
        for r in request.reports:
            self.reports.put(r)
        return protos.endpoints.ReportReply()

    def next_report(self):
        return self.reports.get(timeout=WAIT_S)

    def stop(self):
        for batches in self.followers:
            batches.put(None)
        self.server.stop(None).wait()

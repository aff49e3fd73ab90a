"""A client of Directory.Follow."""
import queue
import threading
import time

import grpc

from lab import protos
from lab.daemon import WAIT_S

D = protos.directory


class Follower:
    """Follows a directory as directory.proto says: records of incomplete batches wait, `synced` replaces."""

    def __init__(self, channel, **request):
        self.call = protos.directory_rpc.DirectoryStub(channel).Follow(D.FollowRequest(**request))
        self.batches, self.error = queue.Queue(), None
        self.state, self.waiting, self.position, self.synced = {}, [], None, 0
        self.silent_ms, self.beats = None, 0
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            for batch in self.call:
                self.batches.put(batch)
        except grpc.RpcError as e:
            self.error = e
        self.batches.put(None)

    @staticmethod
    def key(record):
        kind = record.WhichOneof("record")
        r = getattr(record, kind)
        return kind, {"node": lambda: r.name, "identity": lambda: r.id, "placement": lambda: (r.identity, r.node),
                      "endpoint": lambda: (r.node, r.id), "prefix": lambda: (bytes(r.prefix.ip), r.prefix.bits),
                      "policy": lambda: r.name, "policy_row": lambda: (r.local, r.remote),
                      "policy_default": lambda: r.local, "depends_on": lambda: r.name,
                      "revocation": lambda: r.id}[kind]()

    def apply(self, batch):
        self.silent_ms = batch.silent_ms
        if not batch.records and not batch.complete:
            self.beats += 1
        self.waiting += batch.records
        if not batch.complete:
            assert not batch.synced
            return
        if batch.synced:
            self.synced += 1
            self.state = {}
        for record in self.waiting:
            if record.deleted:
                self.state.pop(self.key(record), None)
            else:
                self.state[self.key(record)] = getattr(record, record.WhichOneof("record"))
        self.waiting = []
        self.position = (batch.position.epoch, batch.position.revision)

    def wait(self, what, timeout=WAIT_S):
        """Until what(self) is true (not None)."""
        end = time.monotonic() + timeout
        while not (found := what(self)):
            batch = self.batches.get(timeout=max(0.01, end - time.monotonic()))
            assert batch is not None, f"the stream ended: {self.error}"
            self.apply(batch)
        return found

    def wait_synced(self):
        self.wait(lambda f: f.synced)
        return self

    def wait_end(self):
        """All that came, and the status (None: OK)."""
        while (batch := self.batches.get(timeout=WAIT_S)) is not None:
            self.apply(batch)
        return self.error

    def get(self, kind, key):
        return self.state.get((kind, key))

    def all(self, kind):
        return {k[1]: v for k, v in self.state.items() if k[0] == kind}

    def close(self):
        self.call.cancel()
        self.thread.join()

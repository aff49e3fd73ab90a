"""authd's own word on what happened: its service Auth, its metrics and its log."""
import json
import queue
import re
import threading

import grpc

from lab import protos
from lab.daemon import WAIT_S


def stub_of(node):
    """(channel, stub) of a node's Auth."""
    channel = grpc.insecure_channel(f"unix:{node.instance}/authd/auth.sock", [("grpc.use_local_subchannel_pool", 1)])
    return channel, protos.auth_rpc.AuthStub(channel)


class Events:
    """A call of Events; the greeting has been read."""

    def __init__(self, stub, datapath=False):
        self.call = stub.Events(protos.auth.EventsRequest(datapath=datapath))
        self.got = queue.Queue()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        self.greeting = self.next()
        assert self.greeting.kind == "state"

    def _read(self):
        try:
            for event in self.call:
                self.got.put(event)
        except grpc.RpcError:
            pass

    def next(self):
        return self.got.get(timeout=WAIT_S)

    def until(self, what):
        """All up to the first that is what(event)."""
        seen = []
        while not seen or not what(seen[-1]):
            seen.append(self.next())
        return seen

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.call.cancel()
        self.thread.join()


class Watch:
    """How authd of a node says that handshakes ended, from now on, in its three places."""

    def __init__(self, node):
        self.node, self.log = node, node.daemons["authd"].log
        self.channel, self.stub = stub_of(node)
        self.events = Events(self.stub)
        self.offset, self.before = self.log.stat().st_size, self.counted()

    def counted(self):
        """{(role, result): handshakes}"""
        return {tuple(re.findall(r'(?:role|result)="([^"]*)"', name)): int(value)
                for name, value in self.node.metrics().items() if name.startswith("countersign_handshakes_total")}

    def handshakes(self):
        """{(role, result): handshakes} since the beginning."""
        return {key: n - self.before.get(key, 0) for key, n in self.counted().items() if n != self.before.get(key, 0)}

    def logged(self):
        """The lines since the beginning."""
        lines = self.log.read_bytes()[self.offset:].decode().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def close(self):
        self.events.__exit__()
        self.channel.close()

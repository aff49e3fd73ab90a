"""A daemon that is asked how it does: status.sock beside its other sockets."""
import re

import grpc

from lab import protos
from lab.daemon import WAIT_S, Daemon


class Watched(Daemon):
    """A subclass has `sockets`, the directory of its sockets."""

    def status(self):
        with grpc.insecure_channel(f"unix:{self.sockets / 'status.sock'}") as channel:
            return protos.status_rpc.StatusStub(channel).Get(protos.status.StatusRequest(), timeout=WAIT_S)

    def check(self, name):
        return next(c for c in self.status().checks if c.name == name)

    def metrics(self):
        with grpc.insecure_channel(f"unix:{self.sockets / 'status.sock'}") as channel:
            stub = protos.status_rpc.StatusStub(channel)
            text = b"".join(c.text for c in stub.Metrics(protos.status.MetricsRequest(), timeout=WAIT_S)).decode()
        return {m[1]: float(m[2]) for m in re.finditer(r"^([a-z_]+(?:\{.*\})?) (\S+)$", text, re.M)}

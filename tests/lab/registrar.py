"""A real countersign-registrar, and a client of its Entries by grpcio."""
import itertools

import grpc

from lab import protos
from lab.daemon import WAIT_S
from lab.spire import wait_for
from lab.watched import Watched

PROGRAM = "spire-adapter/countersign-registrar"
E = protos.entries


class Registrar(Watched):
    """instance: also that of the identityd whose directory it follows."""

    def __init__(self, instance, server, *sets, domain="example.org", **options):
        self.instance, self.sockets = instance, instance / "registrar"
        settings = {"trust_domain": domain, "spire.server": server, "log.level": "debug"}
        args = [f"{k}={v}" for k, v in settings.items()] + list(sets)
        super().__init__(PROGRAM, "--instance", instance, *itertools.chain(*(("--set", a) for a in args)), **options)

    def _stream(self, method, request):
        with grpc.insecure_channel(f"unix:{self.sockets / 'entries.sock'}") as channel:
            stub = protos.entries_rpc.EntriesStub(channel)
            return list(getattr(stub, method)(request, timeout=WAIT_S))

    def list(self, foreign=False):
        return [e for b in self._stream("List", E.ListEntriesRequest(foreign=foreign)) for e in b.entries]

    def diff(self):
        return [c for b in self._stream("Diff", E.DiffEntriesRequest()) for c in b.changes]

    def sync(self, **how):
        return [c for b in self._stream("Sync", E.SyncEntriesRequest(**how)) for c in b.changes]

    def count(self, state):
        return int(self.metrics()[f'countersign_registrar_entries{{daemon="registrar",state="{state}"}}'])

    def wrote(self, create=0, update=0, delete=0):
        """Waits until it has counted that, and no more: what SPIRE has done may be on its way back."""
        wanted = {"create": create, "update": update, "delete": delete}
        wait_for(lambda: all(n >= wanted[what] for what, n in self.writes().items()), lambda: f"{wanted}, but {self.writes()}")
        assert self.writes() == wanted

    def writes(self):
        """What was written with success, by kind."""
        metrics = self.metrics()
        return {what: int(metrics.get(f'countersign_registrar_writes_total{{daemon="registrar",what="{what}",result="done"}}', 0))
                for what in ("create", "update", "delete")}

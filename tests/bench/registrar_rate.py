"""How fast the registrar makes entries. See tests/bench/registrar."""
import argparse
import concurrent.futures
import importlib
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import grpc
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from lab import identityd, spire  # noqa: E402
from lab.registrar import Registrar  # noqa: E402

ENTRIES, ROUNDS, WAIT_S, FIRST, AT_LEAST = 4000, 3, 300, 100000, 0.8
SHAPES = ((50, 1), (50, 2), (500, 1))  # entries in a call, calls at a time: the best of them is what bare means


class Bare:
    """BatchCreateEntry and nothing else, by grpcio."""

    def __init__(self, server):
        self.out = tempfile.mkdtemp(prefix="cs-protos-")
        protos = ROOT / "spire-adapter/proto"
        if protoc.main(["", f"-I{protos}", f"--python_out={self.out}", f"--grpc_python_out={self.out}",
                        str(protos / "spire_types.proto"), str(protos / "spire_entry.proto")]) != 0:
            raise RuntimeError("the protos do not compile")
        sys.path.insert(0, self.out)
        self.types, self.messages = importlib.import_module("spire_types_pb2"), importlib.import_module("spire_entry_pb2")
        self.channel = grpc.insecure_channel(f"unix:{server.socket}")
        self.stub = importlib.import_module("spire_entry_pb2_grpc").EntryStub(self.channel)

    def entry(self, i):
        """As the registrar's: the same fields, about the same bytes."""
        t = self.types
        return t.Entry(id=f"bare.{os.urandom(16).hex()}", spiffe_id=t.SPIFFEID(trust_domain="example.org", path=f"/bare/{i}"),
                       parent_id=t.SPIFFEID(trust_domain="example.org", path="/node/n1"), hint=f"{i}@n1",
                       selectors=[t.Selector(type="countersign", value=f"id:{i}")])

    def create(self, batch):
        reply = self.stub.BatchCreateEntry(self.messages.BatchCreateEntryRequest(entries=batch), timeout=WAIT_S)
        assert all(r.status.code == 0 for r in reply.results), reply.results[0]

    def rate(self, n, size, at_once):
        entries = [self.entry(FIRST + i) for i in range(n)]
        batches = [entries[i:i + size] for i in range(0, n, size)]
        start = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            list(pool.map(self.create, batches))
        return n / (time.perf_counter() - start)

    def empty(self):
        """Every round begins with an empty server."""
        ids = [e.id for e in self.stub.ListEntries(self.messages.ListEntriesRequest(), timeout=WAIT_S).entries]
        for i in range(0, len(ids), 500):
            self.stub.BatchDeleteEntry(self.messages.BatchDeleteEntryRequest(ids=ids[i:i + 500]), timeout=WAIT_S)

    def close(self):
        self.channel.close()
        shutil.rmtree(self.out, ignore_errors=True)


def ours(installation, n, i):
    """From the revision that places them to the answer for the last."""
    said = identityd.Identityd(installation.dir / f"i{i}/identityd", [identityd.node("n1"), identityd.node("n2")])
    registrar = Registrar(installation.dir / f"i{i}", f"unix:{installation.server.socket}", "log.level=info")
    try:
        spire.wait_for(lambda: '"wanted":0' in registrar.output(), "the first list")
        numbers = range(FIRST, FIRST + n // 2)
        records = [*(identityd.identity(j, f"spiffe://example.org/identity/{j}") for j in numbers),
                   *(identityd.placement(j, node) for node in ("n1", "n2") for j in numbers)]
        start = time.perf_counter()
        said.push(*records)
        spire.wait_for(lambda: registrar.count("right") == n, f"{n} entries", WAIT_S)
        return n / (time.perf_counter() - start)
    finally:
        registrar.stop()
        said.stop()


def measure(entries, rounds):
    installation = spire.Spire()
    bare = Bare(installation.server)
    result = {"ours": [], **{shape: [] for shape in SHAPES}}
    try:
        for i in range(rounds):
            for shape in SHAPES:
                result[shape].append(bare.rate(entries, *shape))
                bare.empty()
            result["ours"].append(ours(installation, entries, i))
            bare.empty()
    finally:
        bare.close()
        installation.close()
    return result


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/registrar")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--entries", type=int, default=ENTRIES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    if why := spire.missing():
        print(f"nothing was measured: {why}")
        return 2
    if args.entries < 2 or args.entries % 2 or args.rounds < 1:
        parser.error("--entries is an even number from 2, --rounds a number from 1")
    result = {k: statistics.median(v) for k, v in measure(args.entries, args.rounds).items()}
    bare = max(result[shape] for shape in SHAPES)
    print(f"\n  {args.entries} entries, median of {args.rounds} rounds                 entries/s")
    for size, at_once in SHAPES:
        print(f"  bare, {size:3} in a call, {at_once} at a time {result[size, at_once]:29.0f}")
    print(f"  the registrar {result['ours']:44.0f}   {result['ours'] / bare:.2f} of the best of these; at least {AT_LEAST}")
    if args.json:
        Path(args.json).write_text(json.dumps({
            "ours_per_s": result["ours"], "bare_per_s": bare, "entries": args.entries, "rounds": args.rounds,
            "kernel": platform.release(), "cpus": os.cpu_count()}) + "\n")
    return 0 if result["ours"] >= AT_LEAST * bare else 1


if __name__ == "__main__":
    sys.exit(main())

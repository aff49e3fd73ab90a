"""Allocations of identities, measured. See tests/bench/identity."""
import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
os.environ["CS_BUILD"] = str(ROOT / "build/release")
sys.path.insert(0, str(ROOT / "tests"))
from lab import etcd  # noqa: E402
from lab.daemon import BUILD  # noqa: E402
from lab.node_tls import CA  # noqa: E402
from lab.nodes import D, Identityd  # noqa: E402

IDENTITIES, STARTS = 65000, 5
LIMITS = {"hit_per_s": (20000, True), "new_sqlite_per_s_64": (5000, True), "fsyncs_per_new": (0.1, False),
          "etcd_ratio": (3, False), "load_65k_ms": (1000, False), "rss_65k_mib": (64, False),
          "node_load_65k_ms": (1000, False), "node_rss_65k_mib": (64, False)}


def bench(*args):
    p = subprocess.run([str(BUILD / "bench/bench_identity"), *map(str, args)], stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, text=True, timeout=300)
    assert p.returncode == 0, p.stderr
    return json.loads(p.stdout)


def rss_mib(d):
    line = next(line for line in Path(f"/proc/{d.pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def median(values):
    return sorted(values)[len(values) // 2]


def loading(folder):
    """Start-up and memory of each role with 65,000 identities: (cluster's ms, MiB, node's ms, MiB)."""
    state = folder / "c/identityd/state"
    state.mkdir(parents=True, mode=0o700)
    bench("fill", state / "store.db", IDENTITIES)
    ca, starts = CA(folder / "ca"), []
    settings = {**ca.server(), "trust_domain": "example.org", "cluster.listen": "127.0.0.1:0"}
    for last in [False] * (STARTS - 1) + [True]:
        start = time.monotonic()
        cluster = Identityd(folder / "c", role="cluster", node="c", settings=settings)
        starts.append((time.monotonic() - start) * 1000)
        if not last:
            cluster.stop()
    mib = rss_mib(cluster)
    synced = []
    for last in [False] * (STARTS - 1) + [True]:
        start = time.monotonic()
        node = Identityd(folder / "n", role="node", node="n", settings={
            **ca.node("n"), "cluster.server": f"127.0.0.1:{cluster.port}", "node.addresses": "192.0.2.2"})
        f = node.follow(kinds=[D.KIND_NODE]).wait_synced()
        synced.append((time.monotonic() - start) * 1000)
        f.close()
        if not last:
            node.stop()
    node_mib = rss_mib(node)
    assert len(cluster.once(kinds=[D.KIND_IDENTITY]).state) == len(node.once(kinds=[D.KIND_IDENTITY]).state) == IDENTITIES
    node.stop()
    cluster.stop()
    return median(starts), mib, median(synced), node_mib


def measure(folder):
    (folder / "sqlite").mkdir()
    s = bench("sqlite", folder / "sqlite")
    with etcd.Etcd("3.4") as cluster:
        e = bench("etcd", cluster.members[0].url)
    load, rss, node_load, node_rss = loading(folder)
    return s, e, {
        "hit_per_s": s["hit_64"], "new_sqlite_per_s_1": s["new_1"], "new_sqlite_per_s_64": s["new_64"],
        "fsyncs_per_new": s["fsyncs_per_new"], "etcd_new_ms_p50": e["new_ms_p50"], "etcd_txn_ms_p50": e["txn_ms_p50"],
        "etcd_ratio": e["new_ms_p50"] / e["txn_ms_p50"], "etcd_new_per_s_64": e["new_64"], "etcd_hit_per_s_64": e["hit_64"],
        "load_65k_ms": load, "rss_65k_mib": rss, "node_load_65k_ms": node_load, "node_rss_65k_mib": node_rss}


def misses(figures):
    return [k for k, (limit, least) in LIMITS.items() if (figures[k] < limit if least else figures[k] > limit)]


def show(s, e, f):
    print("\n  SQLite                                      1 client  64 clients")
    print(f"    new label sets, per second              {s['new_1']:10.0f} {s['new_64']:11.0f}   (at least 5,000 with 64)")
    print(f"    known label sets, per second            {s['hit_1']:10.0f} {s['hit_64']:11.0f}   (at least 20,000)")
    print(f"    fsyncs per new one, per known one       {'':10} {s['fsyncs_per_new']:11.3f}, {s['fsyncs_per_hit']:.3f}   (at most 0.1)")
    print(f"    bare SQLite, rows per second            {s['rows_1']:10.0f} {s['rows_64']:11.0f}   (1 and 64 in a transaction)")
    print("  etcd 3.4, one member")
    print(f"    a new label set, ms p50                 {e['new_ms_p50']:10.2f}   bare transaction {e['txn_ms_p50']:.2f}, ratio "
          f"{f['etcd_ratio']:.2f} (at most 3)")
    print(f"    new, known label sets, per second       {'':10} {e['new_64']:11.0f}, {e['hit_64']:.0f}")
    print(f"  {IDENTITIES} identities                        cluster        node")
    print(f"    start until it serves, ms, median of {STARTS}  {f['load_65k_ms']:10.0f} {f['node_load_65k_ms']:11.0f}   (at most 1000)")
    print(f"    resident memory, MiB                    {f['rss_65k_mib']:10.1f} {f['node_rss_65k_mib']:11.1f}   (at most 64)")
    for k in misses(f):
        print(f"  MISSED: {k} is {f[k]:.2f}, the limit is {LIMITS[k][0]}")


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/identity")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    print("The allocator of identityd's cluster role: its queue, worker, rules, store and directory, in one process with clients\n"
          "that each change the labels of an endpoint, one claim after the other (no gRPC): to a set that nobody had, or between\n"
          "two known ones; both are durable. Three labels a set. The bare cost of the store is measured in the same process.\n"
          f"machine: {os.cpu_count()} cores, Linux {platform.release()}")
    folder = Path(tempfile.mkdtemp(prefix="cs-bench-", dir="/var/tmp"))  # a disk, not memory
    try:
        s, e, figures = measure(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(s, e, figures)
    if args.json:
        Path(args.json).write_text(json.dumps({k: round(v, 3) for k, v in figures.items()}, indent=2) + "\n")
    return 1 if misses(figures) else 0


sys.exit(main())

"""One workload asks for 10,000 pairs a second that nobody has seen, while another opens one connection."""
import ipaddress
import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from lab.claims import Claimant
from lab.cluster import Cluster, policy, required, wait_until

PORT = 5000
NODES, EACH = 10, 1000  # identities: all different, on nodes that never answer
RATE, SECONDS = 10_000, 5
SANITIZED = re.search("san", Path(os.environ.get("CS_BUILD", "")).name)  # slower, and with a memory of its own
COLD_MS = 500 if SANITIZED else 50
PACE_S = 0.05  # of frontend: a connection, and its last packets after the flush, are one new pair each of 50 a second
GROWTH_MB = 16  # hold.max_bytes; what else is kept of a pair is small beside it
FLOOD = """
import json, socket, sys, time
rate, seconds, targets = int(sys.argv[1]), float(sys.argv[2]), sys.stdin.read().split()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
start, sent = time.monotonic(), 0
print("started", flush=True)
while (now := time.monotonic() - start) < seconds:
    while sent < now * rate:
        s.sendto(b"x", (targets[sent % len(targets)], 9))
        sent += 1
    time.sleep(0.001)
print(json.dumps([sent, time.monotonic() - start]), flush=True)
"""


@pytest.fixture(scope="module")
def c():
    with Cluster(prefix="tload") as c:
        c.n1, c.n2 = c.node(), c.node()
        c.policy("db", policy("db", "db", required("ingress", "frontend")))
        c.policy("frontend", policy("frontend", "frontend", required("egress", "db")))
        c.policy("flooder", policy("flooder", "flooder", required("egress", "mass")))
        c.credentials()
        c.flooder, c.frontend = c.n1.workload("flooder", "k8s:app=flooder"), c.n1.workload("frontend", "k8s:app=frontend")
        c.db = c.n2.workload("db", "k8s:app=db")
        c.start()
        # What is sent to the silent nodes vanishes, so that each handshake lasts for its whole deadline.
        c.n1.ns.ip("route", "add", "10.79.0.0/24", "via", c.n2.address)
        c.n2.ns.ip("route", "add", "blackhole", "10.79.0.0/24")
        for w in c.workloads.values():
            w.register(wait="enforced,svid-ready")
        c.targets, claimants = [], []
        for n in range(NODES):
            claimants.append(Claimant(c, f"mass{n}", f"10.79.0.{n + 1}"))
            mine = [str(ipaddress.ip_address("10.80.0.0") + n * 4096 + i) for i in range(EACH)]
            claimants[-1].claim([(f"m{n}-{i}", {"app": "mass", "n": f"{n}-{i}"}, a) for i, a in enumerate(mine)])
            c.targets += mine
        wait_until(lambda: known(c.n1, "policy-rows") >= NODES * EACH, "authd knows all of them", 60)
        with c.db.listen(PORT) as c.server:
            yield c
        for claimant in claimants:
            claimant.close()
        assert [n.stop("authd") for n in c.nodes] == [0, 0], "a clean shutdown"


def known(node, kind):
    return node.metrics()[f'countersign_known{{daemon="authd",kind="{kind}"}}']


def memory_mb(pid, what):
    return int(re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def test_a_flood_of_new_pairs(c):
    """50 of them a second are asked for (CS_NEW_PAIRS_PER_S), the others were not heard of and stay new: each packet of the
    flood is one for a pair without a row."""
    authd, drops = c.n1.daemons["authd"].process, c.n1.dropped()
    before = memory_mb(authd.pid, "VmRSS")
    with subprocess.Popen([*c.flooder.ns.enter(), "/usr/bin/python3", "-c", FLOOD, str(RATE), str(SECONDS)],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as flood:
        flood.stdin.write(" ".join(c.targets))
        flood.stdin.close()
        assert flood.stdout.readline() == "started\n"
        times = []
        while flood.poll() is None:
            start = time.monotonic()
            for n in c.nodes:
                n.cli("auth", "flush", "--all")
            sock, ms = c.frontend.connect(c.db, PORT, timeout=5)
            sock.close()
            c.server.accept()[0].close()
            times.append(ms)
            time.sleep(max(0, start + PACE_S - time.monotonic()))
        sent, seconds = json.loads(flood.stdout.readline())
    print(f"{sent} packets in {seconds:.2f} s; {len(times)} cold connections, {max(times):.1f} ms at most")
    dropped = {reason: n - drops.get(reason, 0) for reason, n in c.n1.dropped().items() if n != drops.get(reason, 0)}
    assert sent >= 0.99 * RATE * SECONDS and seconds < 1.1 * SECONDS, "it was a flood"
    assert len(times) >= 10 and max(times) < COLD_MS, (sorted(times)[-5:], dropped, c.n2.dropped())

    print(dropped)
    assert set(dropped) <= {"pending-full", "hold-budget", "backoff", "held-too-long", "peer-timeout"}
    assert dropped["pending-full"] > 0.9 * sent
    assert sent - 64 <= sum(dropped.values()) + c.n1.metrics()['countersign_held_packets{daemon="authd"}'] <= sent + 64, \
        "each of them is accounted for"

    grown = memory_mb(authd.pid, "VmHWM") - before
    print(f"{before:.1f} MB, grew by {grown:.1f}")
    assert SANITIZED or grown < GROWTH_MB
    metrics = c.n1.metrics()
    assert metrics['countersign_handshaker_restarts_total{daemon="authd"}'] == 0
    assert metrics['countersign_malformed_records_total{daemon="authd"}'] == 0
    found = c.n1.cli("auth", "list")["entries"]
    assert [e["remote_spiffe_id"] for e in found] == [c.db.endpoint["spiffe_id"]], "no entry of the flood"

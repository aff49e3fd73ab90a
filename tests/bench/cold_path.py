"""The cold path, measured. See tests/bench/cold-path."""
import argparse
import concurrent.futures
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "deploy/quickstart"))
import nodes  # noqa: E402

CLIENTS, SERVERS, PAIRS, PORT = 8, 7, 50, 5000
COUNTERS = {"syn_retransmits": ["TcpExt.TCPSynRetrans"],
            "checksum_errors": ["Tcp.InCsumErrors", "Udp.InCsumErrors", "Udp6InCsumErrors"]}


def policy():
    """Required both ways: the clients' egress and the servers' ingress."""
    rule = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: %s}
spec:
  endpointSelector: {matchLabels: {"any:role": %s}}
  %s:
  - %s: [{matchLabels: {"any:role": %s}}]
    authentication: {mode: required}
"""
    return (rule % ("servers", "server", "ingress", "fromEndpoints", "client") + "---"
            + rule % ("clients", "client", "egress", "toEndpoints", "server"))


def build(b):
    n1, n2 = b.node(), b.node()
    b.policy("bench", policy())
    b.credentials()
    clients = [n1.workload(f"c{i}", "k8s:role=client", f"k8s:app=client-{i}") for i in range(CLIENTS)]
    servers = [n2.workload(f"s{i}", "k8s:role=server", f"k8s:app=server-{i}") for i in range(SERVERS)]
    b.start()
    for w in clients + servers:
        w.register(wait="enforced,svid-ready", timeout="20s")
    return clients, servers


def forget(b):
    for n in b.nodes:
        n.cli("auth", "flush", "--all")


def total(b, names):
    return sum(w.ns.counters().get(n, 0) for w in b.workloads.values() for n in names)


def tcp(pairs, family, at_once):
    def one(pair):
        c, s = pair
        sock, ms = c.connect(s, PORT, family, timeout=20)
        sock.close()
        return ms

    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(one, pairs))


def udp(pairs, family):
    """First datagrams: (milliseconds of those that came, how many were sent)."""
    times = []
    for c, s in pairs:
        receiver, sender = s.udp(family=family), c.udp(family=family)
        receiver.settimeout(2.0)
        start = time.perf_counter()
        sender.sendto(b"first", receiver.getsockname()[:2])
        try:
            receiver.recv(100)
            times.append((time.perf_counter() - start) * 1000)
        except TimeoutError:
            pass
        receiver.close()
        sender.close()
    return times, len(pairs)


def set_hold(b, on):
    for n in b.nodes:
        n.stop("authd")
        n.settings["authd"] = {"hold.enabled": "true" if on else "false"}
        n.start("authd")
    wait_enforced(b)


def wait_enforced(b):
    """A new authd takes over what is there and reports it again."""
    for w in b.workloads.values():
        w.register(wait="enforced,svid-ready", timeout="20s")


def measure(b, clients, servers):
    pairs = [(c, s) for c in clients for s in servers][:PAIRS]
    listeners = [s.listen(PORT, family) for s in servers for family in (4, 6)]
    result, retransmits, errors = {}, 0, 0
    sent = delivered = 0
    for family in (4, 6):
        forget(b)
        before = {k: total(b, names) for k, names in COUNTERS.items()}
        result[f"tcp{family}_hold"] = tcp(pairs, family, 1)
        forget(b)
        times, n = udp(pairs, family)
        result[f"udp{family}_hold"], sent, delivered = times, sent + n, delivered + len(times)
        retransmits += total(b, COUNTERS["syn_retransmits"]) - before["syn_retransmits"]
        errors += total(b, COUNTERS["checksum_errors"]) - before["checksum_errors"]
    set_hold(b, False)
    for family in (4, 6):
        forget(b)
        result[f"tcp{family}_drop"] = tcp(pairs, family, len(clients))
        forget(b)
        result[f"udp{family}_drop"], _ = udp(pairs[:5], family)
    for s in listeners:
        s.close()
    return result, dict(udp_sent=sent, udp_delivered=delivered, syn_retransmits=retransmits, checksum_errors=errors)


def show(result, facts, ratio):
    print(f"\n  {'first packet of a pair, ms':34} {'min':>9} {'median':>9} {'max':>9}   of {PAIRS}")
    for key, what in (("tcp4_hold", "TCP connect, IPv4, held"), ("tcp4_drop", "TCP connect, IPv4, hold: off"),
                      ("tcp6_hold", "TCP connect, IPv6, held"), ("tcp6_drop", "TCP connect, IPv6, hold: off"),
                      ("udp4_hold", "UDP datagram, IPv4, held"), ("udp6_hold", "UDP datagram, IPv6, held"),
                      ("udp4_drop", "UDP datagram, IPv4, hold: off"), ("udp6_drop", "UDP datagram, IPv6, hold: off")):
        v = result[key]
        if v:
            print(f"  {what:34} {min(v):9.2f} {statistics.median(v):9.2f} {max(v):9.2f}   {len(v)}")
        else:
            print(f"  {what:34} {'lost':>9} {'lost':>9} {'lost':>9}   0")
    print(f"\n  held: {facts['udp_delivered']} of {facts['udp_sent']} first datagrams arrived, {facts['syn_retransmits']} SYN "
          f"retransmits, {facts['checksum_errors']} checksum errors")
    print(f"  hold is {ratio:.0f} x faster in the median (the smaller of IPv4's and IPv6's ratio; at least 100)")


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/cold-path")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    print(f"The cold path: two nodes (namespaces of one machine), both enforcing, {PAIRS} identity pairs, endpoints ready, auth "
          f"maps\nempty; real handshakes (TLS 1.3, P-256). Drop mode leaves the retry to the client's TCP.\n"
          f"machine: {os.cpu_count()} cores, Linux {platform.release()}")
    with nodes.Cluster(prefix=f"cold{os.getpid() % 1000}") as b:
        result, facts = measure(b, *build(b))
    p50 = {k: statistics.median(v) for k, v in result.items() if k.startswith("tcp")}
    ratio = min(p50[f"tcp{f}_drop"] / p50[f"tcp{f}_hold"] for f in (4, 6))
    show(result, facts, ratio)
    if args.json:
        figures = {f"tcp{f}_{m}_ms_p50": round(p50[f"tcp{f}_{m}"], 3) for f in (4, 6) for m in ("hold", "drop")}
        Path(args.json).write_text(json.dumps({**figures, **facts, "ratio": round(ratio, 1)}, indent=2) + "\n")
    good = (ratio >= 100 and max(p50["tcp4_hold"], p50["tcp6_hold"]) < 10 and facts["udp_delivered"] == facts["udp_sent"]
            and not facts["syn_retransmits"] and not facts["checksum_errors"])
    return 0 if good else 1


sys.exit(main())

"""deploy/quickstart.sh: three nodes on this machine, and what Countersign does between them."""
import argparse
import os
import shutil
import signal
import socket
import statistics
import sys
import time
from pathlib import Path

import nodes

PORT = 5432

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: db
spec:
  endpointSelector:
    matchLabels: {"k8s:app": db}
  ingress:
  - fromEndpoints:
    - matchLabels: {"k8s:app": frontend}
    authentication:
      mode: required
"""


class Page:
    """What is printed. Colours only for a person's terminal."""

    def __init__(self):
        self.tty = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.failed = []

    def paint(self, code, text):
        return f"\033[{code}m{text}\033[0m" if self.tty else text

    def title(self, text):
        print(f"\n{self.paint('1', text)}\n{self.paint('2', '─' * min(100, shutil.get_terminal_size().columns - 1))}", flush=True)

    def say(self, text=""):
        print(text, flush=True)

    def step(self, text):
        print(self.paint("2", f"  {text} ..."), flush=True)

    def check(self, good, text):
        mark = self.paint("32", "✓") if good else self.paint("31", "✗")
        print(f"  {mark} {text}", flush=True)
        if not good:
            self.failed.append(text)


def build(c, page):
    page.step("namespaces cs-node1..3 on a bridge, workloads behind each")
    n1, n2, n3 = c.node(), c.node(), c.node()
    n3.settings["spire-adapter"] = {"local_ca.dir": c.dir / "ca-of-node3"}  # SVIDs of another CA
    c.policy("db", POLICY)
    c.credentials()
    w = {
        "frontend": n1.workload("frontend", "k8s:app=frontend"),
        "batch": n1.workload("batch", "k8s:app=batch"),
        "stranger": n1.workload("stranger", "k8s:app=stranger"),
        "db": n2.workload("db", "k8s:app=db"),
        "web": n2.workload("web", "k8s:app=frontend"),
        "impostor": n3.workload("impostor", "k8s:app=frontend"),
    }
    page.step("identityd (node1: cluster and node role; the others follow it over mTLS), spire-adapter, authd")
    c.start()
    page.step("registering the workloads")
    for name, workload in w.items():
        if name != "stranger":
            workload.register(wait="enforced,svid-ready")
    return w


def who_is_who(c, page):
    page.title("1. Who is who")
    page.say(f"  {'node':6} {'endpoint':10} {'labels':18} {'identity':>8}  {'SPIFFE ID':34} {'SVID ends':>9}  conditions")
    for n in c.nodes:
        expiry = {s["identity"]: s["not_after_unix_s"] for s in n.cli("svid", "list")["svids"]}
        for e in sorted(n.cli("endpoint", "list")["endpoints"], key=lambda e: e["id"]):
            left = (expiry.get(e["identity"], 0) - time.time()) / 60
            met = [x["step"] for x in e["conditions"] if x["met"]]
            page.say(f"  {n.name:6} {e['id']:10} {','.join(e['labels']):18} {e['identity']:>8}  {e['spiffe_id']:34} "
                     f"{left:6.0f} min  {' '.join(met)}")
    page.say("\n  policy: db takes connections from app=frontend that have authenticated, and nothing else")


def connections(w, page):
    page.title("2. A pair that may")
    listener = w["db"].listen(PORT)
    sock, cold = w["frontend"].connect(w["db"], PORT)
    sock.close()
    warm = []
    for _ in range(20):
        sock, ms = w["frontend"].connect(w["db"], PORT)
        warm.append(ms)
        sock.close()
    retransmits = w["frontend"].ns.counters()["TcpExt.TCPSynRetrans"]
    page.check(cold < 500 and retransmits == 0,
               f"TCP frontend → db, cold: {cold:.1f} ms: the packet was held while node1 and node2 authenticated; SYN "
               f"retransmits: {retransmits}")
    page.check(True, f"TCP frontend → db, warm: {statistics.median(warm):.2f} ms (median of {len(warm)})")
    receiver, sender = w["db"].udp(PORT), w["web"].udp()
    receiver.settimeout(2)
    start = time.perf_counter()
    sender.sendto(b"hello", (w["db"].ip4, PORT))
    try:
        came = receiver.recv(100) == b"hello"
    except TimeoutError:
        came = False
    page.check(came, f"UDP web → db, first datagram: {'arrived' if came else 'lost'} after "
                     f"{(time.perf_counter() - start) * 1000:.1f} ms (a pair on one node)")
    receiver.close()
    sender.close()
    return listener


def refused(w, page):
    page.title("3. Pairs that may not")
    db, n2 = w["db"], w["db"].node
    receiver = db.udp(9999)
    receiver.settimeout(0.5)

    def attempt(what, node, reason, send):
        before = node.dropped().get(reason, 0)
        send()
        try:
            arrived = receiver.recv(100)
        except TimeoutError:
            arrived = None
        count = node.dropped().get(reason, 0) - before
        page.check(arrived is None and count > 0,
                   f"{what:66} {reason} ({node.name}: {count}); {'ARRIVED' if arrived else 'never arrived'}")

    def datagram(workload, source=None):
        def send():
            s = workload.udp() if source is None else borrowed(workload, source)
            s.sendto(b"let me in", (db.ip4, 9999))
            s.close()

        return send

    attempt("impostor (node3) → db: app=frontend, but an SVID of another CA", n2, "untrusted", datagram(w["impostor"]))
    attempt("batch (node1) → db: no rule names it", n2, "policy-deny", datagram(w["batch"]))
    attempt("batch borrows the address of frontend", w["batch"].node, "source-not-owned",
            datagram(w["batch"], w["frontend"].ip4))
    attempt("stranger (node1) → db: an address that nobody registered", n2, "policy-deny", datagram(w["stranger"]))
    receiver.close()


def borrowed(workload, address):
    """A socket that sends with somebody else's address."""
    workload.ns.ip("addr", "add", f"{address}/32", "dev", "lo")
    s = workload.socket(socket.SOCK_DGRAM)
    s.bind((address, 0))
    return s


def talks(sock, server):
    """Does what this end sends still arrive at the other?"""
    try:
        sock.sendall(b"still here?")
        server.settimeout(2)
        return server.recv(100) == b"still here?"
    except OSError:
        return False


def survive(w, listener, page):
    page.title("4. The auth map, and authd of node2 killed and started again")
    n2 = w["db"].node
    page.say(n2.run_cli("auth", "list").stdout.rstrip())
    sock, server = connection(w, listener)
    page.step("kill -9 of authd on node2")
    n2.kill("authd")
    page.check(talks(sock, server) and w["frontend"].reaches(w["db"], PORT),
               "authd is gone: the live pair goes on, its open connection and new ones")
    fresh = w["late"] = w["frontend"].node.workload("late", "k8s:app=frontend", "k8s:shift=late")
    fresh.register(wait="enforced,svid-ready")
    page.check(not fresh.reaches(w["db"], PORT, timeout=1.0), "authd is gone: a new pair fails closed")
    page.step("authd starts again")
    n2.start("authd")
    page.check(talks(sock, server) and w["frontend"].reaches(w["db"], PORT), "authd is back: the live pair still lives")
    page.check(reaches_soon(fresh, w["db"]), "authd is back: the new pair works")
    sock.close()
    server.close()


def connection(w, listener):
    """Both ends of a connection from frontend to db."""
    sock, _ = w["frontend"].connect(w["db"], PORT)
    while True:
        server, peer = listener.accept()
        if peer == sock.getsockname():
            return sock, server
        server.close()


def reaches_soon(workload, peer):
    """authd has to hear the directory first: the pair's own retransmissions wait for it."""
    return workload.reaches(peer, PORT, timeout=10)


def show(c, page):
    w = build(c, page)
    who_is_who(c, page)
    listener = connections(w, page)
    refused(w, page)
    survive(w, listener, page)
    listener.close()
    return w


def how_to_play(c, w, page):
    page.title("It runs on")
    n2, db = c.nodes[1], w["db"]
    page.say(f"""\
  the command line of node2:     alias cs2='{c.program("cli")} --instance {n2.instance}'
  who may talk, and until when:  cs2 auth list
  the daemons, and the rest:     cs2 status; cs2 --help
  from a workload that may:      nsenter --net=/run/netns/{w["frontend"].ns.name} ping -c 3 {db.ip4}
  from one that may not:         nsenter --net=/run/netns/{w["batch"].ns.name} ping -c 3 -W 1 {db.ip4}
  and why:                       cs2 auth explain {db.name} {w["batch"].ip4}
  forget all, and ping again:    cs2 auth flush --all
  the policies (edit them):      {c.policies}
  logs:                          {c.dir}/node*/*.log
  take it all away:              deploy/quickstart.sh --clean""")


def parse():
    parser = argparse.ArgumentParser(
        prog="deploy/quickstart.sh", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Three Countersign nodes on this machine, in network namespaces: who is who, a pair that may, pairs that may "
                    "not,\nand what survives a killed daemon. Installs what is missing, builds, and takes everything away at the end.",
        epilog="examples:\n  deploy/quickstart.sh           show it and clean up\n  deploy/quickstart.sh --keep    leave it running\n"
               "  deploy/quickstart.sh --clean   take away what --keep left\n")
    parser.add_argument("--keep", action="store_true", help="leave it running and say how to play with it")
    parser.add_argument("--clean", action="store_true", help="only take away what an earlier run left")
    return parser.parse_args()


def main():
    args = parse()
    page = Page()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start = time.monotonic()
    try:
        if args.clean:
            made = nodes.Made("cs")
            made.sweep()
            made.forget()
            page.say("what an earlier run left is taken away")
            return 0
        with nodes.Cluster(prefix="cs", keep=args.keep) as c:
            try:
                w = show(c, page)
            except BaseException:
                c.keep = False  # what is half built helps nobody
                raise
            if args.keep:
                how_to_play(c, w, page)
    except nodes.LabError as e:
        page.say(f"\n{page.paint('31', 'This did not work:')} {e}")
        return 1
    except KeyboardInterrupt:
        page.say("\ninterrupted; everything was taken away")
        return 130
    if not args.keep and not page.failed:
        page.say("\nEverything was taken away. deploy/quickstart.sh --keep leaves it running, to play with; README.md says where to "
                 "read on.")
    page.say(f"\n{time.monotonic() - start:.1f} s" + (f"; {len(page.failed)} of the above went wrong" if page.failed else ""))
    return 1 if page.failed else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    sys.exit(main())

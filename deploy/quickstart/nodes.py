"""Several Countersign nodes on one machine: a network namespace is a host, another one a workload behind it.

    bridge (namespace PREFIX-wire) ── PREFIX-node1 ── veth ── PREFIX-<workload>
                                   ── PREFIX-node2 ── ...

Used by the quickstart, by the integration tests and by the benchmarks. Every lab has a prefix of its own, so that several
can run at once; close() takes away everything that the lab made."""
import contextlib
import ctypes
import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)

PROGRAMS = {
    "identityd": "identity/countersign-identityd",
    "spire-adapter": "spire-adapter/countersign-spire-adapter",
    "authd": "authmap/countersign-authd",
    "handshaker": "authmap/handshaker/countersign-handshaker",
    "cli": "cli/countersign",
}
TRUST_DOMAIN = "example.org"


class LabError(Exception):
    """A sentence for the person who runs the lab."""


def sh(*args, check=True, timeout=30):
    p = subprocess.run(args, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout)
    if check and p.returncode != 0:
        raise LabError(f"{' '.join(args)}: {(p.stderr or p.stdout).strip()}")
    return p.stdout


class Netns:
    """A network namespace by name."""

    def __init__(self, name):
        self.name = name
        sh("ip", "netns", "add", name)
        self.sysctl("net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        self.ip("link", "set", "lo", "up")

    def ip(self, *args):
        return sh("ip", "-n", self.name, *args)

    def delete(self):
        sh("ip", "netns", "del", self.name, check=False)

    def enter(self):
        """A command prefix. Not `ip netns exec`, which mounts another /sys and so hides the bpffs."""
        return ["nsenter", f"--net=/run/netns/{self.name}"]

    def sh(self, *args, check=True, timeout=30):
        return sh(*self.enter(), *args, check=check, timeout=timeout)

    def sysctl(self, *settings):
        self.sh("sysctl", "-qw", *settings)

    def do(self, fn, *args):
        """fn(*args) in a thread that is in this namespace: sockets made there stay there."""
        out = []

        def inside():
            try:
                fd = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
                try:
                    if libc.setns(fd, CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), f"setns {self.name}")
                finally:
                    os.close(fd)
                out.append((fn(*args), None))
            except BaseException as e:  # handed to the caller
                out.append((None, e))

        t = threading.Thread(target=inside)
        t.start()
        t.join()
        value, error = out[0]
        if error:
            raise error
        return value

    def counters(self):
        """{"TcpExt.TCPTimeouts": 3, "Tcp.InCsumErrors": 0, ...} of this namespace, IPv6's too."""
        def read():
            found = {}
            for file in ("snmp", "netstat"):
                lines = Path(f"/proc/thread-self/net/{file}").read_text().splitlines()
                for names, values in zip(lines[::2], lines[1::2]):
                    group = names.split(":")[0]
                    found.update((f"{group}.{n}", int(v)) for n, v in zip(names.split()[1:], values.split()[1:]))
            for line in Path("/proc/thread-self/net/snmp6").read_text().splitlines():
                name, value = line.split()
                found[name] = int(value)
            return found

        return self.do(read)


class Workload:
    """A namespace behind a node's host-side interface, with one IPv4 and one IPv6 address."""

    def __init__(self, node, name, labels, number):
        self.node, self.name, self.labels = node, name, labels
        self.ip4, self.ip6 = f"10.77.{node.index}.{number}", f"fd77:0:0:{node.index}::{number:x}"
        self.interface = f"h{number}-{name}"[:15]
        self.ns = node.lab.netns(name)
        self.endpoint = None
        self._wire()

    def _wire(self):
        n, w = self.node.ns, self.ns
        n.ip("link", "add", self.interface, "type", "veth", "peer", "name", "eth0", "netns", w.name)
        w.ip("link", "set", "eth0", "up")
        w.ip("addr", "add", f"{self.ip4}/32", "dev", "eth0")
        w.ip("-6", "addr", "add", f"{self.ip6}/128", "dev", "eth0", "nodad")
        n.ip("link", "set", self.interface, "up")
        n.ip("addr", "add", "169.254.1.1/32", "dev", self.interface)  # the workload's gateway
        n.ip("-6", "addr", "add", "fe80::1/64", "dev", self.interface, "nodad")
        n.ip("route", "add", self.ip4, "dev", self.interface)
        n.ip("-6", "route", "add", self.ip6, "dev", self.interface)
        w.ip("route", "add", "169.254.1.1", "dev", "eth0", "scope", "link")
        w.ip("route", "add", "default", "via", "169.254.1.1", "dev", "eth0")
        w.ip("-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")

    def register(self, wait="enforced", timeout="10s"):
        args = ["endpoint", "register", "--id", self.name, "--interface", self.interface, "--address", self.ip4, "--address",
                self.ip6, "--wait", wait, "--timeout", timeout]
        for label in self.labels:
            args += ["--label", label]
        self.endpoint = self.node.cli(*args)
        return self.endpoint

    def unregister(self):
        return self.node.cli("endpoint", "unregister", self.name)

    # ---- traffic ----

    def socket(self, kind, family=4):
        return self.ns.do(socket.socket, socket.AF_INET if family == 4 else socket.AF_INET6, kind)

    def address(self, family=4):
        return self.ip4 if family == 4 else self.ip6

    def listen(self, port, family=4, backlog=256):
        s = self.socket(socket.SOCK_STREAM, family)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((self.address(family), port))
        s.listen(backlog)
        return s

    def udp(self, port=0, family=4):
        s = self.socket(socket.SOCK_DGRAM, family)
        s.bind((self.address(family), port))
        return s

    def connect(self, peer, port, family=4, timeout=3.0, source=None):
        """Connects by TCP to a Workload or an address: (socket, milliseconds). Raises OSError."""
        s = self.socket(socket.SOCK_STREAM, family)
        s.settimeout(timeout)
        if source:
            s.bind((source, 0))
        to = peer.address(family) if isinstance(peer, Workload) else peer
        start = time.perf_counter()
        try:
            s.connect((to, port))
        except OSError:
            s.close()
            raise
        return s, (time.perf_counter() - start) * 1000

    def reaches(self, peer, port, family=4, timeout=1.0):
        try:
            self.connect(peer, port, family, timeout)[0].close()
            return True
        except OSError:
            return False


class Daemon:
    """A running program of a node. Its log goes to a file."""

    def __init__(self, node, name, args):
        self.node, self.name = node, name
        self.log = node.dir / f"{name}.log"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = node.dir / f"{name}.notify"
        path.unlink(missing_ok=True)
        self.notify.bind(str(path))
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*node.ns.enter(), str(node.lab.program(name)), "--instance", str(node.instance), *args],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "NOTIFY_SOCKET": str(path)})

    def wait_ready(self, timeout=60):
        """Until READY=1 (sd_notify), or an error that quotes the log."""
        pidfd = os.pidfd_open(self.process.pid)
        end = time.monotonic() + timeout
        try:
            while True:
                ready, _, _ = select.select([self.notify, pidfd], [], [], max(0, end - time.monotonic()))
                if self.notify in ready and b"READY=1" in self.notify.recv(4096):
                    return
                if not ready or pidfd in ready:
                    what = "ended" if ready else f"is not ready after {timeout} s"
                    raise LabError(f"{self.name} of {self.node.name} {what}; the end of its log:\n{self.tail()}")
        finally:
            os.close(pidfd)

    def tail(self, lines=15):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def signal(self, number):
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self):
        """kill -9"""
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.notify.close()

    def stop(self, timeout=30):
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise LabError(f"{self.name} of {self.node.name} does not end by SIGTERM; its log:\n{self.tail()}") from None
        self.notify.close()
        return self.process.returncode


class Node:
    """A host: a namespace on the bridge, an instance directory, daemons."""

    def __init__(self, lab, index):
        self.lab, self.index, self.name = lab, index, f"node{index}"
        self.address, self.address6 = f"10.77.0.{index}", f"fd77::{index:x}"
        self.dir = lab.dir / self.name
        self.dir.mkdir()
        self.instance = self.dir / f"{lab.prefix}-{self.name}"
        self.daemons, self.settings, self.exporter = {}, {}, None
        self.workloads = 0
        self.ns = lab.netns(self.name)
        lab.defer(self.stop_all)
        self._wire()

    def _wire(self):
        end = f"p{self.index}"
        self.lab.wire.ip("link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", self.ns.name)
        self.lab.wire.ip("link", "set", end, "master", "br0", "up")
        self.ns.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
                   "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0")
        self.ns.ip("addr", "add", f"{self.address}/24", "dev", "eth0")
        self.ns.ip("-6", "addr", "add", f"{self.address6}/64", "dev", "eth0", "nodad")
        self.ns.ip("link", "set", "eth0", "up")
        for other in self.lab.nodes:
            for a, b in ((self, other), (other, self)):
                a.ns.ip("route", "add", f"10.77.{b.index}.0/24", "via", b.address)
                a.ns.ip("-6", "route", "add", f"fd77:0:0:{b.index}::/64", "via", b.address6)

    def workload(self, name, *labels):
        self.workloads += 1
        w = Workload(self, name, labels, 9 + self.workloads)
        self.lab.workloads[name] = w
        return w

    def start(self, *names, **settings):
        """Starts daemons and waits until they are ready. settings: {"auth.max_ttl": "10s"} by daemon name."""
        for name in names:
            self.daemons[name] = Daemon(self, name, self.lab.arguments(self, name, settings.get(name.replace("-", "_"), {})))
        for name in names:
            self.daemons[name].wait_ready()

    def stop_all(self):
        if self.exporter:
            self.exporter.terminate()
            self.exporter.wait(10)
            self.exporter.stderr.close()
            self.exporter = None
        for name in reversed(list(self.daemons)):
            with contextlib.suppress(LabError):
                self.daemons.pop(name).stop()

    def kill(self, name):
        """kill -9"""
        self.daemons.pop(name).kill()

    def stop(self, name):
        """SIGTERM; the exit code."""
        return self.daemons.pop(name).stop()

    def cli(self, *args, timeout=30):
        """The answer of the command line, parsed. Raises LabError with what it said."""
        p = self.run_cli(*args, "-o", "json", timeout=timeout)
        if p.returncode != 0:
            raise LabError(f"countersign {' '.join(args)}: {(p.stderr or p.stdout).strip()}")
        return json.loads(p.stdout) if p.stdout.strip() else None

    def run_cli(self, *args, timeout=30):
        return subprocess.run([*self.ns.enter(), str(self.lab.program("cli")), "--instance", str(self.instance), *args],
                              capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout)

    def metrics(self):
        """{"name{labels}": value} of all daemons of this node, through `countersign exporter`."""
        if self.exporter is None:
            self.exporter = subprocess.Popen(
                [*self.ns.enter(), str(self.lab.program("cli")), "exporter", "--instance", str(self.instance)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            self.exporter.stderr.readline()  # "serving"
        text = self.ns.do(lambda: urllib.request.urlopen("http://127.0.0.1:9964/metrics", timeout=10).read().decode())
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    def dropped(self):
        """{reason: packets} that this node dropped: in the datapath, both hooks, and among those that were held."""
        found = {}
        for name, value in self.metrics().items():
            m = re.match(r'countersign_(?:hold_)?dropped_packets_total\{.*reason="([a-z0-9-]+)"', name)
            if m and 'would="true"' not in name:
                found[m[1]] = found.get(m[1], 0) + int(value)
        return found

    def address_list(self):
        return f"{self.address},{self.address6}"


class Made:
    """What labs of a prefix made and did not take away: they were killed, or told to keep it. A list in /run, which goes with
    the namespaces when the machine starts anew, so that nothing is taken away because of its name alone. Who has it open is
    the one lab of this prefix."""

    def __init__(self, prefix):
        self.prefix, self.path = prefix, Path(f"/run/countersign-lab-{prefix}")
        self.file = open(self.path, "a+")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            gone = not self.path.exists() or not os.path.samestat(self.path.stat(), os.fstat(self.file.fileno()))
        except BlockingIOError:
            gone = True
        if gone:
            self.file.close()
            raise LabError(f"another lab with the prefix '{prefix}' runs on this machine; wait until it ends")

    def note(self, kind, name):
        """Before it is made, or a kill between the two would leave it for good."""
        self.file.write(f"{kind} {name}\n")
        self.file.flush()

    def sweep(self):
        self.file.seek(0)
        for kind, name in (line.split(maxsplit=1) for line in self.file.read().splitlines()):
            if kind == "dir":
                shutil.rmtree(name, ignore_errors=True)
            elif Path("/run/netns", name).exists():
                for pid in sh("ip", "netns", "pids", name, check=False).split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                sh("ip", "netns", "del", name, check=False)
        self.unpin()
        self.file.truncate(0)

    def unpin(self):
        base = Path("/sys/fs/bpf/countersign")
        for instance in base.glob(f"{self.prefix}-node*") if base.exists() else []:
            shutil.rmtree(instance, ignore_errors=True)
        with contextlib.suppress(OSError):
            base.rmdir()

    def forget(self):
        """All is taken away."""
        self.path.unlink()
        self.file.close()


class Cluster:
    """node1 runs identityd as --role all, the others follow it. All in one temporary directory."""

    def __init__(self, prefix="cs", build=None, placement=None, keep=False):
        self.prefix, self.placement, self.keep = prefix, placement or {}, keep
        self.build = Path(build or os.environ.get("CS_BUILD", ROOT / "build/release"))
        self.cleanups, self.nodes, self.workloads = [], [], {}
        missing = [p for p in PROGRAMS.values() if not (self.build / p).exists()]
        if missing:
            raise LabError(f"not built yet: {', '.join(Path(p).name for p in missing)} (cmake --build --preset release)")
        if not os.path.ismount("/sys/fs/bpf"):
            sh("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")
        self.made = Made(prefix)
        self.made.sweep()
        self.defer(self.made.forget)
        self.dir = Path(tempfile.mkdtemp(prefix=f"{prefix}-lab-"))
        self.made.note("dir", self.dir)
        self.defer(shutil.rmtree, self.dir, True)
        self.dir.chmod(0o755)
        self.defer(self.made.unpin)
        self.policies = self.dir / "policies"
        self.policies.mkdir()
        self.wire = self.netns("wire")
        self.wire.ip("link", "add", "br0", "type", "bridge")
        self.wire.ip("link", "set", "br0", "up")

    def program(self, name):
        return self.build / PROGRAMS[name]

    def netns(self, name):
        """A namespace of this lab."""
        name = f"{self.prefix}-{name}"
        if Path("/run/netns", name).exists():
            raise LabError(f"there is a network namespace {name} already, and no lab of this prefix made it; see ip netns pids "
                           f"{name}, and delete it if nobody needs it: ip netns del {name}")
        self.made.note("netns", name)
        ns = Netns(name)
        self.defer(ns.delete)
        return ns

    def defer(self, fn, *args):
        self.cleanups.append((fn, args))

    def close(self):
        while self.cleanups:
            fn, args = self.cleanups.pop()
            fn(*args)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if not self.keep:
            self.close()

    # ---- building a cluster ----

    def node(self):
        n = Node(self, len(self.nodes) + 1)
        self.nodes.append(n)
        return n

    def policy(self, name, text):
        """A policy file; the cluster role sees the change by itself."""
        new = self.dir / f".{name}.new"
        new.write_text(text)
        new.rename(self.policies / f"{name}.yaml")

    def credentials(self):
        """The CA of the nodes' own mTLS, a certificate for each node, and one for the server."""
        adapter = [str(self.program("spire-adapter")), "--set", f"trust_domain={TRUST_DOMAIN}", "--set",
                   f"local_ca.dir={self.dir / 'ca'}"]
        sh(*adapter, "--ca-init")
        sh(*adapter, "--issue-server", "--out", str(self.nodes[0].dir / "tls"))
        for n in self.nodes[1:]:
            sh(*adapter, "--issue-node", n.name, "--out", str(n.dir / "tls"))

    def defaults(self, node, daemon):
        """Settings of a daemon; node.settings[daemon] goes over them."""
        first = self.nodes[0]
        tls = node.dir / "tls"
        return {
            "identityd": {
                "role": "all" if node is first else "node",
                "trust_domain": TRUST_DOMAIN,
                "node.name": node.name,
                "node.addresses": node.address_list(),
                "tls.cert": tls / "svid.pem", "tls.key": tls / "svid.key", "tls.bundle": tls / "bundle.pem",
                **({"policy.dir": self.policies, "cluster.listen": f"{first.address}:4251", **self.placement}
                   if node is first else {"cluster.server": f"{first.address}:4251"}),
            },
            "spire-adapter": {"trust_domain": TRUST_DOMAIN, "node.name": node.name, "local_ca.dir": self.dir / "ca"},
            "authd": {"handshaker.path": self.program("handshaker"), "handshaker.user": "nobody"},
        }[daemon]

    def arguments(self, node, daemon, more):
        settings = {**self.defaults(node, daemon), **node.settings.get(daemon, {}), **more}
        return [a for key, value in settings.items() for a in ("--set", f"{key}={value}")]

    def start(self, *daemons):
        """All nodes, in the order in which they need each other."""
        for daemon in daemons or ("identityd", "spire-adapter", "authd"):
            for n in self.nodes:
                n.start(daemon)

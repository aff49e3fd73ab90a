"""Network namespaces as hosts. Sockets are opened inside a namespace and then used from anywhere, so a test needs no
second process to be somebody else on the network."""
import contextlib
import ctypes
import os
import socket
import subprocess
import uuid

_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


def run(*words, check=True):
    p = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if check and p.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: {p.stderr.strip() or p.stdout.strip()}")
    return p.stdout


def _setns(fd):
    if _libc.setns(fd, CLONE_NEWNET) < 0:
        raise OSError(ctypes.get_errno(), "setns")


class Netns:
    """A network namespace of this test, gone with close()."""

    def __init__(self, label, forward=False):
        self.name = f"cst-{uuid.uuid4().hex[:6]}-{label}"
        run("ip", "netns", "add", self.name)
        self.path = f"/run/netns/{self.name}"
        self.ip("link", "set", "lo", "up")
        # No duplicate address detection: a test does not wait for the kernel to doubt.
        self.sysctl("net.ipv6.conf.all.accept_dad", 0)
        self.sysctl("net.ipv6.conf.default.accept_dad", 0)
        if forward:
            self.sysctl("net.ipv4.ip_forward", 1)
            self.sysctl("net.ipv6.conf.all.forwarding", 1)

    def close(self):
        run("ip", "netns", "del", self.name, check=False)

    def ip(self, *words):
        return run("ip", "-n", self.name, *words)

    def exec(self, *words, check=True):
        return run("nsenter", f"--net={self.path}", *words, check=check)

    def sysctl(self, name, value):
        with self.entered(), open("/proc/sys/" + name.replace(".", "/"), "w") as f:
            f.write(str(value))

    @contextlib.contextmanager
    def entered(self):
        here = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(self.path, os.O_RDONLY)
        try:
            _setns(there)
            yield
        finally:
            _setns(here)
            os.close(here)
            os.close(there)

    def socket(self, *args, timeout=2.0):
        with self.entered():
            s = socket.socket(*args)
        s.settimeout(timeout)
        return s

    def udp(self, ip, port=0, timeout=2.0):
        s = self.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM, timeout=timeout)
        s.bind((ip, port))
        return s

    def listen(self, ip, port=0):
        s = self.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((ip, port))
        s.listen(16)
        return s

    def packet(self, ifname, timeout=0.0):
        """An AF_PACKET socket that sees, and sends, whole frames of one interface."""
        s = self.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3), timeout=timeout)
        s.setsockopt(263, 23, 1)  # SOL_PACKET, PACKET_IGNORE_OUTGOING: only what arrives
        s.bind((ifname, 3))
        return s

    def ifindex(self, ifname):
        with self.entered():
            return socket.if_nametoindex(ifname)

    def mac(self, ifname):
        with self.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
            s.bind((ifname, 0))
            return s.getsockname()[4].hex(":")

    def netstat(self, name):
        """A counter of /proc/net/snmp, snmp6 or netstat by its name, e.g. Tcp:InCsumErrors or Udp6InCsumErrors."""
        # /proc/net is the main thread's; this one may be in another namespace.
        table, _, field = name.rpartition(":")
        with self.entered():
            text = {f: open(f"/proc/thread-self/net/{f}").read() for f in ("snmp", "netstat", "snmp6")}
        if not table:
            for line in text["snmp6"].splitlines():
                key, value = line.split()
                if key == name:
                    return int(value)
            raise KeyError(name)
        lines = (text["snmp"] + text["netstat"]).splitlines()
        for names, values in zip(lines[::2], lines[1::2]):
            if names.split()[0] == table + ":":
                return int(dict(zip(names.split()[1:], values.split()[1:]))[field])
        raise KeyError(name)


def veth(a, a_name, b, b_name, mtu=1500):
    run("ip", "link", "add", a_name, "netns", a.name, "mtu", mtu, "type", "veth", "peer", "name", b_name, "netns",
        b.name, "mtu", mtu)
    a.ip("link", "set", a_name, "up")
    b.ip("link", "set", b_name, "up")


def address(ns, ifname, *addresses):
    for a in addresses:
        ns.ip("addr", "add", a, "dev", ifname, *(["nodad"] if ":" in a else []))

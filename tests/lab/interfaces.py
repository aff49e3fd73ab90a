"""Links for endpoints in this network namespace."""
import itertools
import os
import subprocess

_numbers = itertools.count()


class Interfaces:
    """veth pairs in this network namespace with names of their own; gone at the end."""

    def __init__(self):
        self.names = []

    def new(self, kind="veth", name=None):
        name = name or f"ci{os.getpid() % 100000}n{next(_numbers)}"
        more = ["peer", "name", f"{name}p"] if kind == "veth" else []
        subprocess.run(["ip", "link", "add", name, "type", kind, *more], check=True)
        self.names.append(name)
        return name

    def macvlan(self, parent):
        name = f"ci{os.getpid() % 100000}n{next(_numbers)}"
        subprocess.run(["ip", "link", "add", name, "link", parent, "type", "macvlan"], check=True)
        self.names.insert(0, name)
        return name

    def delete(self, name):
        subprocess.run(["ip", "link", "del", name], check=True)
        self.names.remove(name)

    def close(self):
        for name in self.names[:]:
            subprocess.run(["ip", "link", "del", name], check=False)

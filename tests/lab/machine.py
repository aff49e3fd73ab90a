"""A machine of its own, as far as a page of documentation can tell: network, processes, host name, and an /etc, /run, /var and
/usr/local that nobody else sees. Commands go to one shell in it, as a person would type them."""
import os
import queue
import subprocess
import threading
import time
from pathlib import Path

from lab.cluster import sh
from lab.daemon import ROOT, WAIT_S

OVERLAID = ("/etc", "/var", "/usr/local")
SETUP = """
mount -t tmpfs tmpfs {dir}
for d in {overlaid}; do
	mkdir -p {dir}$d/new {dir}$d/work
	mount -t overlay overlay -o lowerdir=$d,upperdir={dir}$d/new,workdir={dir}$d/work $d
done
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
hostname {name}
ip link set lo up
echo ready
exec sleep infinity
"""


class Machine:
    def __init__(self, name, dir, path=()):
        """path: directories that are in PATH before all others."""
        self.name = name
        dir.mkdir()
        setup = SETUP.format(dir=dir, overlaid=" ".join(OVERLAID), name=name)
        self.process = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc", "sh", "-ec", setup],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        self.pid = int(open(children, encoding="ascii").read().split()[0])
        env = {k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"}
        env["PATH"] = ":".join([*map(str, path), "/usr/local/sbin", "/usr/local/bin", env["PATH"]])
        self.shell = subprocess.Popen(["nsenter", "-t", str(self.pid), "-n", "-m", "-p", "-u", "-i", "bash"], cwd=ROOT, env=env,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.shell.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def type(self, text, timeout=WAIT_S):
        """What the commands print; each must succeed."""
        self.shell.stdin.write(f"trap 'echo FAILED: $BASH_COMMAND' ERR\n{text}\ntrap - ERR\necho 'end of the block'\n")
        self.shell.stdin.flush()
        out, end = "", time.monotonic() + timeout
        while True:
            try:
                line = self.lines.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{self.name}: no end within {timeout} s:\n{text}\n{out}\n{self.logs()}") from None
            assert line is not None, f"{self.name}: the shell ended:\n{out}"
            if line == "end of the block\n":
                assert "FAILED: " not in out, f"{self.name}:\n{text}\n{out}\n{self.logs()}"
                return out
            out += line

    def logs(self):
        """The last lines of what programs said into /var/log."""
        logs = sorted(self.file("/var/log").glob("*spire*.log")) + sorted(self.file("/var/log").glob("countersign-*.log"))
        return "\n".join(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-10:]) for log in dict.fromkeys(logs))

    def file(self, path):
        """A file of it, as seen from outside."""
        return Path(f"/proc/{self.pid}/root{path}")

    def close(self):
        self.process.kill()  # and with it all that it has started
        self.process.wait()
        self.shell.stdin.close()
        self.shell.wait(WAIT_S)
        self.process.stdout.close()


def wire(one, two, addresses):
    """A cable between two machines, with these addresses at its ends, `ADDRESS/LENGTH`."""
    ends = [f"/proc/{m.pid}/ns/net" for m in (one, two)]
    sh("nsenter", f"--net={ends[0]}", "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(two.pid))
    for end, address in zip(ends, addresses):
        sh("nsenter", f"--net={end}", "ip", "address", "add", address, "dev", "eth0")
        sh("nsenter", f"--net={end}", "ip", "link", "set", "eth0", "up")

"""Starts a daemon of ours and waits for its READY=1, by the protocol that a service manager speaks."""
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from lab.process import as_user

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("CS_BUILD", ROOT / "build/release"))
WAIT_S = 60  # for anything that should happen at once; sanitizers and a busy machine are slow
NOBODY = 65534


class Daemon:
    """user: run as this uid; limits: a command line before its own, as of prlimit; wait=False: do not wait for READY=1."""

    def __init__(self, program, *args, user=None, wait=True, limits=()):
        self.dir = tempfile.mkdtemp(prefix="cs-daemon-")
        os.chmod(self.dir, 0o777)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(f"{self.dir}/notify")
        os.chmod(f"{self.dir}/notify", 0o777)
        self.log = open(f"{self.dir}/log", "w+b")

        self.process = subprocess.Popen(
            [*limits, *as_user(user), str(BUILD / program), *map(str, args)], stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=self.log, env={**os.environ, "NOTIFY_SOCKET": f"{self.dir}/notify"})
        if wait:
            self.wait_ready()

    @property
    def pid(self):
        return self.process.pid

    def output(self):
        return Path(f"{self.dir}/log").read_text()

    def wait_ready(self):
        end = time.monotonic() + WAIT_S
        pidfd = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else None
        try:
            while True:
                left = max(0, end - time.monotonic())
                ready, _, _ = select.select([self.notify, pidfd], [], [], left)
                assert ready, f"not ready within {WAIT_S} s:\n{self.output()}"
                if self.notify in ready and b"READY=1" in self.notify.recv(4096):
                    return
                assert self.notify in ready, f"ended with {self.process.wait()}:\n{self.output()}"
        finally:
            os.close(pidfd)

    def wait(self):
        return self.process.wait(WAIT_S)

    def kill(self):
        """kill -9: nothing is cleaned up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """SIGTERM; the exit code must be 0, and a sanitizer must have had nothing to say."""
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(WAIT_S)
        out = self.output()
        self.clean()
        assert code == 0, f"exit code {code}:\n{out}"
        return out

    def clean(self):
        if self.process.poll() is None:
            self.kill()
        self.notify.close()
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)

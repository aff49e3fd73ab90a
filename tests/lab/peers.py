"""Third parties in Go, tests/peers/: one module, each program a folder of it, built into build/peers/ when a test first asks.

A machine without Go, or with one that is too old for the modules, skips what needs them; a build that fails is a failure."""
import fcntl
import functools
import os
import re
import shutil
import subprocess

from lab.daemon import ROOT

MODULE = ROOT / "tests/peers"
BUILT = ROOT / "build/peers"
BUILD_S = 600  # with an empty cache, on a busy machine
GO = {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}  # what is installed, and nothing that it would fetch instead


def numbers(version):
    return tuple(map(int, re.findall(r"\d+", version)))


@functools.cache
def missing():
    """Why there are no peers here; None: they can be built."""
    if not (go := shutil.which("go")):
        return "no go in PATH"
    wanted = re.search(r"^go (\S+)$", (MODULE / "go.mod").read_text(), re.M)[1]
    said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, env={**os.environ, **GO}, cwd="/")
    if not (version := said.stdout.strip()):
        return f"go does not work: {said.stderr.strip()}"
    return None if numbers(version) >= numbers(wanted) else f"{version} is older than go {wanted}, which the modules ask for"


@functools.cache
def program(name):
    """The path of a program, which is up to date: Go's own cache says what is to be built."""
    assert not missing(), missing()
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / ".lock").open("w") as lock:  # test files may run at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(["go", "build", "-trimpath", "-o", BUILT / name, f"./{name}"], cwd=MODULE, text=True,
                              capture_output=True, timeout=BUILD_S, env={**os.environ, **GO})
    assert done.returncode == 0, f"tests/peers/{name} does not build:\n{done.stdout}{done.stderr}"
    return BUILT / name

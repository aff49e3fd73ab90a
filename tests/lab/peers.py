"""Third parties in Go, tests/peers/: one module, each program a folder of it, built into build/peers/ when a test first asks.

A machine without Go, with one that is too old for the modules, or that cannot fetch them, skips what needs them; a build that
fails is a failure, and so is a module that is not what go.sum says."""
import contextlib
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
# What is installed, and nothing that it would fetch instead; a tree of another owner is none that git answers for.
GO = {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": f"{os.environ.get('GOFLAGS', '')} -buildvcs=false".strip()}


@contextlib.contextmanager
def locked():
    """Test files may run at once."""
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(*args):
    return subprocess.run(args, cwd=MODULE, text=True, capture_output=True, timeout=BUILD_S, env={**os.environ, **GO})


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
    if numbers(version) < numbers(wanted):
        return f"{version} is older than go {wanted}, which the modules ask for"
    with locked():
        fetched = run(go, "list", "-deps", "-f", "", "./...")
    assert "SECURITY ERROR" not in fetched.stderr, fetched.stderr
    return f"Go's modules cannot be had here: {fetched.stderr.strip().splitlines()[-1]}" if fetched.returncode else None


@functools.cache
def program(name):
    """The path of a program, which is up to date: Go's own cache says what is to be built."""
    assert not missing(), missing()
    with locked():
        done = run("go", "build", "-trimpath", "-o", BUILT / name, f"./{name}")
    assert done.returncode == 0, f"tests/peers/{name} does not build:\n{done.stdout}{done.stderr}"
    return BUILT / name

"""What `cmake --install` puts where, and how the programs are linked."""
import os
import re
import subprocess
from pathlib import Path

import pytest

from lab.tree import ROOT, tracked

BUILD = Path(os.environ.get("CS_BUILD", ROOT / "build/release"))
PREFIX = "/usr/local"  # CMake's own
DAEMONS = ["identityd", "spire-adapter", "authd", "registrar"]
SERVICES = DAEMONS + ["identityd-cluster"]
UNITS = [f"lib/systemd/system/countersign-{d}.service" for d in SERVICES] + ["lib/sysusers.d/countersign.conf"]
PROGRAMS = ["bin/countersign", "sbin/countersign-identityd", "sbin/countersign-spire-adapter", "sbin/countersign-authd",
            "sbin/countersign-registrar",
            "libexec/countersign/countersign-handshaker"]
INTERNAL = {"libexec/countersign/countersign-handshaker"}  # nobody starts it by hand


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    stage = tmp_path_factory.mktemp("stage")
    subprocess.run(["cmake", "--install", BUILD], env={**os.environ, "DESTDIR": str(stage)}, check=True,
                   stdout=subprocess.DEVNULL)
    return Path(f"{stage}{PREFIX}")


def installed(staged, under="."):
    return {str(p.relative_to(staged)) for p in (staged / under).rglob("*") if p.is_file()}


def test_every_program_is_in_its_place_and_nothing_else_is(staged):
    assert not any(p for p in staged.parents[1].iterdir() if p != staged.parent)
    assert {f for f in installed(staged) if not f.startswith(("include/", "share/man/"))} == set(PROGRAMS + UNITS)
    for program in PROGRAMS:
        assert (staged / program).stat().st_mode & 0o7777 == 0o755


def test_the_contracts_are_installed(staged):
    contracts = {f for f in tracked("include/*") if f.endswith((".h", ".proto"))}
    assert installed(staged, "include") == contracts and len(contracts) > 10


def test_an_installed_contract_compiles_by_itself(staged, tmp_path):
    for header in sorted((staged / "include/countersign").glob("*.h")):
        source = tmp_path / "probe.c"
        source.write_text(f"#include <countersign/{header.name}>\n")
        p = subprocess.run(["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", f"-I{staged}/include", "-fsyntax-only", source],
                           capture_output=True, text=True)
        assert p.returncode == 0, p.stderr


@pytest.mark.parametrize("program", [p for p in PROGRAMS if p not in INTERNAL])
def test_an_installed_program_runs_and_has_its_manual(staged, program):
    name = Path(program).name
    p = subprocess.run([staged / program, "--version"], capture_output=True, text=True)
    assert p.returncode == 0 and re.fullmatch(rf"{name} \d+\.\d+\.\d+\n", p.stdout), p
    section = 1 if program.startswith("bin/") else 8
    manual = staged / f"share/man/man{section}/{name}.{section}"
    p = subprocess.run(["groff", "-mandoc", "-ww", "-z", "-Tutf8", manual], capture_output=True, text=True)
    assert p.returncode == 0 and p.stderr == "", p.stderr


def test_authd_looks_for_the_handshaker_where_it_is_installed(staged):
    p = subprocess.run([staged / "sbin/countersign-authd", "--help"], capture_output=True, text=True)
    assert f"{PREFIX}/libexec/countersign/countersign-handshaker" in p.stdout


# ---- hardening ----

def complaints(program):
    """What is missing in how it is linked."""
    said = subprocess.run(["readelf", "-hldW", "--dyn-syms", program], capture_output=True, text=True, check=True,
                          env={**os.environ, "LC_ALL": "C"}).stdout
    stack = re.search(r"^\s*GNU_STACK\s.*?\s([RWE]+)\s+0x", said, re.M)
    checks = {
        "position independent": re.search(r"^\s*Type:\s+DYN", said, re.M) and re.search(r"\(FLAGS_1\).*\bPIE\b", said),
        "relro": re.search(r"^\s*GNU_RELRO", said, re.M),
        "bind now": re.search(r"\(FLAGS\).*\bBIND_NOW\b", said) or re.search(r"\(FLAGS_1\).*\bNOW\b", said),
        "stack not executable": stack and stack[1] == "RW",
        "nothing both writable and executable": not re.search(r"^\s*LOAD\s.*\sRWE\s", said, re.M),
        "no text relocations": not re.search(r"\(TEXTREL\)", said),
        "no search path of its own": not re.search(r"\((RPATH|RUNPATH)\)", said),
        "stack protector": "__stack_chk_fail" in said,
        "fortified": re.search(r"__\w+_chk@", said.replace("__stack_chk_fail", "")),
    }
    return {name for name, good in checks.items() if not good}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_is_hardened(staged, program):
    assert complaints(staged / program) == set()


def test_a_program_that_is_not_hardened_is_found(tmp_path):
    source, program = tmp_path / "soft.c", tmp_path / "soft"
    source.write_text("int main(void) { return 0; }\n")
    subprocess.run(["cc", "-no-pie", "-fno-stack-protector", "-Wl,-z,norelro,-z,lazy,-z,execstack,-rpath,/tmp", "-o", program, source],
                   check=True, stderr=subprocess.DEVNULL)
    assert complaints(program) == {"position independent", "relro", "bind now", "stack not executable", "stack protector",
                                   "no search path of its own", "fortified"}


@pytest.mark.parametrize("daemon", SERVICES)
def test_a_unit_starts_what_is_installed(staged, daemon):
    unit = (staged / f"lib/systemd/system/countersign-{daemon}.service").read_text()
    command = next(line for line in unit.splitlines() if line.startswith("ExecStart=")).removeprefix("ExecStart=").split()[0]
    assert not re.search(r"@\w+@", unit) and (staged.parents[1] / command.lstrip("/")).exists()

"""Runs the groups of tests and counts their cases. Called by tests/run.sh.

A C test program speaks TAP (cmocka), a Python test writes JUnit XML (pytest), anything else is one case that its
exit code decides. The last line is `N passed, N failed, N skipped`."""
import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 900  # of one program or one Python file


class Tally:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.failures = []

    def add(self, name, passed, failed, skipped, seconds, output="", skips=()):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped
        word = "FAILED" if failed else "ok"
        rest = f", {failed} failed" if failed else ""
        rest += f", {skipped} skipped" if skipped else ""
        print(f"  {word:6} {name:46} {passed:4} passed{rest}  {seconds:6.1f} s", flush=True)
        for reason in skips:
            print(f"         skipped: {reason}")
        if failed:
            self.failures.append(name)
            lines = output.strip().splitlines()
            shown = lines if len(lines) <= 80 else lines[:15] + ["[...]"] + lines[-60:]
            print("\n".join("       | " + line for line in shown), flush=True)


def run(args, env=None, timeout=TIMEOUT_S):
    start = time.monotonic()
    try:
        p = subprocess.run(args, cwd=ROOT, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout)
        code, out = p.returncode, p.stdout
    except subprocess.TimeoutExpired as e:
        code, out = -1, (e.stdout or b"") + b"\n(no end within %d s)" % timeout
    return code, out.decode(errors="replace"), time.monotonic() - start


def one(tally, name, args, env=None, timeout=TIMEOUT_S):
    code, out, seconds = run(args, env, timeout)
    tally.add(name, int(code == 0), int(code != 0), 0, seconds, out)
    return code == 0


def build(tally, preset):
    return one(tally, f"configure {preset}", ["cmake", "--preset", preset]) and one(
        tally, f"build {preset}", ["cmake", "--build", "--preset", preset], timeout=1800)


def tap(tally, name, program, env=None):
    code, out, seconds = run([str(program)], {"CMOCKA_MESSAGE_OUTPUT": "TAP", **(env or {})})
    skips = re.findall(r"^ok \d+ .*# SKIP ?(.*)$", out, re.M | re.I)
    good = len(re.findall(r"^ok \d+", out, re.M)) - len(skips)
    bad = len(re.findall(r"^not ok \d+", out, re.M))
    if bad == 0 and (code != 0 or good + len(skips) == 0):
        bad = 1  # it crashed, leaked, or ran nothing
    tally.add(name, good, bad, len(skips), seconds, out, skips)


def unit(tally, preset):
    if not build(tally, preset):
        return
    for program in sorted((ROOT / "build" / preset / "unit").iterdir()):
        if program.name.startswith("test_") and os.access(program, os.X_OK) and program.is_file():
            tap(tally, f"{preset}: {program.name[5:]}", program)


def python(tally, preset, path):
    with tempfile.NamedTemporaryFile(suffix=".xml") as xml:
        code, out, seconds = run(
            ["/usr/bin/python3", "-m", "pytest", "-q", "-x" if "CS_FAIL_FAST" in os.environ else "-q", "--tb=short",
             "-p", "no:cacheprovider", f"--junitxml={xml.name}", str(path.relative_to(ROOT))],
            {"CS_BUILD": str(ROOT / "build" / preset), "PYTHONDONTWRITEBYTECODE": "1"})
        try:
            suite = next(ET.parse(xml.name).getroot().iter("testsuite"))
            total = int(suite.get("tests"))
            bad = int(suite.get("failures")) + int(suite.get("errors"))
            skipped = int(suite.get("skipped"))
            skips = [f"{c.get('name')}: {s.get('message')}" for c in suite.iter("testcase") for s in c.iter("skipped")]
        except (ET.ParseError, StopIteration):
            total, bad, skipped, skips = 1, 1, 0, []
    if code != 0 and bad == 0:
        bad, total = 1, total + 1
    tally.add(f"{preset}: {path.stem[5:]}", total - bad - skipped, bad, skipped, seconds, out, skips)


def integration(tally, preset):
    if not build(tally, preset):
        return
    for path in sorted((ROOT / "tests" / "integration").glob("test_*.py")):
        python(tally, preset, path)


def sanitizers(tally):
    unit(tally, "asan-ubsan")
    integration(tally, "asan-ubsan")


def fuzz(tally):
    seconds = os.environ.get("FUZZ_SECONDS", "10")
    if not build(tally, "fuzz"):
        return
    for target in sorted((ROOT / "build" / "fuzz" / "fuzz").glob("fuzz_*")):
        name = target.name[5:]
        corpora = [str(d) for d in (ROOT / "tests" / "fuzz").glob(f"*/corpus/{name}")]
        corpora += [str(d) for d in (ROOT / "build" / "fuzz").glob(f"tests/fuzz/*/corpus/{name}")]
        with tempfile.TemporaryDirectory() as work:
            one(tally, f"fuzz {name} for {seconds} s",
                [str(target), f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", "-verbosity=0",
                 "-print_final_stats=1", f"-artifact_prefix={work}/", work, *corpora])


def sources(*patterns):
    out = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return out.split()


def format_(tally):
    one(tally, "clang-format", ["clang-format", "--dry-run", "-Werror", *sources("*.c", "*.h")])
    for script in [s for s in sources() if (ROOT / s).is_file() and (ROOT / s).open("rb").read(9) == b"#!/bin/sh"]:
        one(tally, f"shell syntax {script}", ["sh", "-n", script])
    one(tally, "python syntax", ["/usr/bin/python3", "-c",
                                 "import ast,sys; [ast.parse(open(f).read(), f) for f in sys.argv[1:]]",
                                 *sources("*.py")])


def quickstart(tally):
    one(tally, "deploy/quickstart.sh", ["deploy/quickstart.sh"])


def tsan(tally):
    if build(tally, "tsan"):
        for name in ("lib", "identity", "spire-adapter"):
            for program in sorted((ROOT / "build" / "tsan" / "unit").glob(f"test_{name}_*")):
                tap(tally, f"tsan: {program.name[5:]}", program)


GROUPS = {
    "format": ("clang-format, shell and Python syntax", format_),
    "unit": ("unit tests, gcc, release build", lambda t: unit(t, "release")),
    "clang": ("unit tests, clang, release build", lambda t: unit(t, "clang")),
    "integration": ("daemons, namespaces and third parties, release build", lambda t: integration(t, "release")),
    "quickstart": ("the main job, as a newcomer runs it", quickstart),
    "sanitizers": ("unit and integration tests under ASan and UBSan", sanitizers),
    "tsan": ("unit tests of the rooms with worker threads under TSan", tsan),
    "fuzz": ("every parser under libFuzzer, FUZZ_SECONDS each (10)", fuzz),
}


def main():
    parser = argparse.ArgumentParser(
        prog="tests/run.sh", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Installs what is missing, builds, and runs the tests. Exit code 0: nothing failed.",
        epilog="examples:\n  tests/run.sh                     everything\n  tests/run.sh unit fuzz           two groups\n"
               "  FUZZ_SECONDS=600 tests/run.sh fuzz\n")
    parser.add_argument("--list", action="store_true", help="name the groups")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help="only these groups (default: all)")
    args = parser.parse_args()
    if args.list:
        for name, (what, _) in GROUPS.items():
            print(f"{name:12} {what}")
        return 0
    unknown = [g for g in args.groups if g not in GROUPS]
    if unknown:
        print(f"no such group: {unknown[0]} (there are: {', '.join(GROUPS)})", file=sys.stderr)
        return 2
    tally = Tally()
    start = time.monotonic()
    for name in args.groups or GROUPS:
        print(f"{name}: {GROUPS[name][0]}", flush=True)
        GROUPS[name][1](tally)
    print(f"\n{(time.monotonic() - start) / 60:.1f} minutes")
    if tally.failures:
        print("failed: " + ", ".join(tally.failures))
    print(f"{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped")
    return int(tally.failed > 0)


sys.exit(main())

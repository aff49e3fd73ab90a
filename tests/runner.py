"""Runs the groups of tests and counts their cases. Called by tests/run.sh.

A C test program speaks TAP (cmocka), a Python file writes JUnit XML (pytest), anything else is one case that its
exit code decides. A program that crashes, runs no case, leaves processes behind or is spoken of by a sanitizer has
failed, whatever its cases say. The last line is `N passed, N failed, N skipped`."""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import sanitizers

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 900  # of one program or one Python file
BUILD_TIMEOUT_S = 3600
IN_SHORT = 20  # failures of one program that the end of a run names again
INTERRUPTED_S = 60  # for what is interrupted to clean up
RUNNING = set()  # process groups
KINDS = {"real": "a real SPIRE", "partner": "a partner that plays SPIRE"}  # as tests/spire/conftest.py names them
BUILT = {}  # preset: whether it did


class Result:
    """What one program came to. output is shown when something failed."""

    def __init__(self, name, code, output, seconds, trouble=()):
        self.name, self.code, self.output, self.seconds = name, code, output, seconds
        self.trouble = list(trouble)  # failures of the program that are no case of its own
        self.passed = self.failed = 0
        self.skips = []  # reasons
        self.kinds = {}  # {what it ran against: [passed, failed, skipped]}, where cases run against several things


def by_reason(skips):
    """{reason: names} of "name: reason"."""
    found = {}
    for skip in skips:
        name, _, reason = skip.partition(": ")
        found.setdefault(reason, []).append(name)
    return found


def in_short(r):
    """A line per failure, for the end of a long run."""
    lines = re.findall(r"^(?:FAILED|ERROR) .*$|^not ok (?!\d+ # SKIP).*$", r.output, re.MULTILINE)
    return [f"{r.name}: {line[:500]}" for line in [*lines[:IN_SHORT], *r.trouble]]


class Tally:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.failures = []
        self.lock = threading.Lock()

    def add(self, r):
        with self.lock:
            failed = r.failed or int(bool(r.trouble))
            self.passed += r.passed
            self.failed += failed
            self.skipped += len(r.skips)
            rest = f", {failed} failed" if failed else ""
            rest += f", {len(r.skips)} skipped" if r.skips else ""
            print(f"  {'FAILED' if failed else 'ok':6} {r.name:46} {r.passed:4} passed{rest}  {r.seconds:6.1f} s")
            for kind, counts in r.kinds.items():
                print(f"         {kind}: {'{} passed, {} failed, {} skipped'.format(*counts)}")
            for reason, names in by_reason(r.skips).items():
                shown = ", ".join(names) if len(names) < 4 or r.kinds else f"{len(names)} cases"
                print(f"         skipped: {shown}: {reason}")
            if failed:
                self.failures += in_short(r)
                lines = r.output.strip().splitlines()
                shown = lines if len(lines) <= 120 else lines[:20] + ["[...]"] + lines[-100:]
                print("\n".join("       | " + line for line in shown))
                for what in r.trouble:
                    print(f"       | {r.name}: {what}")
            sys.stdout.flush()
        return failed == 0

    def trouble(self, name, what, output=""):
        return self.add(Result(name, 1, output, 0, [what]))


# ---- one program ----

def in_group(pgid):
    """The processes of a process group that still run, as 'pid name'."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = stat.read_text().rpartition(")")
        except OSError:
            continue
        state, _, group = tail.split()[:3]
        if int(group) == pgid and state not in "ZX":
            found.append(head.replace("(", ""))
    return found


def interrupted(number, frame):
    """Ctrl-C reaches the sessions of their own too, so that they clean up."""
    for group in list(RUNNING):
        signal_group(group, signal.SIGINT)
    raise KeyboardInterrupt


def signal_group(group, number):
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def left_in(group):
    """Who is still there a second later: what ends together with its parent (a symbolizer) may take a moment."""
    for _ in range(10):
        if not in_group(group):
            return []
        time.sleep(0.1)
    return in_group(group)


def wait_end(p, timeout, trouble):
    try:
        code = p.wait(timeout)
        if left := left_in(p.pid):
            trouble.append(f"left running: {', '.join(left)}")
        return code
    except subprocess.TimeoutExpired:
        trouble.append(f"no end within {timeout} s")
        return -signal.SIGKILL
    except KeyboardInterrupt:
        p.wait(INTERRUPTED_S)
        raise


def run(name, args, env=None, timeout=TIMEOUT_S):
    """Runs it in a session of its own, to its end or the timeout; nothing of it survives."""
    trouble = []
    with tempfile.TemporaryFile() as out, tempfile.TemporaryDirectory(prefix="cs-reports-") as logs:
        os.chmod(logs, 0o1777)  # daemons run as users of their own
        start = time.monotonic()
        p = subprocess.Popen([str(a) for a in args], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                             env={**os.environ, **sanitizers.environment(logs), **(env or {})}, start_new_session=True)
        RUNNING.add(p.pid)
        try:
            code = wait_end(p, timeout, trouble)
        finally:
            signal_group(p.pid, signal.SIGKILL)
            p.wait()
            RUNNING.discard(p.pid)
        seconds = time.monotonic() - start
        out.seek(0)
        text = out.read().decode(errors="replace")
        for report in sorted(Path(logs).iterdir()):
            text += f"\n--- {report.name}\n" + report.read_text(errors="replace")
            trouble.append(f"a sanitizer's report ({report.name})")
    return Result(name, code, text, seconds, trouble)


def ended(code):
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def plain(tally, name, args, env=None, timeout=TIMEOUT_S):
    r = run(name, args, env, timeout)
    r.passed = int(r.code == 0 and not r.trouble)
    if r.code != 0:
        r.trouble.append(ended(r.code))
    return tally.add(r)


def read_tap(r):
    """Counts the cases of r.output. cmocka says `not ok N # SKIP case`; what the case printed before that is why."""
    planned, said = 0, ""
    for line in r.output.splitlines():
        if plan := re.match(r"1\.\.(\d+)$", line):
            planned += int(plan[1])
        elif skip := re.match(r"(?:not )?ok \d+ # SKIP ?(.*)", line):
            r.skips.append(f"{skip[1]}: {said or 'no reason given'}")
        elif line.startswith("ok "):
            r.passed += 1
        elif line.startswith("not ok "):
            r.failed += 1
        said = "" if re.match(r"(?:not )?ok ", line) else line
    ran = r.passed + r.failed + len(r.skips)
    if ran == 0:
        r.trouble.append("no case ran")
    elif ran < planned and not r.failed:
        r.trouble.append(f"{planned - ran} of {planned} cases did not run")


def tap(tally, name, program):
    r = run(name, [program], {"CMOCKA_MESSAGE_OUTPUT": "TAP"})
    read_tap(r)
    if r.code != 0 and r.failed == 0:
        r.trouble.append(ended(r.code))
    return tally.add(r)


def count_case(r, case):
    """One <testcase>. KINDS name what tests/spire runs against."""
    if case.find("failure") is not None or case.find("error") is not None:
        r.failed, how = r.failed + 1, 1
    elif case.find("skipped") is not None:
        r.skips.append(f"{case.get('name')}: {case.find('skipped').get('message')}")
        how = 2
    else:
        r.passed, how = r.passed + 1, 0
    for word in re.findall(r"\w+", case.get("name").partition("[")[2]):
        if what := KINDS.get(word):
            r.kinds.setdefault(what, [0, 0, 0])[how] += 1


def python(tally, preset, path):
    with tempfile.NamedTemporaryFile(suffix=".xml") as xml:
        r = run(f"{preset}: {path.stem[5:]}",
                ["/usr/bin/python3", "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "--durations=3",
                 f"--junitxml={xml.name}", path.relative_to(ROOT)],
                {"CS_BUILD": str(ROOT / "build" / preset), "PYTHONDONTWRITEBYTECODE": "1"})
        try:
            for case in ET.parse(xml.name).getroot().iter("testcase"):
                count_case(r, case)
        except ET.ParseError:
            r.trouble.append("pytest wrote no result")
    if r.passed + r.failed + len(r.skips) == 0:
        r.trouble.append("no case ran")
    if r.code != 0 and r.failed == 0:
        r.trouble.append(ended(r.code))
    return tally.add(r)


# ---- groups ----

def build(tally, preset):
    """Once per run. It is no test, but a build that fails is a failure."""
    if preset not in BUILT:
        r = run(f"build {preset}", ["sh", "-c", f"cmake --preset {preset} && cmake --build --preset {preset}"],
                timeout=BUILD_TIMEOUT_S)
        BUILT[preset] = r.code == 0 and not r.trouble
        if BUILT[preset]:
            print(f"  built  {preset:57} {r.seconds:6.1f} s", flush=True)
        else:
            tally.trouble(r.name, ", ".join([*r.trouble, ended(r.code)]), r.output)
    return BUILT[preset]


def at_once(work):
    """Each (function, arguments...), as many at once as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in [pool.submit(*job) for job in work]:
            done.result()


def unit(tally, preset, rooms=None):
    if not build(tally, preset):
        return
    listed = subprocess.run(["ctest", "--test-dir", f"build/{preset}", "--show-only=json-v1"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout
    tests = [t for t in json.loads(listed)["tests"] if not rooms or t["name"].split("/")[0] in rooms]
    if not tests:
        tally.trouble(f"{preset}: unit", "there are no unit tests")
    at_once((tap, tally, f"{preset}: {t['name']}", t["command"][0]) for t in tests)


def files(tally, preset, folder):
    if not build(tally, preset):
        return
    paths = sorted((ROOT / "tests" / folder).glob("test_*.py"))
    if not paths:
        tally.trouble(f"{preset}: {folder}", f"there are no tests in tests/{folder}")
    if folder == "spire":  # most of its time is waiting
        at_once((python, tally, preset, path) for path in paths)
        return
    for path in paths:
        python(tally, preset, path)


def sanitized(tally):
    unit(tally, "asan-ubsan")
    files(tally, "asan-ubsan", "integration")


def tsan(tally):
    unit(tally, "tsan", ("lib", "identity", "spire-adapter"))


def fuzz_one(tally, name, seconds):
    corpora = [*(ROOT / "tests" / "fuzz").glob(f"*/corpus/{name}"),
               *(ROOT / "build" / "fuzz").glob(f"tests/fuzz/*/corpus/{name}")]
    with tempfile.TemporaryDirectory(prefix="cs-fuzz-") as work:
        plain(tally, f"fuzz {name} for {seconds} s",
              [f"build/fuzz/fuzz/fuzz_{name}", f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048",
               "-verbosity=0", "-print_final_stats=1", "-print_funcs=0", f"-artifact_prefix={work}/", work, *corpora],
              {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"},
              timeout=int(seconds) + TIMEOUT_S)


def fuzz(tally):
    if not build(tally, "fuzz"):
        return
    names = sorted(p.stem[5:] for p in (ROOT / "tests" / "fuzz").glob("*/fuzz_*.c"))
    if not names:
        tally.trouble("fuzz", "there are no fuzz targets")
    at_once((fuzz_one, tally, name, os.environ.get("FUZZ_SECONDS", "10")) for name in names)


def sources(*patterns):
    out = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [s for s in out.splitlines() if (ROOT / s).is_file()]


def first_line(path):
    with (ROOT / path).open("rb") as f:
        return f.readline(80)


def format_(tally):
    plain(tally, "clang-format", ["clang-format", "--dry-run", "-Werror", *sources("*.c", "*.h")])
    scripts = [s for s in sources() if re.match(rb"#!/bin/(ba)?sh\b", first_line(s))]
    for script in scripts:
        shell = "bash" if b"bash" in first_line(script) else "sh"
        plain(tally, f"shell syntax {script}", [shell, "-n", script])
    plain(tally, "python syntax", ["/usr/bin/python3", "-c",
                                   "import ast,sys; [ast.parse(open(f).read(), f) for f in sys.argv[1:]]",
                                   *[s for s in sources() if s.endswith(".py") or b"python3" in first_line(s)]])


def quickstart(tally):
    plain(tally, "deploy/quickstart.sh", ["deploy/quickstart.sh"])


GROUPS = {
    "format": ("clang-format, shell and Python syntax", format_),
    "unit": ("unit tests, gcc, release build", lambda t: unit(t, "release")),
    "structure": ("walls between rooms, the tree, what is installed", lambda t: files(t, "release", "structure")),
    "integration": ("daemons, namespaces and third parties, release build", lambda t: files(t, "release", "integration")),
    "spire": ("against a real SPIRE, found by SPIRE_BIN or PATH, and a partner in Go; each skipped without", lambda t: files(t, "release", "spire")),
    "quickstart": ("the main job, as a newcomer runs it", quickstart),
    "clang": ("unit tests, clang, release build", lambda t: unit(t, "clang")),
    "sanitizers": ("unit and integration tests under ASan and UBSan", sanitized),
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
    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    tally = Tally()
    times = []
    for name in dict.fromkeys(args.groups or GROUPS):
        print(f"{name}: {GROUPS[name][0]}", flush=True)
        start = time.monotonic()
        GROUPS[name][1](tally)
        times.append((name, time.monotonic() - start))
    print("\n" + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in times)
          + f"; together {sum(s for _, s in times) / 60:.1f} minutes on {os.cpu_count()} processors")
    if tally.failures:
        print("failed:\n  " + "\n  ".join(tally.failures))
    print(f"{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped")
    return int(tally.failed > 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

"""What no file of the project may hold."""
import re

import pytest

from lab.tree import ROOT, tracked

LINES_MAX = 700
LINES_MAX_TESTS = 1200  # a table of cases may be long
# Written in two halves, or this file would be found.
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:wo" r"rk|ho" r"me/\w+|Us" r"ers/\w+|ro" r"ot/\w+)/")
PACKAGE_HOSTS = re.compile(r"pyp" r"i\.org|pythonhos" r"ted|npm" r"js\.|crat" r"es\.io|proxy\.gol" r"ang|rubyg" r"ems\.|maven\.org"
                           r"|deb\.deb" r"ian\.org", re.I)


def texts():
    for path in tracked():
        data = (ROOT / path).read_bytes()
        if b"\0" not in data:
            yield path, data.decode(errors="replace")


def found(pattern, text):
    return [number for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)]

# lab/process.py says why, and what to use.
FORKS = re.compile(r"preexec" r"_fn|os\.fo" r"rk\(|extra_gro" r"ups=")


@pytest.mark.parametrize("pattern,bad,good", [
    (MACHINE_PATHS, "see /ho" "me/ann/src/x", "/usr/lib/x /var/run/home/x /tmp/work/x"),
    (PACKAGE_HOSTS, "https://PyP" "i.org/simple", "https://spiffe.io"),
])
def test_no_file_depends_on_the_machine_it_was_written_on(pattern, bad, good):
    assert pattern.search(bad) and not pattern.search(good)
    for path, text in texts():
        assert not found(pattern, text), f"{path}:{found(pattern, text)[0]}"


def test_no_test_forks():
    assert FORKS.search("Popen(x, preexec" "_fn=f)") and not FORKS.search("Popen(as_user(1), x)")
    for path, text in texts():
        if path.startswith("tests/") and path.endswith(".py"):
            assert path == "tests/lab/process.py" or not found(FORKS, text), f"{path}:{found(FORKS, text)[0]}"


def test_a_file_has_one_subject():
    """Divide what is longer."""
    lines = {path: text.count("\n") for path, text in texts() if path.endswith((".c", ".h", ".py", ".sh", ".proto"))}
    assert len(lines) > 100
    assert {path for path, n in lines.items() if n > (LINES_MAX_TESTS if path.startswith("tests/") else LINES_MAX)} == set()


def test_no_merge_left_its_marks():
    marks = re.compile(r"^(<{7}|>{7}) ")
    for path, text in texts():
        assert not found(marks, text), f"{path}:{found(marks, text)[0]}"

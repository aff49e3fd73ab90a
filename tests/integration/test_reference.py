"""docs/reference/ is what the programs themselves say: one page per daemon, and none of them old. And the manual page of
the command line names every command and option."""
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("CS_BUILD", ROOT / "build" / "release")).resolve()
CLI = BUILD / "cli" / "countersign"
DAEMONS = {p.name: p for p in sorted(BUILD.glob("*/countersign-*")) if p.is_file() and os.access(p, os.X_OK)}
PAGES = {p.stem: p for p in (ROOT / "docs" / "reference").glob("*.md")}


def output(*args):
    return subprocess.run(args, capture_output=True, text=True, check=True).stdout


def test_every_daemon_has_a_page():
    assert DAEMONS and set(PAGES) == set(DAEMONS), "write it: PROGRAM --print-reference > docs/reference/PROGRAM.md"


@pytest.mark.parametrize("name", DAEMONS)
def test_page_is_current(name):
    assert PAGES[name].read_text() == output(DAEMONS[name], "--print-reference"), \
        f"write it anew: {name} --print-reference > docs/reference/{name}.md"


@pytest.mark.parametrize("name", DAEMONS)
def test_help_names_every_setting(name):
    text = output(DAEMONS[name], "--help")
    for setting in re.findall(r"^\| `([a-z0-9_.]+)`", PAGES[name].read_text(), re.M):
        assert f"\n  {setting}\n" in text


def test_manual_of_the_command_line():
    page = ROOT / "docs" / "man" / "countersign.1"
    p = subprocess.run(["man", "--warnings=all", "-E", "ascii", "-l", page], capture_output=True, text=True,
                       env={**os.environ, "MANWIDTH": "200", "LC_ALL": "C.UTF-8"})
    assert p.returncode == 0 and not p.stderr, p.stderr
    manual = re.sub(r"\s+", " ", re.sub(".\b", "", p.stdout))
    commands = re.findall(r"^  ([a-z]+(?: [a-z]+)?)  +[A-Z]", output(CLI, "--help"), re.M)
    assert len(commands) > 10
    for command in commands:
        assert f" {command} " in manual, command
        for option in re.findall(r"^  (?:-., )?(--[a-z-]+)", output(CLI, *command.split(), "--help"), re.M):
            assert option in manual, (command, option)

"""docs/reference/ is what the programs themselves say: one page per daemon, and none of them old. And the manual page of
the command line names every command and option."""
import json
import os
import re
import subprocess
import textwrap
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


def keys_of(source):
    """The field names that a file of the command line writes into JSON documents."""
    found = set(re.findall(r'cs_doc_set\(\s*\w+,\s*"([a-z][a-z0-9_]*)"', source))
    for arguments in re.findall(r"cs_doc_pack\(([^;]*);", source):
        found |= set(re.findall(r'"([a-z][a-z0-9_]*)"', arguments))
    return found


def names_in(document):
    """All field names of a JSON document."""
    if isinstance(document, dict):
        return set(document).union(*map(names_in, document.values()))
    return set().union(*map(names_in, document)) if isinstance(document, list) else set()


def test_manual_names_every_field_of_json():
    manual = (ROOT / "docs" / "man" / "countersign.1").read_text()
    known = set(re.findall(r"[a-z0-9_]+", manual.split("\n.Sh JSON\n")[1].split("\n.Sh ")[0]))
    sources = {p.name: keys_of(p.read_text()) for p in (ROOT / "cli").glob("*.c")}
    assert {"remote_spiffe_id", "silent_ms", "not_after_unix_s"} <= set().union(*sources.values())
    assert {name: keys - known for name, keys in sources.items() if keys - known} == {}
    policy = next(b for b in blocks("policy.md") if b.startswith("apiVersion:") and "authentication:" in b)
    checked = subprocess.run([DAEMONS["countersign-identityd"], "--check-policy", "-o", "json", "-"], input=policy,
                             capture_output=True, text=True, check=True).stdout
    assert names_in(json.loads(checked)) - known == set()


def blocks(page):
    """The indented blocks of a page."""
    found = re.findall(r"(?:^(?:    .*)?\n)+", (ROOT / "docs" / page).read_text(), re.M)
    return [textwrap.dedent(b).strip() for b in found if b.strip()]


def check_policy(text):
    """(exit code, remarks) of one policy, by the real compiler."""
    p = subprocess.run([DAEMONS["countersign-identityd"], "--check-policy", "-o", "json", "-"], input=text, capture_output=True,
                       text=True)
    return p.returncode, set(re.findall(r'"kind": "([a-z-]+)"', p.stdout))


def test_examples_of_policies():
    """What docs/policy.md shows compiles, and gets the remarks that the page says it gets."""
    policies = [b for b in blocks("policy.md") if b.startswith("apiVersion:")]
    remarks = {re.search(r"name: ([a-z-]+)", p)[1]: check_policy(p) for p in policies}
    assert remarks == {"default-deny": (0, set()), "db": (0, {"asks-more-than-written"}),
                       "frontend": (0, {"wider-than-written", "not-enforceable-through-services"})}
    db = next(p for p in policies if "name: db," in p)
    assert check_policy(db + "\n  egress: []\n") == (0, set())
    # Parts of a policy.
    head = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\nspec:\n  endpointSelector: {}\n"
    egress, = (b for b in blocks("policy.md") if b.startswith("egress:"))
    assert check_policy(head + textwrap.indent(egress, "  ")) == (0, set())
    peers, = (b for b in blocks("policy.md") if b.startswith("fromEndpoints:"))
    assert check_policy(head + "  ingress:\n  -\n" + textwrap.indent(peers, "    ")) == (0, set())
    assert check_policy(db.replace("mode: required", "mode: requird"))[0] == 1

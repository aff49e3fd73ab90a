"""docs/spire.md, chapter "From a bare SPIRE to the first authenticated packet": every block of it, in order, on two machines."""
import re
import shutil
import tempfile
import textwrap
from pathlib import Path

import pytest

from lab import spire
from lab.daemon import BUILD, ROOT
from lab.machine import Machine, wire

CHAPTER = "From a bare SPIRE to the first authenticated packet"


def steps(page, chapter):
    """[where, commands, what they are said to print]: the blocks that follow a paragraph with `On n1`, `On n2` or `On both`,
    and those that follow `which says:`."""
    text = re.search(rf"^## {chapter}\n(.*?)^## ", (ROOT / "docs" / page).read_text() + "## ", re.M | re.S)[1]
    found, where, says = [], None, False
    for part in re.split(r"\n\n+", text):
        if part.startswith("    "):
            block = textwrap.dedent(part).strip("\n")
            if says:
                found[-1][2] = block
            elif where:
                found.append([where, block, ""])
            where, says = None, False
        else:
            named = re.findall(r"\bOn (n1|n2|both)\b", part)
            where, says = named[-1] if named else None, part.strip() == "which says:"
    return found


def alike(text):
    """Its lines, without what is another each time."""
    return [" ".join(re.sub(r"\d+(\.\d+)?", "#", line).split()) for line in text.splitlines()]


@pytest.fixture
def machines(Real):
    del Real
    dir = Path(tempfile.mkdtemp(prefix="tdocs-"))
    made = []
    try:
        programs = Path(spire.find("spire-server")).parent
        for name in ("n1", "n2"):
            made.append(Machine(name, dir / name, path=[programs]))
        wire(*made, ("10.0.0.1/24", "10.0.0.2/24"))
        yield dict(zip(("n1", "n2"), made))
    finally:
        for m in made:
            m.close()
        shutil.rmtree(dir, ignore_errors=True)


def copy(machines, to, line):
    """scp n1:PATH PATH"""
    name, _, path = line.split()[1].partition(":")
    machines[to].file(line.split()[2]).write_bytes(machines[name].file(path).read_bytes())


def test_the_page_is_true(machines):
    tokens, said = [], 0
    for where, commands, says in steps("spire.md", CHAPTER):
        commands = commands.replace("build/release", str(BUILD))
        for i, token in enumerate(tokens):
            commands = commands.replace(f"TOKEN{i + 1}", token)
        for name in ("n1", "n2") if where == "both" else (where,):
            lines = commands.splitlines()
            out = machines[name].type("\n".join(line for line in lines if not line.startswith("scp ")))
            for line in lines:
                if line.startswith("scp "):
                    copy(machines, name, line)
            tokens += re.findall(r"^Token: (\S+)$", out, re.M)
            for line in alike(says):
                assert line in alike(out), f"{name}: {commands}\n{out}"
                said += 1
    assert len(tokens) == 2 and said > 20

"""The walls between the rooms: who may include and compile what, read from the build's own commands."""
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from lab.tree import ROOT, tracked

BUILD = Path(os.environ.get("CS_BUILD", ROOT / "build/release"))
SEES = {"lib": set(), "certs": {"lib"}, "cli": {"lib"}, "identity": {"certs", "lib"}, "spire-adapter": {"certs", "lib"},
        "authmap": {"certs", "lib"}}  # and itself, and include/
FORBIDDEN = [(room, other) for room in SEES for other in SEES if other != room and other not in SEES[room]]


def room_of(path):
    parts = Path(path).resolve().relative_to(ROOT).parts
    return parts[0] if parts[0] in SEES else None


@pytest.fixture(scope="module")
def commands():
    """{source: arguments} of what the rooms compile."""
    entries = json.loads((BUILD / "compile_commands.json").read_text())
    ours = {e["file"]: shlex.split(e["command"]) for e in entries if not Path(e["file"]).is_relative_to(BUILD)}
    return {source: args for source, args in ours.items() if room_of(source)}


def include_dirs(args):
    for i, arg in enumerate(args):
        if arg in ("-I", "-iquote", "-isystem", "-idirafter"):
            yield args[i + 1]
        elif arg.startswith("-I") and len(arg) > 2:
            yield arg[2:]


def headers(room):
    return [ROOT / f for f in tracked(f"{room}/*.h")]


def own_header(room, other):
    """A header of the other room whose name no room has that this one sees."""
    seen = {h.name for r in {room, *SEES[room]} for h in headers(r)}
    return next(h for h in headers(other) if h.name not in seen and "bpf" not in h.parts)


def tries(commands, room, header, tmp_path):
    """[(found, the compiler's words)] of including it with each set of flags that the room has."""
    seen = {}
    for source, args in commands.items():
        if room_of(source) == room:
            seen.setdefault(tuple(include_dirs(args)), (source, args))
    file = tmp_path / "probe.c"
    file.write_text(f'#include <stddef.h>\n#include "{header.name}"\n')
    for source, args in seen.values():
        args = [str(file) if a == source else a for a in args]
        del args[args.index("-o"):args.index("-o") + 2]
        p = subprocess.run([*args, "-fsyntax-only"], cwd=BUILD, capture_output=True, text=True)
        yield p.returncode == 0, p.stderr


@pytest.mark.parametrize("room,other", FORBIDDEN)
def test_a_header_behind_a_wall_is_not_found(commands, room, other, tmp_path):
    header = own_header(room, other)
    results = list(tries(commands, room, header, tmp_path))
    assert results
    for found, said in results:
        assert not found and f"{header.name}: No such file or directory" in said, said


@pytest.mark.parametrize("room,other", [(room, other) for room in SEES for other in sorted({room, *SEES[room]})])
def test_a_header_that_may_be_seen_is_found(commands, room, other, tmp_path):
    header = next(h for h in headers(other) if h.parent == ROOT / other)
    assert any(found for found, _ in tries(commands, room, header, tmp_path))


def test_the_build_gives_no_room_the_path_of_another(commands):
    for source, args in commands.items():
        room = room_of(source)
        for path in include_dirs(args):
            if Path(path).resolve().is_relative_to(ROOT) and room_of(path):
                assert room_of(path) in {room, *SEES[room]}, f"{source} is compiled with {path}"


def test_no_room_compiles_the_source_of_another(commands):
    for source, args in commands.items():
        built_by = Path(args[args.index("-o") + 1]).parts[0]
        assert built_by in (room_of(source), "tests"), f"{source} is compiled by {built_by}/CMakeLists.txt"


def quoted(path):
    """(line number, name) of each quoted include."""
    for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
        if found := re.match(r'\s*#\s*include\s*"([^"]*)"', line):
            yield number, found[1]


@pytest.mark.parametrize("room", SEES)
def test_what_a_room_includes_is_in_a_room_that_it_sees(room):
    """Also where the compiler would follow a path like ../identity/labels.h."""
    may = {r: {str(h.relative_to(ROOT / r)) for h in headers(r)} for r in {room, *SEES[room]}}
    names = {Path(h).name for hs in may.values() for h in hs} | {h for hs in may.values() for h in hs}
    for path in tracked(f"{room}/*.c", f"{room}/*.h"):
        for number, name in quoted(path):
            generated = name.endswith((".skel.h", ".pb-c.h"))
            assert ".." not in name and (generated or name in names), f"{path}:{number}: {name}"


def test_contracts_include_no_room():
    for path in tracked("include/*.h"):
        assert not list(quoted(path)), path

"""A test that a document names is there."""
import re

import pytest

from lab.tree import ROOT, tracked

FILE = re.compile(r"`((?:tests/spire/)?test_\w+\.py)?(?:::(test_\w+))?`")
UNIT = re.compile(r"`(authmap|certs|cli|handshaker|identity|lib|spire-adapter)/([\w*]+)`")


def missing(text):
    """What is named and is not there. `::test_x` is of the file named before it."""
    gone, file = [], None
    for name, function in FILE.findall(text):
        file = name or file
        if not file:
            continue
        path = ROOT / file if "/" in file else ROOT / "tests/integration" / file
        if not path.exists() or (function and f"def {function}(" not in path.read_text()):
            gone.append(f"{file}::{function}")
    for room, subject in UNIT.findall(text):
        if not list((ROOT / "tests/unit" / room).glob(f"test_{subject}.c")):
            gone.append(f"{room}/{subject}")
    return gone


@pytest.mark.parametrize("document", [p for p in tracked() if p.endswith(".md")])
def test_named_tests_exist(document):
    assert missing((ROOT / document).read_text()) == []


@pytest.mark.parametrize("text,gone", [
    ("`test_path.py` and `::test_a_pair_on_one_node`, `authmap/datapath_*`", []),
    ("`test_path.py::test_a_pair_on_one_node`", []),
    ("`test_nobody.py`", ["test_nobody.py::"]),
    ("`test_path.py`, `::test_nothing`", ["test_path.py::test_nothing"]),
    ("`authmap/nothing`", ["authmap/nothing"]),
    ("`tests/spire/test_path.py::test_rotation_under_traffic`", []),
    ("`tests/spire/test_path.py::test_a_pair_on_one_node`", ["tests/spire/test_path.py::test_a_pair_on_one_node"]),
])
def test_what_counts_as_missing(text, gone):
    assert missing(text) == gone

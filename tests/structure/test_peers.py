"""Where there is no Go, one that is too old, or no module, what needs it is skipped with that reason."""
import pytest

from lab import peers


@pytest.mark.parametrize("says,why", [
    (None, "no go in PATH"),
    ("echo go1.19.8", "go1.19.8 is older than go "),
    ("echo no such option >&2; exit 2", "go does not work: no such option"),
    ("echo go9.0", None),
    ("[ $1 = env ] && echo go9.0 || { echo go: downloading x >&2; echo go: x: no route to host >&2; exit 1; }",
     "Go's modules cannot be had here: go: x: no route to host"),
])
def test_why_there_are_no_peers(tmp_path, monkeypatch, says, why):
    if says:
        (tmp_path / "go").write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
    peers.missing.cache_clear()
    found = peers.missing()
    peers.missing.cache_clear()
    assert found is None if why is None else found.startswith(why)

"""Where there is no Go, or one that is too old, what needs it is skipped with that reason."""
import pytest

from lab import peers


@pytest.mark.parametrize("says,why", [
    (None, "no go in PATH"),
    ("echo go1.19.8", "go1.19.8 is older than go "),
    ("echo no such option >&2; exit 2", "go does not work: no such option"),
    ("echo go9.0", None),
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

"""What runner.py makes of programs that misbehave."""
import os
import select
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import runner  # noqa: E402

PLAN, GOOD, BAD, SKIP = "echo 1..2; ", "echo 'ok 1 - a'; ", "echo 'not ok 2 - b'; ", "echo why; echo 'not ok 2 # SKIP b'; "


@pytest.fixture
def program(tmp_path):
    def make(script):
        path = tmp_path / "program"
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)
        return path
    return make


@pytest.fixture
def tally(capsys):
    return runner.Tally()


@pytest.mark.parametrize("script,passed,failed,skipped", [
    (PLAN + GOOD + "echo 'ok 2 - b'", 2, 0, 0),
    (PLAN + GOOD + SKIP, 1, 0, 1),
    (PLAN + GOOD + BAD + "exit 1", 1, 1, 0),
    (PLAN + GOOD + BAD + "exit 0", 1, 1, 0),
    (PLAN + GOOD + "kill -SEGV $$", 1, 1, 0),
    (PLAN + GOOD + "exit 0", 1, 1, 0),  # the second case never ran
    (PLAN + GOOD + "echo 'ok 2 - b'; exit 3", 2, 1, 0),  # a leak at the end
    ("echo 1..0", 0, 1, 0),
    ("", 0, 1, 0),
    (PLAN + GOOD + "echo 'ok 2 - b'; sleep 60 >/dev/null 2>&1 &", 2, 1, 0),  # left behind
    (PLAN + GOOD + "echo 'ok 2 - b'; echo leak >$CS_REPORTS/report.1", 2, 1, 0),
])
def test_a_c_program_counts(program, tally, script, passed, failed, skipped):
    assert runner.tap(tally, "example", program(script)) == (failed == 0)
    assert (tally.passed, tally.failed, tally.skipped) == (passed, failed, skipped)


@pytest.mark.parametrize("text,passed,failed,skipped", [
    ("def test_a(): pass", 1, 0, 0),
    ("def test_a(): assert 0", 0, 1, 0),
    ("import pytest\n@pytest.mark.skip(reason='why')\ndef test_a(): pass", 0, 0, 1),
    ("import pytest\n@pytest.fixture\ndef f():\n    yield\n    assert 0\ndef test_a(f): pass", 0, 1, 0),
    ("import os\ndef test_a(): os.abort()", 0, 1, 0),
    ("syntax error", 0, 1, 0),
    ("", 0, 1, 0),
])
def test_a_python_file_counts(tmp_path, monkeypatch, tally, text, passed, failed, skipped):
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    (tmp_path / "test_example.py").write_text(text)
    assert runner.python(tally, "release", tmp_path / "test_example.py") == (failed == 0)
    assert (tally.passed, tally.failed, tally.skipped) == (passed, failed, skipped)


def test_the_reason_of_a_skip_and_the_output_of_a_failure_are_shown(program, tally, capsys):
    runner.tap(tally, "example", program(PLAN + SKIP + "echo secret; kill -SEGV $$"))
    said = capsys.readouterr().out
    assert "skipped: b: why" in said and "| secret" in said and "ended by SIGSEGV" in said


def test_a_program_that_does_not_end_is_ended_with_all_it_started(program, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    r = runner.run("example", [program(f"sleep 60 >{pipe} & wait")], timeout=1)
    assert r.trouble == ["no end within 1 s"] and r.code < 0
    ended = select.poll()
    ended.register(reader, 0)  # hang-up: nobody holds the other end any more
    assert ended.poll(10000) == [(reader, select.POLLHUP)]
    os.close(reader)


def test_what_ran_against_several_things_is_told_apart(tmp_path, monkeypatch, tally, capsys):
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    (tmp_path / "test_example.py").write_text("""
import pytest
@pytest.fixture(params=["real", "partner"])
def kind(request):
    if request.param == "real":
        pytest.skip("none here")
@pytest.mark.parametrize("n", range(4))
def test_a(kind, n): assert n < 3
""")
    assert not runner.python(tally, "release", tmp_path / "test_example.py")
    said = capsys.readouterr().out
    assert "a real SPIRE: 0 passed, 0 failed, 4 skipped\n" in said
    assert "a partner that plays SPIRE: 3 passed, 1 failed, 0 skipped\n" in said
    assert "skipped: test_a[real-0], test_a[real-1], test_a[real-2], test_a[real-3]: none here\n" in said

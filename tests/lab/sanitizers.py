"""What ASan, UBSan and TSan say goes to files in one directory, so that no report is lost with the log or the exit
code of a program that a test ends."""
import os
import re
from pathlib import Path

EXIT_CODE = 86  # told from the exit codes of our daemons


def environment(directory):
    common = f"exitcode={EXIT_CODE}:log_path={directory}/report"
    return {"CS_REPORTS": str(directory),
            "ASAN_OPTIONS": f"{common}:halt_on_error=1:detect_leaks=1",
            "UBSAN_OPTIONS": f"{common}:halt_on_error=1:print_stacktrace=1",
            "TSAN_OPTIONS": f"{common}:halt_on_error=1:second_deadlock_stack=1"}


def reports():
    """{file name: text} of what was said so far."""
    return {p.name: p.read_text(errors="replace") for p in sorted(Path(os.environ["CS_REPORTS"]).iterdir())}


def spoken(logs):
    """The lines of reports in logs of daemons; empty if there are none."""
    mark = re.compile(r"(Address|Thread|Leak)Sanitizer|: runtime error: ")
    return "\n".join(f"{log}: {line}" for log in logs for line in log.read_text(errors="replace").splitlines()
                     if mark.search(line))

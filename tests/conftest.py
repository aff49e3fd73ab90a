import os
import sys
import tempfile
from pathlib import Path

import pytest

# Before grpc is imported: its fork handlers wait for other threads' calls to end whenever a daemon is started.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# grpcio 1.51's epoll1 leaves what arrived on some channels for its next timer, 10 s away, when many threads come and go.
os.environ.setdefault("GRPC_POLL_STRATEGY", "poll")
sys.path.insert(0, str(Path(__file__).resolve().parent))
from lab import sanitizers  # noqa: E402

if "CS_REPORTS" not in os.environ:  # pytest by hand
    kept = tempfile.TemporaryDirectory(prefix="cs-reports-")
    os.chmod(kept.name, 0o1777)  # daemons run as users of their own
    os.environ.update(sanitizers.environment(kept.name))


@pytest.fixture(autouse=True)
def sanitizers_say_nothing():
    before = sanitizers.reports()
    yield
    said = [text for name, text in sanitizers.reports().items() if text != before.get(name)]
    assert not said, "\n".join(said)

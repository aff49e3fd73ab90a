"""Nodes and workloads as network namespaces: the quickstart's, for tests. Each test file has a prefix of its own."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "deploy/quickstart"))

from nodes import TRUST_DOMAIN, Cluster, Daemon, LabError, Netns, Node, Workload, sh  # noqa: E402,F401

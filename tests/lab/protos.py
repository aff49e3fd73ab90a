"""The services of include/countersign/v1 for Python, generated once per run by grpcio's own compiler."""
import atexit
import importlib
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent.parent
_out = Path(tempfile.mkdtemp(prefix="cs-protos-"))
atexit.register(shutil.rmtree, _out, ignore_errors=True)
_protos = sorted(str(p.relative_to(ROOT / "include")) for p in (ROOT / "include/countersign/v1").glob("*.proto"))
if protoc.main(["", f"-I{ROOT / 'include'}", f"--python_out={_out}", f"--grpc_python_out={_out}", *_protos]) != 0:
    raise RuntimeError("the protos do not compile")
sys.path.insert(0, str(_out))


def _module(name):
    return importlib.import_module(f"countersign.v1.{name}")


common, directory, directory_rpc = _module("common_pb2"), _module("directory_pb2"), _module("directory_pb2_grpc")
endpoints, endpoints_rpc = _module("endpoints_pb2"), _module("endpoints_pb2_grpc")
svids, svids_rpc = _module("svids_pb2"), _module("svids_pb2_grpc")
status, status_rpc = _module("status_pb2"), _module("status_pb2_grpc")
auth, auth_rpc = _module("auth_pb2"), _module("auth_pb2_grpc")
cluster, cluster_rpc = _module("cluster_pb2"), _module("cluster_pb2_grpc")
entries, entries_rpc = _module("entries_pb2"), _module("entries_pb2_grpc")
admin, admin_rpc = _module("admin_pb2"), _module("admin_pb2_grpc")

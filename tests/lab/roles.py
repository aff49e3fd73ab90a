"""Calls as users who have a role, or none."""
import subprocess

from lab.daemon import NOBODY, WAIT_S
from lab.process import as_user

UIDS = {"viewer": 12001, "operator": 12002, "agent": 12003, "adapter": 12004, "authd": 12005, "nobody": NOBODY}
SETS = [f"roles.{role}=uid:{uid}" for role, uid in UIDS.items() if role != "nobody"]
ANY = set(UIDS) - {"nobody"}
CALL = """
import sys, grpc
path, method, kind, request = sys.argv[1:]
with grpc.insecure_channel("unix:" + path) as channel:
    make = channel.unary_stream if kind == "stream" else channel.unary_unary
    call = make("/countersign.v1." + method, request_serializer=lambda b: b, response_deserializer=lambda b: b)
    try:
        answer = call(bytes.fromhex(request), timeout=20)
        next(answer) if kind == "stream" else None
        print("OK")
    except grpc.RpcError as e:
        print(e.code().name)
"""


def call_as(role, sock, method, request=b"", stream=False):
    """The name of the status code with which a process of that role's user is answered."""
    out = subprocess.run(
        [*as_user(UIDS[role]), "/usr/bin/python3", "-c", CALL, sock, method, "stream" if stream else "unary", request.hex()],
        cwd="/", capture_output=True, text=True, timeout=WAIT_S, env={"GRPC_ENABLE_FORK_SUPPORT": "0"})
    return out.stdout.strip() or out.stderr


def walk(sockets, methods, streams, fine):
    """Every method with every role. methods: {socket: {method: roles that may}}; fine: what those may be answered."""
    for sock, roles_of in methods.items():
        for method, roles in roles_of.items():
            for role in UIDS:
                code = call_as(role, sockets / sock, method, stream=method in streams)
                if role == "nobody":
                    assert code == "UNAVAILABLE", (method, role, code)  # closed before a byte was read
                elif role in roles:
                    assert code in fine, (method, role, code)
                else:
                    assert code == "PERMISSION_DENIED", (method, role, code)


def methods_of(*modules):
    """Of generated protos: {"Service/Method"}."""
    return {f"{s.name}/{m.name}" for module in modules for s in module.DESCRIPTOR.services_by_name.values() for m in s.methods}

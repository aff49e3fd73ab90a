#!/usr/bin/python3
"""A node agent, as small as it can be: what a CNI plugin, or whoever starts workloads, says to countersign-identityd.

    agent.py SOCKET add ID INTERFACE ADDRESS[,ADDRESS...] LABEL...
    agent.py SOCKET del ID
    agent.py SOCKET reconcile FILE    (or - for standard input)

SOCKET is DIR/identityd/endpoints.sock of the instance. FILE is a JSON list of
{"id": ..., "interface": ..., "addresses": [...], "labels": ["k8s:app=web", ...]}.

The modules countersign.v1 are made of the protos, once:
    python3 -m grpc_tools.protoc -I /usr/include --python_out=. --grpc_python_out=. \\
        countersign/v1/common.proto countersign/v1/endpoints.proto
"""
import ipaddress
import json
import sys
import time

import grpc
from countersign.v1 import common_pb2, endpoints_pb2, endpoints_pb2_grpc

ADD_S = 30  # less than the runtime gives a CNI plugin
ASK_S = 10


def label(text):
    source, rest = text.split(":", 1)
    key, _, value = rest.partition("=")
    return common_pb2.Label(source=source, key=key, value=value)


def spec(id, interface, addresses, labels):
    return endpoints_pb2.EndpointSpec(
        id=id, interface=interface, labels=[label(text) for text in labels],
        addresses=[common_pb2.Address(ip=ipaddress.ip_address(a).packed) for a in addresses])


def reason(error):
    """Why, as a word that a program can act on: "address-in-quarantine", "placement-refused", ... or ""."""
    return dict(error.trailing_metadata() or ()).get("countersign-reason", "")


def ask(method, request, seconds):
    """Calls until identityd is there, for it may be starting, or for as long as there is time."""
    end = time.monotonic() + seconds
    while True:
        try:
            return method(request, timeout=max(0.1, end - time.monotonic()), wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() + 0.2 > end:
                raise
            time.sleep(0.2)


def add(endpoints, id, interface, addresses, *labels):
    """CNI ADD, once the interface and the addresses are there and before anything runs behind it. Fails as a whole: the
    runtime calls DEL, and ADD again later."""
    request = endpoints_pb2.RegisterRequest(
        spec=spec(id, interface, addresses.split(","), labels),
        wait_for=[endpoints_pb2.STEP_ENFORCED])  # not SVID_READY: what SPIRE itself needs could not start
    status = ask(endpoints.RegisterEndpoint, request, ADD_S)
    return {"id": id, "identity": status.identity, "spiffe_id": status.spiffe_id}


def delete(endpoints, id):
    """CNI DEL, before the interface goes. Must succeed for what is not there."""
    try:
        ask(endpoints.UnregisterEndpoint, endpoints_pb2.UnregisterRequest(id=id), ASK_S)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
    return {"id": id}


def reconcile(endpoints, file):
    """At the agent's start, before its first ADD: everything that runs here. What identityd knows beyond that goes."""
    with (sys.stdin if file == "-" else open(file)) as f:
        specs = [spec(w["id"], w["interface"], w["addresses"], w["labels"]) for w in json.load(f)]
    reply = ask(endpoints.Reconcile, endpoints_pb2.ReconcileRequest(specs=specs), ASK_S)
    return {"endpoints": sorted(e.spec.id for e in reply.endpoints), "unregistered": sorted(reply.unregistered)}


def main(socket, what, *args):
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        endpoints = endpoints_pb2_grpc.EndpointsStub(channel)
        try:
            answer = {"add": add, "del": delete, "reconcile": reconcile}[what](endpoints, *args)
        except grpc.RpcError as error:
            print(json.dumps({"code": error.code().name, "reason": reason(error), "message": error.details()}))
            return 1
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[2] not in ("add", "del", "reconcile"):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))

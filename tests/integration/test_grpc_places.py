"""Who may sit in front of our TLS server: those without a certificate have few places, and many come at once."""
import select
import socket
import time

import grpc
import pytest

from lab.daemon import WAIT_S
from lab.grpc_echo import client, echo, grpcio_credentials, pki, server, stub, tls_server  # noqa: F401 fixtures


def test_tls_places_are_for_those_with_a_certificate(tls_server, stub, echo, pki):
    """Connections that show no certificate hold a few places only, and those make room for whoever does."""
    s = tls_server("--limit", "pending_max=8", "--limit", "connections_max=2", "--limit", "handshake_ms=60000")
    idle = [socket.create_connection(("127.0.0.1", s.port)) for _ in range(40)]
    # At most 4 of one address stay; the others are turned away at once, or make room later.
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        gone = select.select(idle, [], [], 0.1)[0]
        if len(gone) >= 36:
            break
    assert len(gone) >= 36
    credentials = grpcio_credentials(pki["node1"])
    assert stub(s.target, credentials).Say(echo.pb.EchoRequest(text="x"), timeout=WAIT_S, wait_for_ready=True).text == "x"
    second = stub(s.target, credentials, [("grpc.use_local_subchannel_pool", 1)])
    assert second.Say(echo.pb.EchoRequest(text="y"), timeout=WAIT_S, wait_for_ready=True).text == "y"
    # Of those with a certificate there is a limit of its own.
    with pytest.raises(grpc.RpcError):
        stub(s.target, credentials, [("grpc.use_local_subchannel_pool", 1)]).Say(echo.pb.EchoRequest(), timeout=2)
    s.wait_line("refused too-many connection: there are 2 connections")
    for c in idle:
        c.close()


def test_tls_many_at_once(tls_server, stub, echo, pki):
    """All handshakes go to workers; some connections end in the midst of it."""
    s = tls_server()
    for _ in range(3):
        half = [socket.create_connection(("127.0.0.1", s.port)) for _ in range(16)]
        for c in half:
            c.sendall(bytes.fromhex("16030100f8010000f40303") + bytes(20))
        for c in half[::2]:
            c.close()
        results = client(s.target, "Say", "--tls", pki["node1"], "--calls", "8", "--text", "z")
        assert [r["text"] for r in results] == ["z"] * 8
        for c in half:
            c.close()

"""Our gRPC against one that is not ours: our server called from grpcio, our client calling a grpcio server, and our
server against raw bytes that no gRPC library would send."""
import concurrent.futures
import json
import os
import queue
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import grpc
import hpack
import pytest

from lab import process
from lab.daemon import WAIT_S
from lab.grpc_echo import (CLIENT, SERVER, UID, Program, client, echo, grpcio_credentials, pki, server, stub,  # noqa: F401
                           tls_server)

MIB = 1 << 20


def trailer(error, name):
    return dict(error.trailing_metadata()).get(name)


# ---- our server, called from grpcio --------------------------------------------------------------------------------


def test_server_unary(server, stub, echo):
    s = server()
    reply = stub(s.target).Say(echo.pb.EchoRequest(text="hällo", payload=b"\0\1\2"), timeout=WAIT_S)
    assert (reply.text, reply.payload) == ("hällo", b"\0\1\2")
    assert reply.peer == f"uid {os.getuid()} (pid {os.getpid()})"


def test_server_empty_message(server, stub, echo):
    assert stub(server().target).Say(echo.pb.EchoRequest(), timeout=WAIT_S).text == ""


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_server_stream(server, stub, echo, count):
    got = list(stub(server().target).Stream(echo.pb.EchoRequest(count=count, size=100), timeout=WAIT_S))
    assert [m.number for m in got] == list(range(count))


def test_server_stream_ends_with_status(server, stub, echo):
    got = []
    with pytest.raises(grpc.RpcError) as e:
        for m in stub(server().target).Stream(echo.pb.EchoRequest(count=3, code=10, text="later"), timeout=WAIT_S):
            got.append(m.number)
    assert got == [0, 1, 2]
    assert (e.value.code(), e.value.details()) == (grpc.StatusCode.ABORTED, "later")


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK], ids=lambda c: c.name)
def test_server_status(server, stub, echo, code):
    with pytest.raises(grpc.RpcError) as e:
        stub(server().target).Say(echo.pb.EchoRequest(code=code.value[0], text="ünïcode €, 100 %\tof it"), timeout=WAIT_S)
    assert (e.value.code(), e.value.details()) == (code, "ünïcode €, 100 %\tof it")
    assert trailer(e.value, "countersign-reason") == "labels-invalid"


def test_server_deadline(server, stub, echo):
    s = server()
    st = stub(s.target)
    st.Say(echo.pb.EchoRequest(), timeout=WAIT_S)  # connected: the deadline is the call's alone
    with pytest.raises(grpc.RpcError) as e:
        st.Say(echo.pb.EchoRequest(never=True), timeout=0.2)
    assert e.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    s.wait_line("cancel /countersign.test.Echo/Say")


def test_server_cancel(server, stub, echo):
    s = server()
    call = stub(s.target).Stream(echo.pb.EchoRequest(count=10**6, size=1000))
    assert next(call).number == 0
    call.cancel()
    s.wait_line("cancel /countersign.test.Echo/Stream")
    with pytest.raises(grpc.RpcError):
        list(call)


def test_server_unknown_method(server, stub, echo):
    s = server()
    with pytest.raises(grpc.RpcError) as e:
        stub(s.target).Unlisted(echo.pb.EchoRequest(), timeout=WAIT_S)
    assert e.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "/countersign.test.Echo/Unlisted" in e.value.details()


def test_server_unknown_service(server):
    with grpc.insecure_channel(server().target) as channel:
        with pytest.raises(grpc.RpcError) as e:
            channel.unary_unary("/no.such.Service/Method")(b"", timeout=WAIT_S)
    assert e.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_server_request_too_large(server, stub, echo):
    s = server("--limit", "message_max=100000")
    with pytest.raises(grpc.RpcError) as e:
        stub(s.target).Say(echo.pb.EchoRequest(payload=bytes(100001)), timeout=WAIT_S)
    assert e.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(stub(s.target).Say(echo.pb.EchoRequest(payload=bytes(99000)), timeout=WAIT_S).payload) == 99000


def test_server_reply_too_large(server, stub, echo):
    with pytest.raises(grpc.RpcError) as e:
        stub(server("--limit", "message_max=1000").target).Say(echo.pb.EchoRequest(size=1001), timeout=WAIT_S)
    assert e.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_server_malformed_message(server):
    with grpc.insecure_channel(server().target) as channel:
        with pytest.raises(grpc.RpcError) as e:
            channel.unary_unary("/countersign.test.Echo/Say")(b"\x0a\xff", timeout=WAIT_S)
    assert e.value.code() == grpc.StatusCode.INTERNAL


def test_server_refuses_compression(server, echo):
    with grpc.insecure_channel(server().target, compression=grpc.Compression.Gzip) as channel:
        with pytest.raises(grpc.RpcError) as e:
            echo.rpc.EchoStub(channel).Say(echo.pb.EchoRequest(payload=bytes(10000)), timeout=WAIT_S)
    assert e.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_server_two_requests_in_one_call(server, echo):
    with grpc.insecure_channel(server().target) as channel:
        say = channel.stream_unary("/countersign.test.Echo/Say", echo.pb.EchoRequest.SerializeToString)
        with pytest.raises(grpc.RpcError) as e:
            say(iter([echo.pb.EchoRequest(text="a"), echo.pb.EchoRequest(text="b")]), timeout=WAIT_S)
    assert e.value.code() == grpc.StatusCode.INTERNAL


def test_server_no_request_in_a_call(server, echo):
    with grpc.insecure_channel(server().target) as channel:
        say = channel.stream_unary("/countersign.test.Echo/Say", echo.pb.EchoRequest.SerializeToString)
        with pytest.raises(grpc.RpcError) as e:
            say(iter([]), timeout=WAIT_S)
    assert e.value.code() == grpc.StatusCode.INTERNAL


def test_server_headers_too_large(server, stub, echo):
    s = server("--limit", "headers_max=4000")
    with pytest.raises(grpc.RpcError) as e:
        stub(s.target).Say(echo.pb.EchoRequest(), timeout=WAIT_S, metadata=[("x", "y" * 5000)])
    assert e.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub(s.target).Say(echo.pb.EchoRequest(text="a"), timeout=WAIT_S, metadata=[("x", "y" * 2000)]).text == "a"


def test_server_64_streams_at_once(server, stub, echo):
    st = stub(server().target)
    calls = [st.Stream(echo.pb.EchoRequest(count=20, size=20000), timeout=WAIT_S) for _ in range(64)]
    for call in calls:
        assert [m.number for m in call] == list(range(20))


def test_server_100_mib_through_64_kib(server, stub, echo):
    s = server()
    options = [("grpc.http2.lookahead_bytes", 65536), ("grpc.http2.bdp_probe", 0)]
    total = 0
    for m in stub(s.target, options=options).Stream(echo.pb.EchoRequest(count=1600, size=65536), timeout=240):
        total += len(m.payload)
    assert total == 100 * MIB


def test_server_goes_away_in_order(server, stub, echo):
    """SIGTERM with a grace: the running call ends by itself, a new one is not taken."""
    s = server("--grace", "60000")
    call = stub(s.target).Stream(echo.pb.EchoRequest(count=5, delay_ms=100), timeout=WAIT_S)
    assert next(call).number == 0
    s.process.send_signal(signal.SIGTERM)
    assert [m.number for m in call] == [1, 2, 3, 4]
    s.clean_end(None)
    assert not s.path.exists()
    with pytest.raises(grpc.RpcError) as e:
        stub(s.target).Say(echo.pb.EchoRequest(), timeout=WAIT_S)
    assert e.value.code() == grpc.StatusCode.UNAVAILABLE


def test_server_shuts_down_at_once(server, stub, echo):
    s = server()
    call = stub(s.target).Stream(echo.pb.EchoRequest(count=1, never=True))
    assert next(call).number == 0
    s.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.RpcError) as e:
        next(call)
    assert (e.value.code(), e.value.details()) == (grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
    s.clean_end(None)


# ---- roles ---------------------------------------------------------------------------------------------------------

NOBODY = (65534, 65534, [])
root = pytest.mark.skipif(os.getuid() != 0, reason="becomes other users: needs root")


@pytest.fixture
def open_dir(tmp_path):
    """A directory that other users can pass; pytest's own are closed."""
    import shutil
    import tempfile
    d = Path(tempfile.mkdtemp(prefix="cs-grpc-"))
    d.chmod(0o755)
    program = d / "client"
    shutil.copy(CLIENT, program)
    program.chmod(0o755)
    yield d
    shutil.rmtree(d)


def as_user(directory, s, method, user):
    p = subprocess.run([*process.as_user(*user), directory / "client", "--text", "x", s.target, method],
                       capture_output=True, text=True, timeout=WAIT_S)
    assert p.returncode == 0, p.stderr
    return json.loads(p.stdout)


@root
def test_roles_by_user_group_and_supplementary_group(server, open_dir):
    s = server(viewer="gid:60001", operator="uid:60002", path=open_dir / "s.sock")
    say = lambda *user: as_user(open_dir, s, "Say", user)["code"]
    assert say(60000, 60001, []) == "OK"                      # by its group
    assert say(60000, 60000, [60003, 60001]) == "OK"          # by a supplementary group
    assert say(60002, 60000, []) == "OK"                      # an operator is a viewer
    refused = as_user(open_dir, s, "Say", (60000, 60000, [60003]))
    assert refused["code"] == "UNAVAILABLE" and "no role" in refused["message"]
    s.wait_line("refused role-refused connection: user 60000 has no role")
    operate = lambda *user: as_user(open_dir, s, "Operate", user)
    assert operate(60002, 60000, [])["code"] == "OK"
    refused = operate(60000, 60001, [])
    assert (refused["code"], refused["reason"]) == ("PERMISSION_DENIED", "role-refused")
    assert "needs the role operator; you are viewer" in refused["message"]
    s.wait_line("refused role-refused /countersign.test.Echo/Operate")


@root
def test_no_role_is_closed_before_a_byte_is_read(server, open_dir):
    s = server(viewer="uid:60002", path=open_dir / "s.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(WAIT_S)
        sock.connect(str(s.path))
        try:
            assert sock.recv(100) == b""  # not even SETTINGS
        except ConnectionResetError:
            pass
    s.wait_line("refused role-refused connection: user 0 has no role")


def test_wrong_role_from_grpcio(server, stub, echo):
    s = server()
    with pytest.raises(grpc.RpcError) as e:
        stub(s.target).Operate(echo.pb.EchoRequest(), timeout=WAIT_S)
    assert e.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert trailer(e.value, "countersign-reason") == "role-refused"


def test_socket_of_a_live_process_is_not_taken(server):
    s = server()
    p = subprocess.run([SERVER, "--unix", s.path, "--viewer", UID], capture_output=True, text=True, timeout=WAIT_S)
    assert p.returncode == 1
    assert f"another process listens on {s.path}" in p.stderr
    s.clean_end()


def test_stale_socket_is_removed(server, stub, echo, tmp_path):
    first = server(path=tmp_path / "same.sock")
    first.end(signal.SIGKILL)
    assert first.path.exists()
    second = server(path=tmp_path / "same.sock")
    assert stub(second.target).Say(echo.pb.EchoRequest(text="new"), timeout=WAIT_S).text == "new"


# ---- our client, calling grpcio ------------------------------------------------------------------------------------


@pytest.fixture
def grpcio(echo, tmp_path):
    """A server of grpcio's with the same service; notes what it saw."""
    class Servicer(echo.rpc.EchoServicer):
        def __init__(self):
            self.ended = queue.Queue()  # of calls that wait: how they ended
            self.arrived = queue.Queue()
            self.metadata = queue.Queue()

        def Say(self, request, context):
            self.arrived.put(request)
            self.metadata.put(context.invocation_metadata())
            if request.never:
                done = threading.Event()
                context.add_callback(done.set)
                done.wait(WAIT_S)
                self.ended.put(context.is_active())
            if request.code:
                context.set_trailing_metadata([("countersign-reason", "policy-deny")])
                context.abort(list(grpc.StatusCode)[request.code], request.text)
            return echo.pb.EchoReply(text=request.text, payload=bytes(request.size))

        def Stream(self, request, context):
            context.add_callback(lambda: self.ended.put(context.is_active()))
            for i in range(request.count):
                if not context.is_active():
                    return
                if request.delay_ms:
                    time.sleep(request.delay_ms / 1000)
                yield echo.pb.EchoReply(number=i, payload=bytes(request.size))
            if request.never:
                while context.is_active():
                    time.sleep(0.01)
            if request.code:
                context.abort(list(grpc.StatusCode)[request.code], request.text)

    servers = []

    def start(target=None, credentials=None, options=(), workers=80):
        pool = concurrent.futures.ThreadPoolExecutor(workers)
        server = grpc.server(pool, options=options)
        servicer = Servicer()
        echo.rpc.add_EchoServicer_to_server(servicer, server)
        target = target or f"unix:{tmp_path}/g{len(servers)}.sock"
        port = server.add_secure_port(target, credentials) if credentials else server.add_insecure_port(target)
        server.start()
        server.target, server.port, server.servicer = target, port, servicer
        servers.append((server, pool))
        return server
    yield start
    for server, pool in servers:
        server.stop(0).wait(WAIT_S)
        pool.shutdown()


def test_client_unary(grpcio):
    r, = client(grpcio().target, "Say", "--text", "hällo", "--size", "1000")
    assert (r["code"], r["text"], r["messages"], r["bytes"]) == ("OK", "hällo", 1, 1000)


def test_client_sends_metadata(grpcio):
    server = grpcio()
    for more, want in (("--header", "true"), ["true"]), ((), []):
        client(server.target, "Say", *more)
        got = server.servicer.metadata.get(timeout=WAIT_S)
        assert [value for name, value in got if name == "test-header"] == want


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_client_stream(grpcio, count):
    r, = client(grpcio().target, "Stream", "--count", count, "--size", "100")
    assert (r["code"], r["messages"], r["in_order"]) == ("OK", count, True)


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK], ids=lambda c: c.name)
def test_client_status(grpcio, code):
    r, = client(grpcio().target, "Say", "--code", list(grpc.StatusCode).index(code), "--text", "ünïcode €, 100 % of it")
    assert (r["code"], r["message"], r["reason"]) == (code.name, "ünïcode €, 100 % of it", "policy-deny")


def test_client_stream_ends_with_status(grpcio):
    r, = client(grpcio().target, "Stream", "--count", "3", "--code", "5", "--text", "gone")
    assert (r["code"], r["message"], r["messages"]) == ("NOT_FOUND", "gone", 3)


def test_client_deadline_is_kept_on_both_sides(grpcio):
    g = grpcio()
    r, = client(g.target, "Say", "--never", "--timeout", "1500")
    assert r["code"] == "DEADLINE_EXCEEDED"
    assert g.servicer.ended.get(timeout=WAIT_S) is False


def test_client_deadline_of_a_stream(grpcio):
    r, = client(grpcio().target, "Stream", "--count", "2", "--never", "--timeout", "1500")
    assert (r["code"], r["messages"]) == ("DEADLINE_EXCEEDED", 2)


def test_client_cancel(grpcio):
    g = grpcio()
    r, = client(g.target, "Stream", "--count", "1000000", "--size", "1000", "--cancel-at", "5")
    assert (r["code"], r["messages"]) == ("CANCELLED", 5)
    assert g.servicer.ended.get(timeout=WAIT_S) is False


def test_client_unknown_method(grpcio):
    r, = client(grpcio().target, "Unlisted")
    assert r["code"] == "UNIMPLEMENTED"


def test_client_reply_too_large(grpcio):
    r, = client(grpcio().target, "Say", "--size", "100001", "--limit", "message_max=100000")
    assert r["code"] == "RESOURCE_EXHAUSTED" and "more than the 100000 that are taken" in r["message"]


def test_client_request_too_large_for_the_server(grpcio):
    g = grpcio(options=[("grpc.max_receive_message_length", 1000)])
    r, = client(g.target, "Say", "--payload", "2000")
    assert r["code"] == "RESOURCE_EXHAUSTED"


def test_client_refuses_compressed_answers(grpcio):
    g = grpcio(options=[("grpc.default_compression_algorithm", 2)])
    r, = client(g.target, "Say", "--text", "x", "--size", "100000")
    # grpcio compresses although we say that we accept identity only
    assert r["code"] == "INTERNAL" and "compressed" in r["message"]


def test_client_64_streams_at_once(grpcio):
    results = client(grpcio().target, "Stream", "--calls", "64", "--count", "20", "--size", "20000")
    assert len(results) == 64
    assert all((r["code"], r["messages"], r["in_order"]) == ("OK", 20, True) for r in results)


def test_client_more_calls_than_the_server_takes(grpcio):
    g = grpcio(options=[("grpc.max_concurrent_streams", 4)])
    results = client(g.target, "Say", "--calls", "200", "--text", "x")
    assert [r["code"] for r in results] == ["OK"] * 200


def test_client_100_mib_through_64_kib(grpcio):
    r, = client(grpcio().target, "Stream", "--count", "1600", "--size", "65536", "--limit", "window=65536", "--limit",
                "conn_window=65536")
    assert (r["code"], r["bytes"], r["in_order"]) == ("OK", 100 * MIB, True)


def test_client_that_pauses_loses_nothing(grpcio):
    r, = client(grpcio().target, "Stream", "--count", "300", "--size", "10000", "--limit", "window=65536", "--pause-at",
                "20", "--pause-ms", "10")
    assert (r["code"], r["messages"], r["in_order"]) == ("OK", 300, True)


def test_client_server_gone_mid_stream(server):
    s = server()
    c = Program(CLIENT, "--each", "--count", "1", "--never", s.target, "Stream")
    c.wait_line("message 0")
    s.end(signal.SIGKILL)
    r = json.loads(c.wait_line(r"\{.*")[0])
    assert r["code"] == "UNAVAILABLE" and s.target in r["message"]
    assert c.end(None) == 0


def test_client_nobody_there(tmp_path):
    r, = client(f"unix:{tmp_path}/none.sock", "Say")
    assert r["code"] == "UNAVAILABLE"
    assert f"unix:{tmp_path}/none.sock: no such file or directory" in r["message"]


def test_client_waits_for_the_server(grpcio, tmp_path):
    target = f"unix:{tmp_path}/late.sock"
    c = Program(CLIENT, "--wait", "--state", "--text", "late", "--timeout", WAIT_S * 1000, target, "Say")
    c.wait_line("state BACKOFF")
    c.wait_line("state BACKOFF")
    g = grpcio(target)
    c.wait_line("state READY")
    assert json.loads(c.wait_line(r"\{.*")[0])["text"] == "late"
    assert c.end(None) == 0
    assert g.servicer.arrived.qsize() == 1


def test_client_after_goaway(grpcio, tmp_path):
    """The server stops in order: the running stream ends well, the next call goes to its successor."""
    target = f"unix:{tmp_path}/again.sock"
    first = grpcio(target)
    c = Program(CLIENT, "--wait", "--state", "--each", "--count", "3", "--delay", "400", "--repeat", "2", "--timeout",
                WAIT_S * 1000, target, "Stream")
    c.wait_line("message 0")
    stopped = first.stop(WAIT_S)
    c.wait_line("state IDLE .*sent the connection away")
    c.wait_line("message 1")
    c.wait_line("message 2")
    assert json.loads(c.wait_line(r"\{.*")[0])["code"] == "OK"
    assert stopped.wait(WAIT_S)
    grpcio(target)
    c.wait_line("state READY")
    assert json.loads(c.wait_line(r"\{.*")[0])["messages"] == 3
    assert c.end(None) == 0


# ---- a server that is neither: what our client makes of odd answers --------------------------------------------------

def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def literal(name, value):
    """A header field, without indexing, without Huffman (RFC 7541 6.2.2)."""
    def text(s):
        s = s if isinstance(s, bytes) else s.encode()
        n = len(s)
        if n < 127:
            return bytes([n]) + s
        out, n = bytearray([127]), n - 127
        while n >= 128:
            out.append(n % 128 + 128)
            n //= 128
        return bytes(out + bytes([n])) + s
    return b"\0" + text(name) + text(value)


def block(*fields):
    return b"".join(literal(k, v) for k, v in fields)


OK_HEADERS = [(":status", "200"), ("content-type", "application/grpc")]
OK_TRAILERS = [("grpc-status", "0")]


@pytest.fixture
def raw_server(tmp_path):
    """Answers every request stream with these bytes."""
    path = tmp_path / "raw.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def run(answer, close=True):
        def serve():
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(WAIT_S)
                sock.sendall(frame(SETTINGS, 0, 0))
                seen = b""
                while b"/countersign.test.Echo/" not in seen and b":path" not in seen and len(seen) < 150:
                    more = sock.recv(65536)
                    if not more:
                        return
                    seen += more
                sock.sendall(answer)
                if close:
                    return
                try:
                    while sock.recv(65536):
                        pass
                except OSError:
                    pass
        thread = threading.Thread(target=serve)
        thread.start()
        return f"unix:{path}", thread
    yield run
    listener.close()


def message(data):
    return b"\0" + struct.pack(">I", len(data)) + data


REPLY = message(b"\x0a\x02hi")
ODD_ANSWERS = {
    "good": (frame(HEADERS, END_HEADERS, 1, block(*OK_HEADERS)) + frame(DATA, 0, 1, REPLY) +
             frame(HEADERS, END_HEADERS | END_STREAM, 1, block(*OK_TRAILERS)), "OK", ""),
    "informational first": (frame(HEADERS, END_HEADERS, 1, block((":status", "103"))) +
                            frame(HEADERS, END_HEADERS, 1, block(*OK_HEADERS)) + frame(DATA, 0, 1, REPLY) +
                            frame(HEADERS, END_HEADERS | END_STREAM, 1, block(*OK_TRAILERS)), "OK", ""),
    "trailers only": (frame(HEADERS, END_HEADERS | END_STREAM, 1,
                            block(*OK_HEADERS, ("grpc-status", "5"), ("grpc-message", "no%20such%C3%A4"))),
                      "NOT_FOUND", "no suchä"),
    "unknown status": (frame(HEADERS, END_HEADERS | END_STREAM, 1, block(*OK_HEADERS, ("grpc-status", "77"))),
                       "UNKNOWN", ""),
    "no status": (frame(HEADERS, END_HEADERS, 1, block(*OK_HEADERS)) + frame(DATA, END_STREAM, 1, REPLY),
                  "INTERNAL", "without a status"),
    "ok without a reply": (frame(HEADERS, END_HEADERS | END_STREAM, 1, block(*OK_HEADERS, ("grpc-status", "0"))),
                           "INTERNAL", "no reply"),
    "two replies": (frame(HEADERS, END_HEADERS, 1, block(*OK_HEADERS)) + frame(DATA, 0, 1, REPLY + REPLY) +
                    frame(HEADERS, END_HEADERS | END_STREAM, 1, block(*OK_TRAILERS)), "INTERNAL", "more than one"),
    "half a reply": (frame(HEADERS, END_HEADERS, 1, block(*OK_HEADERS)) + frame(DATA, 0, 1, REPLY[:-1]) +
                     frame(HEADERS, END_HEADERS | END_STREAM, 1, block(*OK_TRAILERS)), "INTERNAL", "midst of a message"),
    "not protobuf": (frame(HEADERS, END_HEADERS, 1, block(*OK_HEADERS)) + frame(DATA, 0, 1, message(b"\x0a\xff")),
                     "INTERNAL", "not a valid countersign.test.EchoReply"),
    "compressed": (frame(HEADERS, END_HEADERS, 1, block(*OK_HEADERS)) + frame(DATA, 0, 1, b"\1\0\0\0\0"),
                   "INTERNAL", "compressed"),
    "bad flag": (frame(HEADERS, END_HEADERS, 1, block(*OK_HEADERS)) + frame(DATA, 0, 1, b"\x07\0\0\0\0"),
                 "INTERNAL", "framing"),
    "promises 4 GiB": (frame(HEADERS, END_HEADERS, 1, block(*OK_HEADERS)) + frame(DATA, 0, 1, b"\0\xff\xff\xff\xff"),
                       "RESOURCE_EXHAUSTED", "4294967295 bytes"),
    "not grpc": (frame(HEADERS, END_HEADERS, 1, block((":status", "200"), ("content-type", "text/html"))),
                 "UNKNOWN", "not gRPC"),
    "http 503": (frame(HEADERS, END_HEADERS | END_STREAM, 1, block((":status", "503"))), "UNAVAILABLE", "503"),
    "http 404": (frame(HEADERS, END_HEADERS | END_STREAM, 1, block((":status", "404"))), "UNIMPLEMENTED", "404"),
    "reset: cancel": (frame(RST, 0, 1, struct.pack(">I", 8)), "CANCELLED", "reset"),
    "reset: internal": (frame(RST, 0, 1, struct.pack(">I", 2)), "INTERNAL", "reset"),
    "reset: calm": (frame(RST, 0, 1, struct.pack(">I", 11)), "RESOURCE_EXHAUSTED", "reset"),
    "huge headers": (frame(HEADERS, END_HEADERS, 1, block(*OK_HEADERS, *[(f"x{i}", "y" * 100) for i in range(120)])) +
                     frame(HEADERS, END_HEADERS | END_STREAM, 1, block(*OK_TRAILERS, *[(f"x{i}", "y" * 100)
                                                                                      for i in range(20)])),
                      "RESOURCE_EXHAUSTED", "headers are larger"),
    "garbage": (b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10, "UNAVAILABLE", ""),
    "push": (frame(PUSH, END_HEADERS, 1, struct.pack(">I", 2) + block((":method", "GET"), (":scheme", "http"),
                                                                      (":path", "/"), (":authority", "x"))),
             "UNAVAILABLE", ""),
    "end of file": (b"", "UNAVAILABLE", "closed the connection"),
}


@pytest.mark.parametrize("how", ["GOAWAY", "REFUSED_STREAM"])
def test_client_tries_once_more(tmp_path, how):
    """What a server did not look at is safe to send again; once."""
    path = tmp_path / "twice.sock"
    refusal = {"GOAWAY": frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0)), "REFUSED_STREAM": frame(RST, 0, 1, struct.pack(">I", 7))}
    requests = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(WAIT_S)

        def take_request(sock):
            seen = b""
            while message(b"\x0a\x05twice") not in seen:
                seen += sock.recv(65536)
            requests.append(seen)

        def serve():
            sock, _ = listener.accept()
            sock.sendall(frame(SETTINGS, 0, 0))
            take_request(sock)
            sock.sendall(refusal[how])
            if how == "GOAWAY":
                sock.close()
                sock, _ = listener.accept()
                sock.sendall(frame(SETTINGS, 0, 0))
            take_request(sock)
            stream = 1 if how == "GOAWAY" else 3
            sock.sendall(frame(RST, 0, stream, struct.pack(">I", 7)))
            while sock.recv(65536):
                pass
            sock.close()
        thread = threading.Thread(target=serve)
        thread.start()
        r, = client(f"unix:{path}", "Say", "--text", "twice", "--timeout", WAIT_S * 1000)
        thread.join()
    assert len(requests) == 2
    assert r["code"] == "UNAVAILABLE" and "REFUSED_STREAM" in r["message"]


@pytest.mark.parametrize("name", ODD_ANSWERS)
def test_client_odd_answers(raw_server, name):
    answer, code, text = ODD_ANSWERS[name]
    target, thread = raw_server(answer, close=code == "UNAVAILABLE" and name != "http 503")
    r, = client(target, "Say", "--text", "x", "--timeout", WAIT_S * 1000)
    thread.join()
    assert r["code"] == code, r
    assert text in r["message"], r


# ---- our server against raw bytes ----------------------------------------------------------------------------------


class Raw:
    """HTTP/2 by hand: sends frames, reads frames."""

    def __init__(self, s, preface=PREFACE + frame(SETTINGS, 0, 0)):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(str(s.path))
        self.buffer = b""
        self.sock.sendall(preface)

    def send(self, *frames):
        try:
            self.sock.sendall(b"".join(frames))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server has had enough; what it said is read below

    def read(self):
        """The next frame, or None at the end."""
        try:
            while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3], "big"):
                more = self.sock.recv(65536)
                if not more:
                    return None
                self.buffer += more
        except ConnectionResetError:
            return None
        n = int.from_bytes(self.buffer[:3], "big")
        f = (self.buffer[3], self.buffer[4], int.from_bytes(self.buffer[5:9], "big"), self.buffer[9:9 + n])
        self.buffer = self.buffer[9 + n:]
        return f

    def until(self, kind, stream=None):
        while (f := self.read()) is not None:
            if f[0] == kind and stream in (None, f[2]):
                return f
        return None

    def answer(self, stream=1):
        """Header fields of the last HEADERS frame of the stream, or the code of RST_STREAM."""
        while (f := self.read()) is not None:
            if f[2] == stream and f[0] == RST:
                return int.from_bytes(f[3], "big")
            if f[2] == stream and f[0] == HEADERS and f[1] & END_STREAM:
                return dict(self.decoder.decode(f[3]))
            if f[0] == HEADERS:
                self.decoder.decode(f[3])
        return None

    @property
    def decoder(self):
        if not hasattr(self, "_decoder"):
            self._decoder = hpack.Decoder()
        return self._decoder

    def ended(self):
        while self.read() is not None:
            pass
        return True


def request(path="/countersign.test.Echo/Say", content_type="application/grpc", method="POST", more=()):
    fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "x"), ("te", "trailers")]
    return block(*fields, *([("content-type", content_type)] if content_type else []), *more)


@pytest.fixture
def raw(server):
    opened = []

    def connect(s, **kw):
        r = Raw(s, **kw)
        opened.append(r)
        return r
    yield connect
    for r in opened:
        r.sock.close()


SAY = frame(HEADERS, END_HEADERS, 1, request()) + frame(DATA, END_STREAM, 1, message(b"\x0a\x01x"))
REFUSED = {
    "content type": (frame(HEADERS, END_HEADERS | END_STREAM, 1, request(content_type="text/plain")), {":status": "415"}),
    "no content type": (frame(HEADERS, END_HEADERS | END_STREAM, 1, request(content_type=None)), {":status": "415"}),
    "json": (frame(HEADERS, END_HEADERS | END_STREAM, 1, request(content_type="application/grpc+json")),
             {":status": "415"}),
    "GET": (frame(HEADERS, END_HEADERS | END_STREAM, 1, request(method="GET")), {":status": "405"}),
    "path": (frame(HEADERS, END_HEADERS | END_STREAM, 1, request(path="/Echo")), {"grpc-status": "12"}),
    "path with more": (frame(HEADERS, END_HEADERS | END_STREAM, 1, request(path="/countersign.test.Echo/Say/x")),
                       {"grpc-status": "12"}),
    "long path": (frame(HEADERS, END_HEADERS | END_STREAM, 1, request(path="/countersign.test.Echo/" + "x" * 300)),
                  {"grpc-status": "12"}),
    "encoding": (frame(HEADERS, END_HEADERS | END_STREAM, 1, request(more=[("grpc-encoding", "gzip")])),
                 {"grpc-status": "12"}),
    "timeout": (frame(HEADERS, END_HEADERS | END_STREAM, 1, request(more=[("grpc-timeout", "soon")])),
                {"grpc-status": "13"}),
    "no message": (frame(HEADERS, END_HEADERS | END_STREAM, 1, request()), {"grpc-status": "13"}),
    "half a message": (frame(HEADERS, END_HEADERS, 1, request()) + frame(DATA, END_STREAM, 1, b"\0\0\0\0\5abc"),
                       {"grpc-status": "13"}),
    "compressed without encoding": (frame(HEADERS, END_HEADERS, 1, request()) + frame(DATA, END_STREAM, 1, b"\1\0\0\0\0"),
                                    {"grpc-status": "13"}),
    "flag byte": (frame(HEADERS, END_HEADERS, 1, request()) + frame(DATA, END_STREAM, 1, b"\x80\0\0\0\0"),
                  {"grpc-status": "13"}),
    "promises 4 GiB": (frame(HEADERS, END_HEADERS, 1, request()) + frame(DATA, 0, 1, b"\0\xff\xff\xff\xff"),
                       {"grpc-status": "8"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_server_refuses_malformed_requests(server, raw, name):
    data, expected = REFUSED[name]
    r = raw(server())
    r.send(data)
    got = {k: v for k, v in r.answer().items() if k in expected}
    assert got == expected
    # the connection lives on
    r.send(frame(HEADERS, END_HEADERS, 3, request()), frame(DATA, END_STREAM, 3, message(b"\x0a\x01x")))
    assert r.answer(3)["grpc-status"] == "0"


BROKEN = {
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": bytes.fromhex("16030100f8010000f40303") + bytes(240),
    "zeroes": bytes(4096),
    "no SETTINGS": PREFACE + frame(PING, 0, 0, bytes(8)),
    "frame too large": PREFACE + frame(SETTINGS, 0, 0) + struct.pack(">I", 1 << 23)[1:] + b"\0\0\0\0\0\1" + bytes(1000),
    "DATA on stream 0": PREFACE + frame(SETTINGS, 0, 0) + frame(DATA, 0, 0, b"x"),
    "DATA on an idle stream": PREFACE + frame(SETTINGS, 0, 0) + frame(DATA, 0, 7, b"x"),
    "even stream": PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 2, request()),
    "HPACK": PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
    "SETTINGS of odd size": PREFACE + frame(SETTINGS, 0, 0, b"12345"),
    "window overflow": PREFACE + frame(SETTINGS, 0, 0) + frame(WINDOW, 0, 0, struct.pack(">I", (1 << 31) - 1)) * 2,
    "CONTINUATION alone": PREFACE + frame(SETTINGS, 0, 0) + frame(CONTINUATION, END_HEADERS, 1, b""),
    "PING of 7 bytes": PREFACE + frame(SETTINGS, 0, 0) + frame(PING, 0, 0, bytes(7)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_server_ends_broken_connections(server, stub, echo, raw, name):
    s = server()
    r = raw(s, preface=BROKEN[name])
    assert r.ended()
    s.wait_line("disconnect")
    assert stub(s.target).Say(echo.pb.EchoRequest(text="still here"), timeout=WAIT_S).text == "still here"


def test_server_uppercase_header_resets_the_stream(server, raw):
    r = raw(server())
    r.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, request(more=[("Bad", "x")])))
    assert r.answer() == 1  # PROTOCOL_ERROR


FLOODS = {
    # nghttp2's bounds: queued acks, resets per second, CONTINUATION frames of one block, entries of SETTINGS
    "PING": frame(PING, 0, 0, bytes(8)) * 5000,
    "SETTINGS": frame(SETTINGS, 0, 0) * 5000,
    "RST_STREAM": b"".join(frame(HEADERS, END_HEADERS, i, request()) + frame(RST, 0, i, struct.pack(">I", 8))
                           for i in range(1, 8001, 2)),
    "CONTINUATION": frame(HEADERS, 0, 1, request()) + frame(CONTINUATION, 0, 1, b"") * 100,
    "SETTINGS entries": frame(SETTINGS, 0, 0, struct.pack(">HI", 0xf0, 1) * 100),
    "headers": frame(HEADERS, 0, 1, request()) + b"".join(
        frame(CONTINUATION, 0, 1, block(*[(f"x{j}", "y" * 1000) for j in range(15)])) for _ in range(12)),
}


@pytest.mark.parametrize("name", FLOODS)
def test_server_ends_floods(server, stub, echo, raw, name):
    """The peer does not read, so answers pile up; the server ends it instead of remembering."""
    s = server()
    r = raw(s)
    r.send(FLOODS[name])
    assert r.ended()
    s.wait_line("disconnect")
    assert stub(s.target).Say(echo.pb.EchoRequest(text="still here"), timeout=WAIT_S).text == "still here"


def test_server_too_many_streams(server, raw):
    s = server("--limit", "streams_max=3")
    never = b"".join(frame(HEADERS, END_HEADERS, i, request()) + frame(DATA, END_STREAM, i, message(b"\x38\x01"))
                     for i in range(1, 9, 2))
    r = raw(s)
    r.send(never)
    rst = r.until(RST)
    assert (rst[2], int.from_bytes(rst[3], "big")) == (7, 7)  # the fourth: REFUSED_STREAM
    r = raw(s)
    r.until(SETTINGS)
    r.send(frame(SETTINGS, ACK, 0), never)  # now it knows better
    assert r.until(GOAWAY) is not None
    assert r.ended()


def test_server_as_many_calls_as_may_be(server, raw):
    s = server("--limit", "calls_max=1")
    r = raw(s)
    r.send(frame(HEADERS, END_HEADERS, 1, request()), frame(DATA, END_STREAM, 1, message(b"\x38\x01")))
    r.send(frame(HEADERS, END_HEADERS, 3, request()))
    assert r.answer(3) == 7  # REFUSED_STREAM
    s.wait_line("refused too-many")
    r.send(frame(RST, 0, 1, struct.pack(">I", 8)))
    s.wait_line("cancel")
    r.send(frame(HEADERS, END_HEADERS, 5, request()), frame(DATA, END_STREAM, 5, message(b"\x0a\x01x")))
    assert r.answer(5)["grpc-status"] == "0"


def test_server_finished_call_of_a_reader_that_stops(server, raw):
    """The answer is larger than the window, and the client's deadline ends what it does not take."""
    r = raw(server())
    r.send(frame(HEADERS, END_HEADERS, 1, request(more=[("grpc-timeout", "300m")])),
           frame(DATA, END_STREAM, 1, message(b"\x20\x80\x80\x10")))  # 256 KiB through 64
    assert r.answer() == 8  # CANCEL


def test_server_says_nothing_is_timed_out(server, raw):
    s = server("--limit", "handshake_ms=200")
    assert raw(s, preface=b"").ended()
    assert raw(s, preface=PREFACE[:10]).ended()


def test_server_slow_loris(server, raw):
    """Headers without an end, and a message without an end."""
    s = server("--limit", "request_ms=200")
    r = raw(s)
    r.send(frame(HEADERS, 0, 1, request()))
    assert r.ended()
    r = raw(s)
    r.send(frame(HEADERS, END_HEADERS, 1, request()), frame(DATA, 0, 1, b"\0\0\0\0\5ab"))
    assert r.answer()["grpc-status"] == "4"


def test_server_idle_connection(server, raw):
    s = server("--limit", "idle_ms=500")
    r = raw(s)
    r.send(SAY)
    assert r.answer()["grpc-status"] == "0"
    assert r.until(GOAWAY) is not None
    assert r.ended()


def test_server_connections_of_one_user(server, raw):
    s = server("--limit", "per_user_max=2")
    first, second = raw(s), raw(s)
    first.send(SAY)
    assert first.answer()["grpc-status"] == "0"
    second.send(SAY)
    assert second.answer()["grpc-status"] == "0"
    third = Raw.__new__(Raw)
    third.sock, third.buffer = socket.socket(socket.AF_UNIX), b""
    third.sock.settimeout(WAIT_S)
    third.sock.connect(str(s.path))
    assert third.ended()
    third.sock.close()
    s.wait_line("refused too-many connection")


def test_server_reader_that_stops_does_not_grow_the_server(server, raw):
    """A peer asks for 1 GiB and reads nothing: the queue stops at its high-water mark."""
    s = server()
    r = raw(s)
    wanted = message(b"\x18\x80\x80\x01" + b"\x20\x80\x80\x04")  # count 16384, size 65536
    before = rss(s.process.pid)
    for i in range(1, 21, 2):
        r.send(frame(HEADERS, END_HEADERS, i, request("/countersign.test.Echo/Stream")), frame(DATA, END_STREAM, i, wanted))
    assert r.until(DATA) is not None
    probe = raw(s)
    probe.send(SAY)
    assert probe.answer()["grpc-status"] == "0"
    assert rss(s.process.pid) - before < 40 * MIB


def rss(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


# ---- mTLS ----------------------------------------------------------------------------------------------------------


def test_tls_server_unary_and_stream(tls_server, stub, echo, pki):
    s = tls_server()
    st = stub(s.target, grpcio_credentials(pki["node1"]))
    assert st.Say(echo.pb.EchoRequest(text="x"), timeout=WAIT_S).peer == "node1"
    total = sum(len(m.payload) for m in st.Stream(echo.pb.EchoRequest(count=400, size=65536), timeout=WAIT_S))
    assert total == 25 * MIB


def test_tls_peer_has_only_its_role(tls_server, stub, echo, pki):
    with pytest.raises(grpc.RpcError) as e:
        stub(tls_server().target, grpcio_credentials(pki["node1"])).Operate(echo.pb.EchoRequest(), timeout=WAIT_S)
    assert e.value.code() == grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("name,text", [("expired", "certificate has expired"), ("foreign", "unable to get local issuer"),
                                       ("stranger", "'stranger' is not expected here")])
def test_tls_server_refuses_clients(tls_server, stub, echo, pki, name, text):
    s = tls_server()
    credentials = grpc.ssl_channel_credentials((pki["server"] / "ca.pem").read_bytes(), (pki[name] / "key.pem").read_bytes(),
                                               (pki[name] / "cert.pem").read_bytes())
    with pytest.raises(grpc.RpcError) as e:
        stub(s.target, credentials).Say(echo.pb.EchoRequest(), timeout=5)
    assert e.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    s.wait_line(f"refused {'spiffe-id-mismatch' if name == 'stranger' else 'none'} connection: .*{text}")


def test_tls_server_refuses_without_certificate(tls_server, stub, echo, pki):
    s = tls_server()
    with pytest.raises(grpc.RpcError) as e:
        stub(s.target, grpc.ssl_channel_credentials((pki["server"] / "ca.pem").read_bytes())).Say(
            echo.pb.EchoRequest(), timeout=5)
    assert e.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    s.wait_line("refused none connection: .*peer did not return a certificate")


@pytest.mark.parametrize("what", ["plain HTTP/2", "no ALPN", "another ALPN", "TLS 1.2", "silence", "half a hello"])
def test_tls_server_odd_peers(tls_server, stub, echo, pki, what):
    import ssl
    s = tls_server("--limit", "handshake_ms=500" if what in ("silence", "half a hello") else "handshake_ms=60000")
    context = ssl.create_default_context(cafile=str(pki["server"] / "ca.pem"))
    context.load_cert_chain(pki["node1"] / "cert.pem", pki["node1"] / "key.pem")
    if what == "another ALPN":
        context.set_alpn_protocols(["http/1.1"])
    if what == "TLS 1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", s.port), WAIT_S) as sock:
        try:
            if what == "plain HTTP/2":
                sock.sendall(PREFACE + frame(SETTINGS, 0, 0))
            elif what == "half a hello":
                sock.sendall(bytes.fromhex("16030100f8010000f40303") + bytes(20))
            elif what != "silence":
                sock = context.wrap_socket(sock, server_hostname="localhost")
            while sock.recv(65536):
                pass
        except (ssl.SSLError, ConnectionResetError):
            pass
        finally:
            sock.close()
    s.wait_line("refused none connection")
    assert stub(s.target, grpcio_credentials(pki["node1"])).Say(echo.pb.EchoRequest(text="x"), timeout=WAIT_S).text == "x"


def test_tls_client(grpcio, pki):
    g = grpcio("127.0.0.1:0", grpcio_credentials(pki["server"], server=True))
    r, = client(f"localhost:{g.port}", "Say", "--tls", pki["node1"], "--text", "hi")
    assert (r["code"], r["text"]) == ("OK", "hi")
    r, = client(f"127.0.0.1:{g.port}", "Stream", "--tls", pki["node1"], "--count", "400", "--size", "65536", "--limit",
                "window=65536")
    assert (r["code"], r["bytes"]) == ("OK", 25 * MIB)


@pytest.mark.parametrize("name,text", [("expired", "certificate has expired"), ("foreign", "unable to get local issuer"),
                                       ("stranger", "'stranger' is not expected here")])
def test_tls_client_refuses_servers(grpcio, pki, name, text):
    g = grpcio("127.0.0.1:0", grpcio_credentials(pki[name], server=True))
    r, = client(f"127.0.0.1:{g.port}", "Say", "--tls", pki["node1"])
    assert r["code"] == "UNAVAILABLE" and text in r["message"]
    assert g.servicer.arrived.empty()


def test_tls_client_is_refused(tls_server, pki):
    s = tls_server()
    r, = client(s.target, "Say", "--tls", pki["stranger"], "--text", "x")
    assert r["code"] == "UNAVAILABLE"
    s.wait_line("refused spiffe-id-mismatch connection")


def test_tls_client_against_plain(grpcio, pki):
    g = grpcio("127.0.0.1:0")
    r, = client(f"127.0.0.1:{g.port}", "Say", "--tls", pki["node1"])
    assert r["code"] == "UNAVAILABLE"


def test_tls_client_unresolvable(pki):
    r, = client("no-such-host.invalid:4251", "Say", "--tls", pki["node1"])
    assert r["code"] == "UNAVAILABLE" and "cannot resolve no-such-host.invalid" in r["message"]


def test_tls_ours_to_ours(tls_server, pki):
    s = tls_server()
    results = client(s.target, "Stream", "--tls", pki["node1"], "--calls", "64", "--count", "20", "--size", "20000")
    assert [(r["code"], r["messages"], r["in_order"]) for r in results] == [("OK", 20, True)] * 64

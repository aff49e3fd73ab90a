"""Calls whose requests are a stream: our client against a server of grpcio's."""
import concurrent.futures
import json
import queue
import subprocess
import threading

import grpc
import pytest

from lab.daemon import BUILD, WAIT_S
from lab.grpc_echo import echo  # noqa: F401 a fixture

CLIENT = BUILD / "integration" / "grpc_bidi_client"
KIB = 1 << 10


@pytest.fixture
def server(echo, tmp_path):
    """A server of grpcio's that answers as the test says: start(chat=..., collect=...)."""
    servers = []

    def start(chat=None, collect=None, options=()):
        ended = queue.Queue()  # a call ended; what it saw as the last request

        class Servicer(echo.rpc.EchoServicer):
            def Chat(self, requests, context):
                context.add_callback(lambda: ended.put("chat"))
                yield from chat(requests, context)

            def Collect(self, requests, context):
                return collect(requests, context)

        pool = concurrent.futures.ThreadPoolExecutor(4)
        server = grpc.server(pool, options=options)
        echo.rpc.add_EchoServicer_to_server(Servicer(), server)
        server.target = f"unix:{tmp_path}/b{len(servers)}.sock"
        server.add_insecure_port(server.target)
        server.ended = ended
        server.start()
        servers.append((server, pool))
        return server
    yield start
    for server, pool in servers:
        server.stop(0).wait(WAIT_S)
        pool.shutdown()


class Client:
    def __init__(self, target, method, *args):
        self.process = subprocess.Popen([str(a) for a in (CLIENT, *args, target, method)], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)

    def wait_line(self, start):
        for line in self.process.stdout:
            if line.startswith(start):
                return line.split()
        pytest.fail(f"the client ended before it said {start!r}: {self.process.stderr.read()}")

    def end(self):
        out, errors = self.process.communicate(timeout=WAIT_S)
        assert self.process.returncode == 0, errors
        self.lines = out.splitlines()
        return json.loads(self.lines[-1])


def call(*args):
    return Client(*args).end()


def each(echo):
    """Answers every request with its payload, under its number."""
    def chat(requests, context):
        for r in requests:
            yield echo.pb.EchoReply(number=r.count, payload=r.payload)
    return chat


def test_each_request_has_its_answer(server, echo):
    r = call(server(each(echo)).target, "Chat", "--count", 100, "--turns", "--payload", 10)
    assert (r["code"], r["sent"], r["answers"], r["in_order"], r["bytes"]) == ("OK", 100, 100, True, 1000)


def test_no_request_at_all(server, echo):
    r = call(server(each(echo)).target, "Chat", "--count", 0)
    assert (r["code"], r["answers"], r["after_end"]) == ("OK", 0, True)


def test_many_bytes_both_ways_with_pauses(server, echo):
    """30 MiB each way; whoever is slow holds up the other, and no queue grows."""
    r = call(server(each(echo)).target, "Chat", "--count", 480, "--payload", 64 * KIB, "--pause-at", 50, "--pause-ms", 20)
    assert (r["code"], r["answers"], r["in_order"], r["bytes"]) == ("OK", 480, True, 480 * 64 * KIB)
    assert r["full"] > 0 and r["queued_max"] < 400 * KIB


def test_answers_after_half_close(server, echo):
    def chat(requests, context):
        numbers = [r.count for r in requests]  # ends at the half close
        for n in numbers:
            yield echo.pb.EchoReply(number=n)
    r = call(server(chat).target, "Chat", "--count", 20)
    assert (r["code"], r["answers"], r["in_order"], r["after_end"]) == ("OK", 20, True, True)


def test_client_streaming(server, echo):
    def collect(requests, context):
        return echo.pb.EchoReply(payload=bytes(sum(len(r.payload) for r in requests)))
    r = call(server(collect=collect).target, "Collect", "--count", 30, "--payload", 1000)
    assert (r["code"], r["answers"], r["bytes"]) == ("OK", 1, 30000)


def test_server_ends_while_the_client_would_go_on(server, echo):
    def chat(requests, context):
        yield echo.pb.EchoReply(number=next(requests).count)
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "enough")
    s = server(chat)
    r = call(s.target, "Chat", "--count", 5, "--turns", "--open")
    assert (r["code"], r["message"], r["answers"]) == ("FAILED_PRECONDITION", "enough", 1)


def test_server_that_does_not_read_fills_a_bounded_queue(server, echo):
    read = threading.Event()

    def chat(requests, context):
        read.wait(WAIT_S)
        for r in requests:
            yield echo.pb.EchoReply(number=r.count)
    c = Client(server(chat).target, "Chat", "--count", 500, "--payload", 64 * KIB)
    _, queued = c.wait_line("full")
    assert 256 * KIB <= int(queued) < 400 * KIB
    read.set()
    r = c.end()
    assert (r["code"], r["answers"], r["in_order"]) == ("OK", 500, True)
    assert r["queued_max"] < 400 * KIB


def test_who_does_not_listen_is_refused(server, echo):
    """The twin: a caller that goes on although the queue is full gets an error, and not all memory."""
    done = threading.Event()

    def chat(requests, context):
        done.wait(WAIT_S)
        yield echo.pb.EchoReply()
    c = Client(server(chat).target, "Chat", "--count", 10000, "--payload", 64 * KIB, "--deaf",
               "--limit", f"queue_max={2048 * KIB}")
    r = c.end()
    done.set()
    assert "refused ENOBUFS" in c.lines
    assert r["code"] == "CANCELLED" and r["queued_max"] <= 2048 * KIB


def test_stall_ends_at_the_deadline(server, echo):
    done = threading.Event()

    def chat(requests, context):
        done.wait(WAIT_S)
        yield from ()
    s = server(chat)
    r = call(s.target, "Chat", "--count", 500, "--payload", 64 * KIB, "--timeout", 2000)
    done.set()
    assert r["code"] == "DEADLINE_EXCEEDED" and r["full"] > 0 and r["sent"] < 500
    assert s.ended.get(timeout=WAIT_S)


def test_request_too_large(server, echo):
    c = Client(server(each(echo)).target, "Chat", "--payload", 2000, "--limit", "message_max=1000")
    r = c.end()
    assert "refused EMSGSIZE" in c.lines and r["answers"] == 0


def test_answer_too_large(server, echo):
    def chat(requests, context):
        for r in requests:
            yield echo.pb.EchoReply(number=r.count, payload=bytes(1000 * (r.count + 1)))
    r = call(server(chat).target, "Chat", "--count", 5, "--turns", "--limit", "message_max=2500")
    assert (r["code"], r["answers"]) == ("RESOURCE_EXHAUSTED", 2)
    assert "more than the 2500 that are taken" in r["message"]


def test_request_too_large_for_the_server(server, echo):
    r = call(server(each(echo), options=[("grpc.max_receive_message_length", 1000)]).target, "Chat", "--payload", 2000)
    assert (r["code"], r["answers"]) == ("RESOURCE_EXHAUSTED", 0)


def test_cancel(server, echo):
    s = server(each(echo))
    r = call(s.target, "Chat", "--count", 1000, "--turns", "--open", "--cancel-at", 5)
    assert (r["code"], r["answers"]) == ("CANCELLED", 5)
    assert s.ended.get(timeout=WAIT_S)  # the server's side is over too


def test_server_gone_in_the_middle(server, echo):
    s = server(each(echo))
    c = Client(s.target, "Chat", "--count", 1, "--open")
    c.wait_line("answer 0")
    s.stop(0)
    r = c.end()
    assert (r["code"], r["untouched"]) == ("UNAVAILABLE", False)


def test_no_server(tmp_path):
    r = call(f"unix:{tmp_path}/nobody.sock", "Chat", "--count", 3)
    assert (r["code"], r["untouched"]) == ("UNAVAILABLE", True)


def test_method_that_is_not_there(server, echo):
    r = call(server(each(echo)).target, "Unlisted", "--count", 3)
    assert r["code"] == "UNIMPLEMENTED"

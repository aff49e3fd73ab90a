"""The other end of a handshake: Python's ssl with an SVID of our making, and what a peer may do that it should not."""
import contextlib
import datetime as dt
import os
import socket
import ssl
import struct

from lab import pki


def day_ago():
    return dt.datetime.utcnow() - dt.timedelta(days=1)


class Files:
    """An SVID and a CA as PEM files in a directory."""

    def __init__(self, dir, svid, ca):
        self.chain, self.key, self.ca = (str(dir / n) for n in ("chain.pem", "key.pem", "ca.pem"))
        open(self.chain, "wb").write(b"".join(pki.pem(c) for c in svid.chain))
        open(self.key, "wb").write(pki.key_pem(svid.key))
        open(self.ca, "wb").write(pki.pem(ca.cert))

    def client(self):
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        c.check_hostname = False
        c.set_ciphers("DEFAULT@SECLEVEL=0")
        c.load_verify_locations(self.ca)
        c.load_cert_chain(self.chain, self.key)
        return c

    def server(self):
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        c.verify_mode = ssl.CERT_REQUIRED
        c.load_verify_locations(self.ca)
        c.load_cert_chain(self.chain, self.key)
        return c


def after_handshake(context, act):
    """serve(socket): a server that does act(its end of the connection) where the answer belongs. Returns that end."""

    def serve(sock):
        s = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        s.do_handshake()
        act(s)
        return s

    return serve


# What an accepting peer may answer. Only the first is a yes.


def yes(s):
    """close_notify and nothing else, without waiting for the other's."""
    s.setblocking(False)
    with contextlib.suppress(ssl.SSLWantReadError):
        s.unwrap()


def end(s):
    """The end of the connection without a word of TLS."""
    os.close(s.detach())


def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(s.detach())


def byte(s):
    s.send(b"x")


def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass

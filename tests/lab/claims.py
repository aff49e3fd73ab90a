"""Plays the node role towards a real cluster role: endpoints by the thousand, more than one machine could run. It has a
node certificate like any other and says over mTLS what they say."""
import ipaddress
import select
import socket
import ssl
import threading

import grpc

from lab import protos
from lab.cluster import TRUST_DOMAIN, sh
from lab.daemon import WAIT_S


class Claimant:
    """A node of this name. Python's gRPC verifies servers by host names only, so it speaks through a TLS of our own."""

    def __init__(self, c, name, address):
        self.dir, first = c.dir / name, c.nodes[0]
        sh(str(c.program("spire-adapter")), "--set", f"trust_domain={TRUST_DOMAIN}", "--set", f"local_ca.dir={c.dir / 'ca'}",
           "--issue-node", name, "--out", str(self.dir))
        context = ssl.create_default_context(cafile=self.dir / "bundle.pem")
        context.check_hostname = False
        context.load_cert_chain(self.dir / "svid.pem", self.dir / "svid.key")
        context.set_alpn_protocols(["h2"])
        self.far = context.wrap_socket(first.ns.do(socket.create_connection, (first.address, 4251), WAIT_S))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.dir / "sock"))
            listener.listen()
            self.channel = grpc.insecure_channel(f"unix:{self.dir / 'sock'}", [("grpc.use_local_subchannel_pool", 1)])
            grpc.channel_ready_future(self.channel).add_done_callback(lambda _: None)  # connects now
            self.near = listener.accept()[0]
        self.thread = threading.Thread(target=self._pump, daemon=True)
        self.thread.start()
        self.stub = protos.cluster_rpc.ClusterStub(self.channel)
        hello = protos.cluster.HelloRequest(addresses=[self._address(address)], port=4250, path="unknown", version="test")
        self.stub.Hello(hello, timeout=WAIT_S)

    def _pump(self):
        """One thread for both directions: an SSL object is for one."""
        self.far.settimeout(None)
        try:
            while True:
                ready = [self.far] if self.far.pending() else select.select([self.near, self.far], [], [])[0]
                for a, b in ((self.near, self.far), (self.far, self.near)):
                    if a in ready:
                        data = a.recv(16384)
                        if not data:
                            return
                        b.sendall(data)
        except OSError:
            pass

    @staticmethod
    def _address(text):
        return protos.common.Address(ip=ipaddress.ip_address(text).packed)

    def claim(self, endpoints):
        """[(id, {key: value} of k8s labels, address)] -> identities."""
        label = protos.common.Label
        claims = [protos.cluster.ClaimRequest(id=id, labels=[label(source="k8s", key=k, value=v) for k, v in labels.items()],
                                              addresses=[self._address(address)]) for id, labels, address in endpoints]
        replies = self.stub.ReconcileClaims(protos.cluster.ReconcileClaimsRequest(claims=claims), timeout=WAIT_S).replies
        assert not any(r.HasField("refused") and r.refused.name for r in replies), replies[0]
        return [r.identity for r in replies]

    def close(self):
        self.channel.close()
        for s in (self.near, self.far):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.thread.join()
        self.near.close()
        self.far.close()

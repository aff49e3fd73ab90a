"""Traffic that goes on and counts what it loses, while a test changes the world around it."""
import threading


class Traffic:
    """One TCP connection and a datagram every 10 ms, from one workload to another and back."""

    def __init__(self, client, server, port=6000):
        self.stopping = threading.Event()
        with server.listen(port) as listener:
            self.tcp, _ = client.connect(server, port)
            self.peer, _ = listener.accept()
        self.udp, self.echo = client.udp(), server.udp(port + 1)
        for s in (self.udp, self.echo, self.tcp, self.peer):
            s.settimeout(3)
        self.sent = self.lost = self.rounds = 0
        self.error = None
        self.threads = [threading.Thread(target=f, daemon=True) for f in (self._echo, self._run)]
        for t in self.threads:
            t.start()

    def _echo(self):
        while not self.stopping.is_set():
            try:
                data, sender = self.echo.recvfrom(100)
                self.echo.sendto(data, sender)
            except TimeoutError:
                pass

    def _run(self):
        to = self.echo.getsockname()
        while not self.stopping.wait(0.01):
            self.sent += 1
            data = b"%d" % self.sent
            try:
                self.udp.sendto(data, to)
                while self.udp.recv(100) != data:
                    pass
                self.tcp.sendall(data + b"\n")
                self.peer.recv(100)
                self.rounds += 1
            except OSError as e:
                self.lost += 1
                self.error = e

    def end(self):
        self.stopping.set()
        for t in self.threads:
            t.join(10)
        for s in (self.tcp, self.peer, self.udp, self.echo):
            s.close()
        return self

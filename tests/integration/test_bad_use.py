"""What people get wrong: settings, paths, permissions, a full disk, a daemon too few or too many. Each is said in one
sentence that names the culprit, and nothing is half done or open afterwards."""
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from lab import process
from lab.cluster import PROGRAMS, Cluster, Daemon, LabError, policy, required, sh, wait_until
from lab.daemon import BUILD, NOBODY, WAIT_S

PREFIX = "tuse"
PORT = 5000
DAEMONS = ["identityd", "spire-adapter", "authd"]
SOCKETS = [("identityd", "directory"), ("identityd", "endpoints"), ("identityd", "status"), ("spire-adapter", "svids"),
           ("spire-adapter", "sign"), ("spire-adapter", "status"), ("authd", "auth"), ("authd", "status")]
VIEWER = 64001  # a uid; NOBODY has no role


@pytest.fixture(scope="module")
def c():
    """node1 works; node2 is there for daemons that do not."""
    with Cluster(prefix=PREFIX) as c:
        n1, c.spare = c.node(), c.node()
        n1.settings = {d: {"roles.viewer": f"uid:{VIEWER}"} for d in DAEMONS}
        c.policy("db", policy("db", "db", required("ingress", "frontend")))
        c.policy("frontend", policy("frontend", "frontend", required("egress", "db")))
        c.credentials()
        for name in ("frontend", "batch", "db"):
            n1.workload(name, f"k8s:app={name}")
        n1.start(*DAEMONS)
        for w in c.workloads.values():
            w.register(wait="enforced,svid-ready")
        with c.workloads["db"].listen(PORT):
            yield c
        assert [n1.stop(d) for d in reversed(DAEMONS)] == [0, 0, 0], "a clean shutdown"


@pytest.fixture
def n1(c):
    yield c.nodes[0]
    assert c.workloads["frontend"].reaches(c.workloads["db"], PORT, timeout=3), "what works goes on working"
    assert not c.workloads["batch"].reaches(c.workloads["db"], PORT, timeout=0.2), "what is closed stays closed"


@pytest.fixture
def spare(c):
    yield c.spare
    c.spare.stop_all()


def refused(node, daemon, code=1, **settings):
    """What a daemon of this node said, that must not start."""
    log = node.dir / f"{daemon}.log"
    before = log.stat().st_size if log.exists() else 0
    d = Daemon(node, daemon, node.lab.arguments(node, daemon, {**settings}))
    try:
        assert d.process.wait(20) == code, d.tail()
    finally:
        d.kill()
    return log.read_bytes()[before:].decode()


def starts(node, daemon, **settings):
    """The twin: it was that one thing."""
    node.start(daemon, **{daemon.replace("-", "_"): settings})
    assert node.stop(daemon) == 0


@pytest.fixture
def room():
    """A directory that other users may enter."""
    with tempfile.TemporaryDirectory(prefix="cs-use-") as dir:
        os.chmod(dir, 0o755)
        yield Path(dir)


# ---- settings ---------------------------------------------------------------------------------------------------------

UNKNOWN = [
    ("log:\n  level: info\n  fromat: json\n", 3, ["log.fromat", "did you mean 'log.format'"]),
    ("roles:\n  viewers: [uid:0]\n", 2, ["roles.viewers", "did you mean 'roles.viewer'"]),
    ("log.level: info\n\n\nzzz: 1\n", 1, ["log.level"]),
]
WRONG = [
    ("log:\n  level: loud\n", 2, ["log.level", "'loud'", "debug"]),
    ("log: info\n", 1, ["log"]),
    ("log:\n  level: [info]\n", 2, ["log.level"]),
    ("log:\n  level: info\n  level: debug\n", 3, ["log.level", "twice"]),
    ("log:\n  level: &a info\n", 2, ["anchor"]),
    ("log:\n\tlevel: info\n", 2, []),
    ("log: {level: info\n", 2, []),
]
OWN_WRONG = [
    ("authd", "auth:\n  max_ttl: 5\n", 2, ["auth.max_ttl", "'5'", "1h30m"]),
    ("authd", "auth:\n  max_ttl: 1s\n", 2, ["auth.max_ttl", "10s"]),
    ("authd", "hold:\n  enabled: perhaps\n", 2, ["hold.enabled", "'perhaps'", "true"]),
    ("authd", "hold:\n\n  max_bytes: 1\n", 3, ["hold.max_bytes", "65536"]),
    ("authd", "maps:\n  entries: many\n", 2, ["maps.entries", "'many'"]),
    ("authd", "datapath:\n  attach: xdp\n", 2, ["datapath.attach", "'xdp'", "tcx"]),
    ("authd", "datapath:\n  bpffs: sys/fs/bpf\n", 2, ["datapath.bpffs", "absolute"]),
    ("authd", "handshaker:\n  count: 65\n", 2, ["handshaker.count", "64"]),
    ("identityd", "node:\n  port: 70000\n", 2, ["node.port", "65535"]),
    ("identityd", "address:\n  quarantine: -1s\n", 2, ["address.quarantine", "-1s"]),
    ("identityd", "role: nodes\n", 1, ["role", "'nodes'", "node"]),
    ("identityd", "node:\n  addresses: 10.0.0.1\n", 2, ["node.addresses"]),
    ("spire-adapter", "local_ca:\n  svid_ttl: 1s\n", 2, ["local_ca.svid_ttl", "5s"]),
    ("spire-adapter", "source: vault\n", 1, ["source", "'vault'", "local-ca"]),
]


def refuses(daemon, room, text, line, says):
    file = room / "config.yaml"
    file.write_text(text)
    instance = room / "instance"
    p = subprocess.run([BUILD / PROGRAMS[daemon], "--instance", instance, "--config", file], capture_output=True, text=True,
                       stdin=subprocess.DEVNULL, timeout=WAIT_S)
    assert p.returncode == 2, p.stderr
    assert p.stderr.startswith(f"countersign-{daemon}: {file}:{line}: "), p.stderr
    assert p.stderr.count("\n") == 1, "one sentence"
    for word in says:
        assert word in p.stderr
    assert not instance.exists(), "nothing was made before the settings were good"


@pytest.mark.parametrize("daemon", DAEMONS)
@pytest.mark.parametrize("text, line, says", UNKNOWN + WRONG)
def test_settings_that_each_daemon_refuses(daemon, text, line, says, room):
    refuses(daemon, room, text, line, says)


@pytest.mark.parametrize("daemon, text, line, says", OWN_WRONG)
def test_settings_of_its_own(daemon, text, line, says, room):
    refuses(daemon, room, text, line, says)


@pytest.mark.parametrize("daemon", DAEMONS)
def test_settings_that_are_fine(daemon, room, spare):
    """The twin of all of the above: the same keys, rightly used."""
    file = room / "config.yaml"
    file.write_text("log:\n  level: debug\n  format: json\nroles:\n  viewer: [uid:0]\n")
    spare.daemons[daemon] = Daemon(spare, daemon, ["--config", str(file), *spare.lab.arguments(spare, daemon, {})])
    spare.daemons[daemon].wait_ready()


# ---- policies ---------------------------------------------------------------------------------------------------------

BROKEN = policy("db", "db", required("ingress", "frontend").replace("required", "sometimes"))


def check_of(node, daemon, name):
    daemons = {d["daemon"]: d for d in json.loads(node.run_cli("status", "-o", "json").stdout)["daemons"]}
    return {check["name"]: check for check in daemons[daemon]["checks"]}[name]


def test_a_policy_that_does_not_parse_changes_nothing_and_is_reported(c, n1):
    frontend, batch, db = (c.workloads[n] for n in ("frontend", "batch", "db"))
    sock, _ = frontend.connect(db, PORT)
    good = (c.policies / "db.yaml").read_text()
    try:
        c.policy("db", BROKEN)
        wait_until(lambda: not check_of(n1, "identityd", "policy")["ok"], "status says so")
        said = check_of(n1, "identityd", "policy")["reason"]["detail"]
        assert f"{c.policies}/db.yaml:" in said and "sometimes" in said
        assert n1.run_cli("status").returncode != 0, "scripts notice as well"
        error = [line for line in n1.daemons["identityd"].log.read_text().splitlines() if "sometimes" in line]
        assert error and '"level":"error"' in error[-1], "loudly"
        assert c.workloads["frontend"].reaches(db, PORT, timeout=3) and not batch.reaches(db, PORT, timeout=0.3)
        # A workload that comes now is judged by what is in force.
        late = n1.workload("late", "k8s:app=batch", "k8s:late=yes")
        late.register()
        assert not late.reaches(db, PORT, timeout=0.3)
        late.unregister()
        sock.sendall(b"x")
    finally:
        c.policy("db", good)
        sock.close()
    wait_until(lambda: check_of(n1, "identityd", "policy")["ok"], "mended")


def test_a_policy_that_does_not_parse_at_the_start_opens_nothing(c, n1):
    frontend, batch, db = (c.workloads[n] for n in ("frontend", "batch", "db"))
    good = (c.policies / "db.yaml").read_text()
    n1.stop("identityd")
    try:
        c.policy("db", BROKEN)
        said = refused(n1, "identityd")
        assert f"{c.policies}/db.yaml:" in said and "sometimes" in said
        assert not batch.reaches(db, PORT, timeout=0.3)
        assert frontend.reaches(db, PORT, timeout=3), "authd goes on with what it knows"
    finally:
        c.policy("db", good)
        n1.start("identityd")
    wait_until(lambda: check_of(n1, "authd", "directory")["ok"], "authd follows again")


# ---- sockets ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def planted(node, daemon, name, kind):
    path = node.instance / daemon / f"{name}.sock"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    live = None
    if kind == "file":
        path.write_text("somebody's")
    else:
        live = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET if name == "sign" else socket.SOCK_STREAM)
        live.bind(str(path))
        if kind == "foreign":
            os.chown(path, NOBODY, NOBODY)
        else:
            live.listen()
    before = os.lstat(path)
    try:
        yield path
        after = os.lstat(path)
        assert (before.st_ino, before.st_uid, before.st_mode) == (after.st_ino, after.st_uid, after.st_mode), "left alone"
    finally:
        if live:
            live.close()
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("kind, says", [("file", "is not a socket"), ("foreign", f"belongs to user {NOBODY}"),
                                        ("live", "another process listens")])
@pytest.mark.parametrize("daemon, name", SOCKETS)
def test_a_path_that_is_taken(spare, daemon, name, kind, says):
    with planted(spare, daemon, name, kind) as path:
        said = refused(spare, daemon)
        assert str(path) in said and says in said, said
        left = [p for p in (spare.instance / daemon).glob("*.sock") if p != path]
        assert not left, "those that it had made are gone again"


@pytest.mark.parametrize("daemon", DAEMONS)
def test_a_socket_that_a_dead_process_left(spare, daemon):
    """The twin: nobody listens, it is ours, and it goes."""
    for d, name in SOCKETS:
        if d == daemon:
            path = spare.instance / daemon / f"{name}.sock"
            path.parent.mkdir(parents=True, exist_ok=True)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
                s.bind(str(path))
    starts(spare, daemon)


# ---- who may ----------------------------------------------------------------------------------------------------------

CONNECT = """
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET if sys.argv[1].endswith("sign.sock") else socket.SOCK_STREAM)
s.settimeout(20)
try:
    s.connect(sys.argv[1])
    s.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    print(len(s.recv(1000)))
except OSError as e:
    print(type(e).__name__)
"""


def as_user(uid, *args):
    return subprocess.run([*process.as_user(uid), *args], cwd="/", capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=WAIT_S)


@pytest.mark.parametrize("daemon, name", SOCKETS)
def test_a_user_without_a_role_gets_no_byte(n1, daemon, name):
    path = n1.instance / daemon / f"{name}.sock"
    p = as_user(NOBODY, "/usr/bin/python3", "-c", CONNECT, path)
    assert p.stdout.strip() in ("0", "ConnectionResetError", "BrokenPipeError", "PermissionError"), (p.stdout, p.stderr)
    if name not in ("sign", "endpoints"):  # the twin: who may look is answered
        assert int(as_user(VIEWER, "/usr/bin/python3", "-c", CONNECT, path).stdout) > 0


VIEWS = [["identity", "list"], ["endpoint", "list"], ["node", "list"], ["policy", "list"], ["svid", "list"], ["auth", "list"],
         ["auth", "explain", "db", "10.77.1.10"], ["status"]]
ACTS = [["endpoint", "unregister", "db"], ["auth", "flush", "--all"],
        ["endpoint", "register", "--id", "x", "--interface", "h12-db", "--address", "10.77.1.99", "--label", "k8s:app=x"]]


def test_each_service_asks_who_calls(n1):
    def cli(uid, args):
        return as_user(uid, n1.lab.program("cli"), "--instance", n1.instance, *args)

    before = n1.cli("endpoint", "list")
    for args in VIEWS + ACTS:
        p = cli(NOBODY, args)
        assert p.returncode != 0, args
        assert "db" not in p.stdout, "not a word of what is there"
    for args in VIEWS:
        assert cli(VIEWER, args).returncode == 0, args
    for args in ACTS:
        p = cli(VIEWER, args)
        assert p.returncode != 0 and "role-refused" in p.stderr, (args, p.stderr)
    assert n1.cli("endpoint", "list") == before


# ---- daemons that are missing, or there twice -------------------------------------------------------------------------


@pytest.fixture
def guest(c, n1):
    """A workload that nobody has registered yet. Its agent opens the interface after Register has succeeded."""
    guest = n1.workload("guest", "k8s:app=frontend", "k8s:guest=yes")
    n1.ns.ip("link", "set", guest.interface, "down")
    mac = json.loads(n1.ns.ip("-j", "link", "show", guest.interface))[0]["address"]
    guest.ns.ip("neigh", "replace", "169.254.1.1", "lladdr", mac, "dev", "eth0")  # so that no packet waits for ARP
    yield guest
    if "authd" not in n1.daemons:
        n1.start("authd")
    guest.unregister()


def test_register_without_authd(c, n1, guest):
    """Fails by its deadline and says what is missing; what the workload sends never arrives, not even its first packet."""
    with c.workloads["db"].udp(7001) as receiver, guest.udp() as sender:

        def sends(text):
            with contextlib.suppress(OSError):
                sender.sendto(text, receiver.getsockname())

        def agent(**options):
            guest.register(**options)
            n1.ns.ip("link", "set", guest.interface, "up")
            wait_until(lambda: json.loads(guest.ns.ip("-j", "link", "show", "eth0"))[0]["operstate"] == "UP", "the link is up")

        n1.stop("authd")
        with pytest.raises(LabError, match="not enforced within 1s: datapath-down"):
            agent(timeout="1s")
        sends(b"never registered")
        n1.start("authd")
        agent(wait="enforced,svid-ready")
        sends(b"registered")
        receiver.settimeout(5)
        assert receiver.recv(100) == b"registered", "and what was sent before never arrives"
        # Registered anew on an interface that authd had closed: it stays closed, although it is up.
        guest.unregister()
        n1.stop("authd")
        with pytest.raises(LabError, match="not enforced within 1s: datapath-down"):
            agent(timeout="1s")
        sends(b"authd is not there")
        n1.start("authd")
        agent(wait="enforced,svid-ready")
        sends(b"authd is back")
        assert receiver.recv(100) == b"authd is back"


def test_authd_twice(n1):
    """The lock counts, not the sockets: with those moved away, two would fight over the rings."""
    hidden = []
    for name in ("status", "auth"):
        path = n1.instance / "authd" / f"{name}.sock"
        path.rename(path.with_suffix(".hidden"))
        hidden.append(path)
    try:
        said = refused(n1, "authd")
        assert f"another process is authd of the instance {n1.instance}" in said and str(n1.instance / "authd/lock") in said
    finally:
        for path in hidden:
            path.with_suffix(".hidden").rename(path)
    assert n1.cli("auth", "list") is not None, "the first one serves"


@pytest.mark.parametrize("daemon, says", [("identityd", "another process"), ("spire-adapter", "another process")])
def test_the_others_twice(n1, daemon, says):
    assert says in refused(n1, daemon)


# ---- what authd needs -------------------------------------------------------------------------------------------------


def test_interfaces_that_go_round_the_check(n1):
    parent = next(iter(n1.lab.workloads.values())).interface
    kinds = {"bridge": [], "ifb": [], "dummy": [], "macvlan": ["link", parent], "ipvlan": ["link", parent], "netkit": [],
             "vxlan": ["id", "7", "dstport", "4789"], "gre": ["remote", "192.0.2.1", "local", "192.0.2.2"]}
    tried = []
    for kind, more in kinds.items():
        before, after = (more, []) if "link" in more else ([], more)
        try:
            n1.ns.ip("link", "add", "odd0", *before, "type", kind, *after)
        except LabError:
            continue  # this kernel has none
        try:
            p = n1.run_cli("endpoint", "register", "--id", "odd", "--interface", "odd0", "--address", "10.77.1.98", "--label",
                           "k8s:app=odd")
            assert p.returncode != 0 and "interface-unsuitable" in p.stderr, (kind, p.stderr)
            assert f"the interface odd0 is {kind}" in p.stderr and "veth" in p.stderr, p.stderr
            tried.append(kind)
        finally:
            n1.ns.ip("link", "del", "odd0")
    assert {"bridge", "macvlan"} <= set(tried)
    for name, says in (("lo", "the loopback"), ("nosuch", "no interface 'nosuch'")):
        p = n1.run_cli("endpoint", "register", "--id", "odd", "--interface", name, "--address", "10.77.1.98", "--label",
                       "k8s:app=odd")
        assert p.returncode != 0 and says in p.stderr
    assert "odd" not in str(n1.cli("endpoint", "list"))


@pytest.mark.parametrize("path, says", [("/nonexistent", "No such file or directory"), ("/tmp", "is not a bpffs"),
                                        ("/etc/passwd", "is not a bpffs")])
def test_without_a_bpffs(spare, path, says):
    said = refused(spare, "authd", **{"datapath.bpffs": path})
    assert f"datapath.bpffs: {path}" in said and says in said


def test_without_the_machines_bpffs(spare):
    """As on a machine that has none mounted."""
    d = subprocess.run(["unshare", "--mount", "sh", "-c", "umount /sys/fs/bpf && exec \"$@\"", "-", *spare.ns.enter(),
                        str(spare.lab.program("authd")), "--instance", str(spare.instance),
                        *spare.lab.arguments(spare, "authd", {})], capture_output=True, text=True, timeout=WAIT_S)
    assert d.returncode == 1 and "/sys/fs/bpf is not a bpffs" in d.stderr and "mount -t bpf" in d.stderr, d.stderr


@pytest.mark.parametrize("user, says", [(NOBODY, "; run authd as root: "), (0, "")])
def test_authd_that_may_not_load_bpf(room, user, says):
    """Who is not root is told that; who is, and may not all the same, is told what was refused."""
    program = shutil.copy(BUILD / PROGRAMS["authd"], room)  # the tree may be closed to others
    os.chown(room, user, user)
    p = subprocess.run([*process.as_user(user), "setpriv", "--bounding-set=-bpf,-sys_admin", "--no-new-privs",
                        program, "--instance", str(room), "--set", "handshaker.user=", "--set", "handshaker.path=/bin/true"], cwd="/", capture_output=True, text=True, timeout=WAIT_S)
    assert p.returncode == 1 and "bpf(BPF_MAP_CREATE)" in p.stderr and says in p.stderr, p.stderr
    assert ("run authd as root" in p.stderr) == bool(says)


@pytest.mark.parametrize("code, settings, says", [
    (1, {"handshaker.path": "/nonexistent/handshaker"}, "handshaker.path: cannot open /nonexistent/handshaker"),
    (1, {"handshaker.path": "/tmp"}, "handshaker.path: /tmp is not a program"),
    (1, {"handshaker.path": "/etc/passwd"}, "handshaker.path: /etc/passwd is not a program"),
    (2, {"handshaker.user": "nobody-of-that-name"}, "handshaker.user: there is no user 'nobody-of-that-name'"),
])
def test_handshakers_that_cannot_be(spare, code, settings, says):
    assert says in refused(spare, "authd", code, **settings)
    starts(spare, "authd")


def test_a_handshaker_that_is_another_program(spare):
    """It runs and ends: authd serves all the same, so that nothing opens, and says that it has no handshaker."""
    spare.start("authd", authd={"handshaker.path": "/bin/true"})
    wait_until(lambda: not check_of(spare, "authd", "handshakers")["ok"], "status says so")


# ---- the built-in CA --------------------------------------------------------------------------------------------------


def test_a_ca_directory_with_the_wrong_rights(spare, room):
    ca = room / "ca"
    setting = {"local_ca.dir": ca}
    starts(spare, "spire-adapter", **setting)
    for path, mode, good in ((ca, 0o755, 0o700), (ca, 0o770, 0o700), (ca / "ca.pem", 0o644, 0o600)):
        path.chmod(mode)
        said = refused(spare, "spire-adapter", **setting)
        assert str(path) in said and f"{mode:04o}" in said and "chmod" in said, said
        path.chmod(good)
    for path in (ca, ca / "ca.pem"):
        os.chown(path, NOBODY, NOBODY)
        said = refused(spare, "spire-adapter", **setting)
        assert f"{path} belongs to user {NOBODY}" in said
        os.chown(path, 0, 0)
    said = refused(spare, "spire-adapter", **{**setting, "trust_domain": "other.org"})
    assert "example.org" in said and "other.org" in said
    pem = (ca / "ca.pem").read_bytes()
    (ca / "ca.pem").write_bytes(pem[:100])
    assert str(ca / "ca.pem") in refused(spare, "spire-adapter", **setting)
    assert (ca / "ca.pem").read_bytes() == pem[:100], "a key is never made anew over one that is broken"
    (ca / "ca.pem").write_bytes(pem)
    starts(spare, "spire-adapter", **setting)

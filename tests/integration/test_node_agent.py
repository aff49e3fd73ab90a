"""The node agents of docs/examples, in Go and in Python, against a real identityd. authd is played by the test: it says
"enforced" of each endpoint that has an identity."""
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

from lab import peers, protos
from lab.daemon import ROOT, WAIT_S
from lab.identity_lab import Lab
from lab.nodes import ENFORCED, condition

EXAMPLES = ROOT / "docs/examples/node-agent"


@pytest.fixture(scope="module")
def go_agent(tmp_path_factory):
    if why := peers.missing():
        pytest.skip(why)
    source = tmp_path_factory.mktemp("agent") / "go"
    shutil.copytree(EXAMPLES / "go", source)
    environment = {**os.environ, **peers.GO}

    def run(*args):
        done = subprocess.run(args, cwd=source, capture_output=True, text=True, env=environment, timeout=peers.BUILD_S)
        assert done.returncode == 0, f"{args}:\n{done.stdout}{done.stderr}"
        return done.stdout

    run("./generate.sh", str(ROOT / "include"))
    run("go", "vet", ".")
    assert run("gofmt", "-l", "main.go") == ""
    run("go", "build", "-trimpath", "-o", "agent", ".")
    return [str(source / "agent")]


@pytest.fixture(params=["python", "go"])
def agent(request):
    if request.param == "go":
        return request.getfixturevalue("go_agent")
    return [sys.executable, str(EXAMPLES / "python/agent.py")]


class Enforcer:
    """What authd does, as far as an agent can see it."""

    def __init__(self, d):
        self.d, self.said = d, set()
        self.call = protos.directory_rpc.DirectoryStub(d.channel("directory")).Follow(
            protos.directory.FollowRequest(kinds=[protos.directory.KIND_ENDPOINT]))
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            for batch in self.call:
                for r in batch.records:
                    e = r.endpoint
                    if not r.deleted and e.identity and e.local.ifindex:
                        self.d.report(endpoint=e.id, incarnation=e.local.incarnation, step=ENFORCED, met=True)
        except Exception:  # noqa: BLE001 the call was cancelled, or the daemon is gone
            pass

    def stop(self):
        self.call.cancel()
        self.thread.join(WAIT_S)


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.end()


@pytest.fixture
def d(lab):
    d = lab.all()
    enforcer = Enforcer(d)
    yield d
    enforcer.stop()


def start(agent, d, *args):
    return subprocess.Popen([*agent, str(d.sockets / "endpoints.sock"), *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env={**os.environ, "PYTHONPATH": str(protos._out)}, cwd="/")


def finish(process, code):
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == code, (process.returncode, out, err)
    return json.loads(out)


def say(agent, d, *args, code=0):
    return finish(start(agent, d, *args), code)


def test_add_and_del(lab, d, agent):
    veth = lab.veth()
    one = say(agent, d, "add", "a/eth0", veth, "10.1.0.1,fd00::1", "k8s:app=web", "k8s:pod-template-hash=1")
    assert one == {"id": "a/eth0", "identity": 256, "spiffe_id": "spiffe://example.org/identity/256"}
    status = d.list()["a/eth0"]
    assert condition(status, ENFORCED).met and len(status.spec.addresses) == 2 and len(status.spec.labels) == 2
    assert say(agent, d, "add", "a/eth0", veth, "10.1.0.1,fd00::1", "k8s:app=web", "k8s:pod-template-hash=1") == one
    assert d.list()["a/eth0"].incarnation == status.incarnation
    assert say(agent, d, "add", "a/eth0", veth, "10.1.0.1,fd00::1", "k8s:app=db")["identity"] == 257
    assert say(agent, d, "del", "a/eth0") == {"id": "a/eth0"} and not d.list()
    assert say(agent, d, "del", "a/eth0") == {"id": "a/eth0"}  # as often as the runtime likes


def test_refusals(lab, d, agent):
    say(agent, d, "add", "a", lab.veth(), "10.1.0.1", "k8s:app=web")
    e = say(agent, d, "add", "b", lab.veth(), "10.1.0.1", "k8s:app=web", code=1)
    assert e["reason"] == "address-taken" and "'a'" in e["message"]
    e = say(agent, d, "add", "b", "nosuchlink", "10.1.0.2", "k8s:app=web", code=1)
    assert e["reason"] == "interface-missing"
    e = say(agent, d, "add", "b", lab.veth(), "10.1.0.2", "reserved:host", code=1)
    assert e["reason"] == "labels-invalid"
    assert set(d.list()) == {"a"}


def test_restart_of_the_agent(lab, d, agent):
    veths = {name: lab.veth() for name in "abc"}
    for n, name in enumerate("ab"):
        say(agent, d, "add", name, veths[name], f"10.1.0.{n + 1}", f"k8s:app={name}")
    before = d.list()["b"].incarnation
    all_of_them = [dict(id=name, interface=veths[name], addresses=[f"10.1.0.{n + 2}"], labels=[f"k8s:app={name}"])
                   for n, name in enumerate("bc")]
    file = lab.base / "workloads.json"
    file.write_text(json.dumps(all_of_them))
    assert say(agent, d, "reconcile", str(file)) == {"endpoints": ["b", "c"], "unregistered": ["a"]}
    assert d.list()["b"].incarnation == before  # not touched
    # One that is wrong: nothing changes.
    file.write_text(json.dumps([*all_of_them[:1], {**all_of_them[1], "addresses": ["127.0.0.1"]}]))
    assert "specs[1] ('c')" in say(agent, d, "reconcile", str(file), code=1)["message"]
    assert set(d.list()) == {"b", "c"}


def test_identityd_is_away_for_a_moment(lab, agent):
    d = lab.all()
    veth = lab.veth()
    d.stop()
    lab.things.remove(d)
    waiting = start(agent, d, "add", "a", veth, "10.1.0.1", "k8s:app=web")
    d = lab.keep(d.again())
    enforcer = Enforcer(d)
    assert finish(waiting, 0)["identity"] == 256
    enforcer.stop()

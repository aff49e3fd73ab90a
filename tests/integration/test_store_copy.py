"""countersign store copy and store new-epoch: what moves from one store to another, and what is refused."""
import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab import etcd, protos
from lab.daemon import BUILD, WAIT_S
from lab.follower import Follower
from lab.identity_lab import Cluster, Lab, Replicas
from lab.node_tls import CA, TlsProxy
from lab.nodes import D, ip, spec

CLI = BUILD / "cli/countersign"


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.end()


def store(what, *args, settings=(), code=0, instance=None):
    sets = [w for s in ("trust_domain=example.org", *settings) for w in ("--set", s)]
    where = ["--instance", instance] if instance else []
    p = subprocess.run([CLI, "store", what, *where, *sets, *map(str, args)], capture_output=True, text=True, timeout=WAIT_S)
    assert p.returncode == code, p.stderr
    return p.stdout if code == 0 else p.stderr


def filled(lab):
    """An instance whose cluster role has something to lose; ended."""
    d = lab.all()
    for i in range(3):
        d.register(spec(f"e{i}", f"k8s:app=a{i}", [f"10.1.0.{i + 1}"], lab.veth()))
    f = d.once()
    d.stop()
    return d, f


def test_copy_and_back(lab, tmp_path):
    d, before = filled(lab)
    other = tmp_path / "other.db"
    said = store("copy", "sqlite", other, instance=d.instance)
    assert other.stat().st_mode & 0o777 == 0o600
    assert "copied, and compared" in said and "       3 identities" in said and "       3 endpoints" in said
    # A second time the target is not empty.
    assert "a copy needs an empty one" in store("copy", "sqlite", other, instance=d.instance, code=1)
    # In the other's place, identityd has the same numbers.
    mine = d.instance / "identityd/state/store.db"
    for file in mine.parent.glob("store.db*"):
        file.unlink()
    store("copy", other, "sqlite", instance=d.instance)
    d = lab.restart(d)
    assert d.once().all("identity") == before.all("identity")


def test_sqlite_to_etcd_and_back(lab, tmp_path):
    """What a cluster role on SQLite gave, replicas over etcd go on with; and the other way."""
    d, before = filled(lab)
    with etcd.Etcd() as cluster:
        ca = CA(tmp_path / "ca")
        settings = [f"{k}={v}" for k, v in {**ca.server(), "role": "cluster", "etcd.endpoints": cluster.urls[0],
                                             "etcd.lease": "2s"}.items()]
        assert "there is nothing in the store etcd" in store(
            "copy", "etcd", tmp_path / "x.db", settings=settings, instance=d.instance, code=1)
        assert "       3 identities" in store("copy", "sqlite", "etcd", settings=settings, instance=d.instance)
        assert "a copy needs an empty one" in store("copy", "sqlite", "etcd", settings=settings, instance=d.instance, code=1)
        replicas = Replicas(lab, cluster)
        f = replicas.leader().once()
        assert f.all("identity") == before.all("identity")
        assert {k: e.identity for k, e in f.all("endpoint").items()} == {k: e.identity for k, e in before.all("endpoint").items()}
        # While a replica leads, nobody else writes, and nobody copies what may change meanwhile.
        other = tmp_path / "other.db"
        with ThreadPoolExecutor() as both:
            epoch = both.submit(store, "new-epoch", "etcd", settings=settings, instance=d.instance, code=1)
            copy = both.submit(store, "copy", "etcd", other, settings=settings, instance=d.instance, code=1)
            assert "leads this store" in epoch.result()
            assert "the source: the replica " in copy.result() and "leads this store: end every" in copy.result()
        assert "       0 identities" in store("copy", other, tmp_path / "third.db")
        for r in replicas.all:
            lab.things.remove(r)
            r.stop()
        assert "       3 identities" in store("copy", "etcd", other, settings=settings, instance=d.instance)
        assert "new epoch" in store("new-epoch", "etcd", settings=settings, instance=d.instance)
        for file in (d.instance / "identityd/state").glob("store.db*"):
            file.unlink()
        store("copy", "etcd", "sqlite", settings=settings, instance=d.instance)
    assert lab.restart(d).once().all("identity") == before.all("identity")


def test_refusals(lab, tmp_path):
    d, _ = filled(lab)
    other = tmp_path / "other.db"
    assert "there is no store" in store("copy", tmp_path / "none.db", other, code=1)
    assert not other.exists()
    assert "is no store" in store("copy", "sqlite", "postgres", instance=d.instance, code=2)
    assert "trust domain example.org, not to other.org" in store(
        "copy", "sqlite", other, settings=["trust_domain=other.org"], instance=d.instance, code=2)
    assert "cluster id 0, not to 3" in store("copy", "sqlite", other, settings=["cluster.id=3"], instance=d.instance, code=2)
    # While identityd runs, the store is its own.
    d = lab.restart(d)
    assert "another process has the store open" in store("copy", "sqlite", other, instance=d.instance, code=1)
    assert "another process has the store open" in store("new-epoch", "sqlite", instance=d.instance, code=1)


def test_a_copy_that_did_not_end_is_no_store(lab, tmp_path):
    d, _ = filled(lab)
    other = tmp_path / "other.db"
    store("copy", "sqlite", other, instance=d.instance)
    db = sqlite3.connect(other)
    (meta,) = db.execute("SELECT value FROM fact WHERE key = 'meta'").fetchone()
    db.execute("UPDATE fact SET value = ? WHERE key = 'meta'", (meta + b"\x40\x01",))  # copying = true
    db.commit()
    db.close()
    assert "a copy into this store was begun and did not end" in store("new-epoch", other, code=1)


def follow(lab, cluster, name, **request):
    """The cluster role's own stream, as a node of that name."""
    C = protos.cluster
    proxy = lab.keep(TlsProxy(lab.base / f"{name}.sock", cluster.port, cluster.ca.node(name)))
    hello = C.HelloRequest(addresses=[ip(f"10.0.9.{name[1:]}")], port=4250, path="unknown")
    protos.cluster_rpc.ClusterStub(proxy.channel).Hello(hello, timeout=WAIT_S)
    f = Follower(proxy.channel, **request)
    return f


def test_a_restored_backup_has_a_new_epoch(lab):
    """Who heard more than the backup has does not go on in the middle of another story."""
    cluster = Cluster(lab)
    d = cluster.n1
    d.register(spec("kept", "k8s:app=kept", ["10.1.0.1"], lab.veth()))
    lab.things.remove(d)
    d.stop()
    store_file = d.instance / "identityd/state/store.db"
    backup = store_file.read_bytes()

    d = cluster.n1 = lab.keep(d.again())
    cluster.port = d.port
    d.register(spec("lost", "k8s:app=lost", ["10.1.0.2"], lab.veth()))
    f = follow(lab, cluster, "x1").wait_synced()
    f.wait(lambda f: f.get("endpoint", ("n1", "lost")))
    position = f.position
    f.close()
    lab.things.remove(d)
    d.stop()

    for file in store_file.parent.glob("store.db*"):
        file.unlink()
    store_file.write_bytes(backup)
    for file in (d.instance / "identityd/state/endpoints").iterdir():
        file.unlink()  # nobody registers the lost one again
    assert "new epoch" in store("new-epoch", "sqlite", instance=d.instance)
    d = cluster.n1 = lab.keep(d.again())
    cluster.port = d.port
    g = follow(lab, cluster, "x2", resume=D.Position(epoch=position[0], revision=position[1])).wait_synced()
    assert g.position[0] != position[0] and not g.get("endpoint", ("n1", "lost"))
    # And one that follows the new story is resumed.
    later = follow(lab, cluster, "x3", resume=D.Position(epoch=g.position[0], revision=g.position[1]))
    later.wait(lambda f: f.position and f.position[0] == g.position[0])
    assert not later.synced
    later.close()
    g.close()

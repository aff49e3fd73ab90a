"""What SPIRE was seen to do and ours relies on, asked of a real one and of the partner: this is what makes the partner worth
what it proves."""
import calendar
import contextlib
import errno
import queue
import socket
import time

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

import agent_api as api
from agent_api import certificates
from lab import peers
from lab.spire import ADAPTER, wait_for
from test_source import foreign_root

pytestmark = pytest.mark.skipif(peers.missing() is not None, reason=str(peers.missing()))
A, B = "countersign:id:1", "countersign:id:2"
ENTRY = "entry.v1.Entry"


class Home:
    def __init__(self, spire):
        self.spire, self.streams = spire, []
        self.agent = spire.add_agent("n1")

    def delegate(self):
        self.entry = self.spire.entry(self.agent, ADAPTER, "unix:uid:0")
        wait_for(lambda: not isinstance(api.svids(self.agent, B).next(), grpc.RpcError), "we are a delegate")
        return self

    def svids(self, *texts):
        return self.keep(api.svids(self.agent, *texts))

    def bundles(self):
        return self.keep(api.bundles(self.agent))

    def keep(self, stream):
        self.streams.append(stream)
        return stream

    def close(self):
        for stream in self.streams:
            stream.close()
        self.spire.close()


@pytest.fixture
def home(Spire):
    home = Home(Spire())
    yield home
    home.close()


def refusal(message):
    assert isinstance(message, grpc.RpcError), message
    return message.code().name, message.details()


def paths(message):
    return [s.x509_svid.id.path for s in message.x509_svids]


def expires(message):
    return calendar.timegm(x509.load_der_x509_certificate(leaf(message)).not_valid_after.timetuple())


def leaf(message):
    return message.x509_svids[0].x509_svid.cert_chain[0]


# ---- the agent ----

def test_who_may_ask(home):
    assert refusal(home.svids(A).next()) == ("PERMISSION_DENIED", "no identity issued")
    assert refusal(home.keep(api.own(home.agent)).next()) == ("PERMISSION_DENIED", "no identity issued")
    stranger = home.spire.entry(home.agent, "/somebody", "unix:uid:0")
    wait_for(lambda: refusal(home.svids(A).next()) == ("PERMISSION_DENIED", "caller not configured as an authorized delegate"),
             "known, and no delegate")
    home.delegate()
    assert refusal(home.svids().next()) == ("INVALID_ARGUMENT",
                                            "must provide either selectors or non-zero PID, but not both")
    assert refusal(home.svids("a:").next()) == ("INVALID_ARGUMENT", "could not parse provided selectors")
    for header in (None, "false"):
        assert refusal(home.keep(api.own(home.agent, header)).next()) == (
            "INVALID_ARGUMENT", "security header missing from request")
    # Streams that are open end when there is something to say.
    stream, mine = home.svids(A), home.keep(api.own(home.agent))
    assert paths(stream.next()) == [] and {s.spiffe_id for s in mine.next().svids} == {
        home.spire.id(p) for p in (ADAPTER, "/somebody")}
    home.spire.delete(home.entry, stranger)
    assert refusal(next(m for m in iter(mine.next, None) if isinstance(m, grpc.RpcError)))[1] == "no identity issued"
    home.spire.entry(home.agent, "/a", A)
    assert refusal(stream.next()) == ("PERMISSION_DENIED", "no identity issued")


def test_an_entry_comes_changes_and_goes(home):
    home.delegate()
    stream, other = home.svids(A, "x:y"), home.svids(B)
    assert paths(stream.next()) == paths(other.next()) == []
    entry = home.spire.entry(home.agent, "/a", A)
    first = stream.until(paths)
    assert not any(map(paths, first[:-1])), "a repeat of the old set comes before the new one; on a busy machine it may be skipped"
    [svid] = first[-1].x509_svids
    assert len(svid.x509_svid.cert_chain) == 1 and len(svid.x509_svid_key) == 138 and list(first[-1].federates_with) == []
    home.spire.update(entry, home.agent, "/a", A)  # nothing differs
    again = stream.next()
    assert paths(again) == ["/a"] and leaf(again) != leaf(first[-1]), "a new certificate, without a gap"
    home.spire.update(entry, home.agent, "/b", A)
    assert paths(stream.until(lambda m: paths(m) != ["/a"])[-1]) == ["/b"]
    home.spire.delete(entry)
    assert paths(stream.until(lambda m: paths(m) != ["/b"])[-1]) == []
    assert other.quiet(0.5), "whom it does not concern hears nothing"


def test_a_new_stream_waits_for_its_svids(home):
    home.delegate()
    home.spire.entries([(home.agent, f"/i/{n}", "common:marker", None, ()) for n in range(5)])
    wait_for(lambda: len(paths(home.svids("common:marker").next())) == 5, "all of them")
    assert len({leaf(home.svids("common:marker").next()) for _ in range(3)}) == 1, "the same each time"


def test_an_expired_svid_is_handed_out(home):
    home.delegate()
    home.spire.entry(home.agent, "/a", A, 1)
    stream = home.svids(A)
    stream.until(paths)
    home.spire.server.end()
    with contextlib.suppress(queue.Empty):
        while stream.messages.get(timeout=3):  # what was under way
            pass
    late = home.svids(A).next()
    assert paths(late) == ["/a"] and expires(late) < time.time()
    home.spire.server.again()
    assert leaf(stream.until(lambda m: leaf(m) != leaf(late), 60)[-1]) != leaf(late)


def test_an_agent_that_is_killed(home):
    home.delegate()
    home.spire.entry(home.agent, "/a", A)
    stream = home.svids(A)
    first = stream.until(paths)[-1]
    home.agent.end()
    assert refusal(stream.next())[0] == "UNAVAILABLE"
    with socket.socket(socket.AF_UNIX) as s, pytest.raises(OSError) as e:
        s.connect(str(home.agent.admin))
    assert e.value.errno == errno.ECONNREFUSED, "the file of its socket stays"
    home.agent.again()
    after = home.svids(A).next()
    assert paths(after) == ["/a"] and leaf(after) != leaf(first), "everything is minted anew, and there from the first message on"


def roots(blob):
    """How many certificates, one DER after the other."""
    n = 0
    while blob:
        length = int.from_bytes(blob[2:4], "big") + 4
        blob, n = blob[length:], n + 1
    return n


def test_authorities(home):
    home.delegate()
    home.spire.entry(home.agent, "/a", A)
    matched, unmatched, bundle = home.svids(A), home.svids(B), home.bundles()
    before = matched.until(paths)[-1]
    own = home.spire.id("")
    assert paths(unmatched.next()) == [] and roots(certificates(bundle.next())[own]) == 1
    prepared = home.spire.prepare()
    assert bundle.until(lambda m: roots(certificates(m)[own]) == 2)
    assert leaf(matched.next()) == leaf(before) and paths(unmatched.next()) == [], "a duplicate on every stream"
    home.spire.step("activate", prepared)
    old = home.spire.old()
    home.spire.step("taint", old)
    repeated = bundle.next()
    assert roots(certificates(repeated)[own]) == 2, "which one is tainted is not said"
    said = matched.until(lambda m: paths(m) and leaf(m) != leaf(before))
    assert all(not paths(m) or leaf(m) == leaf(before) for m in said[:-1]), "duplicates and a gap, and then the new one"
    home.spire.step("revoke", old)
    assert bundle.until(lambda m: roots(certificates(m)[own]) == 1)


def test_an_open_stream_of_bundles_forgets_no_trust_domain(home):
    home.delegate()
    entry = home.spire.entry(home.agent, "/a", A)
    stream, bundle = home.svids(A), home.bundles()
    stream.until(paths)
    root = foreign_root("other.example").public_bytes(serialization.Encoding.PEM).decode()
    home.spire.set_bundle("other.example", root)
    foreign = "spiffe://other.example"
    assert set(certificates(bundle.next())) == {home.spire.id("")}
    home.spire.update(entry, home.agent, "/a", A, federates=["other.example"])
    assert list(stream.until(lambda m: m.federates_with)[-1].federates_with) == [foreign]
    bundle.until(lambda m: foreign in certificates(m))
    home.spire.update(entry, home.agent, "/a", A)
    assert list(stream.until(lambda m: not m.federates_with)[-1].federates_with) == []
    home.spire.prepare()
    assert set(certificates(bundle.until(lambda m: roots(certificates(m)[home.spire.id("")]) == 2)[-1])) == {
        home.spire.id(""), foreign}
    assert set(certificates(home.bundles().next())) == {home.spire.id("")}


def test_the_own_trust_domain_in_federates_with_stops_an_agent(home):
    home.delegate()
    poison = home.spire.entry(home.agent, "/poison", "no:body", federates=["example.org"])  # the server takes it
    stream = home.svids(A)
    stream.next()
    home.spire.entry(home.agent, "/a", A)
    assert stream.quiet(3), "nothing reaches the agent any more"
    home.spire.delete(poison)
    assert paths(stream.until(paths, 60)[-1]) == ["/a"]


# ---- the server ----

def entry(path="/a", selector="a:b", **more):
    kind, _, value = selector.partition(":")
    return {"spiffe_id": {"trust_domain": "example.org", "path": path}, "selectors": [{"type": kind, "value": value}],
            "parent_id": {"trust_domain": "example.org", "path": "/node/n1"}, **more}


def batch(home, method, *items, **more):
    field = "ids" if method == "BatchDeleteEntry" else "entries"
    return api.server(home.spire, ENTRY, method, **{field: items}, **more)["results"]


F = "failed to convert entry: "
V = "failed to create entry: datastore-validation: invalid registration entry: "
INVALID = [
    (entry("a"), F + "invalid spiffe ID: path must have a leading slash"),
    (entry("/a/"), F + "invalid spiffe ID: path cannot have a trailing slash"),
    (entry("/a//b"), F + "invalid spiffe ID: path cannot contain empty segments"),
    (entry("/a b"), F + "invalid spiffe ID: path segment characters are limited to letters, numbers, dots, dashes, and "
     "underscores"),
    (entry(""), F + 'invalid spiffe ID: "spiffe://example.org" is not a workload in trust domain "example.org"; path is empty'),
    (entry("/spire/x"), F + 'invalid spiffe ID: "spiffe://example.org/spire/x" is not a workload in trust domain "example.org"; '
     "path is in the reserved namespace"),
    (entry(selectors=[]), F + "selector list is empty"),
    (entry(selectors=[{"type": "", "value": "b"}]), F + "missing selector type"),
    (entry(selectors=[{"type": "a", "value": ""}]), F + "missing selector value"),
    (entry(selectors=[{"type": "a:b", "value": "c"}]), F + "selector type contains ':'"),
    (entry(hint="h" * 1025), F + "hint is too long, max length is 1024 characters"),
    (entry(id="a b"), V + "entry ID contains invalid characters"),
    (entry(id="a" * 256), V + "entry ID too long"),
    (entry(x509_svid_ttl=-1), V + "X509SvidTtl is not set"),
]


def test_entries_that_are_refused(home):
    results = batch(home, "BatchCreateEntry", *(e for e, _ in INVALID))
    assert [(r["status"]["code"], r["status"]["message"]) for r in results] == [(3, text) for _, text in INVALID]
    [unknown] = batch(home, "BatchCreateEntry", entry(federates_with=["other.example"]))
    assert (unknown["status"]["code"], unknown["status"]["message"]) == (
        13, 'failed to create entry: unable to find federated bundle "spiffe://other.example"')
    [first] = batch(home, "BatchCreateEntry", entry(id="one", hint="h"))
    assert first["status"]["code"] == 0 and first["entry"]["id"] == "one"
    similar, used = batch(home, "BatchCreateEntry", entry(id="two"), entry("/other", id="one"))
    assert similar["status"] == {"code": 6, "message": "similar entry already exists"} and similar["entry"] == first["entry"]
    assert used["status"]["code"] == 6 and "UNIQUE constraint failed" in used["status"]["message"] and used["entry"] is None


def test_updates_and_deletes(home):
    [made] = batch(home, "BatchCreateEntry", entry(id="one"))
    assert made["entry"]["revision_number"] == "0"
    [unknown] = batch(home, "BatchUpdateEntry", entry(id="nobody"))
    assert unknown["status"]["code"] == 5 and unknown["status"]["message"].startswith("failed to update entry")
    [empty] = batch(home, "BatchUpdateEntry", {"id": "one"}, input_mask={})
    assert empty["status"]["code"] == 0 and empty["entry"]["revision_number"] == "1", "also if nothing differs"
    [ttl] = batch(home, "BatchUpdateEntry", {"id": "one", "x509_svid_ttl": 7}, input_mask={"x509_svid_ttl": True})
    assert (ttl["entry"]["x509_svid_ttl"], ttl["entry"]["revision_number"], ttl["entry"]["selectors"]) == (
        7, "2", [{"type": "a", "value": "b"}])
    gone, again, none = batch(home, "BatchDeleteEntry", "one", "one", "")
    assert [r["status"]["code"] for r in (gone, again, none)] == [0, 5, 3]
    assert (again["status"]["message"], none["status"]["message"]) == ("entry not found", "missing entry ID")
    with pytest.raises(api.Refused, match="code = NotFound desc = entry not found"):
        api.server(home.spire, ENTRY, "GetEntry", id="one")


def test_pages(home):
    alias = [e["id"] for e in home.spire.list()]
    ids = [f"e{n}" for n in range(5)]
    batch(home, "BatchCreateEntry", *(entry(f"/{i}", id=i) for i in ids))
    seen, token, pages = [], "", 0
    while True:
        page = api.server(home.spire, ENTRY, "ListEntries", page_size=2, page_token=token, output_mask={})
        seen += [e["id"] for e in page["entries"]]
        pages += 1
        if not (token := page["next_page_token"]):
            break
    assert seen == alias + ids and pages == 4 and page["entries"] == [], "each page that is not empty has a token"
    assert all(e["spiffe_id"] is None for e in api.server(home.spire, ENTRY, "ListEntries", output_mask={})["entries"])
    with pytest.raises(api.Refused, match="could not parse token 'x'"):
        api.server(home.spire, ENTRY, "ListEntries", page_size=2, page_token="x")


def test_matches_of_a_filter(home):
    batch(home, "BatchCreateEntry", entry("/a", "s:a", id="a"), entry("/b", "s:b", id="b"), {
        **entry("/ab", id="ab"), "selectors": [{"type": "s", "value": "a"}, {"type": "s", "value": "b"}]})

    def found(match, *values):
        by = {"match": match, "selectors": [{"type": "s", "value": v} for v in values]}
        return sorted(e["id"] for e in api.server(home.spire, ENTRY, "ListEntries", filter={"by_selectors": by})["entries"])
    assert found("MATCH_EXACT", "a") == ["a"] and found("MATCH_SUBSET", "a", "b") == ["a", "ab", "b"]
    assert found("MATCH_SUPERSET", "a") == ["a", "ab"] and found("MATCH_ANY", "a", "c") == ["a", "ab"]


def test_misuse_of_authorities(home):
    prepared = home.spire.prepare()
    home.spire.step("activate", prepared)
    old = home.spire.old()

    def refused(method, id):
        with pytest.raises(api.Refused) as e:
            api.server(home.spire, "localauthority.v1.LocalAuthority", method, authority_id=id)
        return str(e.value)
    assert "unable to taint current local authority" in refused("TaintX509Authority", prepared)
    assert "unable to use current authority" in refused("RevokeX509Authority", prepared)
    assert "it is not possible to revoke an untainted root CA" in refused("RevokeX509Authority", old)
    home.spire.step("taint", old)
    assert "root CA is already tainted" in refused("TaintX509Authority", old)

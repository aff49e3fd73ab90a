"""Certificates for the unit tests of certs/, made with python3-cryptography and openssl, never with our own code.

usage: make_certs.py DIRECTORY (which is made anew)

NAME.der is one certificate. leaf-ok-*, leaf-bad-*, authority-ok-*, authority-bad-* differ from a good one in one thing each
and are signed properly by root-p256, so that nothing but the rule in question can refuse them."""

import datetime
import ipaddress
import os
import shutil
import subprocess
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID as EKU
from cryptography.x509.oid import NameOID

import der_tree as der

NOW = 1_800_000_000  # the tests' clock: 2027-01-15T08:00:00Z
HOUR = 3600
OUT = sys.argv[1]
SAN, KU, BC, EKU_OID, SKI, AKI, NC = (
    "2.5.29.17", "2.5.29.15", "2.5.29.19", "2.5.29.37", "2.5.29.14", "2.5.29.35", "2.5.29.30")
VERSION, SERIAL, ALGORITHM, ISSUER, VALIDITY, SUBJECT, SPKI, EXTENSIONS = range(8)


def at(seconds):
    return datetime.datetime.utcfromtimestamp(NOW + seconds)


def name(*pairs):
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])


def usage(**bits):
    every = ("digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign "
             "crl_sign encipher_only decipher_only").split()
    return x509.KeyUsage(**{bit: bits.get(bit, False) for bit in every})


SPIRE_USAGE = usage(digital_signature=True, key_encipherment=True, key_agreement=True)
CA_USAGE = usage(key_cert_sign=True, crl_sign=True)
BOTH = [EKU.SERVER_AUTH, EKU.CLIENT_AUTH]


def new_key(kind):
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind[3:]))
    return ec.generate_private_key({"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1,
                                    "k256": ec.SECP256K1}[kind]())


class Party:
    """A key, and the certificate that goes with it."""

    def __init__(self, key, cert):
        self.key, self.cert = key, cert

    @property
    def der(self):
        return self.cert.public_bytes(serialization.Encoding.DER)


def hash_for(key):
    return hashes.SHA384() if getattr(getattr(key, "curve", None), "name", "") == "secp384r1" else hashes.SHA256()


def authority(kind="p256", by=None, subject=None, domain="test.example", since=-HOUR, until=24 * HOUR, path_len=None,
              key=None, ski=None, digest=None, serial=None):
    key = key or new_key(kind)
    serial = serial or x509.random_serial_number()
    subject = subject or name((NameOID.COUNTRY_NAME, "US"), (NameOID.ORGANIZATION_NAME, "SPIFFE"),
                              (NameOID.SERIAL_NUMBER, str(serial)))
    issuer = by.cert.subject if by else subject
    ski = ski or x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    aki = by.cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value if by else ski
    b = (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
         .serial_number(serial).not_valid_before(at(since)).not_valid_after(at(until))
         .add_extension(CA_USAGE, True).add_extension(x509.BasicConstraints(True, path_len), True)
         .add_extension(ski, False).add_extension(x509.AuthorityKeyIdentifier(aki.digest, None, None), False)
         .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://" + domain)]), False))
    signer = by.key if by else key
    return Party(key, b.sign(signer, digest or hash_for(signer)))


def leaf(by, uri="spiffe://test.example/web", key=None, subject="spire", names=(), san_critical=False, bits=SPIRE_USAGE,
         ku_critical=True, eku=BOTH, basic=True, since=-10, until=HOUR, digest=None, serial=None, aki=None):
    key = key or LEAF_KEY
    if subject == "spire":
        subject = name((NameOID.COUNTRY_NAME, "US"), (NameOID.ORGANIZATION_NAME, "SPIRE"))
    uris = [uri] if isinstance(uri, str) else uri
    alternatives = [x509.UniformResourceIdentifier(u) for u in uris] + list(names)
    b = (x509.CertificateBuilder().subject_name(subject or name()).issuer_name(by.cert.subject)
         .public_key(key.public_key()).serial_number(serial or x509.random_serial_number())
         .not_valid_before(at(since)).not_valid_after(at(until)))
    if bits:
        b = b.add_extension(bits, ku_critical)
    if eku:
        b = b.add_extension(x509.ExtendedKeyUsage(eku), False)
    if basic:
        b = b.add_extension(x509.BasicConstraints(False, None), True)
    b = b.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    if aki is None:
        aki = by.cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    b = b.add_extension(x509.AuthorityKeyIdentifier(aki, None, None), False)
    if alternatives:
        b = b.add_extension(x509.SubjectAlternativeName(alternatives), san_critical)
    return Party(key, b.sign(by.key, digest or hash_for(by.key)))


def write(filename, data):
    data = data if isinstance(data, bytes) else data.der
    with open(os.path.join(OUT, filename + ".der"), "wb") as f:
        f.write(data)


# ---- changing what was made ---------------------------------------------------------------------------------------

ECDSA = {"sha1": "1.2.840.10045.4.1", "sha224": "1.2.840.10045.4.3.1", "sha256": "1.2.840.10045.4.3.2"}
HASH = {"sha1": hashes.SHA1(), "sha224": hashes.SHA224(), "sha256": hashes.SHA256()}


def change(party, patch, by, digest="sha256", tail=b"", outer=None):
    """The certificate with its to-be-signed tree changed by patch(tree) and signed anew by `by` (P-256)."""
    tbs, _, _ = der.parse(party.der)[0][1]
    algorithm = [0x30, [der.oid(ECDSA[digest])]]
    tbs[1][ALGORITHM] = algorithm
    patch(tbs[1])
    signature = by.key.sign(der.encode(tbs), ec.ECDSA(HASH[digest]))
    return der.encode([0x30, [tbs, outer or algorithm, [0x03, b"\0" + signature]]]) + tail


def extensions(tbs):
    return tbs[EXTENSIONS][1][0][1]


def find(tbs, oid):
    return next(e for e in extensions(tbs) if e[1][0] == der.oid(oid))


def replace(oid, value, critical=False):
    def patch(tbs):
        old = find(tbs, oid)
        old[1] = der.extension(oid, value, critical)[1]
    return patch


def add(oid, value, critical=False):
    return lambda tbs: extensions(tbs).append(der.extension(oid, value, critical))


def drop(oid):
    return lambda tbs: extensions(tbs).remove(find(tbs, oid))


def double(oid):
    return lambda tbs: extensions(tbs).append(find(tbs, oid))


def field(index, node):
    return lambda tbs: tbs.__setitem__(index, node)


def remove(index):
    return lambda tbs: tbs.pop(index)


def uri_san(*uris):
    return [0x30, [[0x86, u] for u in uris]]


def when(tag, text):
    return [tag, text.encode()]


def good_leaves():
    every = [x509.DNSName("web.test.example"), x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
             x509.RFC822Name("web@test.example"), x509.DirectoryName(name((NameOID.COMMON_NAME, "web"))),
             x509.RegisteredID(x509.ObjectIdentifier("1.2.3.4")),
             x509.OtherName(x509.ObjectIdentifier("1.2.3.4"), b"\x0c\x01x")]
    yield "spire", leaf(ROOT)
    yield "minimal", leaf(ROOT, bits=usage(digital_signature=True), eku=None, basic=False)
    yield "empty-subject", leaf(ROOT, subject=None, san_critical=True)
    yield "other-names", leaf(ROOT, names=every)
    yield "longest-id", leaf(ROOT, "spiffe://test.example/" + "x" * (2048 - 22))
    yield "more-eku", leaf(ROOT, eku=BOTH + [EKU.CODE_SIGNING, EKU.ANY_EXTENDED_KEY_USAGE])
    yield "serial-20", leaf(ROOT, serial=(1 << 159) - 1)
    yield "serial-1", leaf(ROOT, serial=1)
    yield "serial-high-bit", leaf(ROOT, serial=0x80)
    yield "until-9999", leaf(ROOT, until=253402300799 - NOW)
    yield "unknown-extension", change(leaf(ROOT), add("1.3.6.1.4.1.55555.1", [0x04, b"x"]), ROOT)
    yield "sha512", leaf(ROOT, digest=hashes.SHA512())
    yield "no-ski", change(leaf(ROOT), drop(SKI), ROOT)
    yield "negative-in-name", leaf(ROOT, subject=name((NameOID.COMMON_NAME, "\0\xff")))


def bad_leaves():
    base = leaf(ROOT)

    def bad(patch, **more):
        return change(base, patch, ROOT, **more)

    def nothing(tbs):
        pass

    # X509-SVID
    yield "ca", bad(replace(BC, [0x30, [[0x01, b"\xff"]]], True))
    yield "path-len", bad(replace(BC, [0x30, [[0x02, b"\0"]]], True))
    yield "no-ku", leaf(ROOT, bits=None)
    yield "ku-not-critical", leaf(ROOT, ku_critical=False)
    yield "no-digital-signature", leaf(ROOT, bits=usage(key_encipherment=True))
    yield "key-cert-sign", leaf(ROOT, bits=usage(digital_signature=True, key_cert_sign=True))
    yield "crl-sign", leaf(ROOT, bits=usage(digital_signature=True, crl_sign=True))
    yield "eku-server-only", leaf(ROOT, eku=[EKU.SERVER_AUTH])
    yield "eku-client-only", leaf(ROOT, eku=[EKU.CLIENT_AUTH])
    yield "eku-any-only", leaf(ROOT, eku=[EKU.ANY_EXTENDED_KEY_USAGE])
    yield "no-san", leaf(ROOT, uri=())
    yield "no-uri", leaf(ROOT, uri=(), names=[x509.DNSName("web.test.example")])
    yield "two-uris", leaf(ROOT, uri=["spiffe://test.example/web", "spiffe://test.example/db"])
    yield "spiffe-and-https", leaf(ROOT, uri=["spiffe://test.example/web", "https://test.example/"])
    yield "same-uri-twice", leaf(ROOT, uri=["spiffe://test.example/web"] * 2)
    yield "https-uri", leaf(ROOT, uri="https://test.example/web")
    yield "no-path", leaf(ROOT, uri="spiffe://test.example")
    yield "slash-path", leaf(ROOT, uri="spiffe://test.example/")
    yield "upper-case-domain", leaf(ROOT, uri="spiffe://Test.example/web")
    yield "dot-segment", leaf(ROOT, uri="spiffe://test.example/a/../web")
    yield "percent", leaf(ROOT, uri="spiffe://test.example/w%65b")
    yield "query", leaf(ROOT, uri="spiffe://test.example/web?x")
    yield "port", leaf(ROOT, uri="spiffe://test.example:443/web")
    yield "too-long-id", leaf(ROOT, uri="spiffe://test.example/" + "x" * (2049 - 22))
    yield "nul-in-uri", bad(replace(SAN, uri_san(b"spiffe://test.example/web\0.evil.example")))
    yield "empty-uri", bad(replace(SAN, uri_san(b"")))
    yield "empty-subject", leaf(ROOT, subject=None)
    yield "name-constraints", bad(add(NC, [0x30, [[0xA0, [[0x30, [[0x86, b"test.example"]]]]]]]))
    # RFC 5280
    yield "twice-san", bad(double(SAN))
    yield "twice-unknown", bad(lambda tbs: [add("1.3.6.1.4.1.55555.1", [0x04, b"x"])(tbs) for _ in range(2)])
    yield "unknown-critical", bad(add("1.3.6.1.4.1.55555.1", [0x04, b"x"], True))
    yield "critical-policies", bad(add("2.5.29.32", [0x30, [[0x30, [der.oid("2.5.29.32.0")]]]], True))
    yield "version-1", bad(remove(VERSION))
    yield "version-2", bad(field(VERSION, [0xA0, [[0x02, b"\1"]]]))
    yield "version-4", bad(field(VERSION, [0xA0, [[0x02, b"\3"]]]))
    yield "no-extensions", bad(remove(EXTENSIONS))
    yield "serial-zero", bad(field(SERIAL, [0x02, b"\0"]))
    yield "serial-negative", bad(field(SERIAL, [0x02, b"\x80\1"]))
    yield "serial-21", bad(field(SERIAL, [0x02, b"\0" + b"\xff" * 20]))
    yield "serial-padded", bad(field(SERIAL, [0x02, b"\0\1"]))
    yield "serial-empty", bad(field(SERIAL, [0x02, b""]))
    yield "inner-outer", bad(nothing, outer=[0x30, [der.oid("1.2.840.10045.4.3.3")]])
    yield "empty-issuer", bad(field(ISSUER, [0x30, []]))
    yield "no-aki", bad(drop(AKI))
    yield "aki-without-id", bad(replace(AKI, [0x30, []]))
    yield "aki-critical", bad(lambda tbs: find(tbs, AKI)[1].insert(1, [0x01, b"\xff"]))
    yield "ski-critical", bad(lambda tbs: find(tbs, SKI)[1].insert(1, [0x01, b"\xff"]))
    yield "unique-id", bad(lambda tbs: tbs.insert(EXTENSIONS, [0x81, b"\0x"]))
    # DER
    yield "trailing-byte", base.der + b"\0"
    yield "trailing-certificate", base.der + base.der
    yield "truncated", base.der[:-1]
    yield "empty", b""
    yield "not-der", b"-----BEGIN CERTIFICATE-----"
    yield "trailing-in-tbs", bad(lambda tbs: tbs.append([0x05, b""]))
    yield "trailing-in-outer", der.encode([0x30, der.parse(base.der)[0][1] + [[0x05, b""]]])
    yield "trailing-in-extension", bad(lambda tbs: extensions(tbs)[0][1].append([0x05, b""]))
    yield "trailing-in-san", bad(lambda tbs: replace(
        SAN, der.encode(uri_san(b"spiffe://test.example/web")) + b"\0")(tbs))
    yield "critical-false", bad(lambda tbs: find(tbs, SAN)[1].insert(1, [0x01, b"\0"]))
    yield "critical-one", bad(lambda tbs: find(tbs, SAN)[1].insert(1, [0x01, b"\1"]))
    yield "ca-false-encoded", bad(replace(BC, [0x30, [[0x01, b"\0"]]], True))
    yield "empty-extensions", bad(lambda tbs: tbs[EXTENSIONS][1][0].__setitem__(1, []))
    yield "empty-san", bad(replace(SAN, [0x30, []]))
    yield "odd-name", bad(replace(SAN, [0x30, [[0x86, b"spiffe://test.example/web"], [0x8C, b"x"]]]))
    yield "other-name", bad(replace(SAN, [0x30, [[0x86, b"spiffe://test.example/web"], [0xA0, [[0x05, b""]]]]]))
    yield "odd-subject", bad(field(SUBJECT, [0x30, [[0x31, [[0x30, [der.oid("2.5.4.3"), [0x02, b"\1"]]]]]]]))
    yield "latin1-subject", bad(field(SUBJECT, [0x30, [[0x31, [[0x30, [der.oid("2.5.4.3"), [0x0C, b"\xff"]]]]]]]))
    yield "empty-rdn", bad(field(SUBJECT, [0x30, [[0x31, []]]]))
    yield "empty-eku", bad(replace(EKU_OID, [0x30, []]))
    yield "ku-trailing-zeros", bad(replace(KU, [0x03, b"\0\x80"], True))
    yield "ku-empty", bad(replace(KU, [0x03, b""], True))
    yield "long-length", bytes([0x30, 0x83, 0]) + base.der[2:]
    yield "indefinite", bytes([0x30, 0x80]) + base.der[4:] + b"\0\0"
    yield "time-offset", bad(field(VALIDITY, [0x30, [when(0x17, "270115070000Z"), when(0x17, "270115100000+0000")]]))
    yield "time-no-seconds", bad(field(VALIDITY, [0x30, [when(0x17, "270115070000Z"), when(0x17, "2701151000Z")]]))
    yield "time-month-13", bad(field(VALIDITY, [0x30, [when(0x17, "270115070000Z"), when(0x17, "271315100000Z")]]))
    yield "time-feb-30", bad(field(VALIDITY, [0x30, [when(0x17, "270115070000Z"), when(0x17, "280230100000Z")]]))
    yield "time-general-2027", bad(field(
        VALIDITY, [0x30, [when(0x18, "20270115070000Z"), when(0x18, "20270115100000Z")]]))
    yield "time-fraction", bad(field(
        VALIDITY, [0x30, [when(0x17, "270115070000Z"), when(0x18, "20510115100000.5Z")]]))
    yield "many-extensions", bad(lambda tbs: [add("1.3.6.1.4.1.55555.%d" % i, [0x05, b""])(tbs) for i in range(40)])


def refused_algorithms():
    base = leaf(ROOT)
    numbers = rsa.generate_private_key(65537, 2048).public_key().public_numbers()

    def rsa_spki(modulus_bits, exponent=65537, parameters=((0x05, b""),), odd=1):
        modulus = ((1 << modulus_bits) - 12345) | 1 if modulus_bits != 2048 else numbers.n
        modulus = modulus if odd else modulus - 1

        def number(n):
            return [0x02, n.to_bytes(n.bit_length() // 8 + 1, "big")]
        key = der.encode([0x30, [number(modulus), number(exponent)]])
        return [0x30, [[0x30, [der.oid("1.2.840.113549.1.1.1")] + [list(p) for p in parameters]],
                       [0x03, b"\0" + key]]]

    point = LEAF_KEY.public_key().public_bytes(serialization.Encoding.X962,
                                               serialization.PublicFormat.CompressedPoint)
    compressed = [0x30, [[0x30, [der.oid("1.2.840.10045.2.1"), der.oid("1.2.840.10045.3.1.7")]], [0x03, b"\0" + point]]]
    explicit = subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-param_enc", "explicit"],
                              check=True, capture_output=True).stdout
    explicit = subprocess.run(["openssl", "ec", "-pubout", "-outform", "DER"], input=explicit, check=True,
                              capture_output=True).stdout
    yield "sha1", change(base, lambda tbs: None, ROOT, "sha1")
    yield "sha224", change(base, lambda tbs: None, ROOT, "sha224")
    yield "p521-key", leaf(ROOT, key=new_key("p521"))
    yield "secp256k1-key", leaf(ROOT, key=new_key("k256"))
    yield "ed25519-key", leaf(ROOT, key=ed25519.Ed25519PrivateKey.generate())
    yield "rsa1024-key", leaf(ROOT, key=new_key("rsa1024"))
    yield "rsa2047-key", change(base, field(SPKI, rsa_spki(2047)), ROOT)
    yield "rsa4097-key", change(base, field(SPKI, rsa_spki(4097)), ROOT)
    yield "rsa8192-key", change(base, field(SPKI, rsa_spki(8192)), ROOT)
    yield "rsa-e3-key", change(base, field(SPKI, rsa_spki(2048, 3)), ROOT)
    yield "rsa-even-e-key", change(base, field(SPKI, rsa_spki(2048, 65538)), ROOT)
    yield "rsa-huge-e-key", change(base, field(SPKI, rsa_spki(2048, (1 << 64) + 1)), ROOT)
    yield "rsa-even-key", change(base, field(SPKI, rsa_spki(3000, odd=0)), ROOT)
    yield "compressed-point", change(base, field(SPKI, compressed), ROOT)
    two = der.parse(base.der)[0][1][0][1][SPKI]
    two[1][0][1].append([0x05, b""])
    yield "curve-and-more", change(base, field(SPKI, two), ROOT)
    yield "explicit-curve", change(base, field(SPKI, der.parse(explicit)[0]), ROOT)


def authorities():
    """Roots and intermediates of ROOT; the good ones verify GRANDCHILD's sibling (see chains)."""
    base = authority(by=ROOT, subject=name((NameOID.ORGANIZATION_NAME, "An authority")))

    def bad(patch, **more):
        return change(base, patch, ROOT, **more)

    def changed_usage(bits):
        return replace(KU, der.parse(bits.public_bytes())[0], True)

    yield "ok-intermediate", base
    yield "ok-digital-signature", bad(changed_usage(usage(key_cert_sign=True, digital_signature=True)))
    yield "ok-no-crl-sign", bad(changed_usage(usage(key_cert_sign=True)))
    yield "ok-eku", bad(add(EKU_OID, der.parse(x509.ExtendedKeyUsage(BOTH).public_bytes())[0]))
    yield "ok-no-uri", bad(drop(SAN))
    yield "ok-odd-uri", bad(replace(SAN, uri_san(b"spiffe://test.example/")))
    yield "bad-not-ca", bad(replace(BC, [0x30, []], True))
    yield "bad-no-bc", bad(drop(BC))
    yield "bad-bc-not-critical", bad(replace(BC, [0x30, [[0x01, b"\xff"]]]))
    yield "bad-path-len-huge", bad(replace(BC, [0x30, [[0x01, b"\xff"], [0x02, b"\1\0"]]], True))
    yield "bad-path-len-negative", bad(replace(BC, [0x30, [[0x01, b"\xff"], [0x02, b"\xff"]]], True))
    yield "bad-no-ku", bad(drop(KU))
    yield "bad-ku-not-critical", bad(replace(KU, der.parse(CA_USAGE.public_bytes())[0]))
    yield "bad-no-cert-sign", bad(changed_usage(usage(crl_sign=True)))
    yield "bad-eku-server-only", bad(add(EKU_OID, der.parse(x509.ExtendedKeyUsage([EKU.SERVER_AUTH]).public_bytes())[0]))
    constraints = [0x30, [[0xA0, [[0x30, [[0x86, b"test.example"]]]]]]]
    yield "bad-name-constraints", bad(add(NC, constraints))
    yield "bad-name-constraints-critical", bad(add(NC, constraints, True))
    yield "bad-policy-constraints", bad(add("2.5.29.36", [0x30, [[0x80, b"\0"]]], True))
    yield "bad-empty-subject", bad(field(SUBJECT, [0x30, []]))
    yield "bad-no-ski", bad(drop(SKI))
    yield "bad-long-ski", bad(replace(SKI, [0x04, b"k" * 33]))
    yield "bad-no-aki", bad(drop(AKI))
    yield "bad-sha1", bad(lambda tbs: None, digest="sha1")
    yield "bad-twice", bad(double(BC))
    yield "bad-trailing", base.der + b"\0"


# ---- whole chains -------------------------------------------------------------------------------------------------

def matrix():
    keys = {kind: new_key(kind) for kind in ("p256", "p384", "rsa2048")}
    for ca_kind in ("p256", "p384", "rsa2048", "rsa4096"):
        ca = authority(ca_kind)
        write("matrix-root-" + ca_kind, ca)
        for kind, key in keys.items():
            write("matrix-%s-%s" % (ca_kind, kind), leaf(ca, key=key))
        if ca_kind == "rsa2048":
            write("rsa-sha384", leaf(ca, digest=hashes.SHA384()))
            write("rsa-sha512", leaf(ca, digest=hashes.SHA512()))
            for bits in ("256", "384", "512"):
                write("rsa-pss-" + bits, pss_leaf(ca, "sha" + bits))
            write("rsa-pss-long-salt", pss_leaf(ca, "sha256", 222))
            write("rsa-pss-two-hashes", pss_leaf(ca, "sha256", mgf="sha384"))
            write("rsa-pss-trailer", pss_leaf(ca, "sha256", trailer=True))
            write("rsa-pss-sha1", pss_leaf(ca, "sha1"))
            write("rsa-sha1", resign_rsa(leaf(ca), ca, [0x30, [der.oid("1.2.840.113549.1.1.5"), [0x05, b""]]],
                                         padding.PKCS1v15(), hashes.SHA1()))
            write("rsa-no-null", resign_rsa(leaf(ca), ca, [0x30, [der.oid("1.2.840.113549.1.1.11")]],
                                            padding.PKCS1v15(), hashes.SHA256()))


def resign_rsa(party, ca, algorithm, pad, digest):
    tbs, _, _ = der.parse(party.der)[0][1]
    tbs[1][ALGORITHM] = algorithm
    signature = ca.key.sign(der.encode(tbs), pad, digest)
    return der.encode([0x30, [tbs, algorithm, [0x03, b"\0" + signature]]])


SHA_OID = {"sha1": "1.3.14.3.2.26", "sha256": "2.16.840.1.101.3.4.2.1", "sha384": "2.16.840.1.101.3.4.2.2",
           "sha512": "2.16.840.1.101.3.4.2.3"}


def pss_leaf(ca, digest, salt=None, mgf=None, trailer=False):
    """Debian 12's python3-cryptography signs with PSS, but not certificates."""
    by_name = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
    mgf = mgf or digest
    salt = by_name[digest].digest_size if salt is None else salt
    parameters = [[0xA0, [[0x30, [der.oid(SHA_OID[digest]), [0x05, b""]]]]],
                  [0xA1, [[0x30, [der.oid("1.2.840.113549.1.1.8"), [0x30, [der.oid(SHA_OID[mgf]), [0x05, b""]]]]]]],
                  [0xA2, [[0x02, salt.to_bytes(salt.bit_length() // 8 + 1, "big")]]]]
    parameters += [[0xA3, [[0x02, b"\1"]]]] if trailer else []
    algorithm = [0x30, [der.oid("1.2.840.113549.1.1.10"), [0x30, parameters]]]
    return resign_rsa(leaf(ca), ca, algorithm, padding.PSS(padding.MGF1(by_name[mgf]), salt), by_name[digest])


def chains():
    write("root-p256", ROOT)
    # root <- i1 <- i2 <- i3 <- i4, and a leaf below each
    above, kinds = ROOT, ["p384", "p256", "p256", "p256"]
    for i, kind in enumerate(kinds, 1):
        above = authority(kind, by=above, subject=name((NameOID.ORGANIZATION_NAME, "Intermediate %d" % i)))
        write("i%d" % i, above)
        write("below-i%d" % i, leaf(above))
    # the intermediate ends before the leaf; is over; has a path length of 0 and signs an authority nevertheless
    early = authority(by=ROOT, until=HOUR // 2, subject=name((NameOID.ORGANIZATION_NAME, "Early")))
    write("early", early)
    write("below-early", leaf(early))
    over = authority(by=ROOT, since=-2 * HOUR, until=-HOUR, subject=name((NameOID.ORGANIZATION_NAME, "Over")))
    write("over", over)
    write("below-over", leaf(over))
    short = authority(by=ROOT, path_len=0, subject=name((NameOID.ORGANIZATION_NAME, "Short")))
    beyond = authority(by=short, subject=name((NameOID.ORGANIZATION_NAME, "Beyond")))
    write("path-len-0", short)
    write("below-path-len-0", leaf(short))
    write("beyond-path-len-0", beyond)
    write("below-beyond", leaf(beyond))
    # a leaf that signs
    signing = leaf(ROOT)
    write("signing-leaf", signing)
    write("below-leaf", leaf(signing))
    # time
    write("expired", leaf(ROOT, since=-2 * HOUR, until=-1))
    write("not-yet", leaf(ROOT, since=1, until=HOUR))
    write("ends-now", leaf(ROOT, until=0))
    write("starts-now", leaf(ROOT, since=0))
    old = authority(since=-2 * HOUR, until=-1)
    write("root-expired", old)
    write("below-root-expired", leaf(old))
    # two of these are more than a chain may have
    write("large", change(leaf(ROOT), add("1.3.6.1.4.1.55555.1", [0x04, bytes(9000)]), ROOT))
    # a signature that does not hold; the right names by another key
    signed = bytearray(leaf(ROOT).der)
    signed[-1] ^= 1
    write("bad-signature", bytes(signed))
    # certificatePolicies that nobody needs and that do not parse: OpenSSL does not look, mbedTLS does
    write("odd-policies", change(leaf(ROOT), add("2.5.29.32", [0x30, [[0x02, b"\1"]]]), ROOT))
    impostor = authority(subject=ROOT.cert.subject, ski=ROOT.cert.extensions.get_extension_for_class(
        x509.SubjectKeyIdentifier).value)
    write("impostor", impostor)
    write("below-impostor", leaf(impostor))


def domains():
    other = authority(domain="other.example")
    write("root-other", other)
    write("other-web", leaf(other, "spiffe://other.example/web"))
    write("other-signs-test", leaf(other, "spiffe://test.example/web"))
    write("test-signs-other", leaf(ROOT, "spiffe://other.example/web"))
    write("test-db", leaf(ROOT, "spiffe://test.example/db"))
    write("test-identityd", leaf(ROOT, "spiffe://test.example/countersign/identityd"))
    # three roots that no name and no key identifier tells apart
    twin_name = name((NameOID.ORGANIZATION_NAME, "Twins"))
    for i in range(3):
        twin = authority(subject=twin_name, ski=x509.SubjectKeyIdentifier(b"twin" * 5), serial=7)
        write("twin-root-%d" % i, twin)
        write("twin-leaf-%d" % i, leaf(twin))
    # one key, certified twice: the older root is over
    key = new_key("p256")
    renewed = [authority(key=key, subject=name((NameOID.ORGANIZATION_NAME, "Renewed")), until=u) for u in (-1, 24 * HOUR)]
    write("renewed-old", renewed[0])
    write("renewed-new", renewed[1])
    write("below-renewed", leaf(renewed[1]))
    for i in range(65):
        write("crowd-%d" % i, authority(key=key, subject=name((NameOID.ORGANIZATION_NAME, "Crowd %d" % i))))


def pem_files():
    """For tls.[ch]: the files of a server and of nodes."""
    def put(filename, data):
        with open(os.path.join(OUT, filename), "wb") as f:
            f.write(data)
    pem = serialization.Encoding.PEM
    other = authority(domain="other.example")
    below = authority(by=ROOT, subject=name((NameOID.ORGANIZATION_NAME, "Nodes")))
    put("bundle.pem", ROOT.cert.public_bytes(pem))
    put("other-bundle.pem", other.cert.public_bytes(pem))
    put("empty.pem", b"")
    put("rsa.key", new_key("rsa2048").private_bytes(pem, serialization.PrivateFormat.PKCS8,
                                                    serialization.NoEncryption()))
    put("encrypted.key", LEAF_KEY.private_bytes(pem, serialization.PrivateFormat.PKCS8,
                                                serialization.BestAvailableEncryption(b"secret")))
    for filename, by, uri in (
            ("server", ROOT, "spiffe://test.example/countersign/identityd"),
            ("node1", ROOT, "spiffe://test.example/countersign/node/node1"),
            ("node2", below, "spiffe://test.example/countersign/node/node-2.example"),
            ("workload", ROOT, "spiffe://test.example/identity/4711"),
            ("long-node", ROOT, "spiffe://test.example/countersign/node/" + "n" * 256),
            ("longest-node", ROOT, "spiffe://test.example/countersign/node/" + "n" * 255),
            ("deep-node", ROOT, "spiffe://test.example/countersign/node/a/b"),
            ("foreign", other, "spiffe://test.example/countersign/node/node1")):
        key = new_key("p256")
        chain = leaf(by, uri, key=key).cert.public_bytes(pem)
        put(filename + ".pem", chain + (below.cert.public_bytes(pem) if by is below else b""))
        put(filename + ".key", key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def main():
    shutil.rmtree(OUT, ignore_errors=True)  # no case that is no more
    os.makedirs(OUT)
    for case, party in good_leaves():
        write("leaf-ok-" + case, party)
    for case, party in bad_leaves():
        write("leaf-bad-" + case, party)
    for case, party in refused_algorithms():
        write("leaf-bad-" + case, party)
    for case, party in authorities():
        write("authority-" + case, party)
    chains()
    matrix()
    domains()
    pem_files()


LEAF_KEY = new_key("p256")
ROOT = authority()
main()

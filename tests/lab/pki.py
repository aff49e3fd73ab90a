"""X.509-SVIDs made by python-cryptography: never by the code under test."""
import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

TRUST_DOMAIN = "example.org"


def key(kind="p256"):
    if kind == "p256":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "p384":
        return ec.generate_private_key(ec.SECP384R1())
    return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))


def _hash(k):
    return hashes.SHA384() if isinstance(k, ec.EllipticCurvePrivateKey) and k.curve.name == "secp384r1" else hashes.SHA256()


def _name(common):
    return x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "US"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SPIRE"),
                      x509.NameAttribute(NameOID.COMMON_NAME, common)])


def der(cert):
    return cert.public_bytes(serialization.Encoding.DER)


def pem(cert):
    return cert.public_bytes(serialization.Encoding.PEM)


def key_pem(k):
    return k.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


class Svid:
    def __init__(self, k, chain, spiffe_id):
        self.key, self.chain, self.spiffe_id = k, chain, spiffe_id

    @property
    def leaf(self):
        return self.chain[0]

    def sign_tls13(self, scheme, kind, digest):
        """CertificateVerify over a transcript hash (RFC 8446 4.4.3)."""
        context = {1: b"TLS 1.3, client CertificateVerify", 2: b"TLS 1.3, server CertificateVerify",
                   3: b"Exported Authenticator"}[kind]
        content = b" " * 64 + context + b"\0" + digest
        if scheme in (0x0403, 0x0503):
            return self.key.sign(content, ec.ECDSA(_hash(self.key)))
        h = {0x0804: hashes.SHA256, 0x0805: hashes.SHA384, 0x0806: hashes.SHA512}[scheme]()
        return self.key.sign(content, padding.PSS(padding.MGF1(h), h.digest_size), h)


class Authority:
    def __init__(self, trust_domain=TRUST_DOMAIN, kind="p256", common="a root"):
        self.trust_domain, self.key, self.name = trust_domain, key(kind), _name(common)
        self.cert = self._sign(self.key.public_key(), self.name, ca=True, uris=[f"spiffe://{trust_domain}"])

    @classmethod
    def load(cls, text, trust_domain=TRUST_DOMAIN):
        """An authority from the PEM of its key and its certificate."""
        a = cls.__new__(cls)
        a.trust_domain, a.key = trust_domain, serialization.load_pem_private_key(text, None)
        a.cert = x509.load_pem_x509_certificate(text)
        a.name = a.cert.subject
        return a

    def _sign(self, public, subject, ca=False, uris=(), days=1.0, start=None, usage=None, eku=True, dns=(), serial=None):
        now = dt.datetime.utcnow()
        start = start or now - dt.timedelta(seconds=10)
        b = (x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(public)
             .serial_number(serial or x509.random_serial_number()).not_valid_before(start)
             .not_valid_after(now + dt.timedelta(days=days)))
        usage = usage or (dict(key_cert_sign=True, crl_sign=True) if ca else dict(digital_signature=True, key_agreement=True))
        all_usages = dict.fromkeys(["digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
                                    "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"], False)
        b = b.add_extension(x509.KeyUsage(**{**all_usages, **usage}), critical=True)
        if not ca and eku:
            b = b.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                                critical=False)
        b = b.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        b = b.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        b = b.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        names = [x509.UniformResourceIdentifier(u) for u in uris] + [x509.DNSName(d) for d in dns]
        if names:
            b = b.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return b.sign(self.key, _hash(self.key))

    def intermediate(self, kind="p256"):
        child = Authority.__new__(Authority)
        child.trust_domain, child.key, child.name = self.trust_domain, key(kind), _name("an intermediate")
        child.cert = self._sign(child.key.public_key(), child.name, ca=True, uris=[f"spiffe://{self.trust_domain}"])
        child.parent = self
        return child

    def svid(self, path, kind="p256", **options):
        """options: uris, days, start, ca, usage, eku, dns override what a good SVID has; common is the subject's name."""
        spiffe_id = path if path.startswith("spiffe://") else f"spiffe://{self.trust_domain}{path}"
        k = options.pop("key", None) or key(kind)
        cert = self._sign(k.public_key(), _name(options.pop("common", "a workload")), uris=options.pop("uris", [spiffe_id]), **options)
        chain = [cert] + ([self.cert] if hasattr(self, "parent") else [])
        return Svid(k, chain, spiffe_id)

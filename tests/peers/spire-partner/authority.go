package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"time"
)

const backdate = 10 * time.Second // a leaf begins that long ago, and lives that much longer than its TTL

// An X.509 authority of the server: the root that signs leaves.
type authority struct {
	id      string // lower-case hex of the subject key identifier
	cert    *x509.Certificate
	key     crypto.Signer
	tainted bool
}

// svid is what an agent caches for an entry.
type svid struct {
	chain     [][]byte // leaf first; the root is not among them
	key       []byte   // PKCS #8
	notBefore time.Time
	notAfter  time.Time
	authority string
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func serial() *big.Int {
	return must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)))
}

func uri(text string) *url.URL {
	return must(url.Parse(text))
}

func newKey(kind string) crypto.Signer {
	switch kind {
	case "rsa-4096":
		return must(rsa.GenerateKey(rand.Reader, 4096))
	case "rsa-2048":
		return must(rsa.GenerateKey(rand.Reader, 2048))
	case "ec-p384":
		return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	case "ec-p256", "":
		return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	}
	panic("no such kind of key: " + kind)
}

func keyID(public crypto.PublicKey) []byte {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	must(asn1.Unmarshal(must(x509.MarshalPKIXPublicKey(public)), &info))
	sum := sha1.Sum(info.Key.Bytes)
	return sum[:]
}

// newAuthority makes a root as SPIRE does without an upstream authority.
func newAuthority(domain, keyType, name string, now time.Time, life time.Duration) *authority {
	key := newKey(keyType)
	number := serial()
	id := keyID(key.Public())
	template := &x509.Certificate{
		SerialNumber: number,
		Subject: pkix.Name{Country: []string{"US"}, Organization: []string{"SPIFFE"}, CommonName: name,
			SerialNumber: number.String()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		SubjectKeyId:          id,
		URIs:                  []*url.URL{uri("spiffe://" + domain)},
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return &authority{id: hex.EncodeToString(id), cert: must(x509.ParseCertificate(der)), key: key}
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// A leaf as SPIRE issues it; change may twist it before it is signed.
func (a *authority) issue(spiffeID string, dns []string, ttl time.Duration, now time.Time, change func(*x509.Certificate)) *svid {
	key := newKey("")
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{Country: []string{"US"}, Organization: []string{"SPIRE"}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(ttl),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		SubjectKeyId:          keyID(key.Public()),
		DNSNames:              dns,
		URIs:                  []*url.URL{uri(spiffeID)},
	}
	if len(dns) > 0 {
		template.Subject.CommonName = dns[0]
	}
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	if change != nil {
		change(template)
	}
	der := must(x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key))
	return &svid{chain: [][]byte{der}, key: must(x509.MarshalPKCS8PrivateKey(key)), notBefore: template.NotBefore,
		notAfter: template.NotAfter, authority: a.id}
}

func newID() string {
	b := make([]byte, 16)
	must(rand.Read(b))
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

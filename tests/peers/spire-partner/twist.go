package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	delegated "github.com/spiffe/spire-api-sdk/proto/spire/api/agent/delegatedidentity/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
)

// svidID is the SPIFFE ID that the certificate has: an entry may have been changed since.
func svidID(v *svid) *types.SPIFFEID {
	u := must(x509.ParseCertificate(v.chain[0])).URIs[0]
	return &types.SPIFFEID{TrustDomain: u.Host, Path: u.Path}
}

func (s *server) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now()
}

// twisted makes one SVID wrong in the way that is asked for. The ID beside it stays right, but for "other-id".
func (a *agent) twisted(how string, id *types.SPIFFEID, chain [][]byte, key []byte) (*types.SPIFFEID, [][]byte, []byte) {
	s := a.server
	s.mu.Lock()
	signer, now := s.active, s.now()
	s.mu.Unlock()
	text, ttl := idString(id), time.Hour
	issue := func(change func(*x509.Certificate)) ([][]byte, []byte) {
		v := signer.issue(text, nil, ttl, now, change)
		return v.chain, v.key
	}
	switch how {
	case "other-id": // the field says another than the certificate, which is right
		id = &types.SPIFFEID{TrustDomain: id.TrustDomain, Path: id.Path + "1"}
	case "other-id-in-certificate":
		text += "1"
		chain, key = issue(nil)
	case "other-domain-in-certificate":
		text = "spiffe://other.example" + id.Path
		chain, key = issue(nil)
	case "other-key":
		key = must(x509.MarshalPKCS8PrivateKey(newKey("")))
	case "no-key":
		key = nil
	case "garbage-key":
		key = []byte(strings.Repeat("k", 138))
	case "p224-key":
		k := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
		t := &x509.Certificate{}
		_, _ = issue(func(c *x509.Certificate) { *t = *c })
		chain = [][]byte{must(x509.CreateCertificate(rand.Reader, t, signer.cert, k.Public(), signer.key))}
		key = must(x509.MarshalPKCS8PrivateKey(k))
	case "expired":
		ttl = -time.Minute
		chain, key = issue(func(c *x509.Certificate) { c.NotBefore = now.Add(-time.Hour) })
	case "not-yet":
		ttl = 2 * time.Hour
		chain, key = issue(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour) })
	case "ca":
		chain, key = issue(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, c.KeyUsage|x509.KeyUsageCertSign })
	case "two-ids":
		chain, key = issue(func(c *x509.Certificate) { c.URIs = append(c.URIs, uri("spiffe://example.org/another")) })
	case "no-id":
		chain, key = issue(func(c *x509.Certificate) { c.URIs = []*url.URL{}; c.DNSNames = []string{"example.org"} })
	case "other-authority":
		signer = newAuthority(s.Domain, "", "", now, time.Hour)
		chain, key = issue(nil)
	case "no-chain":
		chain = nil
	case "long-chain":
		for len(chain) < 6 {
			chain = append(chain, signer.cert.Raw)
		}
	case "garbage-certificate":
		chain = [][]byte{[]byte(strings.Repeat("c", 534))}
	case "half-certificate":
		chain = [][]byte{chain[0][:len(chain[0])/2]}
	case "bytes-after":
		chain = [][]byte{append(append([]byte{}, chain[0]...), 0, 0, 0, 0)}
	default:
		panic("no such twist: " + how)
	}
	return id, chain, key
}

func (a *agent) twistSet(in *delegated.SubscribeToX509SVIDsResponse) *delegated.SubscribeToX509SVIDsResponse {
	for _, v := range in.X509Svids {
		if f := a.faults.find("svid", v.X509Svid.Id.Path); f != nil {
			v.X509Svid.Id, v.X509Svid.CertChain, v.X509SvidKey = a.twisted(f.Text, v.X509Svid.Id, v.X509Svid.CertChain, v.X509SvidKey)
		}
	}
	if f := a.faults.find("empty-set", ""); f != nil {
		in.X509Svids = nil
	}
	if f := a.faults.find("copies", ""); f != nil && len(in.X509Svids) > 0 { // the same SVID, very often
		for len(in.X509Svids) < f.Value {
			in.X509Svids = append(in.X509Svids, in.X509Svids[0])
		}
	}
	if f := a.faults.find("missing-parts", ""); f != nil {
		in.X509Svids = append([]*delegated.X509SVIDWithKey{{}, {X509Svid: &types.X509SVID{}}}, in.X509Svids...)
	}
	if f := a.faults.find("federates", ""); f != nil {
		for i := range f.Value {
			in.FederatesWith = append(in.FederatesWith, fmt.Sprintf("spiffe://d%d.example", i))
		}
	}
	return in
}

func (a *agent) twistOwn(in *workload.X509SVIDResponse) *workload.X509SVIDResponse {
	for _, v := range in.Svids {
		u := uri(v.SpiffeId)
		if f := a.faults.find("own-svid", u.Path); f != nil {
			id, chain, key := a.twisted(f.Text, &types.SPIFFEID{TrustDomain: u.Host, Path: u.Path}, [][]byte{v.X509Svid}, v.X509SvidKey)
			v.SpiffeId, v.X509Svid, v.X509SvidKey = idString(id), join(chain), key
		}
		if f := a.faults.find("own-bundle", ""); f != nil {
			v.Bundle = a.twistedBundle(f, v.Bundle)
		}
	}
	if f := a.faults.find("copies", ""); f != nil && len(in.Svids) > 0 {
		for len(in.Svids) < f.Value {
			in.Svids = append(in.Svids, in.Svids[0])
		}
	}
	return in
}

func (a *agent) twistedBundle(f *fault, blob []byte) []byte {
	switch f.Text {
	case "empty":
		return nil
	case "garbage":
		return []byte(strings.Repeat("b", 518))
	case "half":
		return blob[:len(blob)*2/3]
	case "many": // Value authorities
		var out []byte
		for range f.Value {
			out = append(out, blob...)
		}
		return out
	case "other":
		return newAuthority(a.server.Domain, "", "", time.Now(), time.Hour).cert.Raw
	}
	panic("no such twist: " + f.Text)
}

func (a *agent) twistBundles(in *delegated.SubscribeToX509BundlesResponse) *delegated.SubscribeToX509BundlesResponse {
	own := "spiffe://" + a.server.Domain
	if f := a.faults.find("bundle", ""); f != nil {
		switch f.Text {
		case "missing":
			delete(in.CaCertificates, own)
		case "bad-name":
			in.CaCertificates["spiffe://Not A Domain/x"] = in.CaCertificates[own]
		case "domains": // Value trust domains
			for i := range f.Value {
				in.CaCertificates[fmt.Sprintf("spiffe://d%d.example", i)] = in.CaCertificates[own]
			}
		default:
			in.CaCertificates[own] = a.twistedBundle(f, in.CaCertificates[own])
		}
	}
	return in
}

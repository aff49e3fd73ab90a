package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"
)

// A registration entry and its place in the table: page tokens are row numbers.
type row struct {
	number int
	entry  *types.Entry
}

// What agents see of the server: it is made anew every reload interval, as SPIRE's entry cache is.
type snapshot struct {
	entries     []*types.Entry
	authorities []*authority // copies
	sequence    uint64
	federated   map[string]*types.Bundle
}

type serverOptions struct {
	Domain     string
	Dir        string
	CAKeyType  string
	CAName     string
	Reload     time.Duration
	TTL        time.Duration // of entries that name none
	MaxAge     time.Duration // of a TCP connection
	Port       int
	CALifetime time.Duration
}

// server plays spire-server. Everything is behind mu.
type server struct {
	serverOptions
	mu        sync.Mutex
	rows      []*row
	nextRow   int
	byID      map[string]*row
	similar   map[string]*row
	active    *authority
	prepared  *authority
	old       *authority
	bundle    []*authority
	sequence  uint64
	federated map[string]*types.Bundle
	relations map[string]*types.FederationRelationship
	attested  map[string]*types.Agent
	offset    time.Duration // of the clock
	cache     *snapshot
	up        bool
	stopping  chan struct{}
	fronts    []*front
	faults    faults
	calls     map[string]int
}

func newServer(o serverOptions) *server {
	s := &server{serverOptions: o, byID: map[string]*row{}, similar: map[string]*row{}, sequence: 1,
		federated: map[string]*types.Bundle{}, relations: map[string]*types.FederationRelationship{},
		attested: map[string]*types.Agent{}, calls: map[string]int{}}
	s.active = s.newAuthority(time.Now())
	s.bundle = []*authority{s.active}
	return s
}

func (s *server) newAuthority(now time.Time) *authority {
	return newAuthority(s.Domain, s.CAKeyType, s.CAName, now, s.CALifetime)
}

func (s *server) socket() string { return filepath.Join(s.Dir, "api.sock") }

func (s *server) now() time.Time { return time.Now().Add(s.offset) }

func (s *server) id(path string) string { return "spiffe://" + s.Domain + path }

func (s *server) reload() {
	snap := &snapshot{sequence: s.sequence, federated: map[string]*types.Bundle{}}
	for _, r := range s.rows {
		snap.entries = append(snap.entries, proto.Clone(r.entry).(*types.Entry))
	}
	for _, a := range s.bundle {
		copied := *a
		snap.authorities = append(snap.authorities, &copied)
	}
	for name, b := range s.federated {
		snap.federated[name] = proto.Clone(b).(*types.Bundle)
	}
	s.cache = snap
}

func (s *server) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.up {
		return errors.New("the server runs already")
	}
	local, err := listenUnix(s.socket(), 0o770)
	if err != nil {
		return err
	}
	tcp, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)))
	if err != nil {
		return err
	}
	s.Port = tcp.Addr().(*net.TCPAddr).Port
	age := keepalive.ServerParameters{MaxConnectionAge: s.MaxAge}
	if f := s.faults.find("goaway", ""); f != nil {
		age = f.age()
	}
	s.fronts = []*front{
		newFront(local, credentials.TransportCredentials(peerCredentials{}), s.options(age, false), s.register),
		newFront(tcp, credentials.NewTLS(s.tls()), s.options(age, true), s.register),
	}
	s.stopping = make(chan struct{})
	s.up = true
	s.reload()
	go s.reloads(s.stopping)
	return nil
}

func (s *server) reloads(stop chan struct{}) {
	for tick := time.NewTicker(s.Reload); ; {
		select {
		case <-stop:
			tick.Stop()
			return
		case <-tick.C:
			s.mu.Lock()
			s.reload()
			s.mu.Unlock()
		}
	}
}

func (s *server) options(age keepalive.ServerParameters, tcp bool) []grpc.ServerOption {
	return []grpc.ServerOption{grpc.KeepaliveParams(age), grpc.ChainUnaryInterceptor(s.intercept(tcp)),
		grpc.ForceServerCodecV2(codec{})}
}

// stop ends it; a killed one leaves its socket file.
func (s *server) stop(kill bool) {
	s.mu.Lock()
	fronts := s.fronts
	s.fronts = nil
	if s.up {
		close(s.stopping)
	}
	s.up = false
	s.mu.Unlock()
	for _, f := range fronts {
		f.stop(kill)
	}
}

// read gives an agent what it may see, or the error of a server that is away.
func (s *server) read() (*snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.up || s.faults.find("no-sync", "") != nil {
		return nil, errors.New("the server is away")
	}
	return s.cache, nil
}

// sign issues for an entry as it is now: an agent that renews gets what the entry says today.
func (s *server) sign(id string) (*svid, *types.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.byID[id]
	if !s.up || r == nil {
		return nil, nil, errors.New("the server is away, or has no such entry")
	}
	if f := s.faults.find("no-signature", r.entry.SpiffeId.Path); f != nil {
		return nil, nil, errors.New("as the test wants it")
	}
	ttl := s.TTL
	if r.entry.X509SvidTtl > 0 {
		ttl = time.Duration(r.entry.X509SvidTtl) * time.Second
	}
	e := proto.Clone(r.entry).(*types.Entry)
	return s.active.issue(idString(e.SpiffeId), e.DnsNames, ttl, s.now(), nil), e, nil
}

func (s *server) tls() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		SessionTicketsDisabled: true,
		ClientAuth:             tls.RequestClientCert,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.own(), nil },
		VerifyPeerCertificate:  s.verifyPeer,
	}
}

// own is the server's SVID, or what the test wants instead.
func (s *server) own() *tls.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	issuer, path, now := s.active, "/spire/server", s.now()
	if f := s.faults.find("server-certificate", ""); f != nil {
		switch f.Text {
		case "other-id":
			path = "/spire/somebody"
		case "other-authority":
			issuer = newAuthority(s.Domain, "", "", now, time.Hour)
		case "expired":
			now = now.Add(-48 * time.Hour)
		}
	}
	v := issuer.issue("spiffe://"+s.Domain+path, nil, time.Hour, now, nil)
	return &tls.Certificate{Certificate: v.chain, PrivateKey: must(x509.ParsePKCS8PrivateKey(v.key))}
}

func (s *server) verifyPeer(raw [][]byte, _ [][]*x509.Certificate) error {
	if len(raw) == 0 {
		return nil // anonymous; the interceptor says what it may do
	}
	leaf, err := x509.ParseCertificate(raw[0])
	if err != nil {
		return err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	s.mu.Lock()
	for _, a := range s.bundle {
		roots.AddCert(a.cert)
	}
	now := s.now()
	s.mu.Unlock()
	for _, der := range raw[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

// authorized are the entries that an agent gets: what has it, or an alias of it, as parent, and so on downwards.
func (s *snapshot) authorized(agentID string, selectors []*types.Selector) map[string]*types.Entry {
	found := map[string]*types.Entry{}
	parents := []string{agentID}
	for _, e := range s.entries {
		if idString(e.ParentId) == "spiffe://"+e.ParentId.TrustDomain+"/spire/server" && subset(e.Selectors, selectors) {
			parents = append(parents, idString(e.SpiffeId))
		}
	}
	children := map[string][]*types.Entry{}
	for _, e := range s.entries {
		children[idString(e.ParentId)] = append(children[idString(e.ParentId)], e)
	}
	seen := map[string]bool{}
	for len(parents) > 0 {
		parent := parents[0]
		parents = parents[1:]
		if seen[parent] {
			continue
		}
		seen[parent] = true
		for _, e := range children[parent] {
			found[e.Id] = e
			parents = append(parents, idString(e.SpiffeId))
		}
	}
	return found
}

func idString(id *types.SPIFFEID) string {
	return "spiffe://" + id.GetTrustDomain() + id.GetPath()
}

func subset(part, whole []*types.Selector) bool {
	for _, p := range part {
		if !slices.ContainsFunc(whole, func(w *types.Selector) bool { return w.Type == p.Type && w.Value == p.Value }) {
			return false
		}
	}
	return true
}

func join(certs [][]byte) []byte { return bytes.Join(certs, nil) }

func (s *snapshot) ownBundle() []byte {
	var out []byte
	for _, a := range s.authorities {
		out = append(out, a.cert.Raw...)
	}
	return out
}

func federatedBundle(b *types.Bundle) []byte {
	var out []byte
	for _, a := range b.X509Authorities {
		out = append(out, a.Asn1...)
	}
	return out
}

func listenUnix(path string, mode os.FileMode) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, mode)
}

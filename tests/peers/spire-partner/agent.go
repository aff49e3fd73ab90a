package main

import (
	"bytes"
	"errors"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	debug "github.com/spiffe/spire-api-sdk/proto/spire/api/agent/debug/v1"
	delegated "github.com/spiffe/spire-api-sdk/proto/spire/api/agent/delegatedidentity/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

type agentOptions struct {
	Name      string
	Delegates []string
	Sync      time.Duration
	Attest    time.Duration // what it costs to look at a caller, one after the other
	WedgeAt   int           // more calls that wait for a first message than this wedge it for good
}

// An entry in the agent's cache, and its SVID, if it has one already.
type cached struct {
	entry *types.Entry
	svid  *svid
	stale bool // its revision changed: a new SVID is due
}

func (c *cached) visible() bool {
	return c.svid != nil && !c.entry.Admin && !c.entry.Downstream && !c.entry.StoreSvid
}

// A stream that wants to hear of changes. One slot: what changes meanwhile is told at once.
type subscription struct {
	selectors []*types.Selector
	workload  bool // of the Workload API, which does not see the gap of a taint
	wake      chan struct{}
}

func (s *subscription) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// agent plays spire-agent. Everything is behind mu.
type agent struct {
	agentOptions
	server    *server
	id        string // as attested
	dir       string
	mu        sync.Mutex
	cache     map[string]*cached
	own       []byte // bundle
	sequence  uint64
	tainted   map[string]bool
	federated map[string][]byte // those that some entry here federates with
	subs      map[*subscription]bool
	watchers  map[*subscription]bool // of bundles
	fronts    []*front
	down      chan struct{} // closed when it ends
	attesting sync.Mutex
	wedged    bool
	waiting   int
	waitMax   int
	messages  int
	lastSync  time.Time
	faults    faults
	calls     map[string]int
}

func newAgent(s *server, o agentOptions) *agent {
	token := newID()
	a := &agent{agentOptions: o, server: s, id: s.id("/spire/agent/join_token/" + token), dir: filepath.Join(s.Dir, "..", o.Name),
		calls: map[string]int{}}
	return a
}

func (a *agent) socket() string { return filepath.Join(a.dir, "pub", "api.sock") }
func (a *agent) admin() string  { return filepath.Join(a.dir, "adm", "admin.sock") }

// start lets it run; its sockets appear with the first good sync.
func (a *agent) start() error {
	for _, path := range []string{a.socket(), a.admin()} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.down != nil {
		return errors.New("the agent runs already")
	}
	a.cache, a.own, a.sequence = map[string]*cached{}, nil, 0
	a.tainted, a.federated = map[string]bool{}, map[string][]byte{}
	a.subs, a.watchers = map[*subscription]bool{}, map[*subscription]bool{}
	a.wedged, a.waiting, a.waitMax = false, 0, 0
	a.down = make(chan struct{})
	go a.run(a.down)
	return nil
}

func (a *agent) run(down chan struct{}) {
	wait := time.Duration(0)
	for failures := 0; ; {
		select {
		case <-down:
			return
		case <-time.After(wait):
		}
		if err := a.sync(down); err != nil {
			failures++
			wait = a.Sync
			for i := 0; i < failures && wait < 48*a.Sync; i++ {
				wait = wait * 3 / 2
			}
			wait = min(wait, 48*a.Sync)
			continue
		}
		failures = 0
		wait = time.Duration(float64(a.Sync) * (0.9 + 0.2*rand.Float64()))
		a.mu.Lock()
		if a.down == down && a.fronts == nil {
			a.listen()
		}
		a.mu.Unlock()
	}
}

// listen opens both sockets; mu is held.
func (a *agent) listen() error {
	age := keepalive.ServerParameters{}
	if f := a.faults.find("goaway", ""); f != nil {
		age = f.age()
	}
	options := []grpc.ServerOption{grpc.KeepaliveParams(age), grpc.ForceServerCodecV2(codec{}),
		grpc.ChainStreamInterceptor(a.intercept), grpc.MaxRecvMsgSize(4 << 20)}
	creds := credentials.TransportCredentials(peerCredentials{})
	pub, err := listenUnix(a.socket(), 0o777)
	if err != nil {
		return err
	}
	adm, err := listenUnix(a.admin(), 0o770)
	if err != nil {
		return err
	}
	a.fronts = []*front{
		newFront(pub, creds, options, func(s *grpc.Server) {
			workload.RegisterSpiffeWorkloadAPIServer(s, &workloadAPI{agent: a})
			healthpb.RegisterHealthServer(s, health.NewServer())
		}),
		newFront(adm, creds, options, func(s *grpc.Server) {
			delegated.RegisterDelegatedIdentityServer(s, &delegatedAPI{agent: a})
			debug.RegisterDebugServer(s, &debugAPI{agent: a})
		}),
	}
	return nil
}

// stop ends it. Killed, its socket files stay.
func (a *agent) stop(kill bool) {
	a.mu.Lock()
	fronts, down := a.fronts, a.down
	a.fronts, a.down = nil, nil
	a.mu.Unlock()
	for _, f := range fronts {
		f.stop(kill)
	}
	if down != nil {
		close(down) // after its connections, or streams would end with a word
	}
}

// reopen cuts all connections and listens anew; the cache stays.
func (a *agent) reopen() error {
	a.mu.Lock()
	fronts := a.fronts
	a.fronts = nil
	a.mu.Unlock()
	for _, f := range fronts {
		f.stop(true)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.down == nil || a.fronts != nil {
		return nil
	}
	return a.listen()
}

// ---- the sync ----

func (a *agent) sync(down chan struct{}) error {
	snap, err := a.server.read()
	if err != nil {
		return err
	}
	entries := snap.authorized(a.id, []*types.Selector{{Type: "spiffe_id", Value: a.id}})
	for _, e := range entries {
		if slices.Contains(e.FederatesWith, a.server.Domain) {
			return errors.New("an entry federates with its own trust domain")
		}
	}
	a.mu.Lock()
	if a.down != down {
		a.mu.Unlock()
		return nil
	}
	a.takeBundles(snap, entries)
	a.takeEntries(entries)
	tainted := a.takeTaints(snap)
	first := a.lastSync.IsZero() || a.fronts == nil
	a.lastSync = time.Now()
	due := a.due()
	a.mu.Unlock()
	if !first && len(due) > 0 { // the time that signing takes
		time.Sleep(3*time.Millisecond + time.Duration(rand.Intn(4000))*time.Microsecond)
	}
	a.mint(due)
	if tainted {
		time.Sleep(155 * time.Millisecond)
		a.replaceTainted()
	}
	return nil
}

// takeBundles: any change of the own bundle is told to everybody.
func (a *agent) takeBundles(snap *snapshot, entries map[string]*types.Entry) {
	federated := map[string][]byte{}
	for _, e := range entries {
		for _, domain := range e.FederatesWith {
			if b := snap.federated[domain]; b != nil {
				federated["spiffe://"+domain] = federatedBundle(b)
			}
		}
	}
	if a.sequence != snap.sequence {
		a.sequence, a.own = snap.sequence, snap.ownBundle()
		for s := range a.subs {
			s.notify()
		}
		for s := range a.watchers {
			s.notify()
		}
	}
	changed := map[string]bool{}
	for name, b := range federated {
		if old, ok := a.federated[name]; !ok || !bytes.Equal(old, b) {
			changed[name] = true
		}
	}
	if len(changed) > 0 || len(federated) != len(a.federated) {
		a.federated = federated
		for s := range a.watchers {
			s.notify()
		}
		for s := range a.subs {
			if slices.ContainsFunc(a.federates(s.selectors), func(name string) bool { return changed[name] }) {
				s.notify()
			}
		}
	}
}

func (a *agent) takeEntries(entries map[string]*types.Entry) {
	for id, c := range a.cache {
		if entries[id] == nil {
			delete(a.cache, id)
			a.changed(c.entry, c.entry)
		}
	}
	for id, e := range entries {
		c := a.cache[id]
		switch {
		case c == nil:
			a.cache[id] = &cached{entry: e}
			a.changed(e, e)
		case c.entry.RevisionNumber != e.RevisionNumber: // the same number of another entry is not noticed
			before := c.entry
			c.entry, c.stale = e, true
			if !sameSelectors(before.Selectors, e.Selectors) || !slices.Equal(before.FederatesWith, e.FederatesWith) {
				a.changed(before, e)
			}
		}
	}
}

// takeTaints tells whether an authority is newly tainted.
func (a *agent) takeTaints(snap *snapshot) bool {
	found := false
	for _, authority := range snap.authorities {
		if authority.tainted && !a.tainted[authority.id] {
			a.tainted[authority.id] = true
			found = true
		}
	}
	return found
}

// changed tells the streams that an entry, as it was or is, matches.
func (a *agent) changed(before, after *types.Entry) {
	for s := range a.subs {
		if subset(before.Selectors, s.selectors) || subset(after.Selectors, s.selectors) {
			s.notify()
		}
	}
}

// due are the entries that need an SVID: the later IDs first, as was seen.
func (a *agent) due() []string {
	var out []string
	now := a.server.clock()
	for id, c := range a.cache {
		prefetch := !c.entry.GetAdditionalAttributes().GetDisableX509SvidPrefetch()
		switch {
		case c.svid == nil:
			if prefetch || a.wanted(c.entry) {
				out = append(out, id)
			}
		case c.stale, c.svid.notAfter.Sub(now) <= half(c.svid):
			out = append(out, id)
		}
	}
	slices.Sort(out)
	slices.Reverse(out)
	return out
}

// half of the life, more or less: all of them at once would be a burst.
func half(v *svid) time.Duration {
	life := float64(v.notAfter.Sub(v.notBefore))
	return time.Duration(life * (0.45 + 0.1*rand.Float64()))
}

func (a *agent) wanted(e *types.Entry) bool {
	for s := range a.subs {
		if subset(e.Selectors, s.selectors) {
			return true
		}
	}
	return false
}

func (a *agent) mint(ids []string) {
	for _, id := range ids {
		v, entry, err := a.server.sign(id)
		if err != nil {
			continue
		}
		a.mu.Lock()
		if c := a.cache[id]; c != nil {
			if c.entry.RevisionNumber == entry.RevisionNumber {
				c.entry = entry
			}
			c.svid, c.stale = v, false
			a.changed(c.entry, c.entry)
		}
		a.mu.Unlock()
	}
}

// replaceTainted drops what a tainted authority signed, and signs it anew: a moment without it.
func (a *agent) replaceTainted() {
	a.mu.Lock()
	var ids []string
	for id, c := range a.cache {
		if c.svid == nil || !a.tainted[c.svid.authority] {
			continue
		}
		ids = append(ids, id)
		c.svid = nil
		for s := range a.subs {
			if !s.workload && subset(c.entry.Selectors, s.selectors) {
				s.notify()
			}
		}
	}
	a.mu.Unlock()
	time.Sleep(2 * time.Millisecond)
	slices.Sort(ids)
	a.mint(ids)
}

// ---- what streams ask for ----

// matching are the cached entries of a description, by entry ID; mu is held.
func (a *agent) matching(selectors []*types.Selector) []*cached {
	var out []*cached
	for _, id := range slices.Sorted(maps.Keys(a.cache)) {
		if subset(a.cache[id].entry.Selectors, selectors) {
			out = append(out, a.cache[id])
		}
	}
	return out
}

// federates are the keys of the bundles that the visible SVIDs may need.
func (a *agent) federates(selectors []*types.Selector) []string {
	names := map[string]bool{}
	for _, c := range a.matching(selectors) {
		if !c.visible() {
			continue
		}
		for _, domain := range c.entry.FederatesWith {
			names["spiffe://"+domain] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func (a *agent) subscribe(s *subscription, list *map[*subscription]bool) func() {
	a.mu.Lock()
	defer a.mu.Unlock()
	(*list)[s] = true
	subs := *list
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(subs, s)
	}
}

// complete tells whether every match has an SVID; those that nobody wanted so far are wanted now.
func (a *agent) complete(selectors []*types.Selector) (bool, []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var lacking []string
	for _, c := range a.matching(selectors) {
		if c.svid == nil && !c.entry.StoreSvid {
			lacking = append(lacking, c.entry.Id)
		}
	}
	return len(lacking) == 0, lacking
}

// wakeAll makes every stream speak, as after a fault was set or taken back.
func (a *agent) wakeAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for s := range a.subs {
		s.notify()
	}
	for s := range a.watchers {
		s.notify()
	}
}

func sameSelectors(a, b []*types.Selector) bool { return subset(a, b) && subset(b, a) }

package main

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"
)

// control is what a test says to the partner: JSON over HTTP on a Unix socket.
type control struct {
	server *server
	sync   time.Duration
	mu     sync.Mutex
	agents map[string]*agent
}

func (c *control) listen(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	answer := func(pattern string, f func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			out, err := f(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			if text, ok := out.([]byte); ok {
				w.Write(text)
				return
			}
			json.NewEncoder(w).Encode(out)
		})
	}
	answer("POST /rpc/{service}/{method}", c.rpc)
	answer("GET /server", c.serverState)
	answer("POST /server/{what}", c.serverDo)
	answer("POST /agents", c.addAgent)
	answer("GET /agents/{name}", c.agentState)
	answer("POST /agents/{name}/{what}", c.agentDo)
	answer("POST /clock", c.clock)
	go http.Serve(l, mux)
	return nil
}

type nothing struct{}

func read(r *http.Request, into any) error {
	err := json.NewDecoder(r.Body).Decode(into)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (c *control) rpc(r *http.Request) (any, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	return call(r.Context(), c.server.socket(), r.PathValue("service"), r.PathValue("method"), body)
}

func (c *control) serverState(*http.Request) (any, error) {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	open, ever := 0, 0
	for _, f := range s.fronts {
		o, e := f.listener.open()
		open, ever = open+o, ever+e
	}
	bundle := ""
	for _, a := range s.bundle {
		bundle += pemOf("CERTIFICATE", a.cert.Raw)
	}
	authority := pemOf("CERTIFICATE", s.active.cert.Raw) + pemOf("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(s.active.key)))
	return map[string]any{"bundle": bundle, "authority": authority, "port": s.Port, "up": s.up, "entries": len(s.rows), "calls": maps.Clone(s.calls),
		"connections": open, "connections_ever": ever, "faults": s.faults.counts()}, nil
}

func (c *control) serverDo(r *http.Request) (any, error) {
	s := c.server
	switch what := r.PathValue("what"); what {
	case "start":
		return nothing{}, s.start()
	case "kill", "stop":
		s.stop(what == "kill")
		return nothing{}, nil
	case "cut":
		s.mu.Lock()
		fronts := s.fronts
		s.mu.Unlock()
		for _, f := range fronts {
			f.listener.cut()
		}
		return nothing{}, nil
	case "faults":
		var list []*fault
		if err := read(r, &list); err != nil {
			return nil, err
		}
		s.faults.set(list)
		return nothing{}, nil
	default:
		return nil, fmt.Errorf("the server cannot %s", what)
	}
}

func (c *control) addAgent(r *http.Request) (any, error) {
	in := struct {
		Name, Alias string
		Delegates   []string
		AttestUs    int `json:"attest_us"`
		WedgeAt     int `json:"wedge_at"`
	}{}
	if err := read(r, &in); err != nil {
		return nil, err
	}
	a := newAgent(c.server, agentOptions{Name: in.Name, Delegates: in.Delegates, Sync: c.sync, WedgeAt: in.WedgeAt,
		Attest: time.Duration(in.AttestUs) * time.Microsecond})
	c.mu.Lock()
	c.agents[in.Name] = a
	c.mu.Unlock()
	c.server.attest(a.id, in.Alias)
	return map[string]any{"id": a.id, "socket": a.socket(), "admin": a.admin()}, a.start()
}

func (c *control) agent(r *http.Request) (*agent, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.agents[r.PathValue("name")]; a != nil {
		return a, nil
	}
	return nil, fmt.Errorf("there is no agent %s", r.PathValue("name"))
}

func (c *control) agentState(r *http.Request) (any, error) {
	a, err := c.agent(r)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	open, ever := 0, 0
	for _, f := range a.fronts {
		o, e := f.listener.open()
		open, ever = open+o, ever+e
	}
	svids := 0
	for _, c := range a.cache {
		if c.svid != nil {
			svids++
		}
	}
	return map[string]any{"svids": svids, "waiting": a.waiting, "waiting_max": a.waitMax, "wedged": a.wedged, "subscriptions": len(a.subs),
		"watchers": len(a.watchers), "cached": len(a.cache), "calls": maps.Clone(a.calls), "messages": a.messages,
		"connections": open, "connections_ever": ever, "faults": a.faults.counts()}, nil
}

func (c *control) agentDo(r *http.Request) (any, error) {
	a, err := c.agent(r)
	if err != nil {
		return nil, err
	}
	switch what := r.PathValue("what"); what {
	case "start":
		return nothing{}, a.start()
	case "kill", "stop":
		a.stop(what == "kill")
		return nothing{}, nil
	case "wake": // every stream says again what it would say
		a.wakeAll()
		return nothing{}, nil
	case "reopen": // all connections end; new ones are accepted
		return nothing{}, a.reopen()
	case "faults":
		var list []*fault
		if err := read(r, &list); err != nil {
			return nil, err
		}
		a.faults.set(list)
		a.mu.Lock()
		fronts := a.fronts
		a.mu.Unlock()
		for _, f := range fronts {
			f.listener.release()
		}
		return nothing{}, nil
	default:
		return nil, fmt.Errorf("an agent cannot %s", what)
	}
}

func (c *control) clock(r *http.Request) (any, error) {
	in := struct {
		OffsetS int `json:"offset_s"`
	}{}
	if err := read(r, &in); err != nil {
		return nil, err
	}
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.server.offset = time.Duration(in.OffsetS) * time.Second
	return nothing{}, nil
}

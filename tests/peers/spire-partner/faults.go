package main

import (
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/keepalive"
)

// A fault that a test has asked for. What it means depends on Kind; see README.md.
type fault struct {
	Kind  string `json:"kind"`
	On    string `json:"on"`    // of which method or entry; empty: all
	Count int    `json:"count"` // for how many times; 0: until it is taken back
	Text  string `json:"text"`
	Code  int    `json:"code"`
	Value int    `json:"value"`
	Every int    `json:"every"` // of items: each so-and-so-many-th
}

func (f *fault) age() keepalive.ServerParameters {
	p := keepalive.ServerParameters{MaxConnectionAge: time.Duration(f.Value) * time.Millisecond}
	if f.Every > 0 {
		p.MaxConnectionAgeGrace = time.Duration(f.Every) * time.Millisecond
	}
	return p
}

type faults struct {
	mu   sync.Mutex
	list []*fault
	made map[string]int // how often
}

func (f *faults) set(list []*fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = list
}

// find tells whether there is one, and uses up one of its times.
func (f *faults) find(kind, on string) *fault { return f.findItem(kind, on, -1) }

// findItem is for the n-th item of a batch, from 0.
func (f *faults) findItem(kind, on string, n int) *fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, each := range f.list {
		if each.Kind != kind || (each.On != "" && each.On != on) {
			continue
		}
		if n >= 0 && each.Every > 0 && n%each.Every != each.Every-1 {
			continue
		}
		if f.made == nil {
			f.made = map[string]int{}
		}
		f.made[kind]++
		found := *each
		if each.Count > 0 {
			if each.Count--; each.Count == 0 {
				f.list = slices.Delete(f.list, i, i+1)
			}
		}
		return &found
	}
	return nil
}

func (f *faults) counts() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]int{}
	for k, n := range f.made {
		out[k] = n
	}
	return out
}

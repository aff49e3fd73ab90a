package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type entryAPI struct {
	entryv1.UnimplementedEntryServer
	server *server
}

// item makes the faults of one item of a batch: a status instead of doing it, or time that it takes.
func (a *entryAPI) item(ctx context.Context, method string, i int, path string) *types.Status {
	s := a.server
	if f := s.faults.find("item-time", method); f != nil {
		s.mu.Unlock()
		select {
		case <-time.After(time.Duration(f.Value) * time.Microsecond):
		case <-ctx.Done():
		}
		s.mu.Lock()
	}
	if f := s.faults.findItem("item", method, i); f != nil {
		return failed(codes.Code(f.Code), "%s", f.Text)
	}
	if path == "" {
		return nil
	}
	if f := s.faults.find("item-of", path); f != nil {
		return failed(codes.Code(f.Code), "%s", f.Text)
	}
	return nil
}

func (s *server) pathOf(id string) string {
	if r := s.byID[id]; r != nil {
		return r.entry.SpiffeId.Path
	}
	return ""
}

func (a *entryAPI) BatchCreateEntry(ctx context.Context, in *entryv1.BatchCreateEntryRequest) (*entryv1.BatchCreateEntryResponse, error) {
	s, out := a.server, &entryv1.BatchCreateEntryResponse{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, e := range in.Entries {
		bad := a.item(ctx, "BatchCreateEntry", i, e.GetSpiffeId().GetPath())
		if ctx.Err() != nil { // those before it exist
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		result := &entryv1.BatchCreateEntryResponse_Result{Status: bad}
		if bad == nil {
			if result.Status, result.Entry = s.create(e); result.Entry != nil {
				result.Entry = masked(result.Entry, in.OutputMask)
			}
		}
		out.Results = append(out.Results, result)
	}
	if s.faults.find("short-results", "BatchCreateEntry") != nil && len(out.Results) > 0 {
		out.Results = out.Results[:len(out.Results)-1]
	}
	return out, nil
}

func (a *entryAPI) BatchUpdateEntry(ctx context.Context, in *entryv1.BatchUpdateEntryRequest) (*entryv1.BatchUpdateEntryResponse, error) {
	s, out := a.server, &entryv1.BatchUpdateEntryResponse{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, e := range in.Entries {
		bad := a.item(ctx, "BatchUpdateEntry", i, s.pathOf(e.GetId()))
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		result := &entryv1.BatchUpdateEntryResponse_Result{Status: bad}
		if bad == nil {
			if result.Status, result.Entry = s.update(e, in.InputMask); result.Entry != nil {
				result.Entry = masked(result.Entry, in.OutputMask)
			}
		}
		out.Results = append(out.Results, result)
	}
	if s.faults.find("short-results", "BatchUpdateEntry") != nil && len(out.Results) > 0 {
		out.Results = out.Results[:len(out.Results)-1]
	}
	return out, nil
}

func (a *entryAPI) BatchDeleteEntry(ctx context.Context, in *entryv1.BatchDeleteEntryRequest) (*entryv1.BatchDeleteEntryResponse, error) {
	s, out := a.server, &entryv1.BatchDeleteEntryResponse{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, id := range in.Ids {
		bad := a.item(ctx, "BatchDeleteEntry", i, s.pathOf(id))
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		if bad == nil {
			bad = s.delete(id)
		}
		out.Results = append(out.Results, &entryv1.BatchDeleteEntryResponse_Result{Status: bad, Id: id})
	}
	if s.faults.find("short-results", "BatchDeleteEntry") != nil && len(out.Results) > 0 {
		out.Results = out.Results[:len(out.Results)-1]
	}
	return out, nil
}

func (a *entryAPI) GetEntry(_ context.Context, in *entryv1.GetEntryRequest) (*types.Entry, error) {
	a.server.mu.Lock()
	defer a.server.mu.Unlock()
	if in.Id == "" {
		return nil, status.Error(codes.InvalidArgument, "missing ID")
	}
	r := a.server.byID[in.Id]
	if r == nil {
		return nil, status.Error(codes.NotFound, "entry not found")
	}
	return masked(r.entry, in.OutputMask), nil
}

// ---- lists ----

type filter = func(*types.Entry) bool

func malformed(what string, err error) error {
	return status.Errorf(codes.InvalidArgument, "malformed %s filter: %v", what, err)
}

// matches: the words describe the entry relative to the filter.
func matches[T any](match int32, entry, wanted []T, equal func(a, b T) bool) bool {
	inside := func(part, whole []T) bool {
		return !slices.ContainsFunc(part, func(p T) bool {
			return !slices.ContainsFunc(whole, func(w T) bool { return equal(p, w) })
		})
	}
	switch match {
	case int32(types.SelectorMatch_MATCH_EXACT):
		return inside(entry, wanted) && inside(wanted, entry)
	case int32(types.SelectorMatch_MATCH_SUBSET):
		return len(entry) > 0 && inside(entry, wanted)
	case int32(types.SelectorMatch_MATCH_SUPERSET):
		return inside(wanted, entry)
	default:
		return slices.ContainsFunc(entry, func(e T) bool {
			return slices.ContainsFunc(wanted, func(w T) bool { return equal(e, w) })
		})
	}
}

func (a *entryAPI) filters(in *entryv1.ListEntriesRequest_Filter) ([]filter, error) {
	var out []filter
	add := func(f filter) { out = append(out, f) }
	if in == nil {
		return nil, nil
	}
	if hint := in.ByHint.GetValue(); hint != "" {
		add(func(e *types.Entry) bool { return e.Hint == hint })
	}
	if in.ByParentId != nil {
		id, err := a.server.member(in.ByParentId, false)
		if err != nil {
			return nil, malformed("parent ID", err)
		}
		add(func(e *types.Entry) bool { return idString(e.ParentId) == idString(id) })
	}
	if in.BySpiffeId != nil {
		id, err := a.server.member(in.BySpiffeId, true)
		if err != nil {
			return nil, malformed("SPIFFE ID", err)
		}
		add(func(e *types.Entry) bool { return idString(e.SpiffeId) == idString(id) })
	}
	if in.BySelectors != nil {
		wanted, err := cleanSelectors(in.BySelectors.Selectors)
		if err == nil && len(wanted) == 0 {
			err = fmt.Errorf("empty selector set")
		}
		if err != nil {
			return nil, malformed("selectors", err)
		}
		add(func(e *types.Entry) bool {
			return matches(int32(in.BySelectors.Match), e.Selectors, wanted, func(a, b *types.Selector) bool {
				return a.Type == b.Type && a.Value == b.Value
			})
		})
	}
	if in.ByFederatesWith != nil {
		var wanted []string
		for _, each := range in.ByFederatesWith.TrustDomains {
			td, err := spiffeid.TrustDomainFromString(each)
			if err != nil {
				return nil, malformed("federates with", err)
			}
			wanted = append(wanted, td.Name())
		}
		if len(wanted) == 0 {
			return nil, malformed("federates with", fmt.Errorf("empty trust domain set"))
		}
		add(func(e *types.Entry) bool {
			return matches(int32(in.ByFederatesWith.Match), e.FederatesWith, wanted, func(a, b string) bool { return a == b })
		})
	}
	if in.ByDownstream != nil {
		add(func(e *types.Entry) bool { return e.Downstream == in.ByDownstream.Value })
	}
	return out, nil
}

func pass(e *types.Entry, filters []filter) bool {
	return !slices.ContainsFunc(filters, func(f filter) bool { return !f(e) })
}

func (a *entryAPI) CountEntries(_ context.Context, in *entryv1.CountEntriesRequest) (*entryv1.CountEntriesResponse, error) {
	s := a.server
	s.mu.Lock()
	defer s.mu.Unlock()
	f := in.GetFilter()
	filters, err := a.filters(&entryv1.ListEntriesRequest_Filter{BySpiffeId: f.GetBySpiffeId(), ByParentId: f.GetByParentId(),
		BySelectors: f.GetBySelectors(), ByFederatesWith: f.GetByFederatesWith(), ByHint: f.GetByHint(), ByDownstream: f.GetByDownstream()})
	if err != nil {
		return nil, err
	}
	out := &entryv1.CountEntriesResponse{}
	for _, r := range s.rows {
		if pass(r.entry, filters) {
			out.Count++
		}
	}
	return out, nil
}

// ListEntries gives a token with every page that is not empty: the number of its last row.
func (a *entryAPI) ListEntries(_ context.Context, in *entryv1.ListEntriesRequest) (*entryv1.ListEntriesResponse, error) {
	s, out := a.server, &entryv1.ListEntriesResponse{}
	s.mu.Lock()
	defer s.mu.Unlock()
	filters, err := a.filters(in.Filter)
	if err != nil {
		return nil, err
	}
	after := uint64(0)
	if in.PageSize > 0 && in.PageToken != "" {
		if after, err = strconv.ParseUint(in.PageToken, 10, 64); err != nil {
			return nil, status.Errorf(codes.Internal, "failed to list entries: datastore-sql: rpc error: code = InvalidArgument "+
				"desc = could not parse token '%s'", in.PageToken)
		}
	}
	for _, r := range s.rows {
		if uint64(r.number) <= after || !pass(r.entry, filters) {
			continue
		}
		if in.PageSize > 0 && len(out.Entries) == int(in.PageSize) {
			break
		}
		out.Entries = append(out.Entries, masked(r.entry, in.OutputMask))
		if in.PageSize > 0 {
			out.NextPageToken = strconv.Itoa(r.number)
		}
	}
	if f := s.faults.find("endless-pages", "ListEntries"); f != nil && f.Value == 0 { // a token that leads nowhere
		out.NextPageToken = "1"
	} else if f != nil { // always another
		out.NextPageToken = strconv.FormatUint(after+1, 10)
	}
	return out, nil
}

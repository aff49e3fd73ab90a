package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// What may be an entry, and how a table of them answers. The words are those of a real server: people read them in logs.

const hintMax = 1024

var entryIDChars = regexp.MustCompile(`^[A-Za-z0-9._-]*$`)

func ok() *types.Status { return &types.Status{Code: int32(codes.OK), Message: "OK"} }

func failed(code codes.Code, format string, args ...any) *types.Status {
	return &types.Status{Code: int32(code), Message: fmt.Sprintf(format, args...)}
}

// member checks an ID of the server's own trust domain; a workload's has a path outside of /spire.
func (s *server) member(in *types.SPIFFEID, workload bool) (*types.SPIFFEID, error) {
	if in == nil {
		return nil, fmt.Errorf("request must specify SPIFFE ID")
	}
	if in.TrustDomain == "" {
		return nil, fmt.Errorf("trust domain is missing")
	}
	td, err := spiffeid.TrustDomainFromString(in.TrustDomain)
	if err != nil {
		return nil, err
	}
	id, err := spiffeid.FromPath(td, in.Path)
	if err != nil {
		return nil, err
	}
	if td.Name() != s.Domain {
		return nil, fmt.Errorf("%q is not a member of trust domain %q", id, s.Domain)
	}
	if workload {
		why := ""
		if id.Path() == "" {
			why = "path is empty"
		} else if id.Path() == "/spire" || strings.HasPrefix(id.Path(), "/spire/") {
			why = "path is in the reserved namespace"
		}
		if why != "" {
			return nil, fmt.Errorf("%q is not a workload in trust domain %q; %s", id, s.Domain, why)
		}
	}
	return &types.SPIFFEID{TrustDomain: td.Name(), Path: id.Path()}, nil
}

func cleanSelectors(in []*types.Selector) ([]*types.Selector, error) {
	var out []*types.Selector
	for _, each := range in {
		switch {
		case each.GetType() == "":
			return nil, fmt.Errorf("missing selector type")
		case strings.Contains(each.Type, ":"):
			return nil, fmt.Errorf("selector type contains ':'")
		case each.Value == "":
			return nil, fmt.Errorf("missing selector value")
		}
		if !slices.ContainsFunc(out, func(o *types.Selector) bool { return proto.Equal(o, each) }) {
			out = append(out, proto.Clone(each).(*types.Selector))
		}
	}
	return out, nil
}

// copyMasked copies the fields that the mask names (nil: all). A mask has the names of the fields.
func copyMasked(out, in *types.Entry, mask *types.EntryMask) {
	to, from := out.ProtoReflect(), in.ProtoReflect()
	named := mask.ProtoReflect()
	fields := named.Descriptor().Fields()
	for i := range fields.Len() {
		if mask != nil && !named.Get(fields.Get(i)).Bool() {
			continue
		}
		if field := from.Descriptor().Fields().ByName(fields.Get(i).Name()); from.Has(field) {
			to.Set(field, from.Get(field))
		} else {
			to.Clear(field)
		}
	}
}

// convert checks those fields of an entry that the mask names (nil: all); the error says "failed to convert entry".
func (s *server) convert(in *types.Entry, mask *types.EntryMask) (*types.Entry, error) {
	if in == nil {
		return nil, fmt.Errorf("missing entry")
	}
	out := &types.Entry{Id: in.Id}
	copyMasked(out, proto.Clone(in).(*types.Entry), mask)
	out.RevisionNumber, out.CreatedAt = 0, 0 // the server's own
	var err error
	if mask == nil || mask.ParentId {
		if out.ParentId, err = s.member(in.ParentId, false); err != nil {
			return nil, fmt.Errorf("invalid parent ID: %w", err)
		}
	}
	if mask == nil || mask.SpiffeId {
		if out.SpiffeId, err = s.member(in.SpiffeId, true); err != nil {
			return nil, fmt.Errorf("invalid spiffe ID: %w", err)
		}
	}
	for i, each := range out.FederatesWith {
		td, err := spiffeid.TrustDomainFromString(each)
		if err != nil {
			return nil, fmt.Errorf("invalid federated trust domain: %w", err)
		}
		out.FederatesWith[i] = td.Name()
	}
	if mask == nil || mask.Selectors {
		if len(in.Selectors) == 0 {
			return nil, fmt.Errorf("selector list is empty")
		}
		if out.Selectors, err = cleanSelectors(in.Selectors); err != nil {
			return nil, err
		}
	}
	if len(out.Hint) > hintMax {
		return nil, fmt.Errorf("hint is too long, max length is %d characters", hintMax)
	}
	return out, nil
}

func similarity(e *types.Entry) string {
	var selectors []string
	for _, each := range e.Selectors {
		selectors = append(selectors, each.Type+":"+each.Value)
	}
	slices.Sort(selectors)
	return idString(e.SpiffeId) + "\n" + idString(e.ParentId) + "\n" + strings.Join(slices.Compact(selectors), "\n")
}

func (s *server) unknownDomain(e *types.Entry) *types.Status {
	for _, each := range e.FederatesWith {
		if each != s.Domain && s.federated[each] == nil {
			return failed(codes.Internal, "unable to find federated bundle %q", "spiffe://"+each)
		}
	}
	return nil
}

func validate(e *types.Entry) string {
	const prefix = "datastore-validation: invalid registration entry: "
	switch {
	case !entryIDChars.MatchString(e.Id):
		return prefix + "entry ID contains invalid characters"
	case len(e.Id) > 255:
		return prefix + "entry ID too long"
	case e.X509SvidTtl < 0:
		return prefix + "X509SvidTtl is not set"
	case e.JwtSvidTtl < 0:
		return prefix + "JwtSvidTtl is not set"
	}
	return ""
}

func (s *server) create(in *types.Entry) (*types.Status, *types.Entry) {
	e, err := s.convert(in, nil)
	if err != nil {
		return failed(codes.InvalidArgument, "failed to convert entry: %v", err), nil
	}
	if why := validate(e); why != "" {
		return failed(codes.InvalidArgument, "failed to create entry: %s", why), nil
	}
	if r := s.similar[similarity(e)]; r != nil {
		return failed(codes.AlreadyExists, "similar entry already exists"), r.entry
	}
	if e.Id != "" && s.byID[e.Id] != nil {
		return failed(codes.AlreadyExists, "failed to create entry: datastore-sql: UNIQUE constraint failed: registered_entries.entry_id"), nil
	}
	if bad := s.unknownDomain(e); bad != nil {
		bad.Message = "failed to create entry: " + bad.Message
		return bad, nil
	}
	if e.Id == "" {
		e.Id = newID()
	}
	e.CreatedAt = s.now().Unix()
	s.nextRow++
	r := &row{number: s.nextRow, entry: e}
	s.rows = append(s.rows, r)
	s.byID[e.Id], s.similar[similarity(e)] = r, r
	return ok(), e
}

func (s *server) update(in *types.Entry, mask *types.EntryMask) (*types.Status, *types.Entry) {
	e, err := s.convert(in, mask)
	if err != nil {
		return failed(codes.InvalidArgument, "failed to convert entry: %v", err), nil
	}
	r := s.byID[e.Id]
	if r == nil {
		return failed(codes.NotFound, "failed to update entry: datastore-sql: record not found"), nil
	}
	updated := proto.Clone(r.entry).(*types.Entry)
	copyMasked(updated, e, mask)
	updated.CreatedAt = r.entry.CreatedAt
	if why := validate(updated); why != "" {
		return failed(codes.InvalidArgument, "failed to update entry: %s", why), nil
	}
	if bad := s.unknownDomain(updated); bad != nil {
		bad.Message = "failed to update entry: " + bad.Message
		return bad, nil
	}
	updated.RevisionNumber = r.entry.RevisionNumber + 1
	if s.similar[similarity(r.entry)] == r {
		delete(s.similar, similarity(r.entry))
	}
	r.entry = updated
	if s.similar[similarity(updated)] == nil {
		s.similar[similarity(updated)] = r
	}
	return ok(), updated
}

func (s *server) delete(id string) *types.Status {
	if id == "" {
		return failed(codes.InvalidArgument, "missing entry ID")
	}
	r := s.byID[id]
	if r == nil {
		return failed(codes.NotFound, "entry not found")
	}
	delete(s.byID, id)
	if s.similar[similarity(r.entry)] == r {
		delete(s.similar, similarity(r.entry))
	}
	i, _ := slices.BinarySearchFunc(s.rows, r.number, func(r *row, n int) int { return r.number - n })
	s.rows = slices.Delete(s.rows, i, i+1)
	return ok()
}

// masked is a copy of what the mask names; the id is always there.
func masked(e *types.Entry, mask *types.EntryMask) *types.Entry {
	out := &types.Entry{Id: e.Id}
	copyMasked(out, proto.Clone(e).(*types.Entry), mask)
	return out
}

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

var wholeEntry = &types.EntryMask{SpiffeId: true, ParentId: true, Selectors: true, X509SvidTtl: true, FederatesWith: true,
	Admin: true, Downstream: true, ExpiresAt: true, DnsNames: true, RevisionNumber: true, StoreSvid: true, JwtSvidTtl: true,
	Hint: true, CreatedAt: true, AdditionalAttributes: true}

// convert checks those fields of an entry that the mask names; the error says "failed to convert entry".
func (s *server) convert(in *types.Entry, mask *types.EntryMask) (*types.Entry, error) {
	if in == nil {
		return nil, fmt.Errorf("missing entry")
	}
	if mask == nil {
		mask = wholeEntry
	}
	out := &types.Entry{Id: in.Id}
	var err error
	if mask.ParentId {
		if out.ParentId, err = s.member(in.ParentId, false); err != nil {
			return nil, fmt.Errorf("invalid parent ID: %w", err)
		}
	}
	if mask.SpiffeId {
		if out.SpiffeId, err = s.member(in.SpiffeId, true); err != nil {
			return nil, fmt.Errorf("invalid spiffe ID: %w", err)
		}
	}
	if mask.FederatesWith {
		for _, each := range in.FederatesWith {
			td, err := spiffeid.TrustDomainFromString(each)
			if err != nil {
				return nil, fmt.Errorf("invalid federated trust domain: %w", err)
			}
			out.FederatesWith = append(out.FederatesWith, td.Name())
		}
	}
	if mask.Selectors {
		if len(in.Selectors) == 0 {
			return nil, fmt.Errorf("selector list is empty")
		}
		if out.Selectors, err = cleanSelectors(in.Selectors); err != nil {
			return nil, err
		}
	}
	if mask.Hint && len(in.Hint) > hintMax {
		return nil, fmt.Errorf("hint is too long, max length is %d characters", hintMax)
	}
	copyPlain(out, in, mask)
	return out, nil
}

// copyPlain takes over those masked fields that need no look.
func copyPlain(out, in *types.Entry, m *types.EntryMask) {
	if m.X509SvidTtl {
		out.X509SvidTtl = in.X509SvidTtl
	}
	if m.JwtSvidTtl {
		out.JwtSvidTtl = in.JwtSvidTtl
	}
	if m.Admin {
		out.Admin = in.Admin
	}
	if m.Downstream {
		out.Downstream = in.Downstream
	}
	if m.ExpiresAt {
		out.ExpiresAt = in.ExpiresAt
	}
	if m.DnsNames {
		out.DnsNames = slices.Clone(in.DnsNames)
	}
	if m.StoreSvid {
		out.StoreSvid = in.StoreSvid
	}
	if m.Hint {
		out.Hint = in.Hint
	}
	if m.AdditionalAttributes {
		out.AdditionalAttributes = in.AdditionalAttributes
	}
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
	if mask == nil {
		mask = wholeEntry
	}
	updated := proto.Clone(r.entry).(*types.Entry)
	if mask.SpiffeId {
		updated.SpiffeId = e.SpiffeId
	}
	if mask.ParentId {
		updated.ParentId = e.ParentId
	}
	if mask.Selectors {
		updated.Selectors = e.Selectors
	}
	if mask.FederatesWith {
		updated.FederatesWith = e.FederatesWith
	}
	copyPlain(updated, e, mask)
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
func masked(e *types.Entry, m *types.EntryMask) *types.Entry {
	out := proto.Clone(e).(*types.Entry)
	if m == nil {
		return out
	}
	all := &types.Entry{Id: out.Id}
	if m.SpiffeId {
		all.SpiffeId = out.SpiffeId
	}
	if m.ParentId {
		all.ParentId = out.ParentId
	}
	if m.Selectors {
		all.Selectors = out.Selectors
	}
	if m.FederatesWith {
		all.FederatesWith = out.FederatesWith
	}
	if m.RevisionNumber {
		all.RevisionNumber = out.RevisionNumber
	}
	if m.CreatedAt {
		all.CreatedAt = out.CreatedAt
	}
	copyPlain(all, out, m)
	return all
}

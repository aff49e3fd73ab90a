package main

import (
	"context"
	"crypto/x509"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	authorityv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/localauthority/v1"
	trustdomainv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/trustdomain/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// page cuts a list of names, which are its tokens too.
func page(names []string, size int32, token string) ([]string, string) {
	if size <= 0 {
		return names, ""
	}
	after, _ := strconv.Atoi(token)
	names = names[min(after, len(names)):]
	if len(names) > int(size) {
		names = names[:size]
	}
	if len(names) == 0 {
		return nil, ""
	}
	return names, strconv.Itoa(after + len(names))
}

// ---- agents ----

type agentAPI struct {
	agentv1.UnimplementedAgentServer
	server *server
}

func (a *agentAPI) CountAgents(context.Context, *agentv1.CountAgentsRequest) (*agentv1.CountAgentsResponse, error) {
	a.server.mu.Lock()
	defer a.server.mu.Unlock()
	return &agentv1.CountAgentsResponse{Count: int32(len(a.server.attested))}, nil
}

func (a *agentAPI) ListAgents(_ context.Context, in *agentv1.ListAgentsRequest) (*agentv1.ListAgentsResponse, error) {
	s := a.server
	s.mu.Lock()
	defer s.mu.Unlock()
	names, token := page(slices.Sorted(maps.Keys(s.attested)), in.PageSize, in.PageToken)
	out := &agentv1.ListAgentsResponse{NextPageToken: token}
	for _, name := range names {
		one := s.attested[name]
		if f := in.Filter; f != nil && ((f.ByAttestationType != "" && f.ByAttestationType != one.AttestationType) ||
			(f.ByBanned != nil && f.ByBanned.Value != one.Banned)) {
			continue
		}
		out.Agents = append(out.Agents, one)
	}
	return out, nil
}

func (a *agentAPI) GetAgent(_ context.Context, in *agentv1.GetAgentRequest) (*types.Agent, error) {
	a.server.mu.Lock()
	defer a.server.mu.Unlock()
	if one := a.server.attested[idString(in.Id)]; one != nil {
		return one, nil
	}
	return nil, status.Error(codes.NotFound, "agent not found")
}

func (a *agentAPI) DeleteAgent(_ context.Context, in *agentv1.DeleteAgentRequest) (*emptypb.Empty, error) {
	a.server.mu.Lock()
	defer a.server.mu.Unlock()
	if a.server.attested[idString(in.Id)] == nil {
		return nil, status.Error(codes.NotFound, "agent not found")
	}
	delete(a.server.attested, idString(in.Id))
	return &emptypb.Empty{}, nil
}

// ---- bundles ----

type bundleAPI struct {
	bundlev1.UnimplementedBundleServer
	server *server
}

func (s *server) ownBundle() *types.Bundle {
	out := &types.Bundle{TrustDomain: s.Domain, SequenceNumber: s.sequence}
	for _, a := range s.bundle {
		out.X509Authorities = append(out.X509Authorities, &types.X509Certificate{Asn1: a.cert.Raw, Tainted: a.tainted})
	}
	return out
}

func (b *bundleAPI) GetBundle(context.Context, *bundlev1.GetBundleRequest) (*types.Bundle, error) {
	b.server.mu.Lock()
	defer b.server.mu.Unlock()
	return b.server.ownBundle(), nil
}

func (b *bundleAPI) CountBundles(context.Context, *bundlev1.CountBundlesRequest) (*bundlev1.CountBundlesResponse, error) {
	b.server.mu.Lock()
	defer b.server.mu.Unlock()
	return &bundlev1.CountBundlesResponse{Count: int32(1 + len(b.server.federated))}, nil
}

func (b *bundleAPI) ListFederatedBundles(_ context.Context, in *bundlev1.ListFederatedBundlesRequest) (*bundlev1.ListFederatedBundlesResponse, error) {
	s := b.server
	s.mu.Lock()
	defer s.mu.Unlock()
	// The own one is filtered after paging: a page may be empty and yet carry a token.
	names, token := page(slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(s.federated)), s.Domain))), in.PageSize, in.PageToken)
	out := &bundlev1.ListFederatedBundlesResponse{NextPageToken: token}
	for _, name := range names {
		if name != s.Domain {
			out.Bundles = append(out.Bundles, s.federated[name])
		}
	}
	return out, nil
}

func (b *bundleAPI) GetFederatedBundle(_ context.Context, in *bundlev1.GetFederatedBundleRequest) (*types.Bundle, error) {
	b.server.mu.Lock()
	defer b.server.mu.Unlock()
	if found := b.server.federated[in.TrustDomain]; found != nil {
		return found, nil
	}
	return nil, status.Error(codes.NotFound, "bundle not found")
}

func (s *server) setBundle(in *types.Bundle) *types.Status {
	td, err := spiffeid.TrustDomainFromString(in.GetTrustDomain())
	if err != nil {
		return failed(codes.InvalidArgument, "trust domain argument is not valid: %v", err)
	}
	if td.Name() == s.Domain {
		return failed(codes.InvalidArgument, "setting a federated bundle for the server's own trust domain is not allowed")
	}
	for _, each := range in.X509Authorities {
		if _, err := x509.ParseCertificates(each.Asn1); err != nil {
			return failed(codes.InvalidArgument, "failed to convert bundle: unable to parse X.509 authority: %v", err)
		}
	}
	kept := proto.Clone(in).(*types.Bundle)
	kept.TrustDomain = td.Name()
	s.federated[td.Name()] = kept
	return ok()
}

func (b *bundleAPI) BatchSetFederatedBundle(_ context.Context, in *bundlev1.BatchSetFederatedBundleRequest) (*bundlev1.BatchSetFederatedBundleResponse, error) {
	b.server.mu.Lock()
	defer b.server.mu.Unlock()
	out := &bundlev1.BatchSetFederatedBundleResponse{}
	for _, each := range in.Bundle {
		out.Results = append(out.Results, &bundlev1.BatchSetFederatedBundleResponse_Result{Status: b.server.setBundle(each), Bundle: each})
	}
	return out, nil
}

func (b *bundleAPI) BatchDeleteFederatedBundle(_ context.Context, in *bundlev1.BatchDeleteFederatedBundleRequest) (*bundlev1.BatchDeleteFederatedBundleResponse, error) {
	b.server.mu.Lock()
	defer b.server.mu.Unlock()
	out := &bundlev1.BatchDeleteFederatedBundleResponse{}
	for _, name := range in.TrustDomains {
		out.Results = append(out.Results, &bundlev1.BatchDeleteFederatedBundleResponse_Result{Status: b.server.dropBundle(name, in.Mode), TrustDomain: name})
	}
	return out, nil
}

func (s *server) dropBundle(name string, mode bundlev1.BatchDeleteFederatedBundleRequest_Mode) *types.Status {
	if s.federated[name] == nil {
		return failed(codes.NotFound, "bundle not found")
	}
	var users []*row
	for _, r := range s.rows {
		if slices.Contains(r.entry.FederatesWith, name) {
			users = append(users, r)
		}
	}
	switch mode {
	case bundlev1.BatchDeleteFederatedBundleRequest_RESTRICT:
		if len(users) > 0 {
			return failed(codes.FailedPrecondition, "failed to delete federated bundle: datastore-sql: cannot delete bundle; "+
				"federated with %d registration entries", len(users))
		}
	case bundlev1.BatchDeleteFederatedBundleRequest_DELETE:
		for _, r := range users {
			s.delete(r.entry.Id)
		}
	case bundlev1.BatchDeleteFederatedBundleRequest_DISSOCIATE: // without a new revision
		for _, r := range users {
			e := proto.Clone(r.entry).(*types.Entry)
			e.FederatesWith = slices.DeleteFunc(e.FederatesWith, func(n string) bool { return n == name })
			r.entry = e
		}
	}
	delete(s.federated, name)
	return ok()
}

// ---- federation relationships ----

type trustDomainAPI struct {
	trustdomainv1.UnimplementedTrustDomainServer
	server *server
}

func (t *trustDomainAPI) ListFederationRelationships(_ context.Context, in *trustdomainv1.ListFederationRelationshipsRequest) (*trustdomainv1.ListFederationRelationshipsResponse, error) {
	s := t.server
	s.mu.Lock()
	defer s.mu.Unlock()
	names, token := page(slices.Sorted(maps.Keys(s.relations)), in.PageSize, in.PageToken)
	out := &trustdomainv1.ListFederationRelationshipsResponse{NextPageToken: token}
	for _, name := range names {
		out.FederationRelationships = append(out.FederationRelationships, s.relations[name])
	}
	return out, nil
}

func (t *trustDomainAPI) GetFederationRelationship(_ context.Context, in *trustdomainv1.GetFederationRelationshipRequest) (*types.FederationRelationship, error) {
	t.server.mu.Lock()
	defer t.server.mu.Unlock()
	if found := t.server.relations[in.TrustDomain]; found != nil {
		return found, nil
	}
	return nil, status.Error(codes.NotFound, "federation relationship does not exist")
}

func (t *trustDomainAPI) BatchCreateFederationRelationship(_ context.Context, in *trustdomainv1.BatchCreateFederationRelationshipRequest) (*trustdomainv1.BatchCreateFederationRelationshipResponse, error) {
	s := t.server
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &trustdomainv1.BatchCreateFederationRelationshipResponse{}
	for _, each := range in.FederationRelationships {
		result := &trustdomainv1.BatchCreateFederationRelationshipResponse_Result{Status: ok(), FederationRelationship: each}
		if s.relations[each.TrustDomain] != nil { // Internal, not AlreadyExists
			result.Status = failed(codes.Internal, "failed to create federation relationship: datastore-sql: UNIQUE constraint failed: federated_trust_domains.trust_domain")
		} else {
			s.relations[each.TrustDomain] = proto.Clone(each).(*types.FederationRelationship)
			if each.TrustDomainBundle != nil {
				s.setBundle(each.TrustDomainBundle)
			}
		}
		out.Results = append(out.Results, result)
	}
	return out, nil
}

// ---- the own authorities ----

type authorityAPI struct {
	authorityv1.UnimplementedLocalAuthorityServer
	server *server
}

func stateOf(a *authority) *authorityv1.AuthorityState {
	if a == nil {
		return nil
	}
	return &authorityv1.AuthorityState{AuthorityId: a.id, ExpiresAt: a.cert.NotAfter.Unix()}
}

func (l *authorityAPI) GetX509AuthorityState(context.Context, *authorityv1.GetX509AuthorityStateRequest) (*authorityv1.GetX509AuthorityStateResponse, error) {
	s := l.server
	s.mu.Lock()
	defer s.mu.Unlock()
	return &authorityv1.GetX509AuthorityStateResponse{Active: stateOf(s.active), Prepared: stateOf(s.prepared), Old: stateOf(s.old)}, nil
}

// PrepareX509Authority: a second one takes the slot, and the first stays in the bundle.
func (l *authorityAPI) PrepareX509Authority(context.Context, *authorityv1.PrepareX509AuthorityRequest) (*authorityv1.PrepareX509AuthorityResponse, error) {
	s := l.server
	made := s.newAuthority(s.clock())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prepared, s.old = made, nil
	s.bundle = append(s.bundle, made)
	s.sequence++
	return &authorityv1.PrepareX509AuthorityResponse{PreparedAuthority: stateOf(made)}, nil
}

func (l *authorityAPI) ActivateX509Authority(_ context.Context, in *authorityv1.ActivateX509AuthorityRequest) (*authorityv1.ActivateX509AuthorityResponse, error) {
	s := l.server
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case in.AuthorityId == "":
		return nil, status.Error(codes.InvalidArgument, "no authority ID provided")
	case s.prepared == nil || in.AuthorityId != s.prepared.id:
		return nil, status.Error(codes.InvalidArgument, "unexpected authority ID")
	}
	s.active, s.old, s.prepared = s.prepared, s.active, nil
	return &authorityv1.ActivateX509AuthorityResponse{ActivatedAuthority: stateOf(s.active)}, nil
}

func (l *authorityAPI) TaintX509Authority(_ context.Context, in *authorityv1.TaintX509AuthorityRequest) (*authorityv1.TaintX509AuthorityResponse, error) {
	s := l.server
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case in.AuthorityId == "":
		return nil, status.Error(codes.InvalidArgument, "no authority ID provided")
	case in.AuthorityId == s.active.id:
		return nil, status.Error(codes.InvalidArgument, "unable to taint current local authority")
	case s.old == nil || in.AuthorityId != s.old.id:
		return nil, status.Error(codes.InvalidArgument, "unexpected authority ID")
	case s.old.tainted:
		return nil, status.Error(codes.Internal, "failed to taint X.509 authority: root CA is already tainted")
	}
	s.old.tainted = true
	s.sequence++
	return &authorityv1.TaintX509AuthorityResponse{TaintedAuthority: stateOf(s.old)}, nil
}

func (l *authorityAPI) RevokeX509Authority(_ context.Context, in *authorityv1.RevokeX509AuthorityRequest) (*authorityv1.RevokeX509AuthorityResponse, error) {
	s := l.server
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case in.AuthorityId == s.active.id:
		return nil, status.Error(codes.InvalidArgument, "invalid authority ID: unable to use current authority")
	case s.old == nil || in.AuthorityId != s.old.id:
		return nil, status.Error(codes.InvalidArgument, "invalid authority ID: only Old local authority can be revoked")
	case !s.old.tainted:
		return nil, status.Error(codes.Internal, "failed to revoke X.509 authority: it is not possible to revoke an untainted root CA")
	}
	id := s.old.id
	s.bundle = slices.DeleteFunc(s.bundle, func(a *authority) bool { return a.id == id })
	s.sequence++
	return &authorityv1.RevokeX509AuthorityResponse{RevokedAuthority: stateOf(s.old)}, nil
}

// ---- for the control channel ----

// attest is what a join token does: an agent, and an entry that makes its alias.
func (s *server) attest(id, alias string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := must(spiffeid.FromString(id))
	s.attested[id] = &types.Agent{Id: &types.SPIFFEID{TrustDomain: s.Domain, Path: a.Path()}, AttestationType: "join_token",
		X509SvidSerialNumber: "1", X509SvidExpiresAt: s.now().Add(time.Hour).Unix()}
	if alias == "" {
		return
	}
	b := must(spiffeid.FromString(alias))
	s.create(&types.Entry{ParentId: &types.SPIFFEID{TrustDomain: s.Domain, Path: a.Path()},
		SpiffeId:  &types.SPIFFEID{TrustDomain: s.Domain, Path: b.Path()},
		Selectors: []*types.Selector{{Type: "spiffe_id", Value: id}}})
}

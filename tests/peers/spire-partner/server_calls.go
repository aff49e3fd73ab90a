package main

import (
	"context"
	"time"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	authorityv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/localauthority/v1"
	trustdomainv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/trustdomain/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

func (s *server) register(g *grpc.Server) {
	entryv1.RegisterEntryServer(g, &entryAPI{server: s})
	agentv1.RegisterAgentServer(g, &agentAPI{server: s})
	bundlev1.RegisterBundleServer(g, &bundleAPI{server: s})
	trustdomainv1.RegisterTrustDomainServer(g, &trustDomainAPI{server: s})
	authorityv1.RegisterLocalAuthorityServer(g, &authorityAPI{server: s})
	healthpb.RegisterHealthServer(g, health.NewServer())
}

// intercept counts the calls, says who may make them, and makes the faults that are no method's own.
func (s *server) intercept(tcp bool) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, in any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		name := methodName(info.FullMethod)
		s.mu.Lock()
		s.calls[name]++
		s.mu.Unlock()
		if tcp && !s.mayCall(ctx, info.FullMethod) {
			return nil, status.Error(codes.PermissionDenied, "authorization denied for method "+info.FullMethod)
		}
		if f := s.faults.find("status", name); f != nil {
			return nil, status.Error(codes.Code(f.Code), f.Text)
		}
		if s.faults.find("silence", name) != nil {
			return nil, s.never(ctx)
		}
		if f := s.faults.find("slow", name); f != nil {
			select {
			case <-time.After(time.Duration(f.Value) * time.Millisecond):
			case <-ctx.Done():
				return nil, status.FromContextError(ctx.Err()).Err()
			}
		}
		out, err := handler(ctx, in)
		if err == nil && s.faults.find("done-but-silent", name) != nil { // what was asked for is done; nobody says so
			return nil, s.never(ctx)
		}
		if f := s.faults.find("half-answer", name); f != nil && err == nil {
			data, e := ordinary.Marshal(out)
			if e != nil {
				return nil, e
			}
			whole := data.Materialize()
			return raw(whole[:len(whole)-1]), nil
		}
		if f := s.faults.find("size", name); f != nil && err == nil {
			data, e := ordinary.Marshal(out)
			if e != nil {
				return nil, e
			}
			return raw(append(data.Materialize(), unknownField(f.Value)...)), nil
		}
		return out, err
	}
}

func (s *server) never(ctx context.Context) error {
	s.mu.Lock()
	stopping := s.stopping
	s.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-stopping:
	}
	return status.FromContextError(ctx.Err()).Err()
}

// mayCall: over TCP, whoever has the SPIFFE ID of an entry that says admin; looked up for every call.
func (s *server) mayCall(ctx context.Context, method string) bool {
	if method == "/spire.api.server.bundle.v1.Bundle/GetBundle" {
		return true
	}
	p, _ := peer.FromContext(ctx)
	tls, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(tls.State.PeerCertificates) == 0 || len(tls.State.PeerCertificates[0].URIs) != 1 {
		return false
	}
	id := tls.State.PeerCertificates[0].URIs[0].String()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rows {
		if r.entry.Admin && idString(r.entry.SpiffeId) == id {
			return true
		}
	}
	return false
}

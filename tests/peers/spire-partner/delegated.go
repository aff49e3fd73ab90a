package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	debug "github.com/spiffe/spire-api-sdk/proto/spire/api/agent/debug/v1"
	delegated "github.com/spiffe/spire-api-sdk/proto/spire/api/agent/delegatedidentity/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type delegatedAPI struct {
	delegated.UnimplementedDelegatedIdentityServer
	agent *agent
}

// authorize: one of the caller's entries names a delegate. Looked at again before each later message.
func (d *delegatedAPI) authorize(caller []*types.Selector) error {
	a := d.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	found := false
	for _, c := range a.matching(caller) { // entries count, be their SVIDs there or not
		found = true
		if slices.Contains(a.Delegates, idString(c.entry.SpiffeId)) {
			return nil
		}
	}
	if !found {
		return errNoIdentity
	}
	return errNoDelegate
}

func validSelectors(in []*types.Selector) error {
	for _, s := range in {
		if s.Type == "" || s.Value == "" || strings.Contains(s.Type, ":") {
			return status.Error(codes.InvalidArgument, "could not parse provided selectors")
		}
	}
	return nil
}

// target: whose SVIDs are asked for.
func (d *delegatedAPI) target(ctx context.Context, selectors []*types.Selector, pid int32) ([]*types.Selector, error) {
	if (len(selectors) > 0) == (pid != 0) {
		return nil, status.Error(codes.InvalidArgument, "must provide either selectors or non-zero PID, but not both")
	}
	if pid == 0 {
		return selectors, validSelectors(selectors)
	}
	uid, gid, ok := ownerOf(int(pid))
	if !ok {
		return nil, errAttestation
	}
	return selectorsOf(int(pid), uid, gid), nil
}

func (d *delegatedAPI) SubscribeToX509SVIDs(in *delegated.SubscribeToX509SVIDsRequest, stream grpc.ServerStreamingServer[delegated.SubscribeToX509SVIDsResponse]) error {
	a, ctx := d.agent, stream.Context()
	waited := a.waits()
	defer waited()
	caller, err := a.attest(ctx)
	if err == nil {
		err = d.authorize(caller)
	}
	if err != nil {
		return err
	}
	selectors, err := d.target(ctx, in.Selectors, in.Pid)
	if err != nil {
		return err
	}
	s := &subscription{selectors: selectors, wake: make(chan struct{}, 1)}
	defer a.subscribe(s, &a.subs)()
	if err := a.firstMessage(ctx, selectors); err != nil {
		return err
	}
	return a.follow(stream, "SubscribeToX509SVIDs", s, waited, func(first bool) (any, error) {
		if !first {
			if err := d.authorize(caller); err != nil {
				return nil, err
			}
		}
		return a.twistSet(a.set(selectors)), nil
	})
}

// set is the whole message of a subscription.
func (a *agent) set(selectors []*types.Selector) *delegated.SubscribeToX509SVIDsResponse {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := &delegated.SubscribeToX509SVIDsResponse{}
	for _, c := range a.matching(selectors) {
		if !c.visible() {
			continue
		}
		out.X509Svids = append(out.X509Svids, &delegated.X509SVIDWithKey{
			X509Svid: &types.X509SVID{CertChain: slices.Clone(c.svid.chain), Id: svidID(c.svid),
				ExpiresAt: c.svid.notAfter.Unix(), Hint: c.entry.Hint},
			X509SvidKey: c.svid.key})
	}
	out.FederatesWith = a.federates(selectors)
	return out
}

func (d *delegatedAPI) SubscribeToX509Bundles(_ *delegated.SubscribeToX509BundlesRequest, stream grpc.ServerStreamingServer[delegated.SubscribeToX509BundlesResponse]) error {
	a := d.agent
	known := map[string][]byte{} // a stream forgets no trust domain
	return d.bundles(stream, "SubscribeToX509Bundles", func() any {
		a.mu.Lock()
		known["spiffe://"+a.server.Domain] = a.own
		maps.Copy(known, a.federated)
		out := &delegated.SubscribeToX509BundlesResponse{CaCertificates: maps.Clone(known)}
		a.mu.Unlock()
		return a.twistBundles(out)
	})
}

func (d *delegatedAPI) SubscribeToJWTBundles(_ *delegated.SubscribeToJWTBundlesRequest, stream grpc.ServerStreamingServer[delegated.SubscribeToJWTBundlesResponse]) error {
	return d.bundles(stream, "SubscribeToJWTBundles", func() any {
		return &delegated.SubscribeToJWTBundlesResponse{Bundles: map[string][]byte{
			"spiffe://" + d.agent.server.Domain: []byte("{\n    \"keys\": []\n}")}}
	})
}

func (d *delegatedAPI) bundles(stream grpc.ServerStream, name string, message func() any) error {
	a := d.agent
	waited := a.waits()
	defer waited()
	caller, err := a.attest(stream.Context())
	if err == nil {
		err = d.authorize(caller)
	}
	if err != nil {
		return err
	}
	s := &subscription{wake: make(chan struct{}, 1)}
	defer a.subscribe(s, &a.watchers)()
	return a.follow(stream, name, s, waited, func(first bool) (any, error) {
		if !first {
			if err := d.authorize(caller); err != nil {
				return nil, err
			}
		}
		return message(), nil
	})
}

type debugAPI struct {
	debug.UnimplementedDebugServer
	agent *agent
}

func (d *debugAPI) GetInfo(context.Context, *debug.GetInfoRequest) (*debug.GetInfoResponse, error) {
	a := d.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	n := int32(0)
	for _, c := range a.cache {
		if c.svid != nil {
			n++
		}
	}
	return &debug.GetInfoResponse{SvidsCount: n, CachedX509SvidsCount: n, LastSyncSuccess: a.lastSync.Unix()}, nil
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// The bare SpiffeWorkloadAPI of an agent, X.509 only.
type workloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	agent *agent
}

func ownerOf(pid int) (uid, gid uint32, ok bool) {
	info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return 0, 0, false
	}
	stat := info.Sys().(*syscall.Stat_t)
	return stat.Uid, stat.Gid, true
}

func checkHeader(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("workload.spiffe.io"); len(v) != 1 || v[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	return nil
}

func (w *workloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	return w.follow(stream, "FetchX509SVID", func(caller []*types.Selector) (any, error) {
		out := w.svids(caller)
		if len(out.Svids) == 0 {
			return nil, errNoIdentity
		}
		return w.agent.twistOwn(out), nil
	})
}

func (w *workloadAPI) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	var last []byte
	return w.follow(stream, "FetchX509Bundles", func(caller []*types.Selector) (any, error) {
		in := w.svids(caller)
		if len(in.Svids) == 0 {
			return nil, errNoIdentity
		}
		out := &workload.X509BundlesResponse{Bundles: in.FederatedBundles}
		out.Bundles["spiffe://"+w.agent.server.Domain] = in.Svids[0].Bundle
		now := []byte(fmt.Sprint(out.Bundles))
		if bytes.Equal(now, last) {
			return nil, nil // here, and only here, repeats are suppressed
		}
		last = now
		return out, nil
	})
}

func (w *workloadAPI) follow(stream grpc.ServerStream, name string, message func([]*types.Selector) (any, error)) error {
	a, ctx := w.agent, stream.Context()
	if err := checkHeader(ctx); err != nil {
		return err
	}
	waited := a.waits()
	defer waited()
	caller, err := a.attest(ctx)
	if err != nil {
		return err
	}
	s := &subscription{selectors: caller, workload: true, wake: make(chan struct{}, 1)}
	defer a.subscribe(s, &a.subs)()
	if err := a.firstMessage(ctx, caller); err != nil {
		return err
	}
	return a.follow(stream, name, s, waited, func(bool) (any, error) { return message(caller) })
}

func (w *workloadAPI) svids(caller []*types.Selector) *workload.X509SVIDResponse {
	a := w.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	out := &workload.X509SVIDResponse{FederatedBundles: map[string][]byte{}}
	hints := map[string]bool{}
	for _, c := range a.matching(caller) {
		if c.svid == nil || c.entry.StoreSvid || (c.entry.Hint != "" && hints[c.entry.Hint]) {
			continue
		}
		hints[c.entry.Hint] = true
		out.Svids = append(out.Svids, &workload.X509SVID{SpiffeId: idString(svidID(c.svid)), X509Svid: join(c.svid.chain),
			X509SvidKey: c.svid.key, Bundle: a.own, Hint: c.entry.Hint})
		for _, domain := range c.entry.FederatesWith {
			if b, ok := a.federated["spiffe://"+domain]; ok {
				out.FederatedBundles["spiffe://"+domain] = b
			}
		}
	}
	return out
}

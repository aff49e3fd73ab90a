package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	errNoIdentity  = status.Error(codes.PermissionDenied, "no identity issued")
	errNoDelegate  = status.Error(codes.PermissionDenied, "caller not configured as an authorized delegate")
	errAttestation = status.Error(codes.Unavailable, "workload attestation failed")
)

func methodName(full string) string { return full[strings.LastIndexByte(full, '/')+1:] }

// intercept counts the calls of an agent and makes those faults that begin a call.
func (a *agent) intercept(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	name := methodName(info.FullMethod)
	a.mu.Lock()
	a.calls[name]++
	down := a.down
	a.mu.Unlock()
	if f := a.faults.find("status", name); f != nil {
		return status.Error(codes.Code(f.Code), f.Text)
	}
	if a.faults.find("silence", name) != nil {
		select {
		case <-stream.Context().Done():
		case <-down:
		}
		return stream.Context().Err()
	}
	return handler(service, stream)
}

// waits counts a call that has no first message yet. Too many of them are the end of all attestation.
func (a *agent) waits() func() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting++
	a.waitMax = max(a.waitMax, a.waiting)
	if a.WedgeAt > 0 && a.waiting > a.WedgeAt {
		a.wedged = true
	}
	down, done := a.down, false
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if !done && a.down == down {
			a.waiting--
		}
		done = true
	}
}

// attest says who calls; a wedged agent never does.
func (a *agent) attest(ctx context.Context) ([]*types.Selector, error) {
	a.mu.Lock()
	wedged, down := a.wedged, a.down
	a.mu.Unlock()
	if wedged {
		select {
		case <-ctx.Done():
		case <-down:
		}
		return nil, errAttestation
	}
	c, ok := callerOf(ctx)
	if !ok {
		return nil, errAttestation
	}
	if a.Attest > 0 {
		a.attesting.Lock()
		time.Sleep(a.Attest)
		a.attesting.Unlock()
	}
	return selectorsOf(int(c.cred.Pid), c.cred.Uid, c.cred.Gid), nil
}

// firstMessage waits until every match has an SVID; one that cannot be signed blocks it for ever.
func (a *agent) firstMessage(ctx context.Context, selectors []*types.Selector) error {
	for wait := 500 * time.Millisecond; ; wait = min(wait*3/2, 12*time.Second) {
		ok, lacking := a.complete(selectors)
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
			a.mint(lacking)
		}
	}
}

// send counts, and makes those faults that need the message's bytes.
func (a *agent) send(stream grpc.ServerStream, name string, message any) error {
	a.mu.Lock()
	a.messages++
	a.mu.Unlock()
	if f := a.faults.find("half-frame", name); f != nil { // the rest of this one never comes
		if c, ok := callerOf(stream.Context()); ok {
			c.conn.limit(f.Value, f.Text == "stall")
		}
	}
	if f := a.faults.find("half-message", name); f != nil {
		data, err := ordinary.Marshal(message)
		if err != nil {
			return err
		}
		whole := data.Materialize()
		return stream.SendMsg(raw(whole[:len(whole)-1])) // two thirds may be a message of their own
	}
	if f := a.faults.find("garbage", name); f != nil {
		return stream.SendMsg(raw(strings.Repeat("\xff", 500)))
	}
	if f := a.faults.find("size", name); f != nil { // a valid message, of a size that nobody asked for
		data, err := ordinary.Marshal(message)
		if err != nil {
			return err
		}
		return stream.SendMsg(raw(append(data.Materialize(), unknownField(f.Value)...)))
	}
	return stream.SendMsg(message)
}

// unknownField is a bytes field that no message has, so that a reader skips it; n bytes in all.
func unknownField(n int) []byte {
	out := []byte{0xfa, 0x7f} // field 2047, length-delimited
	for length := n; ; length >>= 7 {
		if length < 128 {
			out = append(out, byte(length))
			break
		}
		out = append(out, byte(length&127|128))
	}
	return append(out, make([]byte, n)...)
}

// follow sends what next says, first at once and then whenever something may have changed.
func (a *agent) follow(stream grpc.ServerStream, name string, s *subscription, waited func(), next func(first bool) (any, error)) error {
	a.mu.Lock()
	down := a.down
	a.mu.Unlock()
	for first := true; ; first = false {
		message, err := next(first)
		if err != nil {
			return err
		}
		if message != nil {
			if err := a.send(stream, name, message); err != nil {
				return err
			}
		}
		waited()
		if f := a.faults.find("end", name); f != nil {
			return status.Error(codes.Code(f.Code), f.Text)
		}
		var again <-chan time.Time
		if f := a.faults.find("duplicates", name); f != nil { // as fast as they are read, or one each Value microseconds
			again = time.After(time.Duration(f.Value) * time.Microsecond)
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-down:
			return errors.New("the agent ends")
		case <-s.wake:
		case <-again:
		}
	}
}

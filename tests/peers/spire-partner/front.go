package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"
	"sync"
	"syscall"

	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
)

// front is one listening socket with a gRPC server behind it.
type front struct {
	listener *listener
	grpc     *grpc.Server
}

func newFront(l net.Listener, creds credentials.TransportCredentials, options []grpc.ServerOption, register func(*grpc.Server)) *front {
	f := &front{listener: &listener{Listener: l, conns: map[*conn]bool{}},
		grpc: grpc.NewServer(append(options, grpc.Creds(creds))...)}
	register(f.grpc)
	go f.grpc.Serve(f.listener)
	return f
}

// stop is sudden for whoever is connected; the file of a killed one stays.
func (f *front) stop(kill bool) {
	if unix, ok := f.listener.Listener.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(!kill)
	}
	f.listener.Close()
	f.listener.cut()
	f.grpc.Stop()
}

type listener struct {
	net.Listener
	mu       sync.Mutex
	conns    map[*conn]bool
	accepted int
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	own := &conn{Conn: c, listener: l, left: -1, released: make(chan struct{}), ended: make(chan struct{})}
	l.mu.Lock()
	l.conns[own] = true
	l.accepted++
	l.mu.Unlock()
	return own, nil
}

// cut ends all connections without a word.
func (l *listener) cut() {
	l.mu.Lock()
	var conns []*conn
	for c := range l.conns {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

func (l *listener) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.release()
	}
}

func (l *listener) open() (now, ever int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns), l.accepted
}

// conn can be told to let only so many bytes more out, and then to end or to say nothing any more.
type conn struct {
	net.Conn
	listener *listener
	mu       sync.Mutex
	left     int // negative: no limit
	stall    bool
	released chan struct{} // closed: go on
	once     sync.Once
	ended    chan struct{}
}

func (c *conn) limit(left int, stall bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left, c.stall = left, stall
}

func (c *conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	left, stall, released := c.left, c.stall, c.released
	if left >= 0 {
		c.left = max(0, left-len(b))
	}
	c.mu.Unlock()
	if left < 0 || len(b) <= left {
		return c.Conn.Write(b)
	}
	c.Conn.Write(b[:left])
	if !stall {
		c.Close()
		return left, net.ErrClosed
	}
	select {
	case <-c.ended:
		return left, net.ErrClosed
	case <-released:
		n, err := c.Conn.Write(b[left:])
		return left + n, err
	}
}

// release ends what limit began.
func (c *conn) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = -1
	close(c.released)
	c.released = make(chan struct{})
}

func (c *conn) Close() error {
	c.once.Do(func() {
		close(c.ended)
		c.listener.mu.Lock()
		delete(c.listener.conns, c)
		c.listener.mu.Unlock()
	})
	return c.Conn.Close()
}

// ---- who calls ----

type caller struct {
	credentials.CommonAuthInfo
	cred *syscall.Ucred
	conn *conn
}

func (caller) AuthType() string { return "peer" }

type peerCredentials struct{}

func (peerCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	own := c.(*conn)
	raw, err := own.Conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var cred *syscall.Ucred
	if e := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); e != nil {
		return nil, nil, e
	}
	if err != nil {
		return nil, nil, err
	}
	return c, caller{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, cred, own}, nil
}

func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, fmt.Errorf("no client")
}
func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peer"}
}
func (p peerCredentials) Clone() credentials.TransportCredentials { return p }
func (peerCredentials) OverrideServerName(string) error           { return nil }

func callerOf(ctx context.Context) (caller, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return caller{}, false
	}
	c, ok := p.AuthInfo.(caller)
	return c, ok
}

// selectorsOf is what the `unix` attestor says of a process.
func selectorsOf(pid int, uid, gid uint32) []*types.Selector {
	out := []*types.Selector{
		{Type: "unix", Value: "uid:" + strconv.Itoa(int(uid))},
		{Type: "unix", Value: "gid:" + strconv.Itoa(int(gid))},
	}
	if u, err := user.LookupId(strconv.Itoa(int(uid))); err == nil {
		out = append(out, &types.Selector{Type: "unix", Value: "user:" + u.Username})
	}
	if g, err := user.LookupGroupId(strconv.Itoa(int(gid))); err == nil {
		out = append(out, &types.Selector{Type: "unix", Value: "group:" + g.Name})
	}
	if path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
		out = append(out, &types.Selector{Type: "unix", Value: "path:" + path})
	}
	return out
}

// ---- messages that no stub would send ----

// raw goes out as it is.
type raw []byte

type codec struct{}

var ordinary = encoding.GetCodecV2("proto")

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if bytes, ok := v.(raw); ok {
		return mem.BufferSlice{mem.SliceBuffer(bytes)}, nil
	}
	return ordinary.Marshal(v)
}
func (codec) Unmarshal(data mem.BufferSlice, v any) error { return ordinary.Unmarshal(data, v) }
func (codec) Name() string                                { return "proto" }

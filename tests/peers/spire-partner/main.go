// spire-partner plays a SPIRE server and its agents for tests: see README.md.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func run() error {
	dir := flag.String("dir", "", "where sockets are made: server/api.sock, NAME/pub/api.sock, NAME/adm/admin.sock, control.sock")
	domain := flag.String("domain", "example.org", "trust domain")
	caKey := flag.String("ca-key-type", "ec-p256", "ec-p256, ec-p384, rsa-2048 or rsa-4096")
	caName := flag.String("ca-name", "", "common name of every authority")
	caTTL := flag.Duration("ca-ttl", 24*time.Hour, "life of an authority")
	ttl := flag.Duration("ttl", time.Hour, "life of an SVID whose entry names none")
	reload := flag.Duration("reload", time.Second, "how often the server's cache of entries is made anew")
	sync := flag.Duration("sync", time.Second, "how often an agent asks the server")
	maxAge := flag.Duration("max-age", 3*time.Minute, "age of a TCP connection at which the server says GOAWAY")
	socket := flag.String("call", "", "make one call of the server behind this socket, SERVICE/METHOD, JSON on stdin")
	flag.Parse()
	if *socket != "" && flag.NArg() == 1 {
		return callOnce(*socket, flag.Arg(0))
	}
	if *dir == "" || flag.NArg() > 0 {
		return fmt.Errorf("usage: spire-partner -dir DIR [options]; see -help")
	}
	home := filepath.Join(*dir, "server")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	s := newServer(serverOptions{Domain: *domain, Dir: home, CAKeyType: *caKey, CAName: *caName, CALifetime: *caTTL, TTL: *ttl, Reload: *reload,
		MaxAge: *maxAge})
	if err := s.start(); err != nil {
		return err
	}
	c := &control{server: s, agents: map[string]*agent{}, sync: *sync}
	if err := c.listen(filepath.Join(*dir, "control.sock")); err != nil {
		return err
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	<-ended
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "spire-partner:", err)
		os.Exit(1)
	}
}

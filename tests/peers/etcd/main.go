// A current etcd, by its own embed package, with the flags of etcd that the tests use.
package main

import (
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

func urls(text string) []url.URL {
	u, err := url.Parse(text)
	if err != nil {
		fail(err)
	}
	return []url.URL{*u}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// READY=1, as Debian's etcd says it.
func ready() {
	if path := os.Getenv("NOTIFY_SOCKET"); path != "" {
		c, err := net.Dial("unixgram", path)
		if err != nil {
			fail(err)
		}
		c.Write([]byte("READY=1"))
		c.Close()
	}
}

func main() {
	c := embed.NewConfig()
	c.LogLevel = "warn"
	c.UnsafeNoFsync = false
	var client, advertise, peer, advertisePeer string
	flag.StringVar(&c.Name, "name", "", "")
	flag.StringVar(&c.Dir, "data-dir", "", "")
	flag.StringVar(&client, "listen-client-urls", "", "")
	flag.StringVar(&advertise, "advertise-client-urls", "", "")
	flag.StringVar(&peer, "listen-peer-urls", "", "")
	flag.StringVar(&advertisePeer, "initial-advertise-peer-urls", "", "")
	flag.StringVar(&c.InitialCluster, "initial-cluster", "", "")
	flag.StringVar(&c.InitialClusterToken, "initial-cluster-token", "", "")
	flag.UintVar(&c.TickMs, "heartbeat-interval", 100, "")
	flag.UintVar(&c.ElectionMs, "election-timeout", 1000, "")
	flag.Int64Var(&c.QuotaBackendBytes, "quota-backend-bytes", 0, "")
	flag.DurationVar(&c.WatchProgressNotifyInterval, "experimental-watch-progress-notify-interval", 10*time.Minute, "")
	flag.StringVar(&c.ClientTLSInfo.CertFile, "cert-file", "", "")
	flag.StringVar(&c.ClientTLSInfo.KeyFile, "key-file", "", "")
	flag.StringVar(&c.ClientTLSInfo.TrustedCAFile, "trusted-ca-file", "", "")
	flag.BoolVar(&c.ClientTLSInfo.ClientCertAuth, "client-cert-auth", false, "")
	flag.Parse()
	c.ListenClientUrls, c.AdvertiseClientUrls = urls(client), urls(advertise)
	c.ListenPeerUrls, c.AdvertisePeerUrls = urls(peer), urls(advertisePeer)
	e, err := embed.StartEtcd(c)
	if err != nil {
		fail(err)
	}
	defer e.Close()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	select {
	case <-e.Server.ReadyNotify():
		ready()
	case err := <-e.Err():
		fail(err)
	}
	select {
	case err := <-e.Err():
		fail(err)
	case <-stop:
	}
}

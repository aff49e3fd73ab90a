// spiffe-peer is what an application with go-spiffe makes of our certificates: it loads and verifies them, and is one end of
// a TLS connection (descriptor 3). It prints JSON, or says on stderr why not.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

const usage = `usage: spiffe-peer load CHAIN KEY BUNDLE DOMAIN        an SVID of one's own, and the bundle that verifies it
       spiffe-peer verify CHAIN BUNDLE DOMAIN          somebody else's
       spiffe-peer client CHAIN KEY BUNDLE DOMAIN PEER-ID SERVER-NAME [ALPN]
       spiffe-peer server CHAIN KEY BUNDLE DOMAIN PEER-ID`

const patience = 20 * time.Second

type result struct {
	ID          string `json:"id"`
	Authorities int    `json:"authorities"`
	Read        string `json:"read,omitempty"` // client: what came after the handshake
}

func loadBundle(file, domain string) (*x509bundle.Bundle, error) {
	td, err := spiffeid.TrustDomainFromString(domain)
	if err != nil {
		return nil, err
	}
	return x509bundle.Load(td, file)
}

func verify(certs []*x509.Certificate, bundle *x509bundle.Bundle) (*result, error) {
	id, _, err := x509svid.Verify(certs, bundle)
	if err != nil {
		return nil, err
	}
	return &result{ID: id.String(), Authorities: len(bundle.X509Authorities())}, nil
}

func certificates(file string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, cert)
	}
	return out, nil
}

func connection() (net.Conn, error) {
	conn, err := net.FileConn(os.NewFile(3, "connection"))
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(patience))
	}
	return conn, err
}

// answer is what the peer says after the handshake, which is when a server of TLS 1.3 has looked at our certificate.
func answer(conn *tls.Conn) string {
	switch n, err := conn.Read(make([]byte, 100)); {
	case n > 0:
		return "data"
	case errors.Is(err, io.EOF):
		return "close_notify"
	default:
		return err.Error()
	}
}

// talk is one end: args are CHAIN KEY BUNDLE DOMAIN PEER-ID and, of a client, SERVER-NAME [ALPN].
func talk(client bool, args []string) (*result, error) {
	svid, err := x509svid.Load(args[0], args[1])
	if err != nil {
		return nil, err
	}
	bundle, err := loadBundle(args[2], args[3])
	if err != nil {
		return nil, err
	}
	peer, err := spiffeid.FromString(args[4])
	if err != nil {
		return nil, err
	}
	raw, err := connection()
	if err != nil {
		return nil, err
	}
	var conn *tls.Conn
	if client {
		config := tlsconfig.MTLSClientConfig(svid, bundle, tlsconfig.AuthorizeID(peer))
		config.ServerName = args[5]
		config.NextProtos = args[6:]
		conn = tls.Client(raw, config)
	} else {
		config := tlsconfig.MTLSServerConfig(svid, bundle, tlsconfig.AuthorizeID(peer))
		config.SessionTicketsDisabled = true
		conn = tls.Server(raw, config)
	}
	if err := conn.Handshake(); err != nil {
		return nil, err
	}
	out := &result{Authorities: len(bundle.X509Authorities())}
	id, err := x509svid.IDFromCert(conn.ConnectionState().PeerCertificates[0])
	if err != nil {
		return nil, err
	}
	out.ID = id.String()
	if client {
		out.Read = answer(conn)
		conn.Close() // the peer may be gone
		return out, nil
	}
	return out, conn.Close()
}

func run(args []string) (*result, error) {
	switch {
	case len(args) == 5 && args[0] == "load":
		svid, err := x509svid.Load(args[1], args[2])
		if err != nil {
			return nil, err
		}
		bundle, err := loadBundle(args[3], args[4])
		if err != nil {
			return nil, err
		}
		return verify(svid.Certificates, bundle)
	case len(args) == 4 && args[0] == "verify":
		certs, err := certificates(args[1])
		if err != nil {
			return nil, err
		}
		bundle, err := loadBundle(args[2], args[3])
		if err != nil {
			return nil, err
		}
		return verify(certs, bundle)
	case (len(args) == 7 || len(args) == 8) && args[0] == "client":
		return talk(true, args[1:])
	case len(args) == 6 && args[0] == "server":
		return talk(false, args[1:])
	}
	return nil, errors.New(usage)
}

func main() {
	out, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(out)
}

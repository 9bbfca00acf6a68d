package cluster

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

// Gateway is a Telegraf that publishes the lines that loggers post.
type Gateway struct {
	process
	address string
	certs   string
}

func newGateway(c *Cluster) (*Gateway, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	g := &Gateway{process: process{name: "gateway", dir: c.Dir}, address: "127.0.0.1:" + ports[0], certs: c.certs}
	g.argv = []string{filepath.Join(c.Root, "bin/telegraf-ocems-small"), "--config", filepath.Join(c.Root, "examples/cluster/gateway.conf")}
	g.env = append(c.environment(), "OCEMS_GATEWAY="+g.address)
	return g, nil
}

// Post posts lines like a logger.
func (g *Gateway) Post(lines []byte) error {
	ca, err := os.ReadFile(filepath.Join(g.certs, "ca.pem"))
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(g.certs, "gateway.pem"), filepath.Join(g.certs, "gateway-key.pem"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}}}
	resp, err := client.Post("https://"+g.address+"/write", "text/plain", bytes.NewReader(lines))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode/100 != 2 {
		return fmt.Errorf("the gateway answers %s: %s", resp.Status, text)
	}
	return nil
}

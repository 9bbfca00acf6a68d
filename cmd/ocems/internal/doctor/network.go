package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/ocems-io/ocems/cmd/ocems/internal/hostconfig"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/spec"
)

// How far this clock may be from the server's. A slot is sent half a minute after its end, so a smaller difference never
// makes a slot future (status 118). Beyond one minute the host refuses readings of a correct clock as future (max_skew).
// Beyond five minutes many readings go into the wrong slots, and the board may refuse the signature's time.
const (
	skewGood = 30 * time.Second
	skewBad  = 5 * time.Minute
)

// certificateSoon is how long before a certificate expires doctor warns.
const certificateSoon = 21 * 24 * time.Hour

// network follows a request up to the server's answer, with one check for each step.
func (e *examination) network(ctx context.Context, o *hostconfig.Output) {
	config, err := o.Client.TLS()
	if err != nil {
		e.add("tls", Failed, "correct the path or the permissions of the file; certificates and keys must be in PEM", "%v", err)
		return
	}
	if config == nil {
		config = &tls.Config{}
	}
	if e.opt.Offline {
		e.add("network", Skipped, "", "--offline")
		return
	}
	endpoint, err := url.Parse(o.Endpoint)
	if err != nil || endpoint.Hostname() == "" {
		e.add("network", Skipped, "", "the endpoint is not a URL")
		return
	}
	timeout := e.opt.Timeout
	if t := o.Client.Timeout; t > 0 && t < timeout {
		timeout = t
	}
	proxy, err := e.proxy(o, endpoint)
	if err != nil {
		e.add("proxy", Failed, "correct the proxy's URL", "not a URL (it is not shown, since it may hold a password)")
		return
	}
	first, name := endpoint, "the server"
	if proxy != nil {
		first, name = proxy, "the proxy"
		e.add("proxy", OK, "", "%s: the proxy resolves %s and connects to it", proxy.Host, endpoint.Hostname())
	}
	dialer := &net.Dialer{Timeout: timeout}
	if local := o.Client.LocalAddress; local != "" {
		host, port, err := net.SplitHostPort(local)
		if err != nil {
			host, port = local, "0"
		}
		address, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(host, port))
		if err != nil {
			e.add("tcp", Failed, "give an address of this machine as local_address", "local_address: %v", err)
			return
		}
		dialer.LocalAddr = address
	}
	if !e.resolve(ctx, first, name, timeout) || !e.connect(ctx, dialer, first, name) {
		return
	}
	e.request(ctx, o, config, endpoint, proxy, dialer, timeout)
}

// proxy is that of the configuration or, if the host uses it, of the environment; nil for none.
func (e *examination) proxy(o *hostconfig.Output, endpoint *url.URL) (*url.URL, error) {
	if o.Client.Proxy != "" {
		return url.Parse(o.Client.Proxy)
	}
	if !o.Client.SystemProxy {
		return nil, nil
	}
	variable := func(names ...string) string {
		for _, name := range names {
			if v, ok := e.opt.Lookup(name); ok && v != "" {
				return v
			}
		}
		return ""
	}
	c := httpproxy.Config{HTTPProxy: variable("HTTP_PROXY", "http_proxy"), HTTPSProxy: variable("HTTPS_PROXY", "https_proxy"),
		NoProxy: variable("NO_PROXY", "no_proxy")}
	return c.ProxyFunc()(endpoint)
}

func (e *examination) resolve(ctx context.Context, u *url.URL, name string, timeout time.Duration) bool {
	host := u.Hostname()
	if net.ParseIP(host) != nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		do := "check the spelling of the host, and that this machine's DNS server answers (try: nslookup " + host + ")"
		if d := (*net.DNSError)(nil); errors.As(err, &d) && d.IsNotFound {
			do = "check the spelling of the host; the DNS server of a plant may not resolve names outside: ask for a proxy or another DNS server"
		}
		e.add("dns", Failed, do, "%s %s does not resolve: %v", name, host, err)
		return false
	}
	e.add("dns", OK, "", "%s resolves to %s", host, list(addresses))
	return true
}

func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "https":
		return "443"
	case strings.HasPrefix(u.Scheme, "socks5"):
		return "1080"
	}
	return "80"
}

func (e *examination) connect(ctx context.Context, dialer *net.Dialer, u *url.URL, name string) bool {
	address := net.JoinHostPort(u.Hostname(), portOf(u))
	began := time.Now()
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		do := "check that the firewall allows connections from this machine to " + address
		if errors.Is(err, syscall.ECONNREFUSED) {
			do = "check host and port: nothing listens at " + address + ", or a firewall refuses it"
		}
		if timeout := (net.Error)(nil); errors.As(err, &timeout) && timeout.Timeout() {
			do += "; the board's server may answer Indian addresses only: check the route and the proxy"
		}
		e.add("tcp", Failed, do, "%s does not accept a connection: %v", name, err)
		return false
	}
	e.add("tcp", OK, "", "connected to %s in %s", conn.RemoteAddr(), time.Since(began).Round(time.Millisecond))
	_ = conn.Close()
	return true
}

// request sends a GET, which stores nothing, and checks the certificate and the Date of the answer.
func (e *examination) request(ctx context.Context, o *hostconfig.Output, config *tls.Config, endpoint, proxy *url.URL, dialer *net.Dialer, timeout time.Duration) {
	var seen *tls.ConnectionState
	var untrusted error
	unverified := config.InsecureSkipVerify
	config.InsecureSkipVerify = true // verified below, where the chain is available
	target := endpoint.Hostname()
	if config.ServerName != "" {
		target = config.ServerName
	}
	roots := config.RootCAs
	config.VerifyConnection = func(s tls.ConnectionState) error {
		seen = &s
		options := x509.VerifyOptions{Roots: roots, DNSName: target, Intermediates: x509.NewCertPool()}
		for _, c := range s.PeerCertificates[1:] {
			options.Intermediates.AddCert(c)
		}
		_, untrusted = s.PeerCertificates[0].Verify(options)
		if unverified {
			return nil
		}
		return untrusted
	}
	transport := &http.Transport{TLSClientConfig: config, DialContext: dialer.DialContext, DisableKeepAlives: true, TLSHandshakeTimeout: timeout}
	if proxy != nil {
		transport.Proxy = http.ProxyURL(proxy)
	}
	client := &http.Client{Transport: transport, Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint.String(), nil)
	if err != nil {
		e.add("http", Failed, "correct the endpoint", "%v", bare(err))
		return
	}
	req.Header.Set("User-Agent", "ocems-doctor")
	sent := time.Now()
	resp, err := client.Do(req)
	took := time.Since(sent)
	if err != nil && proxy != nil && seen == nil {
		e.add("proxy", Failed, "check that the proxy lets "+endpoint.Host+" through, and its user and password", "the proxy does not reach %s: %v", endpoint.Host, bare(err))
		return
	}
	if endpoint.Scheme == "https" {
		if seen == nil {
			e.add("tls", Failed, tlsHelp(err), "no TLS: %v", bare(err))
			return
		}
		if !e.certificate(o, seen, untrusted, roots != nil, unverified, target) {
			return
		}
	} else {
		e.add("tls", Warning, "give an endpoint with https", "the endpoint is http: only the token encrypts the readings")
	}
	if err != nil {
		e.add("http", Failed, "try again; the board's server may answer Indian addresses only: check the route and the proxy", "no answer: %v", bare(err))
		return
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	_ = resp.Body.Close()
	switch c := resp.StatusCode; {
	case c == http.StatusProxyAuthRequired:
		e.add("http", Failed, "add user and password to the proxy's URL", "the proxy asks for a password (HTTP 407)")
		return
	case c >= 300 && c < 400:
		e.add("http", Warning, "check the endpoint: redirects are not followed", "the server redirects to %.200q (HTTP %d)", resp.Header.Get("Location"), c)
	case c >= 500:
		e.add("http", Warning, "try again later; slots wait in the meantime", "the server answers HTTP %d in %s", c, took.Round(time.Millisecond))
	case c == http.StatusUnauthorized || c == http.StatusForbidden:
		e.add("http", Warning, "if the host's log shows the same for its requests: the board or its firewall may accept Indian addresses only",
			"the server refuses the GET (HTTP %d)", c)
	case c == http.StatusNotFound && (endpoint.Path == "" || !strings.HasSuffix(options.DefaultEndpoint, endpoint.Path)):
		e.add("http", Warning, "compare the endpoint with the board's, such as "+options.DefaultEndpoint, "the server has nothing at %q (HTTP 404 to a GET)", endpoint.Path)
	default: // the API has POST only: 405 is a good answer, and so is 404 at the board's own path
		e.add("http", OK, "", "the server answers (HTTP %d to a GET) in %s", c, took.Round(time.Millisecond))
	}
	e.clock(resp, sent, took)
}

// bare is a client's error without the URL, which may hold a password.
func bare(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}

func tlsHelp(err error) string {
	var slow net.Error
	switch record := (tls.RecordHeaderError{}); {
	case errors.As(err, &record), strings.Contains(err.Error(), "HTTP response to HTTPS"):
		return "the port does not speak TLS: check the port and that the endpoint is not http"
	case errors.As(err, &slow) && slow.Timeout():
		return "try again; the board's server may answer Indian addresses only: check the route and the proxy"
	}
	return "check that nothing on the route breaks TLS, such as a firewall that inspects it"
}

// certificate reports what is wrong with the server's chain, or until when it is valid.
func (e *examination) certificate(o *hostconfig.Output, s *tls.ConnectionState, untrusted error, own, unverified bool, target string) bool {
	leaf := s.PeerCertificates[0]
	do := ""
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	text := ""
	switch {
	case untrusted == nil:
	case errors.As(untrusted, &invalid) && invalid.Reason == x509.Expired:
		c := leaf
		if invalid.Cert != nil {
			c = invalid.Cert
		}
		if now := time.Now(); now.Before(c.NotBefore) {
			text = fmt.Sprintf("the certificate of %s is not valid before %s", subject(c), spec.ISTString(c.NotBefore))
			do = "check this machine's clock: " + spec.ISTString(now.Truncate(time.Second))
		} else {
			text = fmt.Sprintf("the certificate of %s expired %s", subject(c), spec.ISTString(c.NotAfter))
			do = "check this machine's clock, " + spec.ISTString(now.Truncate(time.Second)) + "; if it is right, the server's operator must renew the certificate"
		}
	case errors.As(untrusted, &name):
		text = fmt.Sprintf("the certificate is for %s, not for %s", namesOf(leaf), target)
		do = "use the certificate's name in the endpoint, or as " + o.Client.NameKey + " if the board says so"
	case errors.As(untrusted, &authority):
		last := s.PeerCertificates[len(s.PeerCertificates)-1]
		text = fmt.Sprintf("the certificate authority is not trusted here: %q", issuer(last))
		do = fmt.Sprintf("get this authority's certificate from the board or the authority, and give its file as %s", o.Client.CAKey)
		if own {
			text = fmt.Sprintf("the certificate authority is not in the file of %s: %q", o.Client.CAKey, issuer(last))
			do = fmt.Sprintf("add this authority's certificate to the file of %s", o.Client.CAKey)
		}
	default:
		text = untrusted.Error()
		do = "ask the server's operator, or give the authority's file as " + o.Client.CAKey
	}
	switch {
	case text != "" && unverified:
		e.add("tls", Warning, do, "insecure_skip_verify is set: %s", text)
		return true
	case text != "":
		e.add("tls", Failed, do+"; do not turn verification off", "%s", text)
		return false
	}
	line := fmt.Sprintf("%s, certificate of %s from %q until %s", tls.VersionName(s.Version), namesOf(leaf), issuer(leaf), spec.ISTString(leaf.NotAfter))
	switch left := time.Until(leaf.NotAfter); {
	case unverified:
		e.add("tls", Warning, "remove insecure_skip_verify: the certificate is valid", "insecure_skip_verify is set but not needed: %s", line)
	case left < certificateSoon:
		e.add("tls", Warning, "tell the server's operator; if it expires, slots wait up to 7 days", "%s, which is in %d days", line, int(left.Hours()/24))
	default:
		e.add("tls", OK, "", "%s", line)
	}
	return true
}

func issuer(c *x509.Certificate) string {
	if s := c.Issuer.String(); s != "" {
		return s
	}
	return "(without a name)"
}

func subject(c *x509.Certificate) string {
	if s := c.Subject.String(); s != "" {
		return fmt.Sprintf("%q", s)
	}
	return namesOf(c)
}

func namesOf(c *x509.Certificate) string {
	names := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return fmt.Sprintf("%q", c.Subject.CommonName)
	}
	return list(names)
}

// clock compares the clocks by the answer's Date, which has whole seconds.
func (e *examination) clock(resp *http.Response, sent time.Time, took time.Duration) {
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		e.add("clock", Skipped, "", "the answer has no Date")
		return
	}
	skew := at.Add(500 * time.Millisecond).Sub(sent.Add(took / 2)).Round(time.Second)
	line := "this clock agrees with the server's to the second"
	switch {
	case skew > 0:
		line = fmt.Sprintf("this clock is %s behind the server's", skew)
	case skew < 0:
		line = fmt.Sprintf("this clock is %s ahead of the server's", -skew)
	}
	do := "set this machine's clock by NTP (chrony, systemd-timesyncd), and the instruments' clocks too"
	switch off := skew.Abs(); {
	case off < skewGood:
		e.add("clock", OK, "", "%s", line)
	case off < skewBad:
		e.add("clock", Warning, do, "%s: slots are sent late, or are refused as future (118) and wait", line)
	default:
		e.add("clock", Failed, do, "%s: readings go into the wrong slots, and the board may refuse the signature", line)
	}
}

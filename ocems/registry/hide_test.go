package registry

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestHide(t *testing.T) {
	cfg := good()
	second(&cfg).TokenID = token44
	r := mustNew(t, cfg)
	for name, text := range map[string]string{
		"plain":               `{"status":10,"msg":"token ` + token + ` is unknown"}`,
		"another device's":    token44,
		"twice":               token + token + " " + token44,
		"other case":          strings.ToUpper(token),
		"no padding":          strings.TrimRight(token44, "="),
		"escaped as a URL":    "https://login.example.org/?t=" + url.QueryEscape(token44),
		"every character":     "%38d97c71e68c2f4eee5fb254fccb4977%33",
		"escaped twice":       url.QueryEscape("%38d97c71e68c2f4eee5fb254fccb49773"),
		"escaped as JSON":     `{"msg":"\u0038d97c71e68c2f4eee5fb254fccb4977\x33"}`,
		"escaped as HTML":     "&#56;d97c71e68c2f4eee5fb254fccb4977&#x33;",
		"in base64":           base64.StdEncoding.EncodeToString([]byte(token)),
		"in base64 of a text": base64.RawURLEncoding.EncodeToString([]byte(token + "$*2026-01-01")),
	} {
		got := string(r.Hide([]byte(text)))
		plain, _ := url.QueryUnescape(got)
		for _, secret := range []string{"d97c71e68c2f4eee5fb254fccb4977", token44[1:40], "OGQ5N2M3MWU2OGMyZjRlZWU1ZmIyNTRmY2NiNDk3"} {
			if strings.Contains(strings.ToLower(got+plain), strings.ToLower(secret)) {
				t.Errorf("%s: %s", name, got)
			}
		}
		if !strings.Contains(got, "(the token)") {
			t.Errorf("%s: nothing is hidden: %s", name, got)
		}
	}
	for _, text := range []string{"", "8d9", `{"status":1,"msg":"ok"}`, `100% \ & &#; &#x; %zz \u12 \`, token[:31]} {
		if got := string(r.Hide([]byte(text))); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	if got, want := string(r.Hide([]byte("<"+token44+">"+token))), "<(the token)>(the token)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// The token of a request in flight is also hidden after a Reload.
func TestHideAfterReload(t *testing.T) {
	path := t.TempDir() + "/devices.csv"
	write(t, path, "station_id,device_id,token_id\ns,d,"+token+"\n")
	r := mustNew(t, Config{PublicKeyFile: keyFile, DevicesFile: path, Words: words()})
	write(t, path, "station_id,device_id,token_id\ns,d,"+token44+"\n")
	if changed, err := reload(t, r); err != nil || !changed {
		t.Fatal(changed, err)
	}
	if got := string(r.Hide([]byte(token + " " + token44))); got != "(the token) (the token)" {
		t.Errorf("%s", got)
	}
}

// Hide must be fast for many tokens, also if they are similar.
func TestHideIsFast(t *testing.T) {
	cfg := Config{PublicKeyFile: keyFile, Words: words()}
	for i := range 20_000 {
		cfg.Devices = append(cfg.Devices, DeviceConfig{StationID: "s", DeviceID: fmt.Sprint(i), TokenID: Secret(fmt.Sprintf("token-of-device-%08d", i))})
	}
	r := mustNew(t, cfg)
	text := []byte(strings.Repeat("token-of-device-00012345x", 64<<10/25))
	start := time.Now()
	if got := r.Hide(text); strings.Contains(string(got), "12345") {
		t.Error("a token is left")
	}
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("64 KiB took %s", took)
	}
	text = []byte(strings.Repeat("token-of-device-x", 64<<10/17))
	start = time.Now()
	r.Hide(text)
	t.Logf("64 KiB of beginnings took %s", time.Since(start))
}

func FuzzHide(f *testing.F) {
	f.Add("", "")
	f.Add("%2", "&#x3")
	f.Add(`\u00`, `%25&#37;`)
	r := mustNew(f, good())
	f.Fuzz(func(t *testing.T, before, after string) {
		if got := string(r.Hide([]byte(before + token + after))); strings.Contains(got, token) {
			t.Errorf("%q", got)
		}
	})
}

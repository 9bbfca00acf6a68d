package seal_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/spec"
)

const (
	hexToken = "8d97c71e68c2f4eee5fb254fccb49773"
	b64Token = "q2Zt7c0sVbQmJ3u9yXo1R5kWn8aLdE4hTfGp6iBvC-_="
)

func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func readCases[T any](t testing.TB, name string) []T {
	t.Helper()
	var file struct{ Cases []T }
	if err := json.Unmarshal([]byte(read(t, name)), &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Cases) == 0 {
		t.Fatalf("%s has no cases", name)
	}
	return file.Cases
}

type bodyCase struct{ Name, Token, Plaintext, Body string }

type signatureCase struct{ Message, Signature string }

func publicKey(t testing.TB, name string) *rsa.PublicKey {
	t.Helper()
	key, err := seal.ParsePublicKey(read(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func privateKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := seal.ParsePrivateKey(read(t, "industry_test_private.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// hidesToken fails the test if an error shows the token or a large part of it.
func hidesToken(t *testing.T, err error, token string) {
	t.Helper()
	if err != nil && strings.Contains(err.Error(), token[:len(token)/2]) {
		t.Errorf("the error shows the token: %v", err)
	}
}

func TestBodiesOfOpenSSL(t *testing.T) {
	for _, c := range readCases[bodyCase](t, "payload_bodies.json") {
		t.Run(c.Name, func(t *testing.T) {
			body, err := seal.Seal(c.Token, []byte(c.Plaintext))
			if err != nil || string(body) != c.Body {
				t.Errorf("Seal = %.80s, %v, want %.80s", body, err, c.Body)
			}
			plain, err := seal.Open(c.Token, []byte(c.Body))
			if err != nil || string(plain) != c.Plaintext {
				t.Errorf("Open = %.80s, %v, want %.80s", plain, err, c.Plaintext)
			}
			plain, err = seal.Open(" "+c.Token+"\n", []byte("\n"+c.Body+"\r\n"))
			if err != nil || string(plain) != c.Plaintext {
				t.Errorf("Open with white space = %.80s, %v", plain, err)
			}
		})
	}
}

func TestSealLeavesThePayloadAlone(t *testing.T) {
	payload := append(make([]byte, 0, 64), "seventeen bytes.."...)
	before := bytes.Clone(payload[:cap(payload)])
	if _, err := seal.Seal(hexToken, payload); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, payload[:cap(payload)]) {
		t.Error("Seal wrote into the payload")
	}
}

func TestOpenRefuses(t *testing.T) {
	body, err := seal.Seal(hexToken, []byte(`{"data":[]}`+strings.Repeat(" ", 30)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, token, body, want string }{
		{"empty", hexToken, "", "it is empty"},
		{"plain JSON", hexToken, `{"data":[]}`, "not base64"},
		{"truncated in the base64", hexToken, string(body[:len(body)-5]), "not base64"},
		{"truncated within a block", hexToken, string(body[:len(body)-8]), "blocks"},
		{"last block lost", hexToken, base64.StdEncoding.EncodeToString(mustDecode(t, body)[:32]), "padding"},
		{"another token", b64Token, string(body), "padding"},
		{"not a whole block", hexToken, "AAAA", "blocks"},
		{"URL-safe alphabet", hexToken, strings.Repeat("-_", 12), "not base64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			plain, err := seal.Open(c.token, []byte(c.body))
			if err == nil || !strings.Contains(err.Error(), c.want) || plain != nil {
				t.Fatalf("Open = %q, %v, want an error with %q", plain, err, c.want)
			}
			hidesToken(t, err, c.token)
		})
	}
}

func mustDecode(t *testing.T, body []byte) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(string(body))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEmptyToken(t *testing.T) {
	key := publicKey(t, "industry_test_public.pem")
	for _, token := range []string{"", " ", "\r\n\t"} {
		if _, err := seal.Seal(token, nil); err != seal.ErrToken {
			t.Errorf("Seal(%q): %v, want ErrToken", token, err)
		}
		if _, err := seal.Open(token, nil); err != seal.ErrToken {
			t.Errorf("Open(%q): %v, want ErrToken", token, err)
		}
		if _, err := seal.Sign(key, token, time.Now()); err != seal.ErrToken {
			t.Errorf("Sign(%q): %v, want ErrToken", token, err)
		}
	}
}

func TestSignaturesOfOpenSSL(t *testing.T) {
	key := privateKey(t)
	for _, c := range readCases[signatureCase](t, "signatures.json") {
		t.Run(c.Message, func(t *testing.T) {
			token, at, err := seal.Unsign(key, " "+c.Signature+"\n")
			if err != nil {
				t.Fatal(err)
			}
			if got := token + "$*" + at.Format("2006-01-02 15:04:05.000"); got != c.Message {
				t.Errorf("message %q, want %q", got, c.Message)
			}
			if want := time.UnixMilli(1726857003042); !at.Equal(want) {
				t.Errorf("time %s, want %s: it is IST", at, want)
			}
		})
	}
}

func TestSignIsUndoneByUnsign(t *testing.T) {
	public, private := publicKey(t, "industry_test_public.pem"), privateKey(t)
	utc := time.Date(2024, 9, 20, 18, 30, 0, 0, time.UTC)
	for _, c := range []struct {
		name, token string
		at, want    time.Time
	}{
		{"midnight in India", hexToken, utc, time.Date(2024, 9, 21, 0, 0, 0, 0, spec.IST)},
		{"milliseconds", b64Token, utc.Add(42 * time.Millisecond), utc.Add(42 * time.Millisecond)},
		{"microseconds are cut", hexToken, utc.Add(1999 * time.Microsecond), utc.Add(time.Millisecond)},
		{"another zone", hexToken, utc.In(time.FixedZone("", -7*3600)), utc},
		{"separator in the token", "a$*b", utc, utc},
		{"not ASCII", "tökén-₹-123", utc, utc},
	} {
		t.Run(c.name, func(t *testing.T) {
			signature, err := seal.Sign(public, " "+c.token+"\n", c.at)
			if err != nil {
				t.Fatal(err)
			}
			token, at, err := seal.Unsign(private, signature)
			if err != nil || token != c.token || !at.Equal(c.want) {
				t.Errorf("Unsign = %q, %s, %v, want %q, %s", token, at, err, c.token, c.want)
			}
			if _, offset := at.Zone(); offset != 19800 {
				t.Errorf("offset %d s, want that of IST", offset)
			}
			if again, _ := seal.Sign(public, c.token, c.at); again == signature {
				t.Error("two signatures are equal: OAEP is randomised")
			}
		})
	}
}

func TestUnsignRefuses(t *testing.T) {
	key := privateKey(t)
	for _, c := range []struct{ name, signature, want string }{
		{"empty", "", "public key"},
		{"not base64", hexToken + "$", "not base64"},
		{"too short", "AAAA", "public key"},
		{"too long", base64.StdEncoding.EncodeToString(make([]byte, 300)), "public key"},
		{"another key", signedByOther(t), "public key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			token, _, err := seal.Unsign(key, c.signature)
			if err == nil || !strings.Contains(err.Error(), c.want) || token != "" {
				t.Fatalf("Unsign = %q, %v, want an error with %q", token, err, c.want)
			}
			hidesToken(t, err, hexToken)
		})
	}
}

func signedByOther(t *testing.T) string {
	t.Helper()
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s, err := seal.Sign(&other.PublicKey, hexToken, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func publicForms(t testing.TB) map[string]string {
	pkix, bare := read(t, "industry_test_public.pem"), strings.TrimSpace(read(t, "industry_test_public.b64"))
	lines := ""
	for rest := bare; rest != ""; {
		n := min(64, len(rest))
		lines, rest = lines+rest[:n]+"\n", rest[n:]
	}
	der, err := base64.StdEncoding.DecodeString(bare)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"DER":                     string(der),
		"PKIX PEM":                pkix,
		"PKCS#1 PEM":              read(t, "industry_test_public_pkcs1.pem"),
		"literal \\n":             strings.ReplaceAll(pkix, "\n", `\n`),
		"literal \\r\\n":          strings.ReplaceAll(pkix, "\n", `\r\n`),
		"CRLF":                    strings.ReplaceAll(pkix, "\n", "\r\n"),
		"CR alone":                strings.ReplaceAll(pkix, "\n", "\r"),
		"one line of spaces":      strings.ReplaceAll(pkix, "\n", " "),
		"line breaks lost":        strings.ReplaceAll(pkix, "\n", ""),
		"indented":                "  " + strings.ReplaceAll(pkix, "\n", "\n  "),
		"quoted":                  `"` + strings.TrimSpace(pkix) + `"`,
		"single quotes, \\n":      " '" + strings.ReplaceAll(pkix, "\n", `\n`) + "' \n",
		"byte order mark":         "\ufeff" + pkix,
		"bare":                    read(t, "industry_test_public.b64"),
		"bare in lines":           lines,
		"bare in CRLF lines":      strings.ReplaceAll(lines, "\n", "\r\n"),
		"bare with literal \\n":   strings.ReplaceAll(lines, "\n", `\n`),
		"bare, byte order mark":   "\ufeff" + bare,
		"bare quoted":             `"` + bare + `"`,
		"PKCS#1 with literal \\n": strings.ReplaceAll(read(t, "industry_test_public_pkcs1.pem"), "\n", `\n`),
	}
}

func TestParsePublicKeyForms(t *testing.T) {
	want := &privateKey(t).PublicKey
	for name, text := range publicForms(t) {
		t.Run(name, func(t *testing.T) {
			key, err := seal.ParsePublicKey(text)
			if err != nil {
				t.Fatal(err)
			}
			if !key.Equal(want) {
				t.Error("another key than the private key's")
			}
		})
	}
}

// selfSigned returns a certificate as DER.
func selfSigned(t *testing.T) []byte {
	key := privateKey(t)
	about := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, about, about, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestParsePublicKeyRefuses(t *testing.T) {
	private := read(t, "industry_test_private.pem")
	block, _ := pem.Decode([]byte(private))
	pkcs1 := x509.MarshalPKCS1PrivateKey(privateKey(t))
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})
	bare := strings.TrimSpace(read(t, "industry_test_public.b64"))
	public, err := x509.MarshalPKIXPublicKey(&privateKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, text, want string }{
		{"empty", " \n", "empty"},
		{"quotes alone", `""`, "empty"},
		{"private PEM", private, "private key"},
		{"private PEM with literal \\n", strings.ReplaceAll(private, "\n", `\n`), "private key"},
		{"bare PKCS#8 private key", base64.StdEncoding.EncodeToString(block.Bytes), "private key"},
		{"bare PKCS#1 private key", base64.StdEncoding.EncodeToString(pkcs1), "private key"},
		{"certificate", string(certificate), "certificate"},
		{"a token instead", b64Token, "neither"},
		{"hex token instead", hexToken, "neither"},
		{"prose", "the key is attached", "neither"},
		{"cut bare", bare[:200], "it is truncated: 150 of 294 bytes"},
		{"cut within four characters", bare[:202], "it is truncated: 150 of 294 bytes"},
		{"cut PEM", read(t, "industry_test_public.pem")[:200], "it is truncated: "},
		{"cut DER", string(public[:200]), "it is truncated: 200 of 294 bytes"},
		{"cut private PEM", private[:500], "private key"},
		{"its beginning lost", bare[100:], "neither"},
		{"private DER", string(block.Bytes), "private key"},
		{"certificate of a bare base64", base64.StdEncoding.EncodeToString(selfSigned(t)), "certificate"},
		{"certificate of DER", string(selfSigned(t)), "certificate"},
		{"certificate request", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("x")})), "CERTIFICATE REQUEST"},
		{"SSH", "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC7 plant@etp", "an SSH key"},
		{"JWK", `{"kty":"RSA","n":"xx","e":"AQAB"}`, "JSON"},
		{"PGP", string(pem.EncodeToMemory(&pem.Block{Type: "PGP PUBLIC KEY BLOCK", Bytes: []byte("x")})), "PGP PUBLIC KEY BLOCK"},
		{"UTF-16", "\xff\xfeM\x00I\x00I\x00B\x00", "UTF-16"},
		{"elliptic curve", "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==", "RSA"},
	} {
		t.Run(c.name, func(t *testing.T) {
			key, err := seal.ParsePublicKey(c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) || key != nil {
				t.Fatalf("ParsePublicKey: %v, want an error with %q", err, c.want)
			}
			if len(c.text) > 16 && strings.Contains(err.Error(), c.text[:16]) {
				t.Errorf("the error repeats what was pasted: %v", err)
			}
		})
	}
}

func TestParsePrivateKeyRefuses(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "public": read(t, "industry_test_public.pem"), "garbage": "AAAA"} {
		if _, err := seal.ParsePrivateKey(text); err == nil {
			t.Errorf("%s is taken for a private key", name)
		}
	}
}

func TestCheckKey(t *testing.T) {
	for _, c := range []struct {
		name, key, token string
		fits             bool
	}{
		{"2048 bits, hex token", "industry_test_public.pem", hexToken, true},
		{"2048 bits, base64 token", "industry_test_public.pem", b64Token, true},
		{"1024 bits, hex token", "weak_1024_public.pem", hexToken, true},
		{"1024 bits, longest token", "weak_1024_public.pem", b64Token[:37], true},
		{"1024 bits, one byte too many", "weak_1024_public.pem", b64Token[:38], false},
		{"1024 bits, base64 token", "weak_1024_public.pem", b64Token, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			key := publicKey(t, c.key)
			err := seal.CheckKey(key, c.token)
			if (err == nil) != c.fits {
				t.Fatalf("CheckKey: %v", err)
			}
			if err != nil && (!strings.Contains(err.Error(), "1024 bits") || !strings.Contains(err.Error(), "2048")) {
				t.Errorf("the error does not say how large the key is and must be: %v", err)
			}
			hidesToken(t, err, c.token)
			_, err = seal.Sign(key, c.token, time.Now())
			if (err == nil) != c.fits {
				t.Errorf("Sign disagrees with CheckKey: %v", err)
			}
			hidesToken(t, err, c.token)
		})
	}
}

func FuzzOpen(f *testing.F) {
	for _, c := range readCases[bodyCase](f, "payload_bodies.json") {
		if len(c.Body) < 1000 {
			f.Add([]byte(c.Body))
		}
	}
	f.Add([]byte(""))
	f.Add([]byte("AAAA"))
	body, err := seal.NewBody(hexToken)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		plain, err := body.Open(text)
		if err != nil {
			hidesToken(t, err, hexToken)
		} else if back, err := body.Open(body.Seal(plain)); err != nil || !bytes.Equal(back, plain) {
			t.Errorf("what was opened does not survive sealing: %v", err)
		}
		// Any bytes can be a payload too.
		if back, err := body.Open(body.Seal(text)); err != nil || !bytes.Equal(back, text) {
			t.Errorf("Open(Seal(%q)) = %q, %v", text, back, err)
		}
	})
}

func FuzzUnsign(f *testing.F) {
	for _, c := range readCases[signatureCase](f, "signatures.json") {
		f.Add(c.Signature)
	}
	f.Add("")
	f.Add("AAAA")
	key := privateKey(f)
	f.Fuzz(func(t *testing.T, signature string) {
		token, at, err := seal.Unsign(key, signature)
		if err != nil && (token != "" || !at.IsZero()) {
			t.Errorf("Unsign = %q, %s with error %v", token, at, err)
		}
	})
}

func FuzzParsePublicKey(f *testing.F) {
	for _, text := range publicForms(f) {
		f.Add(text)
	}
	f.Add(read(f, "industry_test_private.pem"))
	f.Add(read(f, "weak_1024_public.pem"))
	f.Fuzz(func(t *testing.T, text string) {
		key, err := seal.ParsePublicKey(text)
		if (key == nil) == (err == nil) {
			t.Fatalf("ParsePublicKey = %v, %v", key, err)
		}
		if err == nil {
			seal.CheckKey(key, hexToken)
		}
	})
}

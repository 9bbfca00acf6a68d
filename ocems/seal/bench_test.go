package seal_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/spec"
)

// BenchmarkSlot makes payload, body and signature of one request with 10 parameters. The baseline in the same run is the RSA
// encryption alone, which cannot be avoided.
func BenchmarkSlot(b *testing.B) {
	text, err := os.ReadFile("testdata/industry_test_public.pem")
	if err != nil {
		b.Fatal(err)
	}
	key, err := seal.ParsePublicKey(string(text))
	if err != nil {
		b.Fatal(err)
	}
	const token = "8d97c71e68c2f4eee5fb254fccb49773"
	body, err := seal.NewBody(token)
	if err != nil {
		b.Fatal(err)
	}
	record := payload.Record{StationID: "station_2", DeviceID: "device_1"}
	for i, p := range spec.Parameters()[:10] {
		record.Readings = append(record.Readings, payload.Reading{Parameter: p.Key, Value: 12.345678 * float64(i+1), Unit: "mg/L",
			Stamp: time.UnixMilli(1726857000000), Flag: spec.FlagNormal})
	}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		json, err := record.Marshal()
		if err != nil {
			b.Fatal(err)
		}
		body.Seal(json)
		if _, err := seal.Sign(key, token, now); err != nil {
			b.Fatal(err)
		}
	}
	ours := b.Elapsed()
	start := time.Now()
	message := fmt.Appendf(nil, "%s$*%s", token, "2024-09-21 00:00:03.042")
	for range b.N {
		if _, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key, message, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(ours)/float64(time.Since(start)), "x_bare_rsa")
}

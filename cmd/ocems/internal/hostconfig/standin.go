package hostconfig

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"math/big"
	"strings"
	"sync"

	"github.com/ocems-io/ocems/ocems/registry"
)

// standInToken takes the place of a token that is not read here. Nothing is sealed under it.
var standInToken = strings.Repeat("0", 32)

// standInKey takes the place of a public key that is not read here. It is a number of the right size, and no key.
var standInKey = sync.OnceValue(func() string {
	n := new(big.Int).SetBit(big.NewInt(1), 2047, 1)
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: 65537})
	if err != nil {
		panic(err) // of a constant
	}
	return base64.StdEncoding.EncodeToString(der)
})

// IsStandIn reports that a public key is not the configured one, which could not be read, but a number in its place.
func IsStandIn(key registry.Secret) bool { return key.Reveal() == standInKey() }

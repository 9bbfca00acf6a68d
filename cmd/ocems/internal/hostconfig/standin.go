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

// standInToken replaces a token that is not read here. Nothing is sealed with it.
var standInToken = strings.Repeat("0", 32)

// standInKey replaces a public key that is not read here. It is a number of the right size, not a real key.
var standInKey = sync.OnceValue(func() string {
	n := new(big.Int).SetBit(big.NewInt(1), 2047, 1)
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: 65537})
	if err != nil {
		panic(err) // impossible: the input is constant
	}
	return base64.StdEncoding.EncodeToString(der)
})

// IsStandIn reports whether a public key is the stand-in for one that could not be read.
func IsStandIn(key registry.Secret) bool { return key.Reveal() == standInKey() }

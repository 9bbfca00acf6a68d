package main

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/simonvetter/modbus"
)

// A client may read part of the registers, as with a configuration that does not have all fields.
func TestPartsOfTheRegisters(t *testing.T) {
	for _, c := range []struct{ addr, quantity, want uint16 }{{0, 7, 7}, {0, 1, 1}, {3, 2, 2}, {5, 2, 2}, {6, 2, 0}, {7, 1, 0}} {
		g := &gateway{list: instruments(), began: time.Now(), random: rand.New(rand.NewPCG(1, 1)), served: map[uint8][]reading{}, last: time.Now().Add(time.Minute)}
		got, err := g.HandleHoldingRegisters(&modbus.HoldingRegistersRequest{UnitId: 1, Addr: c.addr, Quantity: c.quantity})
		if len(got) != int(c.want) || (err == nil) != (c.want > 0) {
			t.Errorf("%d registers from %d: %d, %v", c.quantity, c.addr, len(got), err)
		}
	}
}

// Package cluster runs examples/cluster on one machine: brokers, workers, a feeder and the simulated board. Each can be
// started and killed, and can lose its disk. A judge checks the slots at the board.
//
// It is a separate module, so that the project itself does not depend on a NATS client.
package cluster

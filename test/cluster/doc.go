// Package cluster runs the set-up of examples/cluster on one machine: its brokers, workers, feeder and the simulated board,
// as parts that can be started, killed and robbed of their disks one by one, and a judge of what the board then holds.
//
// It is a module of its own, so that the project itself does not depend on a NATS client.
package cluster

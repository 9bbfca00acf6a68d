// Package delivery sends records to the board's server and loses none.
//
// Put stores readings durably in the outbox and returns. Each device has a queue: one request in flight, oldest slot
// first, all parameters of a slot in one request. Pure functions decide what an answer means, see decide.go; attempt.go
// sends requests and carries the decisions out. A reading leaves the outbox only as delivered, already stored, rejected
// or expired, and each outcome is in the audit trail first. One goroutine writes the outbox and gathers the work of all
// queues into one transaction. A waiting queue holds no place, and a request that hangs gives its place back, so no
// device delays another: see dispatch.go. A damaged value is kept under another key; the other slots are not affected.
package delivery

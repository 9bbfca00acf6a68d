// Package delivery brings records to the board's server and loses none.
//
// Put stores readings durably in the outbox and returns. Each device has a queue: one request in flight, oldest slot
// first, all parameters of a slot in one request. What an answer means is decided by pure functions over values, see
// decide.go; attempt.go sends and carries the decisions out. A reading leaves the outbox only as delivered, already
// stored, rejected or expired, and each of these is in the audit trail first. One goroutine writes the outbox, and
// gathers the work of all queues into one transaction. A queue that waits holds no place, and a request that
// hangs gives its place back, so no device delays another: see dispatch.go. A damaged value is kept under another key,
// and the rest goes on.
package delivery

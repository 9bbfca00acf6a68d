// Package delivery brings records to the board's server and loses none.
//
// Put stores readings durably in the outbox and returns. Each device has a lane: one request in flight, oldest slot
// first, all parameters of a slot in one request. A reading leaves the outbox only as delivered, already stored,
// rejected or expired, and each of these is written to the audit trail first. What the server answers decides the
// outcome; see outcome.go. A lane that waits holds no worker, so no device delays another. What is damaged in the store
// is kept under another key, and the rest goes on; see restore.go.
package delivery

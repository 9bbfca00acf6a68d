// Package simulator is a CPCB server of the OCEMS REST API v1.5 as an http.Handler, for tests, demonstrations and the
// rehearsal of a plant's set-up. It makes every check of the document in a fixed order, answers with the document's
// status codes and texts (spec 2.5, 3.3), remembers what it took, and misbehaves on demand.
//
//	POST   /v1.0/industry/data   the API
//	GET    /received             what was stored, ?device= &parameter= &since= (milliseconds since the Unix epoch)
//	POST   /faults               one fault or a list of them, see Fault
//	GET    /faults               the faults that are left
//	DELETE /faults               no more faults
//	DELETE /faults/{id}          not this one; GET /console/faults gives the ids
//	GET    /                     the console: a page with each device's slots, the newest requests with their decrypted
//	                             JSON, and the faults, which it switches on and off; it follows without reloading
//	GET    /console/...          what the page reads
//
// Whoever reaches the address can read all that devices send and set faults: listen on loopback or a test network. Pages
// of other sites are refused (http.CrossOriginProtection), and but for the API a Host that is neither an address nor a
// name without a dot nor one of Config.Hosts. Answers hide a device's token wherever it stands in its own
// requests, and any other token where it is a whole identifier or JSON string.
package simulator

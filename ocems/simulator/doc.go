// Package simulator is a CPCB server of the OCEMS REST API v1.5 as an http.Handler, for tests, demonstrations and the
// rehearsal of a plant's set-up. It makes every check of the specification in a fixed order, answers with its status codes and
// texts (spec 2.5, 3.3), keeps the accepted readings, and produces faults on demand.
//
//	POST   /v1.0/industry/data   the API
//	GET    /received             stored readings, ?device= &parameter= &since= (milliseconds since the Unix epoch)
//	POST   /faults               one fault or a list of them, see Fault
//	GET    /faults               the active faults
//	DELETE /faults               removes all faults
//	DELETE /faults/{id}          removes one fault; GET /console/faults has the ids
//	GET    /                     the console: a page with each device's slots, the newest requests with their decrypted
//	                             JSON, and switches for the faults; it updates itself
//	GET    /console/...          data of the page
//
// Anybody who can reach the address can read all readings and set faults: listen on loopback or a test network. Pages of other
// sites are refused (http.CrossOriginProtection). Outside the API the Host must be an address, a name without a dot, or one of
// Config.Hosts. Answers hide a device's token anywhere in its own requests, and any other token that is a whole identifier or
// JSON string.
package simulator

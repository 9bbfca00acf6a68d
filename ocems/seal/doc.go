// Package seal encrypts a payload as the request body of the OCEMS API, and a token as the signature header. It also decrypts
// both, for a server that checks them.
//
// The body is encrypted with AES-256-ECB and PKCS#7 padding in standard base64. The key is the SHA-256 of the token (spec
// 2.4). The signature is in fact an encryption of `token$*YYYY-MM-DD HH:MM:SS.mmm` with RSA-OAEP, SHA-256 for the hash and
// for MGF1, and no label, in standard base64 (spec 2.3.2). The API prescribes ECB; TLS protects the data in transit.
package seal

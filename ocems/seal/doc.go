// Package seal turns a payload into the request body that the OCEMS API takes, and a token into the signature header,
// with their opposites for a server that checks them.
//
// The body is AES-256-ECB with PKCS#7 padding under the SHA-256 of the token, in standard base64 (spec 2.4). The
// signature is no signature but an encryption: RSA-OAEP with SHA-256 for the hash and for MGF1, no label, of
// `token$*YYYY-MM-DD HH:MM:SS.mmm`, in standard base64 (spec 2.3.2). ECB is what the API prescribes; TLS is what
// protects the data on its way.
package seal

/* What is in a certificate, as a document. */
#ifndef CS_CLI_CERTIFICATE_H
#define CS_CLI_CERTIFICATE_H

#include <jansson.h>
#include <protobuf-c/protobuf-c.h>

/* {subject, issuer, serial, uris, not_before_unix_s, not_after_unix_s, key, subject_key_id, authority_key_id, sha256, pem};
 * for bytes that are no certificate {sha256, malformed: true}. */
json_t *cs_certificate_doc(const ProtobufCBinaryData *der);

#endif

/* Pieces of the JSON documents: the fields of the protos, as texts and numbers. All of them return new references, and
 * abort when memory is short. */
#ifndef CS_CLI_DOC_H
#define CS_CLI_DOC_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <countersign/v1/common.pb-c.h>

/* A string; NULL is "", bytes that are not UTF-8 become '?'. */
json_t *cs_doc_text(const char *text);
json_t *cs_doc_hex(const ProtobufCBinaryData *bytes);
/* 64 bits that are no number, but a name: "0x00000000000000ff". */
json_t *cs_doc_mark(uint64_t mark);
json_t *cs_doc_address(const Countersign__V1__Address *address);
json_t *cs_doc_addresses(Countersign__V1__Address *const *addresses, size_t n);
/* "k8s:app=db" */
json_t *cs_doc_labels(Countersign__V1__Label *const *labels, size_t n);
/* {"name": ..., "detail": ...}, or null if there is none. */
json_t *cs_doc_reason(const Countersign__V1__Reason *reason);
/* "deny", "require", "pass" */
json_t *cs_doc_verdict(Countersign__V1__Verdict verdict);

/* json_pack that aborts where it fails. */
json_t *cs_doc_pack(const char *format, ...);
/* Puts value (taken) under the key. */
void cs_doc_set(json_t *object, const char *key, json_t *value);
void cs_doc_append(json_t *array, json_t *value);
/* Sorts a list of objects by a key that holds a number or a string; stable. */
void cs_doc_sort(json_t *array, const char *key);

#endif

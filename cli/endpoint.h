/* Endpoints as documents, and back: labels, addresses and steps as people write them. */
#ifndef CS_CLI_ENDPOINT_H
#define CS_CLI_ENDPOINT_H

#include "cli.h"
#include <countersign/v1/endpoints.pb-c.h>

json_t *cs_endpoint_doc(const Countersign__V1__EndpointStatus *status);
/* "svid-ready"; and back, STEP_UNSPECIFIED if there is none of that name. */
const char *cs_step_name(Countersign__V1__Step step);
Countersign__V1__Step cs_step_parse(const char *name, size_t len);
extern const char *const cs_step_names; /* "registered, identified, ..." */

/* "k8s:app=db" into *label, whose strings point into `text`, which is changed. */
CS_MUST_USE int cs_label_parse(char *text, Countersign__V1__Label *label, struct cs_error *e);
/* "10.0.0.1" or "fd00::1" into bytes. */
CS_MUST_USE int cs_address_parse(const char *text, uint8_t bytes[16], size_t *ret_len, struct cs_error *e);

#endif

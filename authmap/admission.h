/* How many connections other nodes may have here, and how fast: before a handshaker sees one. Pure. */
#ifndef CS_ADMISSION_H
#define CS_ADMISSION_H

#include <stddef.h>
#include <stdint.h>
#include "error.h"

#define CS_ACCEPTS_PER_HANDSHAKER 128  /* half of CS_HS_WORK_MAX: the other half is for our own dials */
#define CS_ACCEPTS_PER_NODE       128  /* in flight */
#define CS_ACCEPT_RATE_PER_S      1000 /* of one node; also the burst */

struct cs_admission;
struct cs_admission *cs_admission_new(size_t max_in_flight);
void cs_admission_free(struct cs_admission *ad);
/* CS_R_NONE: count it in, and out again by cs_admission_done. CS_R_TOO_MANY. */
enum cs_reason cs_admission_ask(struct cs_admission *ad, uint16_t node, int64_t now_mono_ms);
void cs_admission_done(struct cs_admission *ad, uint16_t node);
size_t cs_admission_in_flight(const struct cs_admission *ad);

#endif

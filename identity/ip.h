/* An IP address by value, as bytes on the wire. */
#ifndef CS_IP_H
#define CS_IP_H

#include <arpa/inet.h>
#include <countersign/v1/common.pb-c.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "error.h"

struct cs_ip {
	uint8_t len; /* 4, 16; 0: none */
	uint8_t bytes[16];
};

#define CS_IP_TEXT INET6_ADDRSTRLEN

CS_MUST_USE int cs_ip_parse(const char *text, struct cs_ip *ret, struct cs_error *e);
const char *cs_ip_text(const struct cs_ip *addr, char out[CS_IP_TEXT]);
/* One that a host or workload can have: not unspecified, multicast, loopback, broadcast, link-local or IPv4-mapped. */
CS_MUST_USE int cs_ip_check_unicast(const struct cs_ip *addr, struct cs_error *e);

/* From and to the message; the message borrows the address's bytes. */
CS_MUST_USE int cs_ip_from_pb(const Countersign__V1__Address *pb, struct cs_ip *ret, struct cs_error *e);
/* At most max, each unicast, none twice. */
CS_MUST_USE int cs_ips_from_pb(Countersign__V1__Address *const *in, size_t n, size_t max, struct cs_ip *ret,
	size_t *ret_n, struct cs_error *e);
static inline void cs_ip_to_pb(const struct cs_ip *addr, Countersign__V1__Address *pb)
{
	countersign__v1__address__init(pb);
	pb->ip = (ProtobufCBinaryData){.len = addr->len, .data = (uint8_t *)addr->bytes};
}
static inline bool cs_ip_equal(const struct cs_ip *a, const struct cs_ip *b)
{
	return a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

#endif

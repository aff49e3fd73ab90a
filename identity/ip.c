#include "ip.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>

int cs_ip_parse(const char *text, struct cs_ip *ret, struct cs_error *e)
{
	*ret = (struct cs_ip){0};
	if (inet_pton(AF_INET, text, ret->bytes) == 1)
		ret->len = 4;
	else if (inet_pton(AF_INET6, text, ret->bytes) == 1)
		ret->len = 16;
	else
		return cs_error_set(e, -EINVAL, "'%s' is not an IPv4 or IPv6 address", text);
	return 0;
}

const char *cs_ip_text(const struct cs_ip *addr, char out[CS_IP_TEXT])
{
	if (addr->len == 0 || !inet_ntop(addr->len == 4 ? AF_INET : AF_INET6, addr->bytes, out, CS_IP_TEXT))
		snprintf(out, CS_IP_TEXT, "none");
	return out;
}

static const char *not_unicast4(const uint8_t ip[4])
{
	static const uint8_t broadcast[4] = {255, 255, 255, 255};
	if (ip[0] == 0)
		return "unspecified";
	if (ip[0] == 127)
		return "loopback";
	if (ip[0] == 169 && ip[1] == 254)
		return "link-local";
	if (memcmp(ip, broadcast, 4) == 0)
		return "broadcast";
	return ip[0] >= 224 && ip[0] < 240 ? "multicast" : NULL;
}

static const char *not_unicast6(const uint8_t bytes[16])
{
	struct in6_addr ip;
	memcpy(&ip, bytes, 16);
	if (IN6_IS_ADDR_UNSPECIFIED(&ip))
		return "unspecified";
	if (IN6_IS_ADDR_LOOPBACK(&ip))
		return "loopback";
	if (IN6_IS_ADDR_LINKLOCAL(&ip))
		return "link-local";
	if (IN6_IS_ADDR_V4MAPPED(&ip))
		return "IPv4-mapped";
	return IN6_IS_ADDR_MULTICAST(&ip) ? "multicast" : NULL;
}

int cs_ip_check_unicast(const struct cs_ip *addr, struct cs_error *e)
{
	char text[CS_IP_TEXT];
	const char *kind = addr->len == 4 ? not_unicast4(addr->bytes) : not_unicast6(addr->bytes);
	if (kind)
		return cs_error_set(e, -EINVAL, "%s is %s: only an address of its own tells a workload or a node apart",
			cs_ip_text(addr, text), kind);
	return 0;
}

int cs_ip_from_pb(const Countersign__V1__Address *pb, struct cs_ip *ret, struct cs_error *e)
{
	*ret = (struct cs_ip){0};
	if (pb->ip.len != 4 && pb->ip.len != 16)
		return cs_error_set(e, -EINVAL, "an address has 4 or 16 bytes, not %zu", pb->ip.len);
	ret->len = (uint8_t)pb->ip.len;
	memcpy(ret->bytes, pb->ip.data, pb->ip.len);
	return 0;
}

int cs_ips_from_pb(
	Countersign__V1__Address *const *in, size_t n, size_t max, struct cs_ip *ret, size_t *ret_n, struct cs_error *e)
{
	char text[CS_IP_TEXT];
	if (n > max)
		return cs_error_set(e, -EINVAL, "at most %zu addresses, not %zu", max, n);
	for (size_t i = 0; i < n; i++) {
		int r = cs_ip_from_pb(in[i], &ret[i], e);
		if (r == 0)
			r = cs_ip_check_unicast(&ret[i], e);
		for (size_t k = 0; k < i && r == 0; k++)
			if (cs_ip_equal(&ret[i], &ret[k]))
				r = cs_error_set(
					e, -EINVAL, "the address %s is there twice", cs_ip_text(&ret[i], text));
		if (r < 0)
			return r;
	}
	*ret_n = n;
	return 0;
}

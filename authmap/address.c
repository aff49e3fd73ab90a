#include "address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

bool cs_ip_from_bytes(struct cs_ip *ip, const void *bytes, size_t len)
{
	memset(ip, 0, sizeof(*ip));
	if (len != 4 && len != 16)
		return false;
	ip->family = len == 4 ? 4 : 6;
	memcpy(ip->b, bytes, len);
	return true;
}

bool cs_ip_equal(const struct cs_ip *a, const struct cs_ip *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

const char *cs_ip_text(const struct cs_ip *ip, char out[CS_IP_TEXT])
{
	if (!inet_ntop(ip->family == 4 ? AF_INET : AF_INET6, ip->b, out, CS_IP_TEXT))
		out[0] = '\0';
	return out;
}

bool cs_ip_from_sockaddr(struct cs_ip *ip, const struct sockaddr *sa)
{
	if (sa->sa_family == AF_INET)
		return cs_ip_from_bytes(ip, &((const struct sockaddr_in *)(const void *)sa)->sin_addr, 4);
	if (sa->sa_family != AF_INET6)
		return cs_ip_from_bytes(ip, NULL, 0);
	const uint8_t *b = ((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr.s6_addr;
	if (memcmp(b, mapped, sizeof(mapped)) == 0)
		return cs_ip_from_bytes(ip, b + sizeof(mapped), 4);
	return cs_ip_from_bytes(ip, b, 16);
}

socklen_t cs_ip_to_sockaddr(const struct cs_ip *ip, uint16_t port, struct sockaddr_storage *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (ip->family == 4) {
		struct sockaddr_in *in = (void *)ret;
		in->sin_family = AF_INET;
		in->sin_port = htons(port);
		memcpy(&in->sin_addr, ip->b, 4);
		return sizeof(*in);
	}
	struct sockaddr_in6 *in6 = (void *)ret;
	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(port);
	memcpy(&in6->sin6_addr, ip->b, 16);
	return sizeof(*in6);
}

void cs_ip_to_mapped(const struct cs_ip *ip, uint8_t out[16])
{
	if (ip->family == 4) {
		memcpy(out, mapped, sizeof(mapped));
		memcpy(out + sizeof(mapped), ip->b, 4);
	} else {
		memcpy(out, ip->b, 16);
	}
}

static bool same_bits(const uint8_t *a, const uint8_t *b, uint32_t bits)
{
	uint32_t whole = bits / 8, rest = bits % 8;
	return memcmp(a, b, whole) == 0 && (!rest || ((a[whole] ^ b[whole]) & (0xff << (8 - rest)) & 0xff) == 0);
}

bool cs_ip_prefix_make(struct cs_ip_prefix *prefix, const struct cs_ip *ip, uint32_t bits)
{
	*prefix = (struct cs_ip_prefix){.ip = *ip, .bits = bits};
	uint32_t max = ip->family == 4 ? 32 : 128;
	if (bits > max)
		return false;
	for (uint32_t i = bits; i < max; i++)
		if (ip->b[i / 8] & (0x80 >> (i % 8)))
			return false;
	return true;
}

bool cs_ip_prefix_holds(const struct cs_ip_prefix *prefix, const struct cs_ip *ip, uint32_t bits)
{
	return prefix->ip.family == ip->family && prefix->bits <= bits && same_bits(prefix->ip.b, ip->b, prefix->bits);
}

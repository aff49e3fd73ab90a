#include "message.h"

#include <errno.h>
#include <string.h>
#include "spiffe_id.h"

static int bad(struct cs_error *e, const char *what)
{
	return cs_error_set(e, -EBADMSG, "message from the monitor: %s", what);
}

static bool is_zero(const void *bytes, size_t len)
{
	const uint8_t *b = bytes;
	for (size_t i = 0; i < len; i++)
		if (b[i])
			return false;
	return true;
}

/* Terminated, and nothing but zeros after that. */
static bool is_string(const char *s, size_t size)
{
	size_t n = strnlen(s, size);
	return n < size && is_zero(s + n, size - n);
}

static int check_svid(const struct cs_hs_svid *m, bool has_fd, struct cs_error *e)
{
	if (m->h.request || m->pad || !is_zero(m->pad2, sizeof(m->pad2)) || !is_string(m->spiffe_id, CS_SPIFFE_ID))
		return bad(e, "a malformed SVID");
	if (m->identity == 0 || has_fd != (m->generation != 0) || (has_fd && !m->spiffe_id[0]))
		return bad(e, "an SVID whose parts do not fit");
	return 0;
}

static int check_dial(const struct cs_hs_dial *m, bool has_fd, struct cs_error *e)
{
	if (m->pad || !is_zero(m->pad2, sizeof(m->pad2)) || !is_string(m->sni, sizeof(m->sni)) ||
		!is_string(m->remote_spiffe_id, CS_SPIFFE_ID) || !m->remote_spiffe_id[0] || !m->h.request)
		return bad(e, "a malformed dial");
	if (has_fd ? m->role != CS_HS_DIALLER : m->role != CS_HS_LOOPBACK)
		return bad(e, "a dial whose role does not fit its descriptor");
	return 0;
}

int cs_hs_message_check(const void *bytes, size_t len, bool has_fd, struct cs_error *e)
{
	/* By copy: what was received has no alignment that anybody promised. */
	union cs_hs_message m;
	if (len < sizeof(m.head) || len > sizeof(m))
		return bad(e, "impossible size");
	memset(&m, 0, sizeof(m));
	memcpy(&m, bytes, len);
	if (m.head.pad)
		return bad(e, "padding in use");
	switch (m.head.type) {
	case CS_HS_SVID:
		return len == sizeof(m.svid) ? check_svid(&m.svid, has_fd, e) : bad(e, "an SVID of another size");
	case CS_HS_BUNDLE:
		if (len != sizeof(m.bundle) || m.head.request || !is_string(m.bundle.trust_domain, CS_DOMAIN) ||
			!m.bundle.trust_domain[0] || has_fd != (m.bundle.generation != 0))
			return bad(e, "a malformed bundle");
		return 0;
	case CS_HS_SIGNER:
		return len == sizeof(m.head) && has_fd && !m.head.request ? 0 : bad(e, "a malformed signer");
	case CS_HS_DIAL:
		return len == sizeof(m.dial) ? check_dial(&m.dial, has_fd, e) : bad(e, "a dial of another size");
	case CS_HS_ACCEPT:
		return len == sizeof(m.accept) && has_fd && m.head.request ? 0 : bad(e, "a malformed accept");
	case CS_HS_CANCEL:
		return len == sizeof(m.head) && !has_fd && m.head.request ? 0 : bad(e, "a malformed cancel");
	case CS_HS_ANSWER:
		return len == sizeof(m.answer) && !has_fd && m.head.request && !m.answer.pad &&
				       m.answer.reason < CS_REASON_MAX
			       ? 0
			       : bad(e, "a malformed answer");
	}
	return bad(e, "unknown type");
}

int cs_hs_list_parse(
	const uint8_t *bytes, size_t len, struct cs_der certs[CS_HS_CERTS_MAX], size_t *ret_n, struct cs_error *e)
{
	size_t n = 0;
	while (len > 0) {
		uint32_t size;
		if (n == CS_HS_CERTS_MAX)
			return bad(e, "too many certificates");
		if (len < sizeof(size))
			return bad(e, "a certificate list that ends early");
		memcpy(&size, bytes, sizeof(size));
		if (size == 0 || size > len - sizeof(size))
			return bad(e, "a certificate of impossible length");
		certs[n++] = (struct cs_der){.data = bytes + sizeof(size), .len = size};
		bytes += sizeof(size) + size;
		len -= sizeof(size) + size;
	}
	*ret_n = n;
	return 0;
}

int cs_hs_sni_parse(const char *sni, uint32_t *ret_identity, const char **ret_domain, struct cs_error *e)
{
	const char *p = sni;
	uint64_t identity = 0;
	while (*p >= '0' && *p <= '9' && p - sni < 10)
		identity = identity * 10 + (uint64_t)(*p++ - '0');
	if (p == sni || *sni == '0' || *p != '.' || identity > UINT32_MAX ||
		cs_trust_domain_check(p + 1, strlen(p + 1), NULL) < 0)
		return cs_error_reason(e, -EINVAL, CS_R_SNI_INVALID,
			"the server name is not '<numeric identity>.<trust domain>' in canonical form");
	*ret_identity = (uint32_t)identity;
	*ret_domain = p + 1;
	return 0;
}

#include "hs_message.h"

#include <errno.h>
#include <string.h>

static int bad(struct cs_error *e, const char *what)
{
	return cs_error_set(e, -EBADMSG, "message from a handshaker: %s", what);
}

static bool is_zero(const void *bytes, size_t len)
{
	const unsigned char *b = bytes;
	for (size_t i = 0; i < len; i++)
		if (b[i])
			return false;
	return true;
}

/* Printable ASCII, terminated, and zeros after that. */
static bool is_text(const char *s, size_t size)
{
	size_t n = strnlen(s, size);
	for (size_t i = 0; i < n; i++)
		if (s[i] < 0x20 || s[i] > 0x7e)
			return false;
	return n < size && is_zero(s + n, size - n);
}

static int check_verdict(const struct cs_hs_verdict *v, struct cs_error *e)
{
	if (!v->h.request || v->role < CS_HS_DIALLER || v->role > CS_HS_LOOPBACK)
		return bad(e, "a verdict on nothing");
	if (!is_text(v->remote_spiffe_id, sizeof(v->remote_spiffe_id)) || !v->remote_spiffe_id[0] ||
		!is_zero(v->pad2, sizeof(v->pad2)) || !is_zero(v->local_leaf.pad, sizeof(v->local_leaf.pad)) ||
		!is_zero(v->remote_leaf.pad, sizeof(v->remote_leaf.pad)))
		return bad(e, "a malformed verdict");
	if (!v->local || !v->local_svid_generation || !v->local_bundle_generation || !v->remote_bundle_generation ||
		!v->remote_svid_generation != (v->role != CS_HS_LOOPBACK) || v->not_after_unix_s <= 0)
		return bad(e, "a verdict that rests on nothing");
	return 0;
}

static int check_done(const struct cs_hs_done *d, struct cs_error *e)
{
	if (!d->h.request || d->pad || d->reason >= CS_REASON_MAX || d->alert > 255 ||
		!is_text(d->detail, sizeof(d->detail)))
		return bad(e, "a malformed end of a request");
	return 0;
}

int cs_hs_report_parse(const void *bytes, size_t len, bool has_fd, union cs_hs_report *ret, struct cs_error *e)
{
	memset(ret, 0, sizeof(*ret));
	if (len < sizeof(ret->head) || len > sizeof(*ret) || has_fd)
		return bad(e, has_fd ? "a descriptor" : "impossible size");
	memcpy(ret, bytes, len);
	if (ret->head.pad)
		return bad(e, "padding in use");
	switch (ret->head.type) {
	case CS_HS_READY:
		return len == sizeof(ret->head) && !ret->head.request ? 0 : bad(e, "a malformed ready");
	case CS_HS_VERDICT:
		return len == sizeof(ret->verdict) ? check_verdict(&ret->verdict, e)
						   : bad(e, "a verdict of another size");
	case CS_HS_DONE:
		return len == sizeof(ret->done) ? check_done(&ret->done, e) : bad(e, "an end of another size");
	}
	return bad(e, "unknown type");
}

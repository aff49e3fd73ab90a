#include "revocation.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "numbers.h"

static int check_identity(uint32_t id, struct cs_error *e)
{
	if (cs_number_authenticates(id))
		return 0;
	const char *name = cs_id_name(id);
	return cs_error_set(e, -EINVAL, "identity %u (%s) can never authenticate: there is nothing to revoke", id,
		name ? name : cs_number_kind_name(cs_number_kind(id)));
}

static int check_node(const char *name, struct cs_error *e)
{
	return name[0] ? 0 : cs_error_set(e, -EINVAL, "the node has no name");
}

static int check_key_id(const ProtobufCBinaryData *id, struct cs_error *e)
{
	if (id->len > 0 && id->len <= CS_REVOCATION_KEY_ID_MAX)
		return 0;
	return cs_error_set(e, -EINVAL, "an authority is named by its subject key id of 1 to %d bytes, not of %zu",
		CS_REVOCATION_KEY_ID_MAX, id->len);
}

static int check_serial(const Countersign__V1__SerialOf *serial, struct cs_error *e)
{
	if (serial->serial.len == 0 || serial->serial.len > CS_REVOCATION_SERIAL_MAX)
		return cs_error_set(e, -EINVAL, "a serial number has 1 to %d bytes, not %zu", CS_REVOCATION_SERIAL_MAX,
			serial->serial.len);
	return check_key_id(&serial->authority, e);
}

static int check_subject(const Countersign__V1__Revocation *r, struct cs_error *e)
{
	int result;
	switch (r->subject_case) {
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_IDENTITY:
		return check_identity(r->identity, e);
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_NODE:
		return check_node(r->node, e);
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_PLACEMENT:
		result = check_identity(r->placement->identity, e);
		return result < 0 ? result : check_node(r->placement->node, e);
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_LEAF_SHA256:
		return r->leaf_sha256.len == 32
			       ? 0
			       : cs_error_set(e, -EINVAL, "a SHA-256 has 32 bytes, not %zu", r->leaf_sha256.len);
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_SERIAL:
		return check_serial(r->serial, e);
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_AUTHORITY:
		return check_key_id(&r->authority, e);
	default:
		return cs_error_set(e, -EINVAL,
			"a revocation names one of: identity, node, identity on a node, leaf, serial of an authority, "
			"authority");
	}
}

static int check_why(const char *why, struct cs_error *e)
{
	size_t n = strlen(why);
	if (n == 0 || n > CS_REVOCATION_WHY_MAX)
		return cs_error_set(e, -EINVAL, "say why, in 1 to %d bytes; who reads it later was not there",
			CS_REVOCATION_WHY_MAX);
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)why[i] < ' ' || why[i] == 0x7f)
			return cs_error_set(e, -EINVAL, "why: control characters may not stand in it");
	return 0;
}

int cs_revocation_check(Countersign__V1__Revocation *r, int64_t now_unix_s, int64_t svid_max_life_s, struct cs_error *e)
{
	int result = check_subject(r, e);
	if (result == 0)
		result = check_why(r->why, e);
	if (result < 0)
		return result;
	int64_t until = r->until_unix_s ? r->until_unix_s : now_unix_s + svid_max_life_s;
	if (until < now_unix_s + svid_max_life_s)
		return cs_error_set(e, -EINVAL,
			"the revocation would end in %lld s, but a certificate may live for %lld s (svid.max_life) and "
			"would be believed again after it",
			(long long)(until > now_unix_s ? until - now_unix_s : 0), (long long)svid_max_life_s);
	if (until > now_unix_s + CS_REVOCATION_LIFE_MAX_S)
		return cs_error_set(e, -EINVAL, "a revocation stands for at most 10 years");
	r->from_unix_s = now_unix_s;
	r->until_unix_s = until;
	return 0;
}

static void put_hex(const ProtobufCBinaryData *bytes, char out[2 * CS_REVOCATION_KEY_ID_MAX + 1])
{
	out[0] = '\0';
	for (size_t i = 0; i < bytes->len && i < CS_REVOCATION_KEY_ID_MAX; i++)
		snprintf(out + 2 * i, 3, "%02x", bytes->data[i]);
}

void cs_revocation_subject(const Countersign__V1__Revocation *r, char out[320])
{
	char a[2 * CS_REVOCATION_KEY_ID_MAX + 1], b[2 * CS_REVOCATION_KEY_ID_MAX + 1];
	switch (r->subject_case) {
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_IDENTITY:
		snprintf(out, 320, "identity %u", r->identity);
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_NODE:
		snprintf(out, 320, "node %s", r->node);
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_PLACEMENT:
		snprintf(out, 320, "identity %u on node %s", r->placement->identity, r->placement->node);
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_LEAF_SHA256:
		put_hex(&r->leaf_sha256, a);
		snprintf(out, 320, "leaf %s", a);
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_SERIAL:
		put_hex(&r->serial->serial, a);
		put_hex(&r->serial->authority, b);
		snprintf(out, 320, "serial %s of authority %s", a, b);
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_AUTHORITY:
		put_hex(&r->authority, a);
		snprintf(out, 320, "authority %s", a);
		break;
	default:
		snprintf(out, 320, "nothing");
		break;
	}
}

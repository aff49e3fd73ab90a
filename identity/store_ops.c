/* The operations of a commit, in SQL. */
#include "store_private.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <countersign/maps.h>
#include "mem.h"

/* --- writing: each returns 0 (done, or refused in op->result), or < 0 when the whole batch has to be given up --- */

static int refuse(struct cs_store_op *op, int code, enum cs_reason reason, const char *fmt, ...) CS_PRINTF(4, 5);
static int refuse(struct cs_store_op *op, int code, enum cs_reason reason, const char *fmt, ...)
{
	char text[512];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	op->result = cs_error_reason(&op->error, code, reason, "%s", text);
	return 0;
}

static int allocate(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	int64_t incarnation;
	if (cs_store_random(&incarnation, e) < 0)
		return e->code;
	sqlite3_stmt *q = cs_db_query(s, Q_IDENTITY_NEXT);
	int r = cs_db_row(s, q, "look for a free identity", e);
	if (r < 0)
		return r;
	sqlite3_int64 next = r == 1 ? sqlite3_column_int64(q, 0) : 0;
	sqlite3_reset(q);
	if (next < CS_IDENTITY_MIN)
		next = CS_IDENTITY_MIN;
	if (next > CS_IDENTITY_MAX)
		return refuse(op, -ENOSPC, CS_R_IDENTITIES_EXHAUSTED,
			"all identities from %u to %u are in use: fewer label sets are needed (labels that differ per "
			"workload "
			"make one each)",
			CS_IDENTITY_MIN, CS_IDENTITY_MAX);
	op->spiffe_id = cs_mem_check(cs_spiffe_template_fill(s->spiffe_id_template, (uint32_t)next));
	q = cs_db_query(s, Q_SPIFFE_FIND);
	cs_db_bind_text(q, 1, op->spiffe_id);
	r = cs_db_row(s, q, "look for a SPIFFE ID", e);
	long long owner = r == 1 ? (long long)sqlite3_column_int64(q, 0) : 0;
	sqlite3_reset(q);
	if (r != 0)
		return r < 0 ? r
			     : refuse(op, -EEXIST, CS_R_SPIFFE_ID_TAKEN,
				       "%s belongs to identity %lld already; change spiffe_id_template", op->spiffe_id,
				       owner);
	q = cs_db_query(s, Q_IDENTITY_ADD);
	sqlite3_bind_int64(q, 1, next);
	cs_db_bind_text(q, 2, op->labels);
	cs_db_bind_text(q, 3, op->spiffe_id);
	sqlite3_bind_int64(q, 4, incarnation);
	op->identity = (uint32_t)next;
	op->incarnation = (uint64_t)incarnation;
	op->created = op->changed = true;
	return cs_db_run(s, q, "store an identity", e);
}

static int find_or_allocate(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	sqlite3_stmt *q = cs_db_query(s, Q_IDENTITY_FIND);
	cs_db_bind_text(q, 1, op->labels);
	int r = cs_db_row(s, q, "look for an identity", e);
	if (r == 1) {
		op->identity = (uint32_t)sqlite3_column_int64(q, 0);
		op->spiffe_id = cs_xstrdup(cs_db_text(q, 1));
		op->incarnation = (uint64_t)sqlite3_column_int64(q, 2);
	}
	sqlite3_reset(q);
	return r == 0 ? allocate(s, op, e) : r < 0 ? r : 0;
}

/* Whose endpoint has it (the row of Q_ADDRESS_FIND), and whose node: 1 and the row, or 0. */
static int owner_of(
	struct cs_store *s, enum statement which, const struct cs_ip *ip, sqlite3_stmt **ret, struct cs_error *e)
{
	*ret = cs_db_query(s, which);
	cs_db_bind_addr(*ret, 1, ip);
	return cs_db_row(s, *ret, "look for an address", e);
}

/* Refuses an address of another endpoint, or of a node: who could claim one would speak for it. */
static int check_addresses(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	const struct cs_store_claim *claim = &op->claim;
	int r = 0;
	for (size_t i = 0; i < claim->naddrs && r == 0 && op->result == 0; i++) {
		sqlite3_stmt *q;
		char text[CS_IP_TEXT];
		cs_ip_text(&claim->addrs[i], text);
		r = owner_of(s, Q_ADDRESS_FIND, &claim->addrs[i], &q, e);
		if (r == 1 &&
			(strcmp(cs_db_text(q, 0), claim->node) != 0 || strcmp(cs_db_text(q, 1), claim->endpoint) != 0))
			refuse(op, -EADDRINUSE, CS_R_ADDRESS_TAKEN, "%s belongs to endpoint '%s' on node %s", text,
				cs_db_text(q, 1), cs_db_text(q, 0));
		sqlite3_reset(q);
		if (r == 0 && (r = owner_of(s, Q_NODE_ADDRESS_FIND, &claim->addrs[i], &q, e)) == 1)
			refuse(op, -EADDRINUSE, CS_R_ADDRESS_TAKEN, "%s is an address of node %s itself", text,
				cs_db_text(q, 0));
		sqlite3_reset(q);
		r = r < 0 ? r : 0;
	}
	return r;
}

/* Refuses an address that was another identity's a moment ago: who has not heard that it was let go would take the one
 * for the other. The same endpoint with other labels is still the same workload. */
static int check_quarantine(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	const struct cs_store_claim *claim = &op->claim;
	uint32_t identity;
	int r = s->quarantine_ms > 0 ? cs_store_find(s, op->labels, &identity, e) : 0;
	for (size_t i = 0; s->quarantine_ms > 0 && i < claim->naddrs && r == 0 && op->result == 0; i++) {
		sqlite3_stmt *q = cs_db_query(s, Q_QUARANTINE_FIND);
		cs_db_bind_addr(q, 1, &claim->addrs[i]);
		r = cs_db_row(s, q, "look for a quarantine", e);
		char text[CS_IP_TEXT];
		long long left_ms = r == 1 ? sqlite3_column_int64(q, 3) - s->now_unix_ms : 0;
		bool same = r == 1 && strcmp(cs_db_text(q, 1), claim->node) == 0 &&
			    strcmp(cs_db_text(q, 2), claim->endpoint) == 0;
		/* A clock that was set back must not lock an address up for ever. */
		if (left_ms > 0 && left_ms <= s->quarantine_ms && !same &&
			(uint32_t)sqlite3_column_int64(q, 0) != identity)
			refuse(op, -EBUSY, CS_R_ADDRESS_IN_QUARANTINE,
				"%s was identity %lld's until a moment ago; it can be another's in %lld s "
				"(address.quarantine)",
				cs_ip_text(&claim->addrs[i], text), (long long)sqlite3_column_int64(q, 0),
				(left_ms + 999) / 1000);
		r = r < 0 ? r : 0;
		sqlite3_reset(q);
	}
	return r;
}

/* Its addresses are nobody's from here on. */
static int let_go(struct cs_store *s, const char *node, const char *endpoint, struct cs_error *e)
{
	int r = 0;
	if (s->quarantine_ms > 0) {
		sqlite3_stmt *q = cs_db_query(s, Q_QUARANTINE_ADD);
		cs_db_bind_text(q, 1, node);
		cs_db_bind_text(q, 2, endpoint);
		sqlite3_bind_int64(q, 3, s->now_unix_ms + s->quarantine_ms);
		r = cs_db_run(s, q, "begin a quarantine", e);
	}
	sqlite3_stmt *q = cs_db_query(s, Q_ADDRESS_DEL);
	cs_db_bind_text(q, 1, node);
	cs_db_bind_text(q, 2, endpoint);
	return r == 0 ? cs_db_run(s, q, "let addresses go", e) : r;
}

/* 1: the claim is there as it is asked for, 0: it is not. */
static int claim_is_there(struct cs_store *s, const struct cs_store_op *op, struct cs_error *e)
{
	const struct cs_store_claim *claim = &op->claim;
	sqlite3_stmt *q = cs_db_query(s, Q_CLAIM_FIND);
	cs_db_bind_text(q, 1, claim->node);
	cs_db_bind_text(q, 2, claim->endpoint);
	int r = cs_db_row(s, q, "look for a claim", e);
	bool same = r == 1 && (uint32_t)sqlite3_column_int64(q, 0) == op->identity;
	sqlite3_reset(q);
	if (r < 0)
		return r;
	q = cs_db_query(s, Q_ADDRESS_OF_CLAIM);
	cs_db_bind_text(q, 1, claim->node);
	cs_db_bind_text(q, 2, claim->endpoint);
	size_t i = 0;
	while (same && (r = cs_db_row(s, q, "read the addresses", e)) == 1) {
		struct cs_ip addr;
		cs_db_addr(q, 0, &addr);
		same = i < claim->naddrs && cs_ip_equal(&addr, &claim->addrs[i]);
		i++;
	}
	sqlite3_reset(q);
	return r < 0 ? r : same && i == claim->naddrs;
}

/* Refuses a new claim of a node that has as many as it may. */
static int check_room(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	sqlite3_stmt *q = cs_db_query(s, Q_CLAIM_FIND);
	cs_db_bind_text(q, 1, op->claim.node);
	cs_db_bind_text(q, 2, op->claim.endpoint);
	int r = cs_db_row(s, q, "look for a claim", e);
	sqlite3_reset(q);
	if (r != 0)
		return r < 0 ? r : 0;
	q = cs_db_query(s, Q_CLAIM_COUNT);
	cs_db_bind_text(q, 1, op->claim.node);
	r = cs_db_row(s, q, "count the claims", e);
	if (r == 1 && sqlite3_column_int64(q, 0) >= CS_NODE_ENDPOINTS_MAX)
		refuse(op, -ENOSPC, CS_R_TOO_MANY, "node %s has %d endpoints, more are refused", op->claim.node,
			CS_NODE_ENDPOINTS_MAX);
	sqlite3_reset(q);
	return r < 0 ? r : 0;
}

static int write_claim(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	const struct cs_store_claim *claim = &op->claim;
	op->changed = true;
	int r = let_go(s, claim->node, claim->endpoint, e);
	sqlite3_stmt *q = cs_db_query(s, Q_CLAIM_PUT);
	cs_db_bind_text(q, 1, claim->node);
	cs_db_bind_text(q, 2, claim->endpoint);
	sqlite3_bind_int64(q, 3, op->identity);
	if (r == 0)
		r = cs_db_run(s, q, "store a claim", e);
	for (size_t i = 0; r == 0 && i < claim->naddrs; i++) {
		q = cs_db_query(s, Q_QUARANTINE_DEL);
		cs_db_bind_addr(q, 1, &claim->addrs[i]);
		r = cs_db_run(s, q, "end a quarantine", e);
		q = cs_db_query(s, Q_ADDRESS_ADD);
		cs_db_bind_addr(q, 1, &claim->addrs[i]);
		cs_db_bind_text(q, 2, claim->node);
		cs_db_bind_text(q, 3, claim->endpoint);
		sqlite3_bind_int64(q, 4, (sqlite3_int64)i);
		if (r == 0)
			r = cs_db_run(s, q, "store an address", e);
	}
	return r;
}

static int do_claim(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	int r = check_addresses(s, op, e);
	if (r == 0 && op->result == 0)
		r = check_quarantine(s, op, e);
	if (r == 0 && op->result == 0)
		r = check_room(s, op, e);
	/* Refusals come first: from here on something may have been written. */
	if (r == 0 && op->result == 0)
		r = find_or_allocate(s, op, e);
	if (r < 0 || op->result < 0)
		return r;
	r = claim_is_there(s, op, e);
	return r == 0 ? write_claim(s, op, e) : r < 0 ? r : 0;
}

static int delete_claim(struct cs_store *s, struct cs_store_op *op, const char *endpoint, struct cs_error *e)
{
	int r = let_go(s, op->claim.node, endpoint, e);
	sqlite3_stmt *q = cs_db_query(s, Q_CLAIM_DEL);
	cs_db_bind_text(q, 1, op->claim.node);
	cs_db_bind_text(q, 2, endpoint);
	if (r == 0)
		r = cs_db_run(s, q, "delete a claim", e);
	if (r == 0 && sqlite3_changes(s->db) > 0) {
		op->changed = true;
		op->released = cs_xrealloc(op->released, op->nreleased + 1, sizeof(char *));
		op->released[op->nreleased++] = cs_xstrdup(endpoint);
	}
	return r;
}

static bool keeps(const struct cs_store_op *op, const char *endpoint)
{
	for (size_t i = 0; i < op->nkeep; i++)
		if (strcmp(op->keep[i], endpoint) == 0)
			return true;
	return false;
}

static int do_keep(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	char **gone = NULL;
	size_t n = 0;
	sqlite3_stmt *q = cs_db_query(s, Q_CLAIM_OF_NODE);
	cs_db_bind_text(q, 1, op->claim.node);
	int r;
	while ((r = cs_db_row(s, q, "read a node's claims", e)) == 1) {
		if (keeps(op, cs_db_text(q, 0)))
			continue;
		gone = cs_xrealloc(gone, n + 1, sizeof(char *));
		gone[n++] = cs_xstrdup(cs_db_text(q, 0));
	}
	sqlite3_reset(q);
	for (size_t i = 0; i < n; i++) {
		if (r == 0)
			r = delete_claim(s, op, gone[i], e);
		free(gone[i]);
	}
	free(gone);
	return r;
}

/* Refuses an address of another node, or of an endpoint. */
static int check_node_addresses(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	int r = 0;
	for (size_t i = 0; i < op->node.naddrs && r == 0 && op->result == 0; i++) {
		sqlite3_stmt *q;
		char text[CS_IP_TEXT];
		cs_ip_text(&op->node.addrs[i], text);
		r = owner_of(s, Q_NODE_ADDRESS_FIND, &op->node.addrs[i], &q, e);
		if (r == 1 && strcmp(cs_db_text(q, 0), op->node.name) != 0)
			refuse(op, -EADDRINUSE, CS_R_NODE_ADDRESS_TAKEN, "%s belongs to node %s", text,
				cs_db_text(q, 0));
		sqlite3_reset(q);
		if (r == 0 && (r = owner_of(s, Q_ADDRESS_FIND, &op->node.addrs[i], &q, e)) == 1)
			refuse(op, -EADDRINUSE, CS_R_NODE_ADDRESS_TAKEN, "%s belongs to endpoint '%s' on node %s", text,
				cs_db_text(q, 1), cs_db_text(q, 0));
		sqlite3_reset(q);
		r = r < 0 ? r : 0;
	}
	return r;
}

static int node_is_there(struct cs_store *s, const struct cs_store_node *node, struct cs_error *e)
{
	sqlite3_stmt *q = cs_db_query(s, Q_NODE_FIND);
	cs_db_bind_text(q, 1, node->name);
	int r = cs_db_row(s, q, "look for a node", e);
	bool same = r == 1 && (uint32_t)sqlite3_column_int64(q, 0) == node->port &&
		    strcmp(cs_db_text(q, 1), node->path) == 0;
	sqlite3_reset(q);
	q = cs_db_query(s, Q_NODE_ADDRESS_OF);
	cs_db_bind_text(q, 1, node->name);
	size_t i = 0;
	while (same && (r = cs_db_row(s, q, "read a node's addresses", e)) == 1) {
		struct cs_ip addr;
		cs_db_addr(q, 0, &addr);
		same = i < node->naddrs && cs_ip_equal(&addr, &node->addrs[i]);
		i++;
	}
	sqlite3_reset(q);
	return r < 0 ? r : same && i == node->naddrs;
}

static int do_node(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	const struct cs_store_node *node = &op->node;
	int r = check_node_addresses(s, op, e);
	if (r < 0 || op->result < 0)
		return r;
	r = node_is_there(s, node, e);
	if (r != 0)
		return r < 0 ? r : 0;
	op->changed = true;
	sqlite3_stmt *q = cs_db_query(s, Q_NODE_ADDRESS_DEL);
	cs_db_bind_text(q, 1, node->name);
	r = cs_db_run(s, q, "replace a node's addresses", e);
	q = cs_db_query(s, Q_NODE_PUT);
	cs_db_bind_text(q, 1, node->name);
	sqlite3_bind_int64(q, 2, node->port);
	cs_db_bind_text(q, 3, node->path);
	if (r == 0)
		r = cs_db_run(s, q, "store a node", e);
	for (size_t i = 0; r == 0 && i < node->naddrs; i++) {
		q = cs_db_query(s, Q_NODE_ADDRESS_ADD);
		cs_db_bind_addr(q, 1, &node->addrs[i]);
		cs_db_bind_text(q, 2, node->name);
		sqlite3_bind_int64(q, 3, (sqlite3_int64)i);
		r = cs_db_run(s, q, "store a node's address", e);
	}
	return r;
}

static int do_prefix(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	const struct cs_prefix *prefix = &op->prefix.prefix;
	sqlite3_stmt *q = cs_db_query(s, Q_PREFIX_FIND);
	sqlite3_bind_blob(q, 1, prefix->addr, prefix->family == 4 ? 4 : 16, SQLITE_STATIC);
	sqlite3_bind_int(q, 2, prefix->bits);
	int r = cs_db_row(s, q, "look for a prefix", e);
	sqlite3_reset(q);
	if (r != 0)
		return r < 0 ? r : 0;
	op->changed = true;
	q = cs_db_query(s, Q_PREFIX_ADD);
	sqlite3_bind_int64(q, 1, op->prefix.id & ~CS_ID_LOCAL_SCOPE);
	sqlite3_bind_blob(q, 2, prefix->addr, prefix->family == 4 ? 4 : 16, SQLITE_STATIC);
	sqlite3_bind_int(q, 3, prefix->bits);
	return cs_db_run(s, q, "number a prefix", e);
}

int cs_store_apply(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	switch (op->kind) {
	case CS_STORE_NODE:
		return do_node(s, op, e);
	case CS_STORE_CLAIM:
		return do_claim(s, op, e);
	case CS_STORE_RELEASE:
		return delete_claim(s, op, op->claim.endpoint, e);
	case CS_STORE_KEEP:
		return do_keep(s, op, e);
	case CS_STORE_PREFIX:
		return do_prefix(s, op, e);
	case CS_STORE_REVISION:
		op->changed = true;
		return 0;
	default:
		break;
	}
	return cs_error_set(e, -EINVAL, "the store knows no operation %d", (int)op->kind);
}

/* Auth.Explain: from the maps as they are, and the directory's word on which rule decided. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "explain.h"
#include "service_auth_private.h"

struct question {
	const struct cs_authd *a;
	struct cs_world_endpoint endpoint;
	struct cs_ip remote;
	struct cs_auth_key key;
	struct cs_explain_rows rows;
	const struct cs_pair *pair; /* NULL: nothing is known of it */
};

/* One direction of the reply. */
struct side {
	Countersign__V1__Reason reason;
	char policy[256], detail[512];
};

static const char *const verdicts[] = {[CS_DENY] = "deny", [CS_REQUIRE] = "require", [CS_PASS] = "pass"};

static int read_rows(struct question *q, struct cs_error *e)
{
	struct cs_datapath *dp = q->a->dp;
	struct cs_explain_rows *rows = &q->rows;
	rows->config = cs_datapath_get_config(dp);
	rows->now_ns = cs_datapath_now_ns();
	int r = cs_datapath_endpoint_get(dp, q->endpoint.ifindex, &rows->endpoint);
	if (r == 0)
		rows->endpoint = (struct cs_endpoint){0};
	if (r >= 0)
		r = cs_datapath_addr_find(dp, q->remote.family, q->remote.b, &rows->addr);
	q->key = (struct cs_auth_key){.local = q->endpoint.identity,
		.remote = rows->addr.identity,
		.node = rows->addr.node,
		.type = CS_AUTH_SPIRE};
	const struct cs_policy_key key = {.local = q->key.local, .remote = q->key.remote};
	if (r >= 0)
		r = cs_datapath_policy_get(dp, &key, &rows->policy);
	rows->has_policy = r == 1;
	if (r >= 0)
		r = cs_datapath_auth_get(dp, &q->key, &rows->entry);
	if (r >= 0)
		r = cs_datapath_pending_get(dp, &q->key, &rows->pending);
	q->pair = cs_pairs_find(q->a->pairs, &q->key);
	return r < 0 ? cs_error_errno(e, r, "cannot read the maps") : 0;
}

/* Somebody else's row, or none yet: nothing of it is this endpoint's. */
static bool has_row(const struct question *q)
{
	return q->endpoint.identity && q->rows.endpoint.identity == q->endpoint.identity;
}

static void say_backoff(const struct question *q, char *out, size_t size)
{
	struct cs_instant now = cs_authd_now(q->a);
	int64_t left_ms = q->pair->refused_until_mono_ms - now.mono_ms;
	snprintf(out, size, "refused %lld s ago for %s (%s); asked again %lld s from now at the earliest",
		(long long)(now.unix_ms - q->pair->refused_unix_ms) / 1000, cs_reason_name(q->pair->refused),
		cs_reason_sentence(q->pair->refused), (long long)(left_ms > 0 ? (left_ms + 999) / 1000 : 0));
}

static void say_unauthenticated(const struct question *q, char *out, size_t size)
{
	struct cs_facts facts = cs_authd_facts(q->a);
	enum cs_reason why = cs_dial_check(&facts, &q->key);
	if (why != CS_R_NONE)
		snprintf(out, size, "the next packet asks, now in vain: %s, %s", cs_reason_name(why),
			cs_reason_sentence(why));
	else if (q->pair && (q->pair->attempt || q->pair->waiting))
		snprintf(out, size, "the pair is being authenticated");
	else if (q->pair && q->pair->refused)
		snprintf(out, size, "the next packet asks for it; the last answer was %s, %s",
			cs_reason_name(q->pair->refused), cs_reason_sentence(q->pair->refused));
	else
		snprintf(out, size, "the next packet asks for it");
}

static void say_why(const struct question *q, const struct cs_explained *x, char *out, size_t size)
{
	if (!has_row(q))
		snprintf(out, size, "%s", q->endpoint.detail);
	else if (x->reason == CS_R_BACKOFF && q->pair && q->pair->refused)
		say_backoff(q, out, size);
	else if (x->reason == CS_R_UNAUTHENTICATED)
		say_unauthenticated(q, out, size);
	else if (x->replies_pass)
		snprintf(out, size, "%s; replies to what the other direction lets out pass",
			cs_reason_sentence(x->reason));
	else if (x->reason != CS_R_NONE)
		snprintf(out, size, "%s", cs_reason_sentence(x->reason));
}

/* Which rule decided, unless the map says something else than the directory. */
static void say_rule(const struct question *q, const struct cs_explained *x, enum cs_dir dir, struct side *side)
{
	struct cs_world_decision d = cs_world_decision(q->a->world, q->key.local, q->key.remote, dir);
	bool host = dir == CS_TO && q->key.remote == CS_ID_HOST && (q->rows.config.node_flags & CS_NODE_HOST_PASSES);
	if (host || !has_row(q))
		return;
	cs_auth_policy_text(&d, side->policy, sizeof(side->policy));
	if (d.verdict == x->verdict)
		return;
	size_t len = strlen(side->detail);
	snprintf(side->detail + len, sizeof(side->detail) - len, "%sthe directory says %s by '%s', but %s",
		len ? "; " : "", verdicts[d.verdict], side->policy,
		q->endpoint.reason == CS_R_MAP_FULL ? "a map has no room for it" : "the maps do not yet");
	side->policy[0] = '\0';
}

/* The check may not be the one that decides. */
static void say_shadowed(const struct question *q, struct side *side)
{
	size_t len = strlen(side->detail);
	if (has_row(q) && q->endpoint.reason == CS_R_SHADOWED)
		snprintf(side->detail + len, sizeof(side->detail) - len,
			"%s%s runs before the check: what it lets pass or drops is not known here", len ? "; " : "",
			q->endpoint.detail);
}

static void fill_side(const struct question *q, const struct cs_explained *x, enum cs_dir dir, struct side *side)
{
	enum cs_reason reason = x->reason;
	if (!has_row(q)) /* what its condition ENFORCED says */
		reason = q->endpoint.reason != CS_R_NONE ? q->endpoint.reason : CS_R_NO_ENDPOINT;
	countersign__v1__reason__init(&side->reason);
	side->policy[0] = side->detail[0] = '\0';
	say_why(q, x, side->detail, sizeof(side->detail));
	say_rule(q, x, dir, side);
	say_shadowed(q, side);
	side->reason.name = (char *)(reason == CS_R_NONE ? "" : cs_reason_name(reason));
	side->reason.detail = side->detail;
}

static Countersign__V1__Verdict verdict_of(const struct cs_explained *x)
{
	return x->verdict == CS_PASS      ? COUNTERSIGN__V1__VERDICT__VERDICT_PASS
	       : x->verdict == CS_REQUIRE ? COUNTERSIGN__V1__VERDICT__VERDICT_REQUIRE
					  : COUNTERSIGN__V1__VERDICT__VERDICT_DENY;
}

static void reply(struct cs_grpc_call *call, const struct question *q, const struct cs_explanation *x)
{
	Countersign__V1__ExplainReply m = COUNTERSIGN__V1__EXPLAIN_REPLY__INIT;
	struct cs_auth_message entry;
	struct side from, to;
	fill_side(q, &x->dir[CS_FROM], CS_FROM, &from);
	fill_side(q, &x->dir[CS_TO], CS_TO, &to);
	cs_auth_message_fill(q->a, &q->key, q->pair, &entry);
	m.pair = &entry.pair;
	m.from = verdict_of(&x->dir[CS_FROM]);
	m.to = verdict_of(&x->dir[CS_TO]);
	m.policy_from = from.policy;
	m.policy_to = to.policy;
	m.entry = q->pair && (q->pair->live || cs_auth_pair_is_pending(q->pair)) ? &entry.msg : NULL;
	m.from_passes = x->dir[CS_FROM].passes;
	m.to_passes = x->dir[CS_TO].passes;
	m.reason_from = from.reason.name[0] || from.detail[0] ? &from.reason : NULL;
	m.reason_to = to.reason.name[0] || to.detail[0] ? &to.reason : NULL;
	m.audit = x->audit;
	m.depends_on = x->depends_on;
	m.endpoint = (char *)q->endpoint.id;
	cs_grpc_reply(call, &m.base);
}

/* False: the call is ended. */
static bool read_request(struct cs_auth_service *s, struct cs_grpc_call *call,
	const Countersign__V1__ExplainRequest *in, struct question *q)
{
	*q = (struct question){.a = s->a};
	if (!cs_world_ready(s->a->world)) {
		cs_grpc_finish_reason(call, CS_GRPC_UNAVAILABLE, CS_R_DIRECTORY_STALE,
			"the directory has not said yet what there is");
		return false;
	}
	if (!in->remote || !cs_ip_from_bytes(&q->remote, in->remote->ip.data, in->remote->ip.len) ||
		!cs_explain_is_host(&q->remote)) {
		cs_grpc_finish(call, CS_GRPC_INVALID_ARGUMENT,
			"remote: 4 or 16 bytes of one host's address, please; groups are nobody's");
		return false;
	}
	if (!cs_world_endpoint(s->a->world, in->interface, &q->endpoint)) {
		cs_grpc_finish_reason(call, CS_GRPC_NOT_FOUND, CS_R_NOT_REGISTERED,
			"no endpoint of this node has the id or interface '%.255s'", in->interface);
		return false;
	}
	return true;
}

void cs_auth_explain(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	struct question q;
	struct cs_explanation explanation;
	struct cs_error e;
	if (!read_request(data, call, (const void *)message, &q))
		return;
	if (read_rows(&q, &e) < 0) {
		cs_grpc_finish_error(call, CS_GRPC_INTERNAL, &e);
		return;
	}
	if (!has_row(&q))
		q.rows.endpoint = (struct cs_endpoint){0};
	cs_explain(&q.rows, &q.remote, &explanation);
	reply(call, &q, &explanation);
}

#include "node_private.h"

#include <errno.h>
#include <sys/random.h>
#include "labels_filter.h"
#include "log.h"
#include "mem.h"

uint64_t cs_node_random(void)
{
	uint64_t n = 0;
	while (n == 0)
		if (getrandom(&n, sizeof(n), 0) != sizeof(n))
			abort();
	return n;
}

int64_t cs_node_unix_ms(const struct cs_node *node)
{
	return cs_loop_unix_ms(node->options.loop);
}

/* --- the directory --- */

struct cs_directory *cs_node_directory(struct cs_node *node)
{
	return node->dir;
}

const char *cs_node_name(const struct cs_node *node)
{
	return node->options.name;
}

uint32_t cs_node_silent_ms(struct cs_node *node)
{
	int64_t ms = node->link ? node->link->silent_ms(node->link) : 0;
	return ms < 0 ? 0 : ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}

bool cs_node_position(const struct cs_node *node, uint64_t *ret_epoch, uint64_t *ret_revision)
{
	*ret_epoch = node->epoch;
	*ret_revision = node->revision;
	return node->synced;
}

static void put(struct cs_node *node, cs_record *record)
{
	struct cs_error e;
	/* Going on without a record could open what it denies. */
	if (cs_dir_put_take(node->dir, record, &e) < 0)
		node->options.fatal(node->options.fatal_data, &e);
}

void cs_node_publish(struct cs_node *node)
{
	if (node->synced)
		cs_dir_publish(node->dir, cs_dir_revision(node->dir) + 1, false);
}

static void put_endpoint_record(
	struct cs_node *node, const struct cs_node_endpoint *ep, uint32_t identity, uint64_t incarnation)
{
	cs_record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__Endpoint m = COUNTERSIGN__V1__ENDPOINT__INIT;
	Countersign__V1__LocalEndpoint local = COUNTERSIGN__V1__LOCAL_ENDPOINT__INIT;
	Countersign__V1__Address addrs[2 * CS_FAMILY_ADDRS_MAX], *refs[2 * CS_FAMILY_ADDRS_MAX];
	for (size_t i = 0; i < ep->spec.naddrs; i++) {
		cs_ip_to_pb(&ep->spec.addrs[i], &addrs[i]);
		refs[i] = &addrs[i];
	}
	local.interface = (char *)ep->spec.interface;
	local.ifindex = ep->ifindex;
	local.dhcp = ep->spec.dhcp;
	local.audit = ep->spec.audit;
	local.incarnation = incarnation;
	local.next_identity = ep->move.to;
	m.node = (char *)node->options.name;
	m.id = ep->spec.id;
	m.identity = identity;
	m.addresses = refs;
	m.n_addresses = ep->spec.naddrs;
	m.local = &local;
	r.record_case = COUNTERSIGN__V1__RECORD__RECORD_ENDPOINT;
	r.endpoint = &m;
	put(node, cs_record_copy(&r, false));
}

void cs_node_forget_record(struct cs_node *node, const char *id)
{
	cs_record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__Endpoint m = COUNTERSIGN__V1__ENDPOINT__INIT;
	m.node = (char *)node->options.name;
	m.id = (char *)id;
	r.record_case = COUNTERSIGN__V1__RECORD__RECORD_ENDPOINT;
	r.endpoint = &m;
	cs_dir_del(node->dir, &r);
}

/* --- what an endpoint's identity is --- */

void cs_node_changed(struct cs_node *node, const struct cs_node_endpoint *ep, bool gone)
{
	if (node->on_change)
		node->on_change(node->on_change_data, ep, gone);
}

static void why_not(
	const struct cs_node *node, const struct cs_node_endpoint *ep, enum cs_reason *reason, const char **detail)
{
	*reason = CS_R_DIRECTORY_STALE;
	if (ep->claim == CS_CLAIM_REFUSED) {
		*reason = ep->refused;
		*detail = ep->refused_text;
	} else if (ep->move.from && ep->move.to) {
		*reason = CS_R_NO_LOCAL_SVID;
		*detail = "it keeps its identity until the one of its new labels can authenticate";
	} else if (node->outage) {
		*detail = node->outage_text;
		if (node->outage_reason == CS_R_STORE_UNAVAILABLE)
			*reason = node->outage_reason;
	} else if (node->store_away[0] && ep->claim == CS_CLAIM_DUE) {
		*reason = CS_R_STORE_UNAVAILABLE;
		*detail = node->store_away;
	} else {
		*detail = "the cluster role has not answered yet";
	}
}

/* What was said about its identity before it had it. */
static bool catch_up(struct cs_node *node, struct cs_node_endpoint *ep)
{
	struct said *said;
	bool changed = false;
	if (ep->identity == ep->caught_up)
		return false;
	ep->caught_up = ep->identity;
	HASH_FIND(hh, node->said, &ep->identity, sizeof(ep->identity), said);
	for (int i = 1; said && i < CS_STEPS; i++) {
		const struct cs_condition *c = &said->conditions[i];
		if (c->since_unix_ms != 0)
			changed |= cs_endpoint_set(
				ep, (Countersign__V1__Step)i, c->met, c->reason, c->detail, cs_node_unix_ms(node));
	}
	return changed;
}

/* The directory may tell before the claim is answered. Without this a restart would take every endpoint's identity away
 * until then, and close it, and so would a move. */
static void recognise(const struct cs_node *node, struct cs_node_endpoint *ep)
{
	const Countersign__V1__Identity *identity = ep->heard ? cs_dir_identity(node->dir, ep->heard) : NULL;
	struct cs_labels labels;
	struct cs_error e;
	if (ep->identity || !identity || (ep->move.from && (ep->move.preparing || ep->heard == ep->move.from)) ||
		(ep->claim != CS_CLAIM_DUE && ep->claim != CS_CLAIM_SENT))
		return;
	if (cs_labels_from_proto(identity->labels, identity->n_labels, &labels, &e) < 0)
		return;
	if (cs_identity_labels_of(&labels, &ep->spec.labels))
		ep->identity = ep->heard;
	cs_labels_fini(&labels);
}

/* Its SPIFFE ID and labels, which do not change while the number is not given again. */
static void note_identity(struct cs_node_endpoint *ep, const Countersign__V1__Identity *identity)
{
	struct cs_labels labels = {0};
	struct cs_error e;
	if (!identity || (ep->spiffe_id && ep->identity_incarnation == identity->incarnation))
		return;
	ep->identity_incarnation = identity->incarnation;
	free(ep->spiffe_id);
	ep->spiffe_id = cs_xstrdup(identity->spiffe_id);
	cs_labels_fini(&ep->identity_labels);
	if (cs_labels_from_proto(identity->labels, identity->n_labels, &labels, &e) == 0)
		ep->identity_labels = labels;
}

void cs_node_refresh(struct cs_node *node, struct cs_node_endpoint *ep)
{
	recognise(node, ep);
	const Countersign__V1__Identity *identity = ep->identity ? cs_dir_identity(node->dir, ep->identity) : NULL;
	/* Another endpoint of the identity may be placed here while this one's claim is refused. */
	const Countersign__V1__Placement *placement =
		identity && ep->claim != CS_CLAIM_REFUSED
			? cs_dir_placement(node->dir, ep->identity, node->options.name)
			: NULL;
	int64_t now = cs_node_unix_ms(node);
	enum cs_reason reason;
	const char *detail;
	if (placement)
		ep->move = (struct cs_move){0}; /* it has arrived */
	why_not(node, ep, &reason, &detail);
	note_identity(ep, ep->move.from ? cs_dir_identity(node->dir, ep->move.from) : identity);
	bool changed = cs_endpoint_set(ep, COUNTERSIGN__V1__STEP__STEP_IDENTIFIED, identity != NULL,
		identity ? CS_R_NONE : reason, identity ? NULL : detail, now);
	char said[64] = "";
	if (placement && strcmp(placement->authority, "self") == 0)
		snprintf(said, sizeof(said), "self-asserted");
	changed |= cs_endpoint_set(ep, COUNTERSIGN__V1__STEP__STEP_PLACED, placement != NULL,
		placement ? CS_R_NONE : reason, placement ? said : detail, now);
	/* Nobody enforces an identity that is not known to be here (its row is zeroed: everything is dropped). */
	if (!placement && ep->conditions[COUNTERSIGN__V1__STEP__STEP_ENFORCED].met)
		changed |= cs_endpoint_set(ep, COUNTERSIGN__V1__STEP__STEP_ENFORCED, false, reason, detail, now);
	changed |= catch_up(node, ep);
	/* While it moves it is what it was, as long as that may be here. */
	if (ep->move.from && cs_dir_placement(node->dir, ep->move.from, node->options.name))
		put_endpoint_record(node, ep, ep->move.from, ep->move.incarnation);
	else
		put_endpoint_record(node, ep, placement ? ep->identity : 0, ep->incarnation);
	if (changed)
		cs_node_changed(node, ep, false);
}

/* --- the interface --- */

void cs_node_check_link(struct cs_node *node, struct cs_node_endpoint *ep)
{
	struct cs_error e = {0};
	unsigned ifindex = 0;
	int r = cs_link_find(ep->spec.interface, &ifindex, &e);
	if (ifindex == ep->ifindex && (ifindex != 0 || ep->incarnation != 0))
		return;
	ep->ifindex = ifindex;
	ep->move = (struct cs_move){0};
	cs_endpoint_reset(ep, cs_node_random(), cs_node_unix_ms(node));
	if (r < 0) {
		cs_endpoint_set(
			ep, COUNTERSIGN__V1__STEP__STEP_ENFORCED, false, e.reason, e.text, cs_node_unix_ms(node));
		cs_warn("an endpoint's interface is gone", cs_str("endpoint", ep->spec.id), cs_err(&e));
	}
}

static void on_links(void *data)
{
	struct cs_node *node = data;
	struct cs_node_endpoint *ep, *tmp;
	HASH_ITER (hh, node->endpoints, ep, tmp) {
		uint64_t before = ep->incarnation;
		cs_node_check_link(node, ep);
		if (ep->incarnation == before)
			continue;
		cs_node_refresh(node, ep);
		cs_node_changed(node, ep, false);
	}
	cs_node_publish(node);
}

/* --- upstream --- */

static bool is_own_endpoint(const cs_record *record, void *data)
{
	const struct cs_node *node = data;
	return cs_record_kind(record) == COUNTERSIGN__V1__KIND__KIND_ENDPOINT &&
	       strcmp(record->endpoint->node, node->options.name) == 0;
}

static bool same_addresses(const Countersign__V1__Endpoint *m, const struct cs_endpoint_spec *spec)
{
	if (m->n_addresses != spec->naddrs)
		return false;
	for (size_t i = 0; i < spec->naddrs; i++) {
		Countersign__V1__Address own;
		cs_ip_to_pb(&spec->addrs[i], &own);
		if (m->addresses[i]->ip.len != own.ip.len ||
			memcmp(m->addresses[i]->ip.data, own.ip.data, own.ip.len) != 0)
			return false;
	}
	return true;
}

/* Our own endpoints are as we registered them. What the cluster role says about them tells whether it still has the
 * claim: a placement may have been withdrawn. And after our restart, until the claims are answered, who they were. */
static void hear_of_own(struct cs_node *node, const cs_record *record)
{
	struct cs_node_endpoint *ep = cs_node_endpoint(node, record->endpoint->id);
	if (!ep)
		return;
	ep->heard = 0;
	if (!record->deleted && same_addresses(record->endpoint, &ep->spec))
		ep->heard = record->endpoint->identity;
	if (!record->deleted || ep->claim != CS_CLAIM_TAKEN)
		return;
	ep->claim = CS_CLAIM_DUE;
	node->reconcile_due = true;
}

static void mark_self(const struct cs_node *node, cs_record *record)
{
	if (cs_record_kind(record) == COUNTERSIGN__V1__KIND__KIND_NODE)
		record->node->self = strcmp(record->node->name, node->options.name) == 0;
}

static void apply_incoming(struct cs_node *node, bool replace)
{
	if (replace)
		cs_dir_replace_begin(node->dir);
	for (size_t i = 0; i < node->nincoming; i++) {
		cs_record *record = node->incoming[i];
		if (cs_record_kind(record) == COUNTERSIGN__V1__KIND__KIND_UNSPECIFIED) {
			cs_record_free(record); /* a kind that a newer cluster role knows */
		} else if (is_own_endpoint(record, node)) {
			hear_of_own(node, record);
			cs_record_free(record);
		} else if (record->deleted) {
			cs_dir_del(node->dir, record);
			cs_record_free(record);
		} else {
			mark_self(node, record);
			put(node, record);
		}
	}
	node->nincoming = 0;
	if (replace)
		cs_dir_replace_end(node->dir, is_own_endpoint, node);
}

static void refresh_all(struct cs_node *node)
{
	struct cs_node_endpoint *ep, *tmp;
	HASH_ITER (hh, node->endpoints, ep, tmp)
		cs_node_refresh(node, ep);
}

void cs_node_link_batch(struct cs_node *node, const Countersign__V1__DirectoryBatch *batch)
{
	for (size_t i = 0; i < batch->n_records; i++) {
		if (node->nincoming == node->capincoming) {
			node->capincoming = node->capincoming ? node->capincoming * 2 : 64;
			node->incoming = cs_xrealloc(node->incoming, node->capincoming, sizeof(cs_record *));
		}
		node->incoming[node->nincoming++] = cs_record_copy(batch->records[i], false);
	}
	if (!batch->complete || !batch->position)
		return;
	if (!batch->synced && !node->synced)
		return; /* a delta to nothing: breaks the protocol, and is of no use */
	bool any = node->nincoming > 0 || batch->synced;
	node->epoch = batch->position->epoch;
	node->revision = batch->position->revision;
	apply_incoming(node, batch->synced);
	node->synced = true;
	if (any)
		refresh_all(node);
	cs_node_publish(node);
	if (node->reconcile_due && !cs_timer_active(&node->retry))
		cs_node_reconcile_claims(node);
}

/* Somebody waits for it. */
static bool any_due(const struct cs_node *node)
{
	const struct cs_node_endpoint *ep;
	for (ep = node->endpoints; ep; ep = ep->hh.next)
		if (ep->claim == CS_CLAIM_DUE || ep->claim == CS_CLAIM_SENT)
			return true;
	return node->reconcile_due;
}

void cs_node_link_up(struct cs_node *node, int64_t reconcile_after_ms)
{
	if (node->outage)
		cs_info("the cluster role is there again");
	node->up = true;
	node->outage = false;
	node->store_away[0] = '\0';
	cs_check_ok(node->check_cluster);
	if (reconcile_after_ms > 0 && !any_due(node))
		cs_node_reconcile_later(node, reconcile_after_ms);
	else
		cs_node_reconcile_claims(node);
}

void cs_node_link_silent(struct cs_node *node, const struct cs_error *e)
{
	if (e)
		cs_check_error(node->check_cluster, e);
	else
		cs_check_ok(node->check_cluster);
}

void cs_node_link_following(struct cs_node *node)
{
	for (size_t i = 0; i < node->nincoming; i++) /* half a batch of the stream before */
		cs_record_free(node->incoming[i]);
	node->nincoming = 0;
}

void cs_node_link_down(struct cs_node *node, const struct cs_error *why)
{
	bool first = !node->outage;
	node->up = false;
	node->outage = true;
	cs_text_cut(node->outage_text, sizeof(node->outage_text), why->text);
	node->outage_reason = why->reason;
	cs_check_error(node->check_cluster, why);
	if (first)
		cs_warn("the cluster role is away; the last directory is served on", cs_err(why));
	struct cs_node_endpoint *ep, *tmp;
	HASH_ITER (hh, node->endpoints, ep, tmp)
		if (!ep->conditions[COUNTERSIGN__V1__STEP__STEP_PLACED].met)
			cs_node_refresh(node, ep);
	cs_node_publish(node);
}

struct cs_ask *cs_node_hello(struct cs_node *node)
{
	struct cs_ask *ask = cs_ask_new(CS_ASK_HELLO, node->options.name, 0);
	memcpy(ask->addrs, node->options.addrs, sizeof(ask->addrs));
	ask->naddrs = node->options.naddrs;
	ask->port = node->options.port;
	ask->path = cs_xstrdup(node->options.path);
	return ask;
}

/* --- looking and reporting --- */

struct cs_node_endpoint *cs_node_endpoint(const struct cs_node *node, const char *id)
{
	struct cs_node_endpoint *ep;
	HASH_FIND(hh, node->endpoints, id, strlen(id), ep);
	return ep;
}

void cs_node_each(const struct cs_node *node, void (*fn)(struct cs_node_endpoint *, void *), void *data)
{
	struct cs_node_endpoint *ep, *tmp;
	HASH_ITER (hh, node->endpoints, ep, tmp)
		fn(ep, data);
}

size_t cs_node_endpoints(const struct cs_node *node)
{
	return HASH_COUNT(node->endpoints);
}

void cs_node_on_change(struct cs_node *node, void (*fn)(void *, const struct cs_node_endpoint *, bool), void *data)
{
	node->on_change = fn;
	node->on_change_data = data;
}

static void remember(struct cs_node *node, uint32_t identity, Countersign__V1__Step step, bool met,
	enum cs_reason reason, const char *detail)
{
	struct said *said;
	HASH_FIND(hh, node->said, &identity, sizeof(identity), said);
	if (!said && HASH_COUNT(node->said) > CS_IDENTITY_MAX)
		return; /* more than there can be identities */
	if (!said) {
		said = cs_xcalloc(1, sizeof(*said));
		said->identity = identity;
		HASH_ADD(hh, node->said, identity, sizeof(identity), said);
	}
	struct cs_condition *c = &said->conditions[step];
	*c = (struct cs_condition){.met = met, .reason = reason, .since_unix_ms = cs_node_unix_ms(node)};
	cs_text_cut(c->detail, sizeof(c->detail), detail);
}

void cs_node_report(struct cs_node *node, const char *endpoint, uint32_t identity, uint64_t incarnation,
	Countersign__V1__Step step, bool met, enum cs_reason reason, const char *detail)
{
	struct cs_node_endpoint *ep, *tmp;
	if (!endpoint[0]) {
		remember(node, identity, step, met, reason, detail);
		cs_node_moves_look(node);
	}
	HASH_ITER (hh, node->endpoints, ep, tmp) {
		if (endpoint[0] ? strcmp(ep->spec.id, endpoint) != 0 || ep->incarnation != incarnation
				: ep->identity != identity)
			continue;
		/* Said before it heard that the interface or the placement is gone. */
		bool closed = ep->ifindex == 0 || !ep->conditions[COUNTERSIGN__V1__STEP__STEP_PLACED].met;
		if (step == COUNTERSIGN__V1__STEP__STEP_ENFORCED && met && closed)
			continue;
		if (cs_endpoint_set(ep, step, met, reason, detail, cs_node_unix_ms(node)))
			cs_node_changed(node, ep, false);
	}
}

/* --- life --- */

int cs_node_new(const struct cs_node_options *options, struct cs_node **ret, struct cs_error *e)
{
	struct cs_node *node = cs_xcalloc(1, sizeof(*node));
	node->options = *options;
	node->dir = cs_dir_new(cs_node_random(), NULL);
	node->check_cluster = cs_check_new(options->status, "cluster");
	node->check_disk = cs_check_new(options->status, "registrations");
	node->registered = cs_counter(options->metrics, "countersign_registrations_total",
		"Endpoints registered and unregistered", "what", 4);
	node->refused = cs_counter(
		options->metrics, "countersign_claims_refused_total", "Claims that were refused", "reason", 16);
	node->waiting = cs_gauge(
		options->metrics, "countersign_registrations_waiting", "Registrations that wait for the disk", NULL, 1);
	cs_check_fail(node->check_cluster, CS_R_DIRECTORY_STALE, "the cluster role has not answered yet");
	int r = cs_node_load(node, e);
	if (r == 0)
		r = cs_links_watch(options->loop, on_links, node, &node->links, e);
	if (r < 0) {
		cs_node_free(node);
		return r;
	}
	cs_node_claims_init(node);
	cs_node_moves_init(node);
	node->open_timers = 2;
	*ret = node;
	return 0;
}

void cs_node_set_link(struct cs_node *node, struct cs_link *link)
{
	node->link = link;
}

void cs_node_maybe_closed(struct cs_node *node)
{
	if (!node->closing || node->open_timers > 0 || node->nrunning > 0 || !node->closed)
		return;
	void (*closed)(void *) = node->closed;
	node->closed = NULL;
	closed(node->closed_data);
}

static void timer_closed(struct cs_timer *timer)
{
	struct cs_node *node = timer->data;
	node->open_timers--;
	cs_node_maybe_closed(node);
}

void cs_node_close(struct cs_node *node, void (*closed)(void *), void *data)
{
	node->closing = true;
	node->up = false;
	node->closed = closed;
	node->closed_data = data;
	cs_links_close(node->links);
	node->links = NULL;
	cs_timer_close(&node->retry, timer_closed);
	cs_timer_close(&node->moves, timer_closed);
}

void cs_node_free(struct cs_node *node)
{
	if (!node)
		return;
	struct cs_node_endpoint *ep, *tmp;
	HASH_ITER (hh, node->endpoints, ep, tmp) {
		HASH_DEL(node->endpoints, ep);
		cs_endpoint_free(ep);
	}
	struct said *said, *stmp;
	HASH_ITER (hh, node->said, said, stmp) {
		HASH_DEL(node->said, said);
		free(said);
	}
	for (size_t i = 0; i < node->nincoming; i++)
		cs_record_free(node->incoming[i]);
	free(node->incoming);
	cs_node_disk_fini(node);
	cs_dir_free(node->dir);
	free(node);
}

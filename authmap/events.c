#include "events.h"

#include <countersign/handshaker.h>
#include <stdlib.h>
#include "log.h"

struct cs_events {
	void (*on_added)(void *data);
	void *data;
	uint64_t next; /* seq of the next one; the first is 1 */
	uint64_t pair_seq;
	struct cs_event ring[CS_EVENTS_KEPT];
};

const char *cs_event_kind_name(enum cs_event_kind kind)
{
	static const char *const names[] = {"authenticated", "refused", "expired", "deleted", "dropped", "state"};
	return names[kind];
}

struct cs_events *cs_events_new(void (*on_added)(void *data), void *data)
{
	struct cs_events *e = calloc(1, sizeof(*e));
	if (!e)
		abort();
	e->on_added = on_added;
	e->data = data;
	e->next = 1;
	return e;
}

void cs_events_free(struct cs_events *e)
{
	free(e);
}

static void log_line(const struct cs_event *v)
{
	static const char *const roles[] = {"", "dialler", "acceptor", "loopback"};
	cs_audit("pair", cs_str("event", cs_event_kind_name(v->kind)), cs_u64("local", v->key.local),
		cs_u64("remote", v->key.remote), cs_str("node", v->node), cs_why(v->reason),
		cs_str("role", roles[v->role & 3]), cs_str("interface", v->interface), cs_u64("packets", v->packets),
		cs_bool("would", v->would), cs_str("policy", v->policy));
}

void cs_events_add(struct cs_events *e, const struct cs_event *event)
{
	struct cs_event *slot = &e->ring[e->next % CS_EVENTS_KEPT];
	*slot = *event;
	slot->seq = e->next++;
	slot->pair_seq = slot->kind == CS_EVENT_DROPPED ? e->pair_seq : ++e->pair_seq;
	log_line(slot);
	e->on_added(e->data);
}

uint64_t cs_events_next_seq(const struct cs_events *e)
{
	return e->next;
}

uint64_t cs_events_pair_seq(const struct cs_events *e)
{
	return e->pair_seq;
}

const struct cs_event *cs_events_read(const struct cs_events *e, uint64_t *seq)
{
	if (*seq >= e->next)
		return NULL;
	if (e->next - *seq > CS_EVENTS_KEPT)
		*seq = e->next - CS_EVENTS_KEPT; /* too slow: a hole */
	return &e->ring[(*seq)++ % CS_EVENTS_KEPT];
}

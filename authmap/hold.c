#include "hold.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <uthash.h>
#include <utlist.h>
#include "inject.h"
#include "log.h"

#define BACKOFF_FIRST_MS 100
#define FLUSH_ROUNDS     64  /* of the ring, before what still comes passes unordered */
#define ANNOUNCE_ROUND   256 /* pairs, before the loop looks at other things */

/* A held packet: in its pair's queue, and in the list of all by age. */
struct packet {
	struct packet *prev, *next;         /* of the pair, oldest first */
	struct packet *all_prev, *all_next; /* of all, oldest first */
	struct pair *pair;
	int64_t until_ms;
	struct cs_held head;
	uint8_t frame[];
};

struct pair {
	struct cs_auth_key key;
	struct packet *packets;
	uint32_t count;
	bool asking;     /* in the list of those whom on_miss is due */
	int64_t told_ms; /* on_miss was called then and nobody has answered; 0: not */
	uint32_t ifindex;
	enum cs_dir dir;
	struct pair *prev, *next; /* of those whom on_miss is due */
	UT_hash_handle hh;
};

struct cs_hold {
	struct cs_loop *loop;
	struct cs_datapath *dp;
	struct cs_hold_callbacks callbacks;
	size_t max_bytes;
	struct cs_inject inject;
	struct ring_buffer *rings, *drops;
	uv_poll_t poll, drop_poll;
	struct cs_timer deadline, announce;
	struct pair *pairs, *asking;
	struct packet *all;
	struct cs_hold_stats stats;
	bool closing;
	int open_handles;
};

int cs_hold_parse(const void *record, size_t size, struct cs_held *ret_head, const uint8_t **ret_frame)
{
	if (size < sizeof(*ret_head))
		return -EBADMSG;
	memcpy(ret_head, record, sizeof(*ret_head));
	const struct cs_held *h = ret_head;
	/* The reservation is of a fixed class, so there may be more behind the frame, and never less. */
	if (h->caplen > size - sizeof(*h) || h->caplen > CS_HELD_MAX || (h->caplen && h->caplen != h->len))
		return -EBADMSG;
	if (h->dir > CS_TO || h->key.type != CS_AUTH_SPIRE || h->key.pad || !h->key.local || !h->key.remote ||
		!h->ifindex)
		return -EBADMSG;
	if (h->csum > CS_CSUM_PARTIAL || (h->caplen == 0) != (h->why != 0))
		return -EBADMSG;
	if (h->csum == CS_CSUM_PARTIAL && (uint32_t)h->csum_start + h->csum_offset + 2 > h->len)
		return -EBADMSG;
	if (h->gso_size && (h->csum != CS_CSUM_PARTIAL || h->hdr_len > h->len))
		return -EBADMSG;
	*ret_frame = h->caplen ? (const uint8_t *)record + sizeof(*h) : NULL;
	return 0;
}

/* Queues */

static struct pair *find(const struct cs_hold *h, const struct cs_auth_key *key)
{
	struct pair *p;
	HASH_FIND(hh, h->pairs, key, sizeof(*key), p);
	return p;
}

static struct pair *find_or_new(struct cs_hold *h, const struct cs_auth_key *key)
{
	struct pair *p = find(h, key);
	if (p)
		return p;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->key = *key;
	HASH_ADD(hh, h->pairs, key, sizeof(p->key), p);
	h->stats.pairs++;
	return p;
}

static void free_pair_if_idle(struct cs_hold *h, struct pair *p)
{
	if (p->packets || p->asking || p->told_ms)
		return;
	HASH_DEL(h->pairs, p);
	h->stats.pairs--;
	free(p);
}

static void settle(struct cs_hold *h, const struct cs_held *head)
{
	struct cs_settle s = {
		.key = head->key, .ifindex = head->ifindex, .dir = head->dir, .packets = 1, .bytes = head->len};
	struct cs_error e = {0};
	if (cs_datapath_settle(h->dp, &s, &e) < 0)
		cs_warn("budgets of held packets cannot be settled", cs_err(&e));
}

/* Takes the packet out of both lists; the caller frees it. */
static void unqueue(struct cs_hold *h, struct packet *k)
{
	struct pair *p = k->pair;
	DL_DELETE(p->packets, k);
	DL_DELETE2(h->all, k, all_prev, all_next);
	p->count--;
	h->stats.packets--;
	h->stats.bytes -= k->head.caplen;
	settle(h, &k->head);
}

static void drop(struct cs_hold *h, struct packet *k, enum cs_reason reason)
{
	unqueue(h, k);
	h->stats.dropped[reason]++;
	free(k);
}

static void drop_all(struct cs_hold *h, struct pair *p, enum cs_reason reason)
{
	struct packet *k, *next;
	DL_FOREACH_SAFE (p->packets, k, next) {
		drop(h, k, reason);
	}
}

static void arm_deadline(struct cs_hold *h)
{
	if (h->closing)
		return;
	if (!h->all)
		cs_timer_stop(&h->deadline);
	else if (!cs_timer_active(&h->deadline))
		cs_timer_start(&h->deadline, h->all->until_ms - cs_loop_mono_ms(h->loop), 0);
}

static void on_deadline(struct cs_timer *timer)
{
	struct cs_hold *h = timer->data;
	int64_t now = cs_loop_mono_ms(h->loop);
	while (h->all && h->all->until_ms <= now) {
		struct pair *p = h->all->pair;
		drop(h, h->all, CS_R_HELD_TOO_LONG);
		free_pair_if_idle(h, p);
	}
	arm_deadline(h);
}

static void send_now(struct cs_hold *h, const struct cs_held *head, const uint8_t *frame)
{
	if (cs_inject_send(&h->inject, head, frame) < 0)
		h->stats.send_failed++;
	else
		h->stats.released++;
}

static void send_queue(struct cs_hold *h, struct pair *p)
{
	struct packet *k, *next;
	DL_FOREACH_SAFE (p->packets, k, next) {
		unqueue(h, k);
		send_now(h, &k->head, k->frame);
		free(k);
	}
}

/* on_miss is called from the loop, never from inside a call of ours. */
static void ask(struct cs_hold *h, struct pair *p)
{
	int64_t now = cs_loop_mono_ms(h->loop);
	if (p->asking || (p->told_ms && now - p->told_ms < (int64_t)(CS_ASKING_NS / 1000000)))
		return;
	p->asking = true;
	DL_APPEND(h->asking, p);
	if (!h->closing && !cs_timer_active(&h->announce))
		cs_timer_start(&h->announce, 0, 0);
}

static void unask(struct cs_hold *h, struct pair *p)
{
	if (p->asking)
		DL_DELETE(h->asking, p);
	p->asking = false;
	p->told_ms = 0;
}

static void on_announce(struct cs_timer *timer)
{
	struct cs_hold *h = timer->data;
	for (int i = 0; i < ANNOUNCE_ROUND && h->asking && !h->closing; i++) {
		struct pair *p = h->asking;
		struct cs_auth_key key = p->key; /* the answer may come from inside, and frees p */
		unask(h, p);
		p->told_ms = cs_loop_mono_ms(h->loop);
		h->callbacks.on_miss(h->callbacks.data, &key, p->ifindex, p->dir, p->packets != NULL);
	}
	if (h->asking && !h->closing)
		cs_timer_start(&h->announce, 0, 0);
}

static void enqueue(struct cs_hold *h, struct pair *p, const struct cs_held *head, const uint8_t *frame)
{
	struct packet *k = NULL;
	if (h->stats.bytes + head->caplen <= h->max_bytes)
		k = malloc(sizeof(*k) + head->caplen);
	if (!k) {
		h->stats.dropped[CS_R_HOLD_BUDGET]++;
		settle(h, head);
		return;
	}
	k->pair = p;
	k->until_ms = cs_loop_mono_ms(h->loop) + CS_HOLD_MS;
	k->head = *head;
	memcpy(k->frame, frame, head->caplen);
	DL_APPEND(p->packets, k);
	DL_APPEND2(h->all, k, all_prev, all_next);
	p->count++;
	h->stats.packets++;
	h->stats.bytes += head->caplen;
	arm_deadline(h);
}

/* A record of a pair that was answered while it was on its way here: true, and dealt with. */
static bool answered(struct cs_hold *h, const struct cs_held *head, const uint8_t *frame)
{
	uint64_t entry;
	struct cs_pending row;
	if (cs_datapath_auth_get(h->dp, &head->key, &entry) == 1 && (entry & CS_AUTH_EXPIRY) > cs_datapath_now_ns()) {
		if (frame) {
			settle(h, head);
			send_now(h, head, frame);
		}
		return true;
	}
	if (cs_datapath_pending_get(h->dp, &head->key, &row) == 1 && row.state == CS_REFUSED) {
		if (frame) {
			settle(h, head);
			h->stats.dropped[CS_R_BACKOFF]++;
		}
		return true;
	}
	return false;
}

static int on_record(void *ctx, void *data, size_t size)
{
	struct cs_hold *h = ctx;
	struct cs_held head;
	const uint8_t *frame;
	if (cs_hold_parse(data, size, &head, &frame) < 0) {
		h->stats.malformed++;
		return 0;
	}
	if (frame)
		h->stats.held++;
	else
		h->stats.signals++;
	struct pair *p = find(h, &head.key);
	if ((!p || !p->packets) && answered(h, &head, frame))
		return 0;
	p = find_or_new(h, &head.key);
	if (!p) {
		if (frame)
			settle(h, &head);
		return 0;
	}
	p->ifindex = head.ifindex;
	p->dir = (enum cs_dir)head.dir;
	if (frame)
		enqueue(h, p, &head, frame);
	ask(h, p);
	return 0;
}

static int on_drop_record(void *ctx, void *data, size_t size)
{
	struct cs_hold *h = ctx;
	struct cs_drop drop;
	if (size < sizeof(drop)) {
		h->stats.malformed++;
		return 0;
	}
	memcpy(&drop, data, sizeof(drop));
	if (h->callbacks.on_drop)
		h->callbacks.on_drop(h->callbacks.data, &drop);
	return 0;
}

static void consume(struct cs_hold *h)
{
	if (ring_buffer__consume(h->rings) < 0)
		cs_warn("the ring of held packets cannot be read");
}

static void on_rings(uv_poll_t *poll, int status, int events)
{
	(void)status;
	(void)events;
	consume(poll->data);
}

static void on_drops(uv_poll_t *poll, int status, int events)
{
	struct cs_hold *h = poll->data;
	(void)status;
	(void)events;
	if (ring_buffer__consume(h->drops) < 0)
		cs_warn("the ring of drop records cannot be read");
}

/* Answers */

/* Sends what is held, and what comes meanwhile behind it, until nothing comes. */
static void flush(struct cs_hold *h, const struct cs_auth_key *key)
{
	for (int i = 0; i < FLUSH_ROUNDS; i++) {
		struct pair *p = find(h, key);
		if (!p || !p->packets)
			return;
		send_queue(h, p);
		consume(h);
	}
}

static void answer(struct cs_hold *h, const struct cs_auth_key *key)
{
	struct pair *p = find(h, key);
	if (!p)
		return;
	unask(h, p);
	free_pair_if_idle(h, p);
	arm_deadline(h);
}

int cs_hold_release(struct cs_hold *h, const struct cs_auth_key *key, uint64_t value, struct cs_error *e)
{
	struct cs_pending row;
	consume(h);
	struct pair *p = find(h, key);
	if (!(p && p->packets) && cs_datapath_pending_get(h->dp, key, &row) != 1) {
		answer(h, key);
		return cs_datapath_auth_put(h->dp, key, value, e);
	}
	/* The order of maps.h: the row before the flag, and after it. */
	row = (struct cs_pending){.state = CS_FLUSHING, .until_ns = cs_datapath_now_ns() + CS_FLUSHING_NS};
	int r = cs_datapath_pending_put(h->dp, key, &row, e);
	if (r == 0)
		r = cs_datapath_auth_put(h->dp, key, value | CS_AUTH_FLUSHING, e);
	if (r < 0)
		return r;
	flush(h, key);
	consume(h);
	flush(h, key);
	r = cs_datapath_auth_put(h->dp, key, value, e);
	int deleted = cs_datapath_pending_del(h->dp, key, r < 0 ? NULL : e);
	/* What the datapath saw a moment before the flag went. */
	consume(h);
	flush(h, key);
	answer(h, key);
	return r < 0 ? r : deleted;
}

int64_t cs_hold_refuse(struct cs_hold *h, const struct cs_auth_key *key, enum cs_reason reason, int64_t max_ms)
{
	struct cs_pending row;
	struct cs_error e = {0};
	if (cs_datapath_pending_get(h->dp, key, &row) != 1)
		row = (struct cs_pending){0};
	uint32_t refusals = row.refusals < 16 ? row.refusals : 16;
	int64_t backoff_ms = (int64_t)BACKOFF_FIRST_MS << refusals;
	if (backoff_ms > max_ms)
		backoff_ms = max_ms;
	row = (struct cs_pending){.state = CS_REFUSED,
		.until_ns = cs_datapath_now_ns() + (uint64_t)backoff_ms * 1000000,
		.refusals = refusals + 1};
	if (cs_datapath_pending_put(h->dp, key, &row, &e) < 0)
		cs_warn("a refusal cannot be noted, so the pair asks again at once", cs_err(&e));
	struct pair *p = find(h, key);
	if (p)
		drop_all(h, p, reason);
	answer(h, key);
	return backoff_ms;
}

void cs_hold_forget(struct cs_hold *h, const struct cs_auth_key *key, enum cs_reason reason)
{
	struct cs_error e = {0};
	struct pair *p = find(h, key);
	if (p)
		drop_all(h, p, reason);
	if (cs_datapath_pending_del(h->dp, key, &e) < 0)
		cs_warn("a question cannot be taken back", cs_err(&e));
	answer(h, key);
}

void cs_hold_forget_interface(struct cs_hold *h, uint32_t ifindex, enum cs_reason reason)
{
	struct packet *k, *next;
	consume(h);
	DL_FOREACH_SAFE2 (h->all, k, next, all_next) {
		struct pair *p = k->pair;
		if (k->head.ifindex != ifindex)
			continue;
		drop(h, k, reason);
		free_pair_if_idle(h, p);
	}
	arm_deadline(h);
}

bool cs_hold_waits(const struct cs_hold *h, const struct cs_auth_key *key)
{
	const struct pair *p = find(h, key);
	return p && (p->packets || p->asking);
}

uint32_t cs_hold_packets(const struct cs_hold *h, const struct cs_auth_key *key)
{
	const struct pair *p = find(h, key);
	return p ? p->count : 0;
}

const struct cs_hold_stats *cs_hold_stats(const struct cs_hold *h)
{
	return &h->stats;
}

/* Opening and closing */

static int ignore_record(void *ctx, void *data, size_t size)
{
	(void)ctx;
	(void)data;
	(void)size;
	return 0;
}

/* What an earlier life left is nobody's: its packets, its questions, and so what budgets say is held. */
static int forget_earlier_life(struct cs_hold *h, struct cs_error *e)
{
	struct ring_buffer *rb = ring_buffer__new(cs_datapath_map_fd(h->dp, "cs_held"), ignore_record, NULL, NULL);
	int r = rb ? ring_buffer__add(rb, cs_datapath_map_fd(h->dp, "cs_signal"), ignore_record, NULL) : -errno;
	if (r == 0)
		r = ring_buffer__consume(rb);
	ring_buffer__free(rb);
	if (r < 0)
		return cs_error_errno(e, r, "cannot read the rings of an earlier start");
	return cs_datapath_forget_asked(h->dp, e);
}

static int open_rings(struct cs_hold *h, struct cs_error *e)
{
	h->rings = ring_buffer__new(cs_datapath_map_fd(h->dp, "cs_held"), on_record, h, NULL);
	int r = h->rings ? ring_buffer__add(h->rings, cs_datapath_map_fd(h->dp, "cs_signal"), on_record, h) : -errno;
	if (r == 0)
		h->drops = ring_buffer__new(cs_datapath_map_fd(h->dp, "cs_drop"), on_drop_record, h, NULL);
	if (r < 0 || !h->drops)
		return cs_error_errno(e, r < 0 ? r : -errno, "cannot open the rings of the datapath");
	return 0;
}

static int start_poll(struct cs_hold *h, uv_poll_t *poll, struct ring_buffer *ring, uv_poll_cb fn, struct cs_error *e)
{
	int r = uv_poll_init(&h->loop->uv, poll, ring_buffer__epoll_fd(ring));
	if (r < 0)
		return cs_error_set(e, r, "cannot follow the rings of the datapath: %s", uv_strerror(r));
	poll->data = h;
	h->open_handles++;
	r = uv_poll_start(poll, UV_READABLE, fn);
	return r < 0 ? cs_error_set(e, r, "cannot follow the rings of the datapath: %s", uv_strerror(r)) : 0;
}

struct cs_hold *cs_hold_new(struct cs_loop *loop, struct cs_datapath *dp, const struct cs_hold_config *config,
	const struct cs_hold_callbacks *callbacks, struct cs_error *e)
{
	struct cs_hold *h = calloc(1, sizeof(*h));
	if (!h) {
		cs_error_errno(e, -ENOMEM, "cannot hold packets");
		return NULL;
	}
	*h = (struct cs_hold){.loop = loop, .dp = dp, .callbacks = *callbacks, .max_bytes = config->max_bytes};
	cs_inject_init(&h->inject);
	cs_timer_init(&h->deadline, loop, on_deadline, h);
	cs_timer_init(&h->announce, loop, on_announce, h);
	h->open_handles = 2;
	if (forget_earlier_life(h, e) < 0 || cs_inject_open(&h->inject, dp, config->instance, e) < 0 ||
		open_rings(h, e) < 0 || start_poll(h, &h->poll, h->rings, on_rings, e) < 0 ||
		start_poll(h, &h->drop_poll, h->drops, on_drops, e) < 0) {
		cs_hold_close(h);
		return NULL;
	}
	return h;
}

static void closed_one(struct cs_hold *h)
{
	if (--h->open_handles > 0)
		return;
	ring_buffer__free(h->rings);
	ring_buffer__free(h->drops);
	free(h);
}

static void timer_closed(struct cs_timer *timer)
{
	closed_one(timer->data);
}

static void poll_closed(uv_handle_t *handle)
{
	closed_one(handle->data);
}

void cs_hold_close(struct cs_hold *h)
{
	if (!h)
		return;
	h->closing = true;
	struct pair *p, *next;
	HASH_ITER (hh, h->pairs, p, next) {
		drop_all(h, p, CS_R_DAEMON_DOWN);
		unask(h, p);
		free_pair_if_idle(h, p);
	}
	cs_inject_close(&h->inject);
	if (h->poll.data)
		uv_close((uv_handle_t *)&h->poll, poll_closed);
	if (h->drop_poll.data)
		uv_close((uv_handle_t *)&h->drop_poll, poll_closed);
	cs_timer_close(&h->deadline, timer_closed);
	cs_timer_close(&h->announce, timer_closed);
}

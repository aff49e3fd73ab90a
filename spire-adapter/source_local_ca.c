#include "source_local_ca.h"

#include <errno.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include "log.h"

#define LOOK_AGAIN_MS 10000 /* however far away the next renewal is: the clock may jump */
#define RETRY_MS      10000 /* after a failure */
#define MIN_RENEW_MS  1000  /* near the end of the root, half of what is left becomes short */

struct client {
	uint32_t identity;
	char *spiffe_id;
	/* Due outside of [from, until): renewed at half of its life, and if the clock goes back behind its beginning. */
	int64_t from_unix_ms, until_unix_ms;
	bool answered;
	UT_hash_handle hh;
};

/* One certificate in the making, in a worker thread. The client may be stopped meanwhile. */
struct job {
	uv_work_t uv;
	struct local_ca *source;
	uint32_t identity;
	char *spiffe_id; /* a copy, and a check that the client is still the same */
	int64_t now_unix_ms;
	int result;
	struct cs_issued issued;
	uint8_t *der;
	int der_len;
	struct cs_error error;
};

struct local_ca {
	struct cs_source base;
	struct cs_loop *loop;
	struct cs_ca *ca;
	int64_t ttl_s;
	struct cs_source_events events;
	struct client *clients;
	struct cs_timer timer;
	struct job *job; /* one at a time: some 5,000 a second */
	bool bundle_said, closing;
};

static void schedule(struct local_ca *s, int64_t after_ms)
{
	if (!s->closing && !s->job)
		cs_timer_start(&s->timer, after_ms, 0);
}

static struct client *find(struct local_ca *s, uint32_t identity)
{
	struct client *c;
	HASH_FIND(hh, s->clients, &identity, sizeof(identity), c);
	return c;
}

static void job_free(struct job *job)
{
	cs_issued_fini(&job->issued);
	OPENSSL_free(job->der);
	free(job->spiffe_id);
	free(job);
}

static void issue_in_thread(uv_work_t *uv)
{
	struct job *job = uv->data;
	job->result = cs_ca_issue(job->source->ca, job->spiffe_id, job->source->ttl_s, job->now_unix_ms / 1000,
		&job->issued, &job->error);
	if (job->result == 0 && (job->der_len = i2d_X509(job->issued.leaf, &job->der)) <= 0)
		job->result = cs_error_set(&job->error, -ENOMEM, "out of memory");
}

static void deliver(struct local_ca *s, struct client *c, struct job *job)
{
	struct cs_der chain = {job->der, (size_t)job->der_len};
	struct cs_source_svid svid = {.identity = c->identity,
		.key = job->issued.key,
		.chain = &chain,
		.nchain = 1,
		.not_before_unix_s = job->issued.not_before_unix_s,
		.not_after_unix_s = job->issued.not_after_unix_s};
	int64_t half_ms = (svid.not_after_unix_s * 1000 - job->now_unix_ms) / 2;
	c->from_unix_ms = svid.not_before_unix_s * 1000;
	c->until_unix_ms = job->now_unix_ms + (half_ms > MIN_RENEW_MS ? half_ms : MIN_RENEW_MS);
	c->answered = true;
	job->issued.key = NULL;
	s->events.svid(s->events.data, &svid);
}

static void fail(struct local_ca *s, struct client *c, struct job *job)
{
	bool first = !c->answered;
	c->from_unix_ms = job->now_unix_ms;
	c->until_unix_ms = job->now_unix_ms + RETRY_MS;
	c->answered = true;
	cs_warn("an SVID could not be issued", cs_str("spiffe_id", c->spiffe_id), cs_err(&job->error));
	if (first) /* else it still has one, until that expires */
		s->events.none(s->events.data, c->identity, false, &job->error);
}

static void job_done(uv_work_t *uv, int status)
{
	(void)status; /* never cancelled */
	struct job *job = uv->data;
	struct local_ca *s = job->source;
	struct client *c = s->closing ? NULL : find(s, job->identity);
	s->job = NULL;
	if (c && strcmp(c->spiffe_id, job->spiffe_id) == 0) {
		if (job->result == 0)
			deliver(s, c, job);
		else
			fail(s, c, job);
	}
	job_free(job);
	schedule(s, 0);
}

/* The client whose turn it is, or NULL and when to look again. */
static struct client *next_due(struct local_ca *s, int64_t now_unix_ms, int64_t *ret_after_ms)
{
	struct client *c, *next;
	*ret_after_ms = LOOK_AGAIN_MS;
	HASH_ITER (hh, s->clients, c, next) {
		if (now_unix_ms < c->from_unix_ms || now_unix_ms >= c->until_unix_ms)
			return c;
		if (c->until_unix_ms - now_unix_ms < *ret_after_ms)
			*ret_after_ms = c->until_unix_ms - now_unix_ms;
	}
	return NULL;
}

static void say_bundle(struct local_ca *s)
{
	uint8_t *der = NULL;
	int n = i2d_X509((X509 *)cs_ca_root_borrow(s->ca), &der);
	if (n <= 0)
		return;
	struct cs_der root = {der, (size_t)n};
	s->bundle_said = true;
	s->events.bundle(s->events.data, cs_ca_trust_domain_borrow(s->ca), &root, 1);
	OPENSSL_free(der);
}

static void on_timer(struct cs_timer *timer)
{
	struct local_ca *s = timer->data;
	int64_t now_unix_ms = cs_loop_unix_ms(s->loop), after_ms;
	if (!s->bundle_said)
		say_bundle(s);
	struct client *c = next_due(s, now_unix_ms, &after_ms);
	if (!c) {
		schedule(s, after_ms);
		return;
	}
	struct job *job = calloc(1, sizeof(*job));
	char *spiffe_id = strdup(c->spiffe_id);
	if (!job || !spiffe_id) {
		free(job);
		free(spiffe_id);
		schedule(s, RETRY_MS);
		return;
	}
	*job = (struct job){.source = s, .identity = c->identity, .spiffe_id = spiffe_id, .now_unix_ms = now_unix_ms};
	job->uv.data = job;
	s->job = job;
	uv_queue_work(&s->loop->uv, &job->uv, issue_in_thread, job_done);
}

static int local_ca_start(struct cs_source *base, uint32_t identity, const char *spiffe_id, struct cs_error *e)
{
	struct local_ca *s = (struct local_ca *)base;
	struct client *c = calloc(1, sizeof(*c));
	if (!c || !(c->spiffe_id = strdup(spiffe_id))) {
		free(c);
		return cs_error_set(e, -ENOMEM, "out of memory");
	}
	c->identity = identity;
	HASH_ADD(hh, s->clients, identity, sizeof(c->identity), c);
	schedule(s, 0);
	return 0;
}

static void client_free(struct local_ca *s, struct client *c)
{
	HASH_DEL(s->clients, c);
	free(c->spiffe_id);
	free(c);
}

static void local_ca_stop(struct cs_source *base, uint32_t identity)
{
	struct local_ca *s = (struct local_ca *)base;
	struct client *c = find(s, identity);
	if (c)
		client_free(s, c);
}

static void local_ca_close(struct cs_source *base)
{
	struct local_ca *s = (struct local_ca *)base;
	s->closing = true;
	cs_timer_close(&s->timer, NULL);
}

static void local_ca_free(struct cs_source *base)
{
	struct local_ca *s = (struct local_ca *)base;
	struct client *c, *next;
	HASH_ITER (hh, s->clients, c, next)
		client_free(s, c);
	cs_ca_free(s->ca);
	free(s);
}

int cs_source_local_ca_new_take(struct cs_loop *loop, struct cs_ca *ca, int64_t ttl_s,
	const struct cs_source_events *events, struct cs_source **ret, struct cs_error *e)
{
	struct local_ca *s = calloc(1, sizeof(*s));
	if (!s) {
		cs_ca_free(ca);
		return cs_error_set(e, -ENOMEM, "out of memory");
	}
	*s = (struct local_ca){
		.base = {"local-ca", local_ca_start, local_ca_stop, local_ca_close, local_ca_free},
		.loop = loop,
		.ca = ca,
		.ttl_s = ttl_s,
		.events = *events,
	};
	cs_timer_init(&s->timer, loop, on_timer, s);
	schedule(s, 0);
	*ret = &s->base;
	return 0;
}

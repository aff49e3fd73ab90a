#include "registrar_service.h"

#include <countersign/v1/entries.pb-c.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>
#include "mem.h"

struct caller {
	struct cs_reg_service *service;
	struct cs_grpc_call *call; /* NULL: it has gone */
	enum { LIST, PREVIEW, SYNC } what;
	bool foreign; /* LIST */
	bool release; /* SYNC: what is missing goes */
	bool listed;  /* SYNC: what is written from here on is told */
	struct caller *prev, *next;
};

struct cs_reg_service {
	struct cs_reg_service_options options;
	struct cs_grpc_service grpc;
	struct caller *callers;
	size_t n;
	bool previewing, closing;
};

/* ---- callers ---- */

static void forget(struct caller *c)
{
	DL_DELETE(c->service->callers, c);
	c->service->n--;
	free(c);
}

static void end(struct caller *c, enum cs_grpc_code code, const struct cs_error *why)
{
	if (c->call && why)
		cs_grpc_finish_error(c->call, code, why);
	else if (c->call)
		cs_grpc_finish(c->call, code, "%s", "");
	c->call = NULL;
}

static void on_cancel(struct cs_grpc_call *call, void *data)
{
	struct caller *c = data;
	(void)call;
	c->call = NULL; /* the list of SPIRE that it waits for still has it */
	if (c->what == SYNC)
		forget(c);
}

static void on_drain(struct cs_grpc_call *call, void *data)
{
	(void)call;
	(void)data; /* CS_REG_QUEUE_MAX bounds what is queued */
}

static struct caller *caller_new(struct cs_reg_service *s, struct cs_grpc_call *call, int what)
{
	if (s->closing) {
		cs_grpc_finish(call, CS_GRPC_UNAVAILABLE, "the registrar is stopping");
		return NULL;
	}
	if (s->n >= CS_REG_CALLS_MAX) {
		cs_grpc_finish_reason(call, CS_GRPC_RESOURCE_EXHAUSTED, CS_R_TOO_MANY,
			"there are %d calls under way already", CS_REG_CALLS_MAX);
		return NULL;
	}
	struct caller *c = cs_xcalloc(1, sizeof(*c));
	*c = (struct caller){.service = s, .call = call, .what = what};
	DL_APPEND(s->callers, c);
	s->n++;
	cs_grpc_call_watch(call, on_cancel, on_drain, c);
	return c;
}

static void say(struct caller *c, const ProtobufCMessage *message)
{
	if (c->call && cs_grpc_send(c->call, message) < 0) {
		struct cs_error e;
		cs_error_reason(&e, -1, CS_R_TOO_MANY, "the answer is not read fast enough");
		end(c, CS_GRPC_RESOURCE_EXHAUSTED, &e);
	}
}

/* ---- List ---- */

/* Lines to strings, which point into lines. */
static char **split(char *lines, size_t *ret_n)
{
	char **list = NULL, *rest = lines, *line;
	*ret_n = 0;
	while (*lines && (line = strsep(&rest, "\n"))) {
		list = cs_xrealloc(list, *ret_n + 1, sizeof(*list));
		list[(*ret_n)++] = line;
	}
	return list;
}

static bool has(char *const *list, size_t n, const char *text)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(list[i], text) == 0)
			return true;
	return false;
}

static void send_entry(struct caller *c, const struct cs_reg_entry *e)
{
	Countersign__V1__RegistrationEntry out = COUNTERSIGN__V1__REGISTRATION_ENTRY__INIT, *list = &out;
	Countersign__V1__EntryBatch batch = COUNTERSIGN__V1__ENTRY_BATCH__INIT;
	char node[CS_REG_NODE_MAX + 1] = "", *selectors = cs_xstrdup(e->selectors);
	char *federates = cs_xstrdup(e->federates_with);
	out.id = (char *)e->id;
	out.spiffe_id = (char *)e->spiffe_id;
	out.parent_id = (char *)e->parent_id;
	out.hint = (char *)e->hint;
	out.selectors = split(selectors, &out.n_selectors);
	out.federates_with = split(federates, &out.n_federates_with);
	out.svid_ttl_s = e->ttl_s;
	out.admin = e->admin;
	out.downstream = e->downstream;
	out.created_unix_s = e->created_unix_s;
	out.revision = e->revision;
	if (!c->foreign && cs_reg_hint_read(e->hint, &out.identity, node))
		out.node = node;
	if (has(out.federates_with, out.n_federates_with, c->service->options.trust_domain))
		out.warning =
			(char *)"it federates with its own trust domain: every agent that receives it stops syncing";
	batch.entries = &list;
	batch.n_entries = 1;
	say(c, &batch.base);
	free(out.selectors);
	free(out.federates_with);
	free(selectors);
	free(federates);
}

static void on_page(void *data, void *const *items, size_t n)
{
	struct caller *c = data;
	const struct cs_reg_service_options *o = &c->service->options;
	for (size_t i = 0; i < n && c->call; i++) {
		struct cs_reg_entry *entry = cs_reg_entry_new(items[i]);
		bool ours = cs_reg_is_ours(o->mark, entry->id);
		if (c->foreign ? !ours && strncmp(entry->spiffe_id, o->prefix, strlen(o->prefix)) == 0 : ours)
			send_entry(c, entry);
		free(entry);
	}
}

static void on_listed(void *data, const struct cs_spire_failure *failure)
{
	struct caller *c = data;
	end(c, failure ? CS_GRPC_UNAVAILABLE : CS_GRPC_OK, failure ? &failure->error : NULL);
	forget(c);
}

static void list(struct cs_grpc_call *call, const ProtobufCMessage *in, void *data)
{
	struct cs_reg_service *s = data;
	struct caller *c = caller_new(s, call, LIST);
	struct cs_error e;
	if (!c)
		return;
	c->foreign = ((const Countersign__V1__ListEntriesRequest *)in)->foreign;
	const struct cs_spire_list_events events = {.page = on_page, .done = on_listed, .data = c};
	if (cs_spire_server_list(s->options.server, CS_SPIRE_ENTRIES, &events, &e) < 0) {
		end(c, CS_GRPC_UNAVAILABLE, &e);
		forget(c);
	}
}

/* ---- Diff, Sync ---- */

/* Times of the plan are monotonic; people read the other. */
static int64_t unix_ms(const struct cs_reg_service *s, int64_t mono_ms)
{
	struct cs_loop *loop = s->options.loop;
	return mono_ms > 0 ? cs_loop_unix_ms(loop) + mono_ms - cs_loop_mono_ms(loop) : 0;
}

static size_t field_names(unsigned fields, char *names[static CS_REG_FIELDS])
{
	size_t n = 0;
	for (unsigned i = 0; i < CS_REG_FIELDS; i++)
		if (fields & 1u << i)
			names[n++] = (char *)cs_reg_field_name((enum cs_reg_field)(1u << i));
	return n;
}

static void send_change(struct caller *c, const struct cs_reg_change *change, bool done, const struct cs_error *why)
{
	static const Countersign__V1__EntryAction actions[] = {
		[CS_REG_SHOW_CREATE] = COUNTERSIGN__V1__ENTRY_ACTION__ENTRY_ACTION_CREATE,
		[CS_REG_SHOW_UPDATE] = COUNTERSIGN__V1__ENTRY_ACTION__ENTRY_ACTION_UPDATE,
		[CS_REG_SHOW_DELETE] = COUNTERSIGN__V1__ENTRY_ACTION__ENTRY_ACTION_DELETE,
		[CS_REG_SHOW_LINGER] = COUNTERSIGN__V1__ENTRY_ACTION__ENTRY_ACTION_LINGER};
	Countersign__V1__EntryChange out = COUNTERSIGN__V1__ENTRY_CHANGE__INIT, *list = &out;
	Countersign__V1__ChangeBatch batch = COUNTERSIGN__V1__CHANGE_BATCH__INIT;
	Countersign__V1__Reason reason = COUNTERSIGN__V1__REASON__INIT;
	char *names[CS_REG_FIELDS];
	out.action = actions[change->what];
	out.identity = change->identity;
	out.node = (char *)change->node;
	out.spiffe_id = (char *)change->spiffe_id;
	out.parent_id = (char *)change->parent_id;
	out.entry_id = (char *)change->entry_id;
	out.fields = names;
	out.n_fields = field_names(change->fields, names);
	out.done = done;
	if (change->what == CS_REG_SHOW_LINGER)
		out.until_unix_ms = unix_ms(c->service, change->until_mono_ms);
	else
		out.retry_unix_ms = unix_ms(c->service, change->until_mono_ms);
	if (why) {
		reason.name = why->reason == CS_R_NONE ? (char *)"" : (char *)cs_reason_name(why->reason);
		reason.detail = (char *)why->text;
		out.failed = &reason;
	}
	batch.changes = &list;
	batch.n_changes = 1;
	say(c, &batch.base);
}

static void on_change(void *data, const struct cs_reg_slot *slot, const struct cs_reg_change *change)
{
	(void)slot;
	send_change(data, change, false, change->failed);
}

static bool may_ask(const struct cs_reg_service *s, struct cs_grpc_call *call)
{
	const struct cs_error *why = s->options.may_write(s->options.data);
	if (why)
		cs_grpc_finish_error(call, CS_GRPC_FAILED_PRECONDITION, why);
	return !why;
}

static void diff(struct cs_grpc_call *call, const ProtobufCMessage *in, void *data)
{
	struct cs_reg_service *s = data;
	(void)in;
	if (!may_ask(s, call))
		return;
	if (cs_reg_plan_needs_list(s->options.plan)) {
		const struct cs_error *why = cs_reg_work_failure(s->options.work);
		cs_grpc_finish(call, CS_GRPC_UNAVAILABLE, "what SPIRE has is not known: %.600s",
			why ? why->text : "a list is under way");
		return;
	}
	struct caller *c = caller_new(s, call, SYNC);
	if (!c)
		return;
	cs_reg_plan_each_change(s->options.plan, on_change, c);
	end(c, CS_GRPC_OK, NULL);
	forget(c);
}

/* ---- Sync, as a dry run: a list of its own, which changes nothing ---- */

static void on_preview_page(void *data, void *const *items, size_t n)
{
	struct caller *c = data;
	struct cs_reg_service *s = c->service;
	for (size_t i = 0; i < n && c->call; i++)
		cs_reg_plan_preview_add(s->options.plan, items[i], cs_loop_mono_ms(s->options.loop), on_change, c);
}

static void on_preview_listed(void *data, const struct cs_spire_failure *failure)
{
	struct caller *c = data;
	c->service->previewing = false;
	if (!failure && c->call)
		cs_reg_plan_preview_end(c->service->options.plan, on_change, c);
	on_listed(c, failure);
}

static void begin_preview(struct caller *c)
{
	struct cs_reg_service *s = c->service;
	const struct cs_spire_list_events events = {.page = on_preview_page, .done = on_preview_listed, .data = c};
	struct cs_error e;
	c->what = PREVIEW;
	if (s->previewing)
		cs_error_reason(&e, -EBUSY, CS_R_TOO_MANY, "another dry run is under way");
	else if (cs_spire_server_list(s->options.server, CS_SPIRE_ENTRIES, &events, &e) == 0) {
		s->previewing = true;
		cs_reg_plan_preview_begin(s->options.plan);
		return;
	}
	end(c, CS_GRPC_UNAVAILABLE, &e);
	forget(c);
}

static void sync_entries(struct cs_grpc_call *call, const ProtobufCMessage *in, void *data)
{
	const Countersign__V1__SyncEntriesRequest *request = (const void *)in;
	struct cs_reg_service *s = data;
	struct caller *c = may_ask(s, call) ? caller_new(s, call, SYNC) : NULL;
	if (!c)
		return;
	c->release = request->delete_missing;
	if (request->dry_run)
		begin_preview(c);
	else
		cs_reg_work_list(s->options.work);
}

void cs_reg_service_listed(struct cs_reg_service *s, const struct cs_error *why)
{
	struct caller *c, *next;
	struct cs_error held;
	cs_error_set(&held, -EPERM,
		"nothing is written while foreign entries are under %.300s; see `countersign entry list "
		"--foreign`",
		s->options.prefix);
	DL_FOREACH_SAFE (s->callers, c, next) {
		if (c->what != SYNC || c->listed)
			continue;
		c->listed = true;
		if (!why && !cs_reg_work_is_held(s->options.work)) {
			if (c->release)
				cs_reg_plan_release(s->options.plan, cs_loop_mono_ms(s->options.loop));
			continue;
		}
		if (why)
			end(c, CS_GRPC_UNAVAILABLE, why);
		else
			end(c, CS_GRPC_FAILED_PRECONDITION, &held);
		forget(c);
	}
}

void cs_reg_service_answered(struct cs_reg_service *s, const struct cs_reg_change *change, const struct cs_error *why)
{
	struct caller *c;
	DL_FOREACH (s->callers, c)
		if (c->what == SYNC && c->listed)
			send_change(c, change, !why, why);
}

/* Nobody tried these, and who waits wants to know. */
static void on_held(void *data, const struct cs_reg_slot *slot, const struct cs_reg_change *change)
{
	if (change->held)
		on_change(data, slot, change);
}

void cs_reg_service_idle(struct cs_reg_service *s)
{
	struct caller *c, *next;
	DL_FOREACH_SAFE (s->callers, c, next) {
		if (c->what != SYNC || !c->listed)
			continue;
		if (cs_reg_plan_held(s->options.plan))
			cs_reg_plan_each_change(s->options.plan, on_held, c);
		end(c, CS_GRPC_OK, NULL);
		forget(c);
	}
}

void cs_reg_service_abort(struct cs_reg_service *s, const struct cs_error *why)
{
	struct caller *c, *next;
	DL_FOREACH_SAFE (s->callers, c, next) {
		if (c->what != SYNC)
			continue;
		end(c, CS_GRPC_UNAVAILABLE, why);
		forget(c);
	}
}

/* ---- life ---- */

static const struct cs_grpc_method methods[] = {
	{.name = "List", .roles = CS_ROLE_VIEWER, .streaming = true, .fn = list},
	{.name = "Diff", .roles = CS_ROLE_VIEWER, .streaming = true, .fn = diff},
	{.name = "Sync", .roles = CS_ROLE_OPERATOR, .streaming = true, .fn = sync_entries},
};

struct cs_reg_service *cs_reg_service_new(const struct cs_reg_service_options *options)
{
	struct cs_reg_service *s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->options = *options;
	s->grpc = (struct cs_grpc_service){
		&countersign__v1__entries__descriptor, methods, sizeof(methods) / sizeof(methods[0]), s};
	return s;
}

const struct cs_grpc_service *cs_reg_service_grpc(const struct cs_reg_service *s)
{
	return &s->grpc;
}

void cs_reg_service_close(struct cs_reg_service *s)
{
	struct caller *c;
	if (!s || s->closing)
		return;
	s->closing = true;
	struct cs_error e;
	cs_error_set(&e, -1, "the registrar is stopping");
	DL_FOREACH (s->callers, c)
		end(c, CS_GRPC_UNAVAILABLE, &e);
}

void cs_reg_service_free(struct cs_reg_service *s)
{
	struct caller *c, *next;
	if (!s)
		return;
	DL_FOREACH_SAFE (s->callers, c, next)
		free(c);
	free(s);
}

#include "spire_server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "instance.h"
#include "spire_server_tls.h"

#define ENTRY      spire__api__server__entry__v1__entry__descriptor
#define AGENT      spire__api__server__agent__v1__agent__descriptor
#define BUNDLE     spire__api__server__bundle__v1__bundle__descriptor
#define FEDERATION spire__api__server__trustdomain__v1__trust_domain__descriptor

struct cs_spire_server {
	struct cs_loop *loop;
	void (*on_state)(void *data, const struct cs_error *why);
	void *data;
	struct cs_grpc_channel *channel;
	struct cs_grpc_call_options call;
	/* TCP only */
	struct cs_spire_server_tls *tls;
	struct cs_spire_workload *workload;
	char *own_id;
	bool own_seen;           /* in this message of the Workload API */
	struct cs_error own_why; /* ... or why not */
	int64_t own_until_unix_s;
	bool told_trouble; /* what on_state heard last */
	struct cs_error told;
	bool closing;
};

/* One call, or one list of several. */
struct call {
	struct cs_spire_server *server;
	cs_spire_on_items *on_items;
	void *data;
	size_t n; /* items that were given; LIST: pages that came */
	enum { CREATE, UPDATE, DELETE, LIST } what;
	enum cs_spire_list kind;
	struct cs_spire_list_events list;
	char *token;
};

static void call_free(struct call *call)
{
	free(call->token);
	free(call);
}

/* ---- what went wrong ---- */

static void tell(struct cs_spire_server *s, const struct cs_error *why)
{
	if (!s->on_state || (why && s->told_trouble && strcmp(why->text, s->told.text) == 0))
		return;
	s->told_trouble = why != NULL;
	if (why)
		s->told = *why;
	s->on_state(s->data, why);
}

/* Those that the server answers before it has done anything. */
static bool was_not_done(enum cs_grpc_code code)
{
	return code == CS_GRPC_INVALID_ARGUMENT || code == CS_GRPC_PERMISSION_DENIED ||
	       code == CS_GRPC_UNAUTHENTICATED || code == CS_GRPC_UNIMPLEMENTED || code == CS_GRPC_RESOURCE_EXHAUSTED;
}

static void failure_of(const struct cs_grpc_status *status, const char *what, struct cs_spire_failure *ret)
{
	*ret = (struct cs_spire_failure){.code = status->code, .perhaps_done = !was_not_done(status->code)};
	cs_error_reason(&ret->error, -EIO, status->reason, "SPIRE's server, %s: %s %.500s", what,
		cs_grpc_code_name(status->code), status->message);
	if (status->code == CS_GRPC_PERMISSION_DENIED)
		cs_error_prefix(&ret->error, "no entry with this SVID's SPIFFE ID is an admin's");
}

static void protocol_failure(struct cs_spire_failure *ret, const char *text)
{
	*ret = (struct cs_spire_failure){.code = CS_GRPC_INTERNAL, .perhaps_done = true};
	cs_error_set(&ret->error, -EPROTO, "SPIRE's server: %s", text);
}

/* ---- items ---- */

static struct cs_spire_item item_of(const Spire__Api__Types__Status *status, const cs_spire_entry *entry)
{
	/* Without a status it would be OK by proto3's rules; SPIRE always sends one. */
	return (struct cs_spire_item){.code = status ? (enum cs_grpc_code)status->code : CS_GRPC_INTERNAL,
		.message = status ? status->message : "no status was sent",
		.entry = entry};
}

/* All items of an answer, at most n + 1: one too many is seen by whoever counts. */
static size_t read_items(const struct call *call, const ProtobufCMessage *reply, struct cs_spire_item *items)
{
	size_t n = 0;
	if (call->what == CREATE) {
		const Spire__Api__Server__Entry__V1__BatchCreateEntryResponse *in = (const void *)reply;
		for (; n < in->n_results && n <= call->n; n++)
			items[n] = item_of(in->results[n]->status, in->results[n]->entry);
	} else if (call->what == UPDATE) {
		const Spire__Api__Server__Entry__V1__BatchUpdateEntryResponse *in = (const void *)reply;
		for (; n < in->n_results && n <= call->n; n++)
			items[n] = item_of(in->results[n]->status, in->results[n]->entry);
	} else {
		const Spire__Api__Server__Entry__V1__BatchDeleteEntryResponse *in = (const void *)reply;
		for (; n < in->n_results && n <= call->n; n++)
			items[n] = item_of(in->results[n]->status, NULL);
	}
	return n;
}

static void on_reply(const struct cs_grpc_status *status, const ProtobufCMessage *reply, void *data)
{
	static const char *const names[] = {"BatchCreateEntry", "BatchUpdateEntry", "BatchDeleteEntry"};
	struct call *call = data;
	struct cs_spire_failure failure;
	struct cs_spire_item *items = NULL;
	size_t n = 0;
	if (call->server->closing)
		goto out;
	if (status->code != CS_GRPC_OK) {
		failure_of(status, names[call->what], &failure);
	} else if (!(items = calloc(call->n + 1, sizeof(*items)))) {
		protocol_failure(&failure, "no memory for its answer");
	} else if ((n = read_items(call, reply, items)) != call->n) {
		protocol_failure(&failure, "its answer has another number of results than was asked");
	} else {
		call->on_items(call->data, NULL, items, n);
		goto out;
	}
	call->on_items(call->data, &failure, NULL, 0);
out:
	free(items);
	call_free(call);
}

static int send_items(struct cs_spire_server *s, const struct call *template, const char *method,
	const ProtobufCMessage *request, struct cs_error *e)
{
	struct call *call = malloc(sizeof(*call));
	if (!call)
		return cs_error_set(e, -ENOMEM, "out of memory");
	*call = *template;
	call->server = s;
	int r = cs_grpc_unary(s->channel, &ENTRY, method, request, &s->call, on_reply, call, NULL, e);
	if (r < 0)
		free(call);
	return r;
}

int cs_spire_server_create(struct cs_spire_server *s, cs_spire_entry **entries, size_t n, cs_spire_on_items *on_items,
	void *data, struct cs_error *e)
{
	Spire__Api__Server__Entry__V1__BatchCreateEntryRequest request =
		SPIRE__API__SERVER__ENTRY__V1__BATCH_CREATE_ENTRY_REQUEST__INIT;
	request.entries = entries;
	request.n_entries = n;
	const struct call call = {.what = CREATE, .on_items = on_items, .data = data, .n = n};
	return send_items(s, &call, "BatchCreateEntry", &request.base, e);
}

int cs_spire_server_update(struct cs_spire_server *s, cs_spire_entry **entries, size_t n, cs_spire_entry_mask *mask,
	cs_spire_on_items *on_items, void *data, struct cs_error *e)
{
	Spire__Api__Server__Entry__V1__BatchUpdateEntryRequest request =
		SPIRE__API__SERVER__ENTRY__V1__BATCH_UPDATE_ENTRY_REQUEST__INIT;
	request.entries = entries;
	request.n_entries = n;
	request.input_mask = mask;
	const struct call call = {.what = UPDATE, .on_items = on_items, .data = data, .n = n};
	return send_items(s, &call, "BatchUpdateEntry", &request.base, e);
}

int cs_spire_server_delete(
	struct cs_spire_server *s, char **ids, size_t n, cs_spire_on_items *on_items, void *data, struct cs_error *e)
{
	Spire__Api__Server__Entry__V1__BatchDeleteEntryRequest request =
		SPIRE__API__SERVER__ENTRY__V1__BATCH_DELETE_ENTRY_REQUEST__INIT;
	request.ids = ids;
	request.n_ids = n;
	const struct call call = {.what = DELETE, .on_items = on_items, .data = data, .n = n};
	return send_items(s, &call, "BatchDeleteEntry", &request.base, e);
}

/* ---- lists ---- */

static int ask_page(struct call *call, struct cs_error *e);

static void list_done(struct call *call, const struct cs_spire_failure *failure)
{
	call->list.done(call->list.data, failure);
	call_free(call);
}

struct page {
	void *const *items;
	size_t n;
	const char *next;
};

static struct page page_of(enum cs_spire_list kind, const ProtobufCMessage *reply)
{
	if (kind == CS_SPIRE_ENTRIES) {
		const Spire__Api__Server__Entry__V1__ListEntriesResponse *in = (const void *)reply;
		return (struct page){(void *const *)in->entries, in->n_entries, in->next_page_token};
	}
	if (kind == CS_SPIRE_AGENTS) {
		const Spire__Api__Server__Agent__V1__ListAgentsResponse *in = (const void *)reply;
		return (struct page){(void *const *)in->agents, in->n_agents, in->next_page_token};
	}
	if (kind == CS_SPIRE_BUNDLES) {
		const Spire__Api__Server__Bundle__V1__ListFederatedBundlesResponse *in = (const void *)reply;
		return (struct page){(void *const *)in->bundles, in->n_bundles, in->next_page_token};
	}
	const Spire__Api__Server__Trustdomain__V1__ListFederationRelationshipsResponse *in = (const void *)reply;
	return (struct page){
		(void *const *)in->federation_relationships, in->n_federation_relationships, in->next_page_token};
}

static void on_page(const struct cs_grpc_status *status, const ProtobufCMessage *reply, void *data)
{
	struct call *call = data;
	struct cs_spire_failure failure;
	struct cs_error e;
	if (call->server->closing) {
		call_free(call);
		return;
	}
	if (status->code != CS_GRPC_OK) {
		failure_of(status, "a list", &failure);
		list_done(call, &failure);
		return;
	}
	struct page page = page_of(call->kind, reply);
	call->list.page(call->list.data, page.items, page.n);
	if (!*page.next) {
		list_done(call, NULL);
		return;
	}
	if (call->token && strcmp(call->token, page.next) == 0) {
		protocol_failure(&failure, "the next page of a list is the same page again");
		list_done(call, &failure);
		return;
	}
	if (++call->n >= CS_SPIRE_LIST_PAGES_MAX) {
		protocol_failure(&failure, "a list does not end (CS_SPIRE_LIST_PAGES_MAX)");
		list_done(call, &failure);
		return;
	}
	free(call->token);
	call->token = strdup(page.next);
	if (!call->token || ask_page(call, &e) < 0) {
		protocol_failure(&failure, call->token ? e.text : "no memory for a list");
		list_done(call, &failure);
	}
}

static int ask(struct call *call, const ProtobufCServiceDescriptor *service, const char *method,
	const ProtobufCMessage *request, struct cs_error *e)
{
	return cs_grpc_unary(
		call->server->channel, service, method, request, &call->server->call, on_page, call, NULL, e);
}

static int ask_bundles(struct call *call, char *token, struct cs_error *e)
{
	Spire__Api__Server__Bundle__V1__ListFederatedBundlesRequest request =
		SPIRE__API__SERVER__BUNDLE__V1__LIST_FEDERATED_BUNDLES_REQUEST__INIT;
	Spire__Api__Types__BundleMask mask = SPIRE__API__TYPES__BUNDLE_MASK__INIT;
	mask.refresh_hint = mask.sequence_number = true;
	request.output_mask = &mask;
	request.page_size = CS_SPIRE_LIST_PAGE;
	request.page_token = token;
	return ask(call, &BUNDLE, "ListFederatedBundles", &request.base, e);
}

static int ask_federation(struct call *call, char *token, struct cs_error *e)
{
	Spire__Api__Server__Trustdomain__V1__ListFederationRelationshipsRequest request =
		SPIRE__API__SERVER__TRUSTDOMAIN__V1__LIST_FEDERATION_RELATIONSHIPS_REQUEST__INIT;
	Spire__Api__Types__FederationRelationshipMask mask = SPIRE__API__TYPES__FEDERATION_RELATIONSHIP_MASK__INIT;
	mask.bundle_endpoint_url = mask.bundle_endpoint_profile = true;
	request.output_mask = &mask;
	request.page_size = CS_SPIRE_LIST_PAGE;
	request.page_token = token;
	return ask(call, &FEDERATION, "ListFederationRelationships", &request.base, e);
}

static int ask_page(struct call *call, struct cs_error *e)
{
	Spire__Api__Server__Entry__V1__ListEntriesRequest entries =
		SPIRE__API__SERVER__ENTRY__V1__LIST_ENTRIES_REQUEST__INIT;
	Spire__Api__Server__Agent__V1__ListAgentsRequest agents =
		SPIRE__API__SERVER__AGENT__V1__LIST_AGENTS_REQUEST__INIT;
	char *token = call->token ? call->token : (char *)protobuf_c_empty_string;
	switch (call->kind) {
	case CS_SPIRE_ENTRIES:
		entries.page_size = CS_SPIRE_LIST_PAGE;
		entries.page_token = token;
		return ask(call, &ENTRY, "ListEntries", &entries.base, e);
	case CS_SPIRE_AGENTS:
		agents.page_size = CS_SPIRE_LIST_PAGE;
		agents.page_token = token;
		return ask(call, &AGENT, "ListAgents", &agents.base, e);
	case CS_SPIRE_BUNDLES:
		return ask_bundles(call, token, e);
	case CS_SPIRE_FEDERATION:
		return ask_federation(call, token, e);
	}
	return cs_error_set(e, -EINVAL, "no such list");
}

int cs_spire_server_list(struct cs_spire_server *s, enum cs_spire_list kind, const struct cs_spire_list_events *events,
	struct cs_error *e)
{
	struct call *call = calloc(1, sizeof(*call));
	if (!call)
		return cs_error_set(e, -ENOMEM, "out of memory");
	*call = (struct call){.server = s, .what = LIST, .kind = kind, .list = *events};
	int r = ask_page(call, e);
	if (r < 0)
		call_free(call);
	return r;
}

/* ---- the own SVID ---- */

static void own_begin(void *data)
{
	struct cs_spire_server *s = data;
	s->own_seen = false;
	cs_error_reason(&s->own_why, -ENOENT, CS_R_NO_LOCAL_SVID,
		"no registration entry of SPIRE for %.400s matches this process", s->own_id);
}

static void own_svid(void *data, const struct cs_spire_own *own)
{
	struct cs_spire_server *s = data;
	bool had = cs_spire_server_tls_not_after_unix_s(s->tls) != 0;
	if (strcmp(own->chain.id.text, s->own_id) != 0 ||
		(s->own_seen && own->chain.not_after_unix_s <= s->own_until_unix_s))
		return;
	if (cs_spire_server_tls_set(s->tls, own, &s->own_why) < 0)
		return;
	s->own_seen = true;
	s->own_until_unix_s = own->chain.not_after_unix_s;
	if (!had) /* nobody waits for the end of a backoff that was about this */
		cs_grpc_channel_reset(s->channel);
}

static void own_bad(void *data, const char *spiffe_id, const struct cs_error *why)
{
	struct cs_spire_server *s = data;
	if (strcmp(spiffe_id, s->own_id) == 0)
		s->own_why = *why;
}

/* Said, and soon: by the next connection, which fails for it. */
static void no_own_svid(struct cs_spire_server *s, const struct cs_error *why)
{
	cs_spire_server_tls_clear(s->tls, why);
	if (!cs_spire_server_is_ready(s))
		cs_grpc_channel_reset(s->channel);
}

static void own_end(void *data)
{
	struct cs_spire_server *s = data;
	if (!s->own_seen)
		no_own_svid(s, &s->own_why);
}

/* What was issued stays until it expires. */
static void own_trouble(void *data, const struct cs_error *why)
{
	struct cs_spire_server *s = data;
	struct cs_error e = *why;
	if (cs_spire_server_tls_not_after_unix_s(s->tls) != 0)
		return;
	cs_error_prefix(&e, "SPIRE's agent gives no own SVID");
	no_own_svid(s, &e);
}

static int start_workload(struct cs_spire_server *s, const char *agent_socket, struct cs_error *e)
{
	const struct cs_spire_workload_events events = {.begin = own_begin,
		.svid = own_svid,
		.bad = own_bad,
		.end = own_end,
		.trouble = own_trouble,
		.data = s};
	return cs_spire_workload_new(s->loop, agent_socket, CS_SPIRE_OWN_SILENT_MS, &events, &s->workload, e);
}

/* ---- life ---- */

static void on_channel(
	struct cs_grpc_channel *channel, enum cs_grpc_state state, const struct cs_error *error, void *data)
{
	struct cs_spire_server *s = data;
	struct cs_error e;
	(void)channel;
	if (s->closing)
		return;
	if (state == CS_GRPC_READY) {
		tell(s, NULL);
	} else if (state == CS_GRPC_BACKOFF) {
		cs_error_reason(&e, error->code, error->reason, "SPIRE's server is away: %.500s", error->text);
		tell(s, &e);
	}
}

static void abandoned(void *data)
{
	cs_spire_server_free(data);
}

int cs_spire_server_new(struct cs_loop *loop, const struct cs_spire_server_options *options,
	struct cs_spire_server **ret, struct cs_error *e)
{
	bool tcp = strncmp(options->target, "unix:", strlen("unix:")) != 0;
	struct cs_spire_server *s = calloc(1, sizeof(*s));
	if (!s)
		return cs_error_set(e, -ENOMEM, "out of memory");
	*s = (struct cs_spire_server){.loop = loop,
		.on_state = options->on_state,
		.data = options->data,
		.call = {.timeout_ms = options->call_ms ? options->call_ms : CS_SPIRE_CALL_MS}};
	int r = 0;
	if (tcp && !(s->own_id = strdup(options->own_id)))
		r = cs_error_set(e, -ENOMEM, "out of memory");
	if (r == 0 && tcp)
		r = cs_spire_server_tls_new(options->trust_domain, loop->clock, &s->tls, e);
	const struct cs_grpc_channel_options channel = {.target = options->target,
		.tls = tcp && s->tls ? cs_spire_server_tls_grpc(s->tls) : NULL,
		.limits = {.message_max = CS_SPIRE_SERVER_MESSAGE,
			.unpack_max = CS_SPIRE_SERVER_UNPACKED,
			.calls_max = CS_SPIRE_SERVER_CALLS_MAX},
		.keep = true,
		.on_state = on_channel,
		.data = s};
	if (r == 0)
		r = cs_grpc_channel_new(loop, &channel, &s->channel, e);
	if (r == 0 && tcp && (r = start_workload(s, options->agent_socket, e)) < 0) {
		s->closing = true;
		cs_grpc_channel_close(s->channel, abandoned, s);
		return r;
	}
	if (r < 0)
		cs_spire_server_free(s);
	else
		*ret = s;
	return r;
}

bool cs_spire_server_is_ready(const struct cs_spire_server *s)
{
	return cs_grpc_channel_state(s->channel) == CS_GRPC_READY;
}

uint64_t cs_spire_server_connections(const struct cs_spire_server *s)
{
	return cs_grpc_channel_connection(s->channel);
}

int64_t cs_spire_server_svid_not_after_unix_s(const struct cs_spire_server *s)
{
	return s->tls ? cs_spire_server_tls_not_after_unix_s(s->tls) : 0;
}

void cs_spire_server_close(struct cs_spire_server *s)
{
	if (!s || s->closing)
		return;
	s->closing = true;
	cs_spire_workload_close(s->workload);
	cs_grpc_channel_close(s->channel, NULL, NULL);
}

void cs_spire_server_free(struct cs_spire_server *s)
{
	if (!s)
		return;
	cs_spire_workload_free(s->workload);
	cs_spire_server_tls_free(s->tls);
	free(s->own_id);
	free(s);
}

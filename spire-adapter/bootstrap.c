#include "bootstrap.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "instance.h"
#include "loop.h"
#include "mem.h"
#include "options.h"
#include "settings.h"
#include "spiffe_id.h"

#define SERVER_SOCKET "/run/spire/server/private/api.sock" /* as the registrar's spire.server */
#define BATCH         500
#define TTL_MAX_MS    (30 * INT64_C(86400000))

/* ---- the command line ---- */

enum option {
	PRINT,
	CHECK,
	DOMAIN,
	NODE,
	CLUSTER_NODE,
	PARENT,
	AGENT_SELECTOR,
	ADAPTER_SELECTOR,
	REGISTRAR_SELECTOR,
	TTL,
	AT_SOCKET,
	AGENT_CONFIG,
	SERVER_CONFIG,
	FEDERATES_WITH,
	IDENTITIES,
	MARK,
	OUTPUT,
	HELP,
	NOPTIONS
};

static const struct cs_option options[NOPTIONS] = {
	[PRINT] = {.name = "print",
		.help = "Print spire-server's commands, and ask nobody; with -o json what its 'entry create -data -' "
			"takes"},
	[CHECK] = {.name = "check", .help = "Change nothing; say what is not as Countersign needs it"},
	[DOMAIN] = {.name = "trust-domain",
		.arg = "NAME",
		.help = "The trust domain of SPIRE's server",
		.required = true},
	[NODE] = {.name = "node",
		.arg = "NAME",
		.many = true,
		.help = "A node, by its node.name; at least one, unless --check"},
	[CLUSTER_NODE] = {.name = "cluster-node",
		.arg = "NAME",
		.many = true,
		.help = "One of the nodes where identityd's cluster role and the registrar run"},
	[PARENT] = {.name = "parent",
		.arg = "TEMPLATE",
		.help = "SPIFFE ID or path of a node's agent or its alias; default /node/{node}"},
	[AGENT_SELECTOR] = {.name = "agent-selector",
		.arg = "TEMPLATE",
		.help = "A selector that SPIRE gives the node's agent, for example k8s_psat:agent_node_name:{node}: "
			"makes the alias "
			"--parent as well"},
	[ADAPTER_SELECTOR] = {.name = "adapter-selector",
		.arg = "TYPE:VALUE",
		.many = true,
		.help = "What SPIRE's agent sees of the adapter's process; default unix:path: and the installed "
			"program"},
	[REGISTRAR_SELECTOR] = {.name = "registrar-selector",
		.arg = "TYPE:VALUE",
		.many = true,
		.help = "The same of the registrar's process"},
	[TTL] = {.name = "ttl", .arg = "DURATION", .help = "Life of these SVIDs; default: the server's"},
	[AT_SOCKET] = {.name = "server-socket",
		.arg = "PATH",
		.help = "The Unix socket of SPIRE's server; default " SERVER_SOCKET},
	[AGENT_CONFIG] = {.name = "agent-config",
		.arg = "FILE",
		.many = true,
		.help = "With --check: look at this configuration of an agent too"},
	[SERVER_CONFIG] = {.name = "server-config",
		.arg = "FILE",
		.help = "With --check: look at the server's configuration too"},
	[FEDERATES_WITH] = {.name = "federates-with",
		.arg = "NAME",
		.many = true,
		.help = "With --check: a trust domain that identities shall federate with"},
	[IDENTITIES] = {.name = "identities",
		.arg = "PREFIX",
		.help = "With --check: the registrar's spiffe_id_prefix; default spiffe://NAME/identity/"},
	[MARK] = {.name = "mark", .arg = "TEXT", .help = "With --check: the registrar's mark; default countersign"},
	[OUTPUT] = {.name = "output", .letter = 'o', .arg = "FORMAT", .help = "table (default) or json"},
	[HELP] = {.name = "help", .letter = 'h', .help = "Show this and end"},
};

static void help(FILE *out)
{
	fputs("countersign bootstrap spire: Make the SPIRE entries that Countersign itself needs, or check an "
	      "installation.\n"
	      "\n"
	      "Usage: countersign bootstrap spire [--print|--check] --trust-domain NAME --node NAME... [OPTION...]\n"
	      "\n"
	      "Per node it makes an entry for the adapter (the ID that authorized_delegates of SPIRE's agent must "
	      "have) and\n"
	      "one for the node itself; per --cluster-node one for identityd's cluster role, and the registrar's, "
	      "which is an\n"
	      "admin of SPIRE's server. What is there already is left alone. Entries of workloads are the registrar's "
	      "work.\n"
	      "It speaks to SPIRE's server over its Unix socket, so it runs where the server runs; --print runs "
	      "anywhere.\n"
	      "\n"
	      "Options:\n",
		out);
	cs_options_help(options, NOPTIONS, out);
	fputs("\nExamples:\n"
	      "  countersign bootstrap spire --trust-domain example.org --node n1 --node n2 --cluster-node n1\n"
	      "  countersign bootstrap spire --print --trust-domain example.org --node n1 --cluster-node n1\n"
	      "  countersign bootstrap spire --check --trust-domain example.org --node n1 --agent-config "
	      "/etc/spire/agent.conf\n"
	      "  countersign bootstrap spire --trust-domain example.org --node n1 --adapter-selector "
	      "unix:user:countersign\n"
	      "  countersign bootstrap spire --trust-domain example.org --node n1 --agent-selector "
	      "k8s_psat:agent_node_name:{node}\n"
	      "\nThe same as countersign-registrar --bootstrap-spire.\n"
	      "\nExit codes: 0 fine, 1 failure, 2 wrong usage, 3 refused or not found, 4 not yet (--wait).\n"
	      "Here 1 is also a finding of --check, and 3 and 4 do not occur.\n",
		out);
}

static int push(struct cs_bootstrap_words *words, const char *word, size_t max, const char *option, struct cs_error *e)
{
	if (words->n == max)
		return cs_error_set(e, -E2BIG, "more than %zu times --%s", max, option);
	words->items = cs_xrealloc(words->items, words->n + 1, sizeof(*words->items));
	words->items[words->n++] = word;
	return 0;
}

static int take_mode(struct cs_bootstrap *b, enum cs_bootstrap_mode mode, struct cs_error *e)
{
	if (b->mode != CS_BOOTSTRAP_MAKE && b->mode != mode)
		return cs_error_set(e, -EINVAL, "--print and --check are two things: one of them");
	b->mode = mode;
	return 0;
}

static int take_ttl(struct cs_bootstrap *b, const char *value, struct cs_error *e)
{
	int64_t ms;
	if (cs_duration_parse(value, &ms, e) < 0)
		return cs_error_prefix(e, "--ttl");
	if (ms < 1000 || ms > TTL_MAX_MS)
		return cs_error_set(e, -EINVAL, "--ttl %s: from 1s to 30d", value);
	b->ttl_s = ms / 1000;
	return 0;
}

/* Of those that are a text and may be given once. */
static const char **single(struct cs_bootstrap *b, enum option option)
{
	switch (option) {
	case DOMAIN:
		return &b->trust_domain;
	case PARENT:
		return &b->parent;
	case AGENT_SELECTOR:
		return &b->agent_selector;
	case AT_SOCKET:
		return &b->server_socket;
	case SERVER_CONFIG:
		return &b->server_config;
	case IDENTITIES:
		return &b->identities;
	default:
		return &b->mark;
	}
}

static int take(struct cs_bootstrap *b, enum option option, const char *value, struct cs_error *e)
{
	const char *name = options[option].name;
	switch (option) {
	case PRINT:
		return take_mode(b, CS_BOOTSTRAP_PRINT, e);
	case CHECK:
		return take_mode(b, CS_BOOTSTRAP_CHECK, e);
	case NODE:
		return push(&b->nodes, value, CS_BOOTSTRAP_NODES, name, e);
	case CLUSTER_NODE:
		return push(&b->cluster_nodes, value, CS_BOOTSTRAP_NODES, name, e);
	case ADAPTER_SELECTOR:
		return push(&b->adapter_selectors, value, CS_BOOTSTRAP_SELECTORS, name, e);
	case REGISTRAR_SELECTOR:
		return push(&b->registrar_selectors, value, CS_BOOTSTRAP_SELECTORS, name, e);
	case AGENT_CONFIG:
		return push(&b->agent_configs, value, CS_BOOTSTRAP_NODES, name, e);
	case FEDERATES_WITH:
		return push(&b->federates_with, value, CS_BOOTSTRAP_LIST, name, e);
	case TTL:
		return take_ttl(b, value, e);
	case OUTPUT:
		if (strcmp(value, "json") != 0 && strcmp(value, "table") != 0)
			return cs_error_set(e, -EINVAL, "--output %s: write table or json", value);
		b->json = value[0] == 'j';
		return 0;
	default:
		*single(b, option) = value;
		return 0;
	}
}

/* Selectors as they are where this program is installed: SPIRE's agents tell processes apart by their programs. */
static int default_selectors(struct cs_bootstrap *b, char texts[2][CS_PATH], struct cs_error *e)
{
	static const char *const programs[] = {"countersign-spire-adapter", "countersign-registrar"};
	struct cs_bootstrap_words *words[] = {&b->adapter_selectors, &b->registrar_selectors};
	char self[CS_PATH];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n < 0)
		return cs_error_errno(e, -errno, "read /proc/self/exe");
	self[n] = '\0';
	const char *dir = dirname(self);
	for (size_t i = 0; i < 2; i++) {
		if (words[i]->n)
			continue;
		if ((size_t)snprintf(texts[i], CS_PATH, "unix:path:%s/%s", dir, programs[i]) >= CS_PATH)
			return cs_error_set(e, -ENAMETOOLONG, "the path of this program is too long for a selector");
		int r = push(words[i], texts[i], CS_BOOTSTRAP_SELECTORS, "", e);
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_options(const struct cs_bootstrap *b, struct cs_error *e)
{
	bool checks = b->agent_configs.n || b->server_config || b->federates_with.n || b->identities || b->mark;
	if (!b->trust_domain)
		return cs_error_set(
			e, -EINVAL, "--trust-domain NAME is missing; see countersign bootstrap spire --help");
	if (cs_trust_domain_check(b->trust_domain, strlen(b->trust_domain), e) < 0)
		return cs_error_prefix(e, "--trust-domain");
	if (b->mode != CS_BOOTSTRAP_CHECK && checks)
		return cs_error_set(e, -EINVAL,
			"--agent-config, --server-config, --federates-with, --identities and --mark go with --check");
	if (b->mode != CS_BOOTSTRAP_CHECK && !b->nodes.n)
		return cs_error_set(e, -EINVAL, "--node NAME is missing; see countersign bootstrap spire --help");
	return 0;
}

/* 1: help was asked for and shown. */
static int parse(struct cs_bootstrap *b, int argc, char **argv, struct cs_error *e)
{
	struct cs_options_reader r = {.tables = {options}, .n = {NOPTIONS}, .argc = argc, .argv = argv};
	const struct cs_option *option;
	const char *value;
	int found;
	while ((found = cs_options_next(&r, &option, &value, e)) > 0) {
		if (found == CS_OPTIONS_WORD)
			return cs_error_set(e, -EINVAL, "what is '%s'? see countersign bootstrap spire --help", value);
		if (option == &options[HELP]) {
			help(stdout);
			return 1;
		}
		int rc = take(b, (enum option)(option - options), value, e);
		if (rc < 0)
			return rc;
	}
	return found < 0 ? found : check_options(b, e);
}

/* ---- the server ---- */

struct run {
	const struct cs_bootstrap *b;
	struct cs_wishes wishes;
	struct cs_findings findings;
	struct cs_bootstrap_check *check;
	struct cs_loop loop;
	struct cs_spire_server *server;
	enum cs_spire_list list;
	size_t sent, batch; /* wishes: behind the last that was sent, those in this call */
	bool started;
	struct cs_error error; /* code < 0: it failed */
};

static void end(struct run *run, const struct cs_error *e)
{
	if (e && run->error.code == 0)
		run->error = *e;
	cs_spire_server_close(run->server);
}

static void on_page(void *data, void *const *items, size_t n)
{
	struct run *run = data;
	for (size_t i = 0; i < n; i++) {
		switch (run->list) {
		case CS_SPIRE_ENTRIES:
			cs_wishes_see(&run->wishes, items[i]);
			if (run->check)
				cs_bootstrap_check_entry(run->check, items[i]);
			break;
		case CS_SPIRE_AGENTS:
			cs_bootstrap_check_agent(run->check, items[i]);
			break;
		case CS_SPIRE_BUNDLES:
			cs_bootstrap_check_bundle(run->check, items[i]);
			break;
		case CS_SPIRE_FEDERATION:
			cs_bootstrap_check_federation(run->check, items[i]);
			break;
		}
	}
}

static void make_next(struct run *run);

static void made_one(struct cs_wish *wish, const struct cs_spire_item *item)
{
	struct cs_error e; /* without control characters */
	free(wish->text);
	wish->text = NULL;
	if (item->code == CS_GRPC_OK || (item->code == CS_GRPC_ALREADY_EXISTS && item->entry)) {
		wish->state = item->code == CS_GRPC_OK ? CS_WISH_MADE : CS_WISH_THERE;
		wish->id = item->entry ? cs_xstrdup(item->entry->id) : NULL;
		return;
	}
	cs_error_set(&e, 0, "SPIRE's server: %.600s", item->message);
	wish->state = CS_WISH_FAILED;
	wish->text = cs_xstrdup(e.text);
}

/* items are what became of the missing ones of this batch, in their order. */
static void on_made(void *data, const struct cs_spire_failure *failure, const struct cs_spire_item *items, size_t n)
{
	struct run *run = data;
	size_t done = 0;
	if (failure) {
		end(run, &failure->error);
		return;
	}
	for (size_t i = run->sent - run->batch; i < run->sent && done < n; i++)
		if (run->wishes.items[i].state == CS_WISH_MISSING)
			made_one(&run->wishes.items[i], &items[done++]);
	make_next(run);
}

static void make_next(struct run *run)
{
	cs_spire_entry *entries[BATCH];
	struct cs_error e;
	size_t n = 0, from = run->sent;
	for (; run->sent < run->wishes.n && n < BATCH; run->sent++)
		if (run->wishes.items[run->sent].state == CS_WISH_MISSING)
			entries[n++] = run->wishes.items[run->sent].entry;
	run->batch = run->sent - from;
	if (n == 0)
		end(run, NULL);
	else if (cs_spire_server_create(run->server, entries, n, on_made, run, &e) < 0)
		end(run, &e);
}

static void ask_list(struct run *run);

static void on_listed(void *data, const struct cs_spire_failure *failure)
{
	struct run *run = data;
	if (failure) {
		end(run, &failure->error);
	} else if (!run->check) {
		make_next(run);
	} else if (run->list != CS_SPIRE_FEDERATION) {
		run->list++;
		ask_list(run);
	} else {
		end(run, NULL);
	}
}

static void ask_list(struct run *run)
{
	const struct cs_spire_list_events events = {.page = on_page, .done = on_listed, .data = run};
	struct cs_error e;
	if (cs_spire_server_list(run->server, run->list, &events, &e) < 0)
		end(run, &e);
}

static void on_state(void *data, const struct cs_error *why)
{
	struct run *run = data;
	struct cs_error e;
	if (run->started)
		return; /* the call that is under way hears of it */
	run->started = true;
	if (!why) {
		ask_list(run);
		return;
	}
	cs_error_set(&e, why->code,
		"%s; does spire-server run here, and may this user open its socket? --server-socket says where it is",
		why->text);
	end(run, &e);
}

static int ask_server(struct run *run, struct cs_error *e)
{
	char target[CS_PATH + 8];
	const char *path = run->b->server_socket ? run->b->server_socket : SERVER_SOCKET;
	if (strlen(path) >= CS_PATH)
		return cs_error_set(e, -ENAMETOOLONG, "--server-socket: the path is too long");
	snprintf(target, sizeof(target), "unix:%s", path);
	const struct cs_spire_server_options to = {
		.target = target, .trust_domain = run->b->trust_domain, .on_state = on_state, .data = run};
	int r = cs_loop_init(&run->loop, NULL, e);
	if (r < 0)
		return r;
	r = cs_spire_server_new(&run->loop, &to, &run->server, e);
	cs_loop_run(&run->loop);
	cs_spire_server_free(run->server);
	cs_loop_fini(&run->loop);
	if (r == 0 && run->error.code < 0) {
		*e = run->error;
		r = e->code;
	}
	return r;
}

/* ---- the three modes ---- */

static int make(struct run *run, struct cs_error *e)
{
	int code = CS_BOOTSTRAP_FINE;
	if (ask_server(run, e) < 0)
		return CS_BOOTSTRAP_FAILED;
	cs_wishes_report(&run->wishes, run->b->json);
	for (size_t i = 0; i < run->wishes.n; i++)
		if (run->wishes.items[i].state != CS_WISH_MADE && run->wishes.items[i].state != CS_WISH_THERE)
			code = CS_BOOTSTRAP_FAILED;
	return code;
}

static int check(struct run *run, struct cs_error *e)
{
	const struct cs_bootstrap *b = run->b;
	for (size_t i = 0; i < b->agent_configs.n; i++)
		if (cs_bootstrap_check_agent_config(b, b->agent_configs.items[i], &run->findings, e) < 0)
			return CS_BOOTSTRAP_FAILED;
	if (b->server_config && cs_bootstrap_check_server_config(b, b->server_config, &run->findings, e) < 0)
		return CS_BOOTSTRAP_FAILED;
	run->check = cs_bootstrap_check_new(b, &run->findings);
	if (ask_server(run, e) < 0)
		return CS_BOOTSTRAP_FAILED;
	cs_bootstrap_check_end(run->check, &run->wishes, time(NULL));
	cs_findings_report(&run->findings, b->json);
	return run->findings.n ? CS_BOOTSTRAP_FAILED : CS_BOOTSTRAP_FINE;
}

static int run_mode(const struct cs_bootstrap *b, struct cs_error *e)
{
	struct run run = {.b = b};
	int code = CS_BOOTSTRAP_FINE;
	if (cs_wishes_init(&run.wishes, b, e) < 0)
		return CS_BOOTSTRAP_USAGE;
	if (b->mode == CS_BOOTSTRAP_PRINT)
		cs_wishes_print(&run.wishes, b);
	else
		code = b->mode == CS_BOOTSTRAP_CHECK ? check(&run, e) : make(&run, e);
	if (fflush(stdout) != 0) {
		cs_error_errno(e, -errno, "cannot write the answer");
		code = CS_BOOTSTRAP_FAILED;
	}
	cs_bootstrap_check_free(run.check);
	cs_findings_fini(&run.findings);
	cs_wishes_fini(&run.wishes);
	return code;
}

int cs_bootstrap_main(int argc, char **argv)
{
	struct cs_bootstrap b = {0};
	struct cs_error e = {0};
	char selectors[2][CS_PATH], identities[CS_TRUST_DOMAIN_MAX + 32];
	int code = CS_BOOTSTRAP_USAGE;
	int r = parse(&b, argc, argv, &e);
	if (r == 0 && default_selectors(&b, selectors, &e) == 0) {
		snprintf(identities, sizeof(identities), "spiffe://%s/identity/", b.trust_domain);
		b.parent = b.parent ? b.parent : "/node/{node}";
		b.identities = b.identities ? b.identities : identities;
		b.mark = b.mark ? b.mark : "countersign";
		code = run_mode(&b, &e);
	} else if (r == 1) {
		code = CS_BOOTSTRAP_FINE;
	}
	if (e.text[0])
		fprintf(stderr, "countersign bootstrap spire: %s\n", e.text);
	free(b.nodes.items);
	free(b.cluster_nodes.items);
	free(b.adapter_selectors.items);
	free(b.registrar_selectors.items);
	free(b.agent_configs.items);
	free(b.federates_with.items);
	return code;
}

/* One replica of the cluster role with nothing but its store: commands on stdin, on stdout the answers and every fact as it
 * is told. test_store_property.py kills, stops and misleads several of them and compares what they say.
 *
 *	store_replica sqlite PATH | etcd PREFIX URL...     (environment: STORE_IDS=MIN-MAX STORE_QUARANTINE_MS STORE_NAME)
 *
 *	N claim NODE ENDPOINT LABELS IP    N release NODE ENDPOINT    N keep NODE [ENDPOINT...]    N gc GRACE_MS MAX
 *	N clock MS (the wall clock jumps)  N campaign    N resign
 *
 *	> N ok ...  > N refused REASON  > N error CODE
 *	i ID LABELS SPIFFE_ID INCARNATION   c NODE ENDPOINT ID   t ID          (- before it: gone)
 *	= EPOCH REVISION
 *	! role leads|follows */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "mem.h"
#include "store_etcd.h"
#include "store.h"

#define BATCH_MAX 32
#define WORDS_MAX 64

static int64_t jumped_ms;
static int wake;
static struct cs_store *store;

static int64_t wall_ms(void *data)
{
	(void)data;
	return cs_clock_system.unix_ms(NULL) + jumped_ms;
}

static void on_notify(void *data)
{
	(void)data;
	uint64_t one = 1;
	if (write(wake, &one, sizeof(one)) < 0)
		abort();
}

/* --- what is told --- */

static void on_change(void *data, const struct cs_fact *before, const struct cs_fact *now)
{
	const struct cs_fact *f = now ? now : before;
	const char *sign = now ? "" : "-";
	(void)data;
	switch (f->kind) {
	case CS_FACT_IDENTITY:
		printf("%si %u %s %s %llu\n", sign, f->identity.id, f->identity.labels, f->identity.spiffe_id,
			(unsigned long long)f->identity.incarnation);
		break;
	case CS_FACT_CLAIM:
		printf("%sc %s %s %u\n", sign, f->claim.node, f->claim.endpoint, f->claim.identity);
		break;
	case CS_FACT_RETIRED:
		printf("%st %u\n", sign, f->retired.id);
		break;
	default:
		break;
	}
}

static void on_revision(void *data, uint64_t epoch, uint64_t revision)
{
	(void)data;
	printf("= %llu %llu\n", (unsigned long long)epoch, (unsigned long long)revision);
}

static const struct cs_fact_sink sink = {.change = on_change, .revision = on_revision};

static void tell_role(void)
{
	static int told = -1;
	struct cs_store_state state;
	cs_store_state(store, &state);
	if (told != state.leads)
		printf("! role %s\n", state.leads ? "leads" : "follows");
	told = state.leads;
}

/* --- commands --- */

struct command {
	char *line, *words[WORDS_MAX];
	size_t n;
	struct cs_store_op op;
};

static void split(struct command *c, char *line_take)
{
	char *rest = NULL;
	*c = (struct command){.line = line_take};
	for (char *word = strtok_r(line_take, " ", &rest); word && c->n < WORDS_MAX; word = strtok_r(NULL, " ", &rest))
		c->words[c->n++] = word;
}

/* False: it is no operation on the store. */
static bool make_op(struct command *c)
{
	struct cs_store_op *op = &c->op;
	struct cs_error e;
	const char *what = c->words[1];
	op->claim.node = c->n > 2 ? c->words[2] : "";
	op->claim.endpoint = c->n > 3 ? c->words[3] : "";
	if (strcmp(what, "claim") == 0) {
		op->kind = CS_STORE_CLAIM;
		op->labels = c->words[4];
		op->claim.naddrs = 1;
		if (cs_ip_parse(c->words[5], &op->claim.addrs[0], &e) < 0)
			abort();
	} else if (strcmp(what, "release") == 0) {
		op->kind = CS_STORE_RELEASE;
	} else if (strcmp(what, "keep") == 0) {
		op->kind = CS_STORE_KEEP;
		op->keep = (const char *const *)&c->words[3];
		op->nkeep = c->n - 3;
	} else if (strcmp(what, "gc") == 0) {
		op->kind = CS_STORE_GC;
		op->gc = (struct cs_store_gc){.grace_ms = atoll(c->words[2]), .max = strtoul(c->words[3], NULL, 10)};
	} else
		return false;
	return true;
}

static void other(struct command *c)
{
	struct cs_error e = {0};
	int r = 0;
	if (strcmp(c->words[1], "clock") == 0)
		jumped_ms += atoll(c->words[2]);
	else if (strcmp(c->words[1], "campaign") == 0)
		r = cs_store_campaign(store, getenv("STORE_NAME"), &e);
	else if (strcmp(c->words[1], "resign") == 0)
		cs_store_resign(store);
	else
		abort();
	if (r < 0)
		printf("> %s error %d %s\n", c->words[0], r, e.text);
	else
		printf("> %s ok\n", c->words[0]);
}

static void answer(const struct command *c, int result, const struct cs_error *e)
{
	const struct cs_store_op *op = &c->op;
	if (result < 0)
		printf("> %s error %d %s\n", c->words[0], result, e->text);
	else if (op->result < 0)
		printf("> %s refused %s\n", c->words[0], cs_reason_name(op->error.reason));
	else
		printf("> %s ok %u %llu %d\n", c->words[0], op->identity, (unsigned long long)op->incarnation,
			op->created);
}

/* All that waits is one commit, as in the cluster role. */
static void commit(struct command *commands, size_t n)
{
	struct cs_store_op *ops[BATCH_MAX];
	struct cs_error e = {0};
	uint64_t revision;
	for (size_t i = 0; i < n; i++)
		ops[i] = &commands[i].op;
	int r = n > 0 ? cs_store_commit(store, ops, n, &sink, &revision, &e) : 0;
	for (size_t i = 0; i < n; i++) {
		answer(&commands[i], r, &e);
		cs_store_op_fini(&commands[i].op);
		free(commands[i].line);
	}
}

static void run_lines(char **lines, size_t n)
{
	struct command batch[BATCH_MAX];
	size_t waiting = 0;
	for (size_t i = 0; i < n; i++) {
		split(&batch[waiting], lines[i]);
		if (make_op(&batch[waiting])) {
			waiting++;
		} else {
			other(&batch[waiting]);
			free(batch[waiting].line);
		}
		if (waiting == BATCH_MAX || i + 1 == n) {
			commit(batch, waiting);
			waiting = 0;
		}
	}
}

/* --- the loop --- */

static void poll_store(void)
{
	struct cs_error e = {0};
	static char said[sizeof(e.text)];
	if (cs_store_poll(store, &sink, &e) == 0)
		return;
	if (strcmp(said, e.text) != 0)
		printf("! poll %s\n", e.text);
	memcpy(said, e.text, sizeof(said));
}

/* Whole lines of what is there; false at the end of stdin. */
static bool read_lines(void)
{
	static char buffer[65536];
	static size_t have;
	char *lines[BATCH_MAX * 8];
	size_t n = 0;
	ssize_t got = read(0, buffer + have, sizeof(buffer) - have);
	if (got <= 0)
		return false;
	have += (size_t)got;
	char *at = buffer, *end;
	while (n < sizeof(lines) / sizeof(lines[0]) && (end = memchr(at, '\n', have - (size_t)(at - buffer)))) {
		*end = '\0';
		lines[n++] = cs_xstrdup(at);
		at = end + 1;
	}
	have -= (size_t)(at - buffer);
	memmove(buffer, at, have);
	run_lines(lines, n);
	return true;
}

static void open_store(int argc, char **argv)
{
	static struct cs_clock clock_of_test;
	const char *ids = getenv("STORE_IDS"), *quarantine = getenv("STORE_QUARANTINE_MS");
	struct cs_etcd_config etcd = {.lease_ms = 2000, .timeout_ms = 2000};
	struct cs_error e = {0};
	clock_of_test = cs_clock_system;
	clock_of_test.unix_ms = wall_ms;
	struct cs_store_config config = {.path = argv[2],
		.trust_domain = "example.org",
		.spiffe_id_template = "spiffe://example.org/identity/{id}",
		.id_quarantine_ms = quarantine ? atoll(quarantine) : 0,
		.clock = &clock_of_test,
		.notify = on_notify};
	if (ids && sscanf(ids, "%u-%u", &config.id_min, &config.id_max) != 2)
		abort();
	if (strcmp(argv[1], "etcd") == 0) {
		etcd.prefix = argv[2];
		etcd.client.endpoints = (const char *const *)argv + 3;
		etcd.client.nendpoints = (size_t)argc - 3;
		config.etcd = &etcd;
	}
	while (cs_store_open(&config, &store, &e) < 0) {
		if (!config.etcd || (e.code != -ETIMEDOUT && e.code != -EHOSTUNREACH)) {
			fprintf(stderr, "%s\n", e.text);
			exit(1);
		}
		printf("! open %s\n", e.text);
		fflush(stdout);
		usleep(100000);
	}
	if (cs_store_load(store, &sink, &e) < 0 || cs_store_campaign(store, getenv("STORE_NAME"), &e) < 0) {
		fprintf(stderr, "%s\n", e.text);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	bool more = true;
	if (argc < 3)
		return 2;
	wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	open_store(argc, argv);
	while (more) {
		uint64_t times;
		tell_role();
		fflush(stdout);
		struct pollfd fds[] = {{.fd = 0, .events = POLLIN}, {.fd = wake, .events = POLLIN}};
		if (poll(fds, 2, 1000) < 0)
			return 1;
		if (read(wake, &times, sizeof(times)) > 0 || !fds[0].revents)
			poll_store();
		if (fds[0].revents)
			more = read_lines();
	}
	cs_store_close(store);
	return 0;
}

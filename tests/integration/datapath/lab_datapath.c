/* The datapath without its daemon: loads the real programs through authmap/, and does what it is told, a command per line
 * on stdin, a reply per line on stdout ("ok …" or "error …"); what happens by itself comes as lines that begin with
 * "event". Plays the part of the monitor in the tests, and nothing more. */
#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "attach.h"
#include "datapath.h"
#include "hold.h"
#include "log.h"
#include "loop.h"

#define WORDS 24

static struct lab {
	struct cs_loop loop;
	struct cs_datapath *dp;
	struct cs_attach *attach;
	struct cs_hold *hold;
	struct cs_timer second;
	uv_pipe_t in;
	bool alive;
	/* What to do at a miss: nothing, or an entry of so many ms, or a refusal. */
	enum { ANSWER_NONE, ANSWER_YES, ANSWER_NO } answer;
	uint64_t answer_flags;
	char buffer[65536];
	char line[4096];
	size_t line_len;
} lab;

static void say(const char *kind, const char *text)
{
	printf("%s %s\n", kind, text);
	fflush(stdout);
}

static int family_of(const char *ip)
{
	return strchr(ip, ':') ? 6 : 4;
}

static int parse_ip(const char *text, uint8_t out[16], struct cs_error *e)
{
	memset(out, 0, 16);
	if (inet_pton(family_of(text) == 6 ? AF_INET6 : AF_INET, text, out) != 1)
		return cs_error_set(e, -1, "'%s' is no address", text);
	return 0;
}

static struct cs_auth_key key_of(char **w)
{
	return (struct cs_auth_key){.local = (uint32_t)atoi(w[0]),
		.remote = (uint32_t)atoi(w[1]),
		.node = (uint16_t)atoi(w[2]),
		.type = CS_AUTH_SPIRE};
}

static uint64_t entry_of(int64_t ms, uint64_t flags)
{
	return (uint64_t)((int64_t)cs_datapath_now_ns() + ms * 1000000) | flags;
}

/* Commands: words after the name, count checked; text is the reply. */

#define TEXT 8192
typedef int (*command_fn)(char **w, int n, char *text, struct cs_error *e);

/* endpoint IFNAME IDENTITY FLAGS FROM_ENDPOINT FROM_OTHER TO_ENDPOINT TO_OTHER IP... */
static int do_endpoint(char **w, int n, char *text, struct cs_error *e)
{
	struct cs_endpoint ep = {.identity = (uint32_t)atoi(w[1]), .flags = (uint32_t)atoi(w[2])};
	(void)text;
	for (int i = 0; i < 4; i++)
		ep.verdict[i / 2][i % 2 ? CS_PEER_OTHER : CS_PEER_ENDPOINT] = (uint8_t)atoi(w[3 + i]);
	for (int i = 7; i < n; i++) {
		uint8_t ip[16];
		if (parse_ip(w[i], ip, e) < 0)
			return -1;
		if (family_of(w[i]) == 4)
			memcpy(&ep.own4_be32[ep.n4++ % CS_OWN], ip, 4);
		else
			memcpy(ep.own6[ep.n6++ % CS_OWN], ip, 16);
	}
	return cs_datapath_endpoint_put(lab.dp, if_nametoindex(w[0]), &ep, e);
}

static int do_unendpoint(char **w, int n, char *text, struct cs_error *e)
{
	uint32_t ifindex = if_nametoindex(w[0]);
	(void)n;
	(void)text;
	cs_hold_forget_interface(lab.hold, ifindex, CS_R_NO_ENDPOINT);
	return cs_datapath_endpoint_del(lab.dp, ifindex, e);
}

/* addr IP IDENTITY NODE FLAGS, prefix IP/BITS IDENTITY FLAGS */
static int do_addr(char **w, int n, char *text, struct cs_error *e)
{
	uint8_t ip[16];
	struct cs_addr addr = {.identity = (uint32_t)strtoul(w[1], NULL, 10),
		.node = (uint16_t)atoi(w[2]),
		.flags = (uint16_t)atoi(w[3])};
	(void)n;
	(void)text;
	if (parse_ip(w[0], ip, e) < 0)
		return -1;
	return cs_datapath_addr_put(lab.dp, family_of(w[0]), ip, &addr, e);
}

static int do_prefix(char **w, int n, char *text, struct cs_error *e)
{
	uint8_t ip[16];
	struct cs_addr addr = {.identity = (uint32_t)strtoul(w[1], NULL, 10), .flags = (uint16_t)atoi(w[2])};
	char *bits = strchr(w[0], '/');
	(void)n;
	(void)text;
	if (!bits)
		return cs_error_set(e, -1, "'%s' is no prefix", w[0]);
	*bits++ = '\0';
	if (parse_ip(w[0], ip, e) < 0)
		return -1;
	return cs_datapath_prefix_put(lab.dp, family_of(w[0]), ip, (uint32_t)atoi(bits), &addr, e);
}

/* policy LOCAL REMOTE FROM TO */
static int do_policy(char **w, int n, char *text, struct cs_error *e)
{
	struct cs_policy_key key = {.local = (uint32_t)atoi(w[0]), .remote = (uint32_t)strtoul(w[1], NULL, 10)};
	struct cs_policy row = {.verdict = {(uint8_t)atoi(w[2]), (uint8_t)atoi(w[3])}};
	(void)n;
	(void)text;
	return cs_datapath_policy_put(lab.dp, &key, &row, e);
}

static int do_unpolicy(char **w, int n, char *text, struct cs_error *e)
{
	struct cs_policy_key key = {.local = (uint32_t)atoi(w[0]), .remote = (uint32_t)strtoul(w[1], NULL, 10)};
	(void)n;
	(void)text;
	return cs_datapath_policy_del(lab.dp, &key, e);
}

/* auth LOCAL REMOTE NODE MS FLAGS: without the hold; release: with it */
static int do_auth(char **w, int n, char *text, struct cs_error *e)
{
	struct cs_auth_key key = key_of(w);
	(void)n;
	(void)text;
	return cs_datapath_auth_put(lab.dp, &key, entry_of(atoll(w[3]), strtoull(w[4], NULL, 0)), e);
}

static int do_release(char **w, int n, char *text, struct cs_error *e)
{
	struct cs_auth_key key = key_of(w);
	(void)n;
	(void)text;
	return cs_hold_release(lab.hold, &key, entry_of(atoll(w[3]), strtoull(w[4], NULL, 0)), e);
}

static int do_unauth(char **w, int n, char *text, struct cs_error *e)
{
	struct cs_auth_key key = key_of(w);
	(void)n;
	(void)text;
	cs_hold_forget(lab.hold, &key, CS_R_POLICY_NO_LONGER_ASKS);
	return cs_datapath_auth_del(lab.dp, &key, e);
}

/* refuse LOCAL REMOTE NODE REASON */
static int do_refuse(char **w, int n, char *text, struct cs_error *e)
{
	struct cs_auth_key key = key_of(w);
	(void)n;
	(void)e;
	snprintf(text, TEXT, "%d",
		(int)cs_hold_refuse(lab.hold, &key, (enum cs_reason)cs_reason_parse(w[3]), CS_BACKOFF_MAX_MS));
	return 0;
}

/* answer none | yes [FLAGS] | no */
static int do_answer(char **w, int n, char *text, struct cs_error *e)
{
	(void)text;
	(void)e;
	lab.answer = strcmp(w[0], "yes") == 0 ? ANSWER_YES : strcmp(w[0], "no") == 0 ? ANSWER_NO : ANSWER_NONE;
	lab.answer_flags = n > 1 ? strtoull(w[1], NULL, 0) : 0;
	return 0;
}

static int do_attach(char **w, int n, char *text, struct cs_error *e)
{
	(void)n;
	(void)text;
	return cs_attach_add(lab.attach, if_nametoindex(w[0]), e);
}

static int do_suitable(char **w, int n, char *text, struct cs_error *e)
{
	int r = cs_attach_suitable(if_nametoindex(w[0]), e);
	(void)n;
	(void)text;
	if (r < 0)
		cs_error_prefix(e, "%s", cs_reason_name(e->reason));
	return r;
}

static int do_check(char **w, int n, char *text, struct cs_error *e)
{
	(void)n;
	(void)text;
	(void)e;
	cs_attach_check(lab.attach, if_nametoindex(w[0]), cs_loop_mono_ms(&lab.loop));
	return 0;
}

static int do_state(char **w, int n, char *text, struct cs_error *e)
{
	const char *name = "";
	int reason = cs_attach_state(lab.attach, if_nametoindex(w[0]), &name);
	(void)n;
	if (reason < 0)
		return cs_error_set(e, reason, "%s is not attached", w[0]);
	snprintf(text, TEXT, "%s %s", cs_reason_name((enum cs_reason)reason), name);
	return 0;
}

static int do_detach(char **w, int n, char *text, struct cs_error *e)
{
	(void)w;
	(void)n;
	(void)text;
	return cs_attach_remove_all(lab.attach, e);
}

static int do_unpin(char **w, int n, char *text, struct cs_error *e)
{
	(void)w;
	(void)n;
	(void)text;
	return cs_datapath_unpin(lab.dp, e);
}

static int do_flags(char **w, int n, char *text, struct cs_error *e)
{
	(void)n;
	(void)text;
	(void)e;
	cs_datapath_set_flags(lab.dp, (uint32_t)atoi(w[0]));
	return 0;
}

static int do_alive(char **w, int n, char *text, struct cs_error *e)
{
	(void)n;
	(void)text;
	(void)e;
	lab.alive = atoi(w[0]) != 0;
	cs_datapath_set_alive(lab.dp, lab.alive ? cs_datapath_now_ns() : 0);
	return 0;
}

/* counts: REASON/HOOK=PACKETS..., only what is not zero; "would/" before what audit let pass */
static int do_counts(char **w, int n, char *text, struct cs_error *e)
{
	size_t used = 0;
	(void)w;
	(void)n;
	(void)e;
	for (int i = 0; i < CS_REASON_MAX * 4; i++) {
		struct cs_count c;
		enum cs_reason reason = (enum cs_reason)(i / 4);
		bool would = i / 2 % 2;
		if (cs_datapath_count(lab.dp, reason, would, (enum cs_dir)(i % 2), &c) == 0 && c.packets)
			used += (size_t)snprintf(text + used, TEXT - used, "%s%s/%s=%llu ", would ? "would/" : "",
				cs_reason_name(reason), i % 2 == CS_FROM ? "from" : "to",
				(unsigned long long)c.packets);
	}
	return 0;
}

static int do_stats(char **w, int n, char *text, struct cs_error *e)
{
	const struct cs_hold_stats *s = cs_hold_stats(lab.hold);
	int used = snprintf(text, TEXT,
		"held=%llu released=%llu signals=%llu send-failed=%llu malformed=%llu packets=%zu bytes=%zu pairs=%zu",
		(unsigned long long)s->held, (unsigned long long)s->released, (unsigned long long)s->signals,
		(unsigned long long)s->send_failed, (unsigned long long)s->malformed, s->packets, s->bytes, s->pairs);
	(void)w;
	(void)n;
	(void)e;
	for (int i = 0; i < CS_REASON_MAX; i++)
		if (s->dropped[i])
			used += snprintf(text + used, (size_t)(TEXT - used), " %s=%llu",
				cs_reason_name((enum cs_reason)i), (unsigned long long)s->dropped[i]);
	return 0;
}

static int do_mode(char **w, int n, char *text, struct cs_error *e)
{
	(void)w;
	(void)n;
	(void)e;
	snprintf(text, TEXT, "%s %s %s", cs_attach_mode_name(cs_datapath_attach_mode(lab.dp)),
		cs_csum_mode_name(cs_datapath_csum_mode(lab.dp)), cs_datapath_dir(lab.dp));
	return 0;
}

static const struct command {
	const char *name;
	int words;
	command_fn run;
} commands[] = {{"endpoint", 8, do_endpoint}, {"unendpoint", 1, do_unendpoint}, {"addr", 4, do_addr},
	{"prefix", 3, do_prefix}, {"policy", 4, do_policy}, {"unpolicy", 2, do_unpolicy}, {"auth", 5, do_auth},
	{"release", 5, do_release}, {"unauth", 3, do_unauth}, {"refuse", 4, do_refuse}, {"answer", 1, do_answer},
	{"attach", 1, do_attach}, {"suitable", 1, do_suitable}, {"check", 1, do_check}, {"state", 1, do_state},
	{"detach", 0, do_detach}, {"unpin", 0, do_unpin}, {"flags", 1, do_flags}, {"alive", 1, do_alive},
	{"counts", 0, do_counts}, {"stats", 0, do_stats}, {"mode", 0, do_mode}};

static void run_line(char *line)
{
	char *w[WORDS], *save = NULL, text[TEXT] = "";
	int n = 0;
	struct cs_error e = {0};
	for (char *word = strtok_r(line, " ", &save); word && n < WORDS; word = strtok_r(NULL, " ", &save))
		w[n++] = word;
	if (n == 0)
		return;
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(commands[i].name, w[0]) != 0 || n - 1 < commands[i].words)
			continue;
		if (commands[i].run(w + 1, n - 1, text, &e) < 0)
			say("error", e.text);
		else
			say("ok", text);
		return;
	}
	say("error", "no such command, or too few words");
}

/* Events */

static void on_miss(void *data, const struct cs_auth_key *key, uint32_t ifindex, enum cs_dir dir, bool held)
{
	char text[128];
	struct cs_error e = {0};
	(void)data;
	snprintf(text, sizeof(text), "miss %u %u %u %s %s %u", key->local, key->remote, key->node,
		dir == CS_FROM ? "from" : "to", held ? "held" : "signal", ifindex);
	say("event", text);
	if (lab.answer == ANSWER_YES && cs_hold_release(lab.hold, key, entry_of(60000, lab.answer_flags), &e) < 0)
		say("event", e.text);
	if (lab.answer == ANSWER_NO)
		cs_hold_refuse(lab.hold, key, CS_R_UNTRUSTED, CS_BACKOFF_MAX_MS);
}

static void on_drop(void *data, const struct cs_drop *drop)
{
	char text[192], ip[INET6_ADDRSTRLEN] = "-";
	(void)data;
	if (drop->family)
		inet_ntop(drop->family == 4 ? AF_INET : AF_INET6, drop->addr, ip, sizeof(ip));
	snprintf(text, sizeof(text), "drop %u %u %s %s %s", drop->key.local, drop->key.remote,
		cs_reason_name((enum cs_reason)drop->key.reason), drop->key.dir == CS_FROM ? "from" : "to", ip);
	say("event", text);
}

static void on_change(void *data, uint32_t ifindex, enum cs_reason reason, const char *name)
{
	char text[192], ifname[IF_NAMESIZE] = "?";
	(void)data;
	if_indextoname(ifindex, ifname);
	snprintf(text, sizeof(text), "state %s %s %s", ifname, cs_reason_name(reason), name);
	say("event", text);
}

static void on_second(struct cs_timer *timer)
{
	(void)timer;
	if (lab.alive)
		cs_datapath_set_alive(lab.dp, cs_datapath_now_ns());
	cs_attach_poll(lab.attach, cs_loop_mono_ms(&lab.loop));
}

/* stdin */

static void stop(struct cs_loop *loop, void *data)
{
	(void)loop;
	(void)data;
	uv_close((uv_handle_t *)&lab.in, NULL);
	cs_timer_close(&lab.second, NULL);
	cs_hold_close(lab.hold);
}

static void give_buffer(uv_handle_t *handle, size_t size, uv_buf_t *buf)
{
	(void)handle;
	(void)size;
	*buf = uv_buf_init(lab.buffer, sizeof(lab.buffer));
}

static void on_input(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	(void)stream;
	if (n < 0) {
		cs_loop_stop(&lab.loop);
		return;
	}
	for (ssize_t i = 0; i < n; i++) {
		if (buf->base[i] != '\n') {
			if (lab.line_len < sizeof(lab.line) - 1)
				lab.line[lab.line_len++] = buf->base[i];
			continue;
		}
		lab.line[lab.line_len] = '\0';
		lab.line_len = 0;
		run_line(lab.line);
	}
}

static int start(const struct cs_datapath_config *config, struct cs_error *e)
{
	const struct cs_hold_config hold = {.instance = config->instance, .max_bytes = 16 << 20};
	const struct cs_hold_callbacks callbacks = {.on_miss = on_miss, .on_drop = on_drop};
	lab.dp = cs_datapath_open(config, e);
	if (!lab.dp)
		return -1;
	lab.attach = cs_attach_new(lab.dp, on_change, NULL, e);
	if (!lab.attach || cs_loop_init(&lab.loop, NULL, e) < 0)
		return -1;
	lab.hold = cs_hold_new(&lab.loop, lab.dp, &hold, &callbacks, e);
	if (!lab.hold)
		return -1;
	lab.alive = true;
	cs_datapath_set_flags(lab.dp, CS_NODE_HOLD | CS_NODE_HOST_PASSES);
	cs_datapath_set_alive(lab.dp, cs_datapath_now_ns());
	cs_timer_init(&lab.second, &lab.loop, on_second, NULL);
	cs_timer_start(&lab.second, 1000, 1000);
	uv_pipe_init(&lab.loop.uv, &lab.in, 0);
	uv_pipe_open(&lab.in, STDIN_FILENO);
	uv_read_start((uv_stream_t *)&lab.in, give_buffer, on_input);
	cs_loop_on_stop(&lab.loop, stop, NULL);
	return cs_loop_signals(&lab.loop, e);
}

/* lab_datapath BPFFS INSTANCE ATTACH CSUM [ARRAY_IFINDEX] */
int main(int argc, char **argv)
{
	struct cs_datapath_config config = cs_datapath_defaults();
	struct cs_error e = {0};
	if (argc < 5)
		return 2;
	config.bpffs = argv[1];
	config.instance = argv[2];
	for (int i = CS_ATTACH_AUTO; i <= CS_ATTACH_CLSACT; i++)
		if (strcmp(argv[3], cs_attach_mode_name((enum cs_attach_mode)i)) == 0)
			config.attach = (enum cs_attach_mode)i;
	for (int i = CS_CSUM_AUTO; i <= CS_CSUM_PSEUDO; i++)
		if (strcmp(argv[4], cs_csum_mode_name((enum cs_csum_mode)i)) == 0)
			config.csum = (enum cs_csum_mode)i;
	if (argc > 5)
		config.array_ifindex = (uint32_t)atoi(argv[5]);
	cs_log_init("lab", CS_LOG_INFO, CS_LOG_PLAIN);
	if (start(&config, &e) < 0) {
		say("error", e.text);
		return 1;
	}
	say("ok", "ready");
	cs_loop_run(&lab.loop);
	cs_loop_fini(&lab.loop);
	cs_attach_free(lab.attach);
	cs_datapath_free(lab.dp);
	return 0;
}

/* Our mutual TLS under lib's gRPC, over TCP: who gets in, under which name, and why not. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "certs_files.h"
#include "grpc.h"
#include "loop.h"
#include "tls.h"

/* The machine's clocks, but for the time of day. */
static int64_t unix_ms(void *data)
{
	(void)data;
	return NOW * 1000LL;
}

/* One connection attempt, and what both sides made of it. */
struct attempt {
	struct cs_loop loop;
	struct cs_grpc_server *server;
	struct cs_grpc_channel *channel;
	char server_sees[CS_GRPC_PEER_NAME], client_sees[CS_GRPC_PEER_NAME];
	char server_says[1024], client_says[1024];
	enum cs_reason server_reason, client_reason;
	bool over;
};

static void end(struct attempt *a)
{
	if (a->over)
		return;
	a->over = true;
	cs_grpc_channel_close(a->channel, NULL, NULL);
	cs_grpc_server_close(a->server, 0, NULL, NULL);
}

static void on_connect(struct cs_grpc_conn *conn, void *data)
{
	struct attempt *a = data;
	snprintf(a->server_sees, sizeof(a->server_sees), "%s", cs_grpc_conn_peer(conn));
	if (a->client_sees[0])
		end(a);
}

static void on_refused(const struct cs_grpc_refusal *refusal, void *data)
{
	struct attempt *a = data;
	a->server_reason = refusal->reason;
	snprintf(a->server_says, sizeof(a->server_says), "%s", refusal->text);
	end(a);
}

static void on_state(
	struct cs_grpc_channel *channel, enum cs_grpc_state state, const struct cs_error *error, void *data)
{
	struct attempt *a = data;
	if (state == CS_GRPC_READY) {
		snprintf(a->client_sees, sizeof(a->client_sees), "%s", cs_grpc_channel_peer(channel));
		if (a->server_sees[0])
			end(a);
	}
	if (state == CS_GRPC_BACKOFF && error->reason != CS_R_NONE) {
		a->client_reason = error->reason;
		snprintf(a->client_says, sizeof(a->client_says), "%s", error->text);
		if (a->server_says[0])
			end(a);
	}
}

static void on_timeout(struct cs_timer *timer)
{
	(void)timer;
	fail_msg("nothing happened");
}

static void run(struct attempt *a, const struct cs_grpc_tls *server_tls, const struct cs_grpc_tls *client_tls)
{
	struct cs_error e;
	struct cs_timer timer;
	char target[64];
	memset(a, 0, sizeof(*a));
	const struct cs_grpc_server_options server = {
		.on_connect = on_connect, .data = a, .on_refused = on_refused, .refused_data = a};
	assert_int_equal(cs_loop_init(&a->loop, NULL, &e), 0);
	assert_int_equal(cs_grpc_server_new(&a->loop, &server, &a->server, &e), 0);
	if (cs_grpc_server_listen_tcp(a->server, "127.0.0.1:0", server_tls, &e) < 0)
		fail_msg("%s", e.text);
	snprintf(target, sizeof(target), "127.0.0.1:%u", cs_grpc_server_port(a->server));
	const struct cs_grpc_channel_options client = {
		.target = target, .tls = client_tls, .keep = true, .on_state = on_state, .data = a};
	assert_int_equal(cs_grpc_channel_new(&a->loop, &client, &a->channel, &e), 0);
	cs_timer_init(&timer, &a->loop, on_timeout, NULL);
	cs_timer_start(&timer, 20000, 0);
	uv_unref((uv_handle_t *)&timer.uv);
	cs_loop_run(&a->loop);
	cs_timer_close(&timer, NULL);
	cs_loop_run(&a->loop);
	cs_loop_fini(&a->loop);
}

/* The clock: the machine's, at the tests' time of day. */
static struct cs_clock test_clock;

static struct cs_tls *load(enum cs_tls_role role, const char *who)
{
	struct cs_tls *tls;
	struct cs_error e;
	char chain[64], key[64];
	test_clock = cs_clock_system;
	test_clock.unix_ms = unix_ms;
	snprintf(chain, sizeof(chain), "%s.pem", who);
	snprintf(key, sizeof(key), "%s.key", who);
	const struct cs_tls_files files = {certs_path(chain), certs_path(key), certs_path("bundle.pem")};
	if (cs_tls_new(role, &files, &test_clock, &tls, &e) < 0)
		fail_msg("%s: %s", who, e.text);
	return tls;
}

/* Somebody who shows a certificate of his choice and believes everybody. */
static int believe(X509_STORE_CTX *store, void *data)
{
	(void)store, (void)data;
	return 1;
}

static SSL_CTX *his_context(void *data, struct cs_error *e)
{
	(void)e;
	return data;
}

static int his_peer(const STACK_OF(X509) * chain, char name[CS_GRPC_PEER_NAME], void *data, struct cs_error *e)
{
	(void)chain, (void)data, (void)e;
	strcpy(name, "whoever");
	return 0;
}

static struct cs_grpc_tls somebody(bool server, const char *who)
{
	SSL_CTX *ctx;
	char file[64];
	assert_int_equal(cs_tls_base_ctx(NULL, server, &ctx, NULL), 0);
	SSL_CTX_set_cert_verify_callback(ctx, believe, NULL);
	snprintf(file, sizeof(file), "%s.pem", who);
	assert_int_equal(SSL_CTX_use_certificate_chain_file(ctx, certs_path(file)), 1);
	snprintf(file, sizeof(file), "%s.key", who);
	assert_int_equal(SSL_CTX_use_PrivateKey_file(ctx, certs_path(file), SSL_FILETYPE_PEM), 1);
	return (struct cs_grpc_tls){.context = his_context, .peer = his_peer, .data = ctx};
}

static void names(void **state)
{
	(void)state;
	static const char *const nodes[][2] = {{"node1", "node1"}, {"node2", "node-2.example"}};
	struct cs_tls *server = load(CS_TLS_SERVER, "server");
	for (size_t i = 0; i < 2; i++) {
		struct cs_tls *node = load(CS_TLS_CLIENT, nodes[i][0]);
		struct attempt a;
		run(&a, cs_tls_grpc(server), cs_tls_grpc(node));
		assert_string_equal(a.server_sees, nodes[i][1]);
		assert_string_equal(a.client_sees, "spiffe://test.example/countersign/identityd");
		cs_tls_free(node);
	}
	cs_tls_free(server);
}

static void server_refuses(void **state)
{
	(void)state;
	static const struct {
		const char *who;
		enum cs_reason reason;
	} clients[] = {{"workload", CS_R_SPIFFE_ID_MISMATCH}, {"server", CS_R_SPIFFE_ID_MISMATCH},
		{"foreign", CS_R_UNTRUSTED}};
	struct cs_tls *server = load(CS_TLS_SERVER, "server");
	for (size_t i = 0; i < sizeof(clients) / sizeof(clients[0]); i++) {
		struct cs_grpc_tls client = somebody(false, clients[i].who);
		struct attempt a;
		run(&a, cs_tls_grpc(server), &client);
		assert_string_equal(a.server_sees, "");
		if (a.server_reason != clients[i].reason)
			fail_msg("%s: %s: %s", clients[i].who, cs_reason_name(a.server_reason), a.server_says);
		SSL_CTX_free(client.data);
	}
	cs_tls_free(server);
}

static void client_refuses(void **state)
{
	(void)state;
	static const struct {
		const char *who;
		enum cs_reason reason;
	} servers[] = {{"node1", CS_R_SPIFFE_ID_MISMATCH}, {"foreign", CS_R_UNTRUSTED}};
	struct cs_tls *node = load(CS_TLS_CLIENT, "node1");
	for (size_t i = 0; i < sizeof(servers) / sizeof(servers[0]); i++) {
		struct cs_grpc_tls server = somebody(true, servers[i].who);
		struct attempt a;
		run(&a, &server, cs_tls_grpc(node));
		assert_string_equal(a.client_sees, "");
		if (a.client_reason != servers[i].reason)
			fail_msg("%s: %s: %s", servers[i].who, cs_reason_name(a.client_reason), a.client_says);
		SSL_CTX_free(server.data);
	}
	cs_tls_free(node);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		cmocka_unit_test(server_refuses),
		cmocka_unit_test(client_refuses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

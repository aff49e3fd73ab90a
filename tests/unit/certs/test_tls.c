/* TLS among our own daemons: real handshakes over memory, files made by make_certs.py. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <cmocka.h>
#include "certs_files.h"
#include "tls.h"

static int64_t now_unix_s = NOW;

static int64_t unix_ms(void *data)
{
	(void)data;
	return now_unix_s * 1000;
}
static const struct cs_clock test_clock = {.unix_ms = unix_ms};

static int load(enum cs_tls_role role, const char *who, const char *bundle, struct cs_tls **ret, struct cs_error *e)
{
	char chain[64], key[64];
	snprintf(chain, sizeof(chain), "%s.pem", who);
	snprintf(key, sizeof(key), "%s.key", who);
	const struct cs_tls_files files = {certs_path(chain), certs_path(key), certs_path(bundle)};
	return cs_tls_new(role, &files, &test_clock, ret, e);
}

static struct cs_tls *must_load(enum cs_tls_role role, const char *who, const char *bundle)
{
	struct cs_tls *tls;
	struct cs_error e;
	if (load(role, who, bundle, &tls, &e) < 0)
		fail_msg("%s: %s", who, e.text);
	return tls;
}

/* An SSL_CTX that is not ours: whatever certificate, no checks, so that only the other side can refuse. */
static SSL_CTX *careless(const SSL_METHOD *method, const char *who)
{
	char file[64];
	SSL_CTX *ctx = SSL_CTX_new(method);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, NULL);
	if (who) {
		snprintf(file, sizeof(file), "%s.pem", who);
		assert_int_equal(SSL_CTX_use_certificate_chain_file(ctx, certs_path(file)), 1);
		snprintf(file, sizeof(file), "%s.key", who);
		assert_int_equal(SSL_CTX_use_PrivateKey_file(ctx, certs_path(file), SSL_FILETYPE_PEM), 1);
	}
	return ctx;
}

struct pair {
	SSL *server, *client;
	bool server_done, client_done;
	char why[1024]; /* the first error of either side */
};

static bool step(struct pair *p, SSL *ssl)
{
	ERR_clear_error();
	int r = SSL_do_handshake(ssl);
	if (r == 1)
		return true;
	if (SSL_get_error(ssl, r) != SSL_ERROR_WANT_READ && !p->why[0]) {
		const char *data;
		unsigned long code = ERR_get_error_all(NULL, NULL, NULL, &data, NULL);
		snprintf(p->why, sizeof(p->why), "%s: %s", ERR_reason_error_string(code), data);
	}
	return false;
}

/* True if both sides think that the handshake is complete. */
static bool handshake(struct pair *p, SSL_CTX *server, SSL_CTX *client)
{
	memset(p, 0, sizeof(*p));
	p->server = SSL_new(server);
	p->client = SSL_new(client);
	BIO *up = BIO_new(BIO_s_mem()), *down = BIO_new(BIO_s_mem());
	BIO_set_mem_eof_return(up, -1);
	BIO_set_mem_eof_return(down, -1);
	BIO_up_ref(up);
	BIO_up_ref(down);
	SSL_set_bio(p->server, up, down);
	SSL_set_bio(p->client, down, up);
	SSL_set_accept_state(p->server);
	SSL_set_connect_state(p->client);
	for (int i = 0; i < 10 && !(p->server_done && p->client_done) && !p->why[0]; i++) {
		p->client_done = step(p, p->client);
		p->server_done = step(p, p->server);
	}
	return p->server_done && p->client_done;
}

static void hang_up(struct pair *p)
{
	SSL_free(p->server);
	SSL_free(p->client);
}

static SSL_CTX *ctx_of(const struct cs_tls *tls)
{
	const struct cs_grpc_tls *hooks = cs_tls_grpc(tls);
	struct cs_error e;
	SSL_CTX *ctx = hooks->context(hooks->data, &e);
	assert_non_null(ctx);
	return ctx;
}

static int name_of_peer(const struct cs_tls *tls, SSL *ssl, char name[CS_GRPC_PEER_NAME], struct cs_error *e)
{
	const struct cs_grpc_tls *hooks = cs_tls_grpc(tls);
	/* As the peer sent it: at the server, libssl keeps the leaf apart. */
	STACK_OF(X509) *rest = SSL_get_peer_cert_chain(ssl), *chain = sk_X509_new_null();
	if (SSL_is_server(ssl))
		sk_X509_push(chain, SSL_get0_peer_certificate(ssl));
	for (int i = 0; i < sk_X509_num(rest); i++)
		sk_X509_push(chain, sk_X509_value(rest, i));
	int r = hooks->peer(chain, name, hooks->data, e);
	sk_X509_free(chain);
	return r;
}

static void both_know_each_other(void **state)
{
	(void)state;
	static const struct {
		const char *who, *name;
	} nodes[] = {{"node1", "node1"}, {"node2", "node-2.example" /* by an intermediate */}};
	struct cs_tls *server = must_load(CS_TLS_SERVER, "server", "bundle.pem");
	assert_int_equal(cs_tls_not_after_unix_s(server), NOW + 3600);
	for (size_t i = 0; i < 2; i++) {
		struct cs_tls *node = must_load(CS_TLS_CLIENT, nodes[i].who, "bundle.pem");
		struct pair p;
		struct cs_error e;
		char name[CS_GRPC_PEER_NAME];
		if (!handshake(&p, ctx_of(server), ctx_of(node)))
			fail_msg("%s: %s", nodes[i].who, p.why);
		assert_int_equal(SSL_version(p.client), TLS1_3_VERSION);
		assert_int_equal(name_of_peer(server, p.server, name, &e), 0);
		assert_string_equal(name, nodes[i].name);
		assert_int_equal(name_of_peer(node, p.client, name, &e), 0);
		assert_string_equal(name, "spiffe://test.example/countersign/identityd");
		/* Nothing to resume: no ticket follows. */
		char byte;
		assert_true(SSL_read(p.client, &byte, 1) < 0);
		assert_false(SSL_SESSION_is_resumable(SSL_get_session(p.client)));
		/* The clock goes on after the handshake: the name is not given any more. */
		now_unix_s = NOW + 3600;
		assert_true(name_of_peer(server, p.server, name, &e) < 0);
		assert_int_equal(e.reason, CS_R_SVID_EXPIRED);
		now_unix_s = NOW;
		hang_up(&p);
		cs_tls_free(node);
	}
	cs_tls_free(server);
}

static void server_refuses(void **state)
{
	(void)state;
	static const struct {
		const char *who, *says;
	} clients[] = {
		{"workload", "spiffe-id-mismatch"},
		{"deep-node", "spiffe-id-mismatch"},
		{"server", "spiffe-id-mismatch"},
		{"foreign", "untrusted"}, /* a node of the same name by a foreign authority */
		{NULL, "peer did not return a certificate"},
	};
	struct cs_tls *server = must_load(CS_TLS_SERVER, "server", "bundle.pem");
	for (size_t i = 0; i < sizeof(clients) / sizeof(clients[0]); i++) {
		SSL_CTX *client = careless(TLS_client_method(), clients[i].who);
		struct pair p;
		assert_false(handshake(&p, ctx_of(server), client));
		if (!strstr(p.why, clients[i].says))
			fail_msg("%s: '%s' does not say '%s'", clients[i].who, p.why, clients[i].says);
		hang_up(&p);
		SSL_CTX_free(client);
	}
	char name[CS_GRPC_PEER_NAME];
	struct cs_error e;
	assert_true(cs_tls_grpc(server)->peer(NULL, name, cs_tls_grpc(server)->data, &e) < 0);
	assert_int_equal(e.reason, CS_R_NO_CERTIFICATE);
	/* Its twin: the same careless client with a node's certificate gets in, until that ends. */
	SSL_CTX *client = careless(TLS_client_method(), "node1");
	struct pair p;
	assert_true(handshake(&p, ctx_of(server), client));
	hang_up(&p);
	now_unix_s = NOW + 3600;
	assert_false(handshake(&p, ctx_of(server), client));
	assert_non_null(strstr(p.why, "svid-expired"));
	now_unix_s = NOW;
	hang_up(&p);
	SSL_CTX_free(client);
	cs_tls_free(server);
}

static void client_refuses(void **state)
{
	(void)state;
	static const struct {
		const char *who, *says;
	} servers[] = {{"node1", "spiffe-id-mismatch"}, {"workload", "spiffe-id-mismatch"}, {"foreign", "untrusted"}};
	struct cs_tls *node = must_load(CS_TLS_CLIENT, "node1", "bundle.pem");
	for (size_t i = 0; i < sizeof(servers) / sizeof(servers[0]); i++) {
		SSL_CTX *server = careless(TLS_server_method(), servers[i].who);
		struct pair p;
		assert_false(handshake(&p, server, ctx_of(node)));
		if (!strstr(p.why, servers[i].says))
			fail_msg("%s: '%s' does not say '%s'", servers[i].who, p.why, servers[i].says);
		hang_up(&p);
		SSL_CTX_free(server);
	}
	cs_tls_free(node);
}

/* What is not in the table of algorithms does not come up. */
static void only_tls13(void **state)
{
	(void)state;
	static const struct {
		const char *suites, *groups;
		int version;
		bool works;
	} clients[] = {
		{"TLS_AES_128_GCM_SHA256", "X25519", TLS1_3_VERSION, true},
		{"TLS_AES_256_GCM_SHA384", "P-256", TLS1_3_VERSION, true},
		{"TLS_CHACHA20_POLY1305_SHA256", "X25519", TLS1_3_VERSION, false},
		{"TLS_AES_128_GCM_SHA256", "P-384", TLS1_3_VERSION, false},
		{"TLS_AES_128_GCM_SHA256", "X25519", TLS1_2_VERSION, false},
	};
	struct cs_tls *server = must_load(CS_TLS_SERVER, "server", "bundle.pem");
	for (size_t i = 0; i < sizeof(clients) / sizeof(clients[0]); i++) {
		SSL_CTX *client = careless(TLS_client_method(), "node1");
		struct pair p;
		SSL_CTX_set_ciphersuites(client, clients[i].suites);
		SSL_CTX_set1_groups_list(client, clients[i].groups);
		SSL_CTX_set_max_proto_version(client, clients[i].version);
		if (handshake(&p, ctx_of(server), client) != clients[i].works)
			fail_msg("%s %s %x: %s", clients[i].suites, clients[i].groups, clients[i].version, p.why);
		hang_up(&p);
		SSL_CTX_free(client);
	}
	cs_tls_free(server);
}

/* Files that were written anew: from the next connection on, and one that is under way is not cut. */
static void renewed(void **state)
{
	(void)state;
	struct cs_tls *server = must_load(CS_TLS_SERVER, "server", "bundle.pem");
	struct cs_tls *node = must_load(CS_TLS_CLIENT, "node1", "bundle.pem");
	struct pair before, after;
	struct cs_error e;
	char name[CS_GRPC_PEER_NAME], byte = 'x';
	SSL_CTX *old = ctx_of(server);
	assert_true(handshake(&before, old, ctx_of(node)));
	SSL *under_way = SSL_new(old);
	assert_int_equal(cs_tls_renew_take(server, must_load(CS_TLS_SERVER, "server", "bundle.pem"), &e), 0);
	assert_int_equal(cs_tls_renew_take(node, must_load(CS_TLS_CLIENT, "node1", "bundle.pem"), &e), 0);
	assert_ptr_not_equal(ctx_of(server), old);
	assert_true(handshake(&after, SSL_get_SSL_CTX(under_way), ctx_of(node))); /* its verification still works */
	hang_up(&after);
	assert_true(handshake(&after, ctx_of(server), ctx_of(node)));
	assert_int_equal(name_of_peer(server, after.server, name, &e), 0);
	assert_string_equal(name, "node1");
	assert_int_equal(SSL_write(before.client, &byte, 1), 1);
	assert_int_equal(SSL_read(before.server, &byte, 1), 1);
	SSL_free(under_way);
	hang_up(&before);
	hang_up(&after);
	/* Another node's certificate in the same file is not a renewal. */
	assert_true(cs_tls_renew_take(node, must_load(CS_TLS_CLIENT, "node2", "bundle.pem"), &e) < 0);
	assert_int_equal(e.reason, CS_R_SPIFFE_ID_MISMATCH);
	assert_string_equal(cs_tls_own_name(node), "node1");
	assert_true(handshake(&after, ctx_of(server), ctx_of(node)));
	hang_up(&after);
	cs_tls_free(node);
	cs_tls_free(server);
}

static void bad_files(void **state)
{
	(void)state;
	static const struct {
		enum cs_tls_role role;
		const char *chain, *key, *bundle, *says;
	} cases[] = {
		{CS_TLS_SERVER, "node1.pem", "node1.key", "bundle.pem", "is not identityd"},
		{CS_TLS_CLIENT, "server.pem", "server.key", "bundle.pem", "is not a node"},
		{CS_TLS_CLIENT, "workload.pem", "workload.key", "bundle.pem", "is not a node"},
		{CS_TLS_CLIENT, "node1.pem", "node2.key", "bundle.pem", "node2.key"},
		{CS_TLS_CLIENT, "node1.pem", "node1.key", "other-bundle.pem", "node1.pem"},
		{CS_TLS_CLIENT, "node1.pem", "node1.key", "node1.pem", "node1.pem"}, /* a leaf is no authority */
		{CS_TLS_CLIENT, "node1.pem", "node1.key", "empty.pem", "empty.pem"},
		{CS_TLS_CLIENT, "node1.pem", "node1.key", "missing.pem", "missing.pem"},
		{CS_TLS_CLIENT, "node1.pem", "missing.key", "bundle.pem", "missing.key"},
		{CS_TLS_CLIENT, "missing.pem", "node1.key", "bundle.pem", "missing.pem"},
		{CS_TLS_CLIENT, "bundle.pem", "node1.key", "bundle.pem", "node1.key"},
		{CS_TLS_CLIENT, "node1.pem", "rsa.key", "bundle.pem", "rsa.key"},
		{CS_TLS_CLIENT, "node1.pem", "encrypted.key", "bundle.pem", "encrypted.key"},
		{CS_TLS_CLIENT, "long-node.pem", "long-node.key", "bundle.pem", "256 bytes"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cs_tls *tls = NULL;
		struct cs_error e = {0};
		const struct cs_tls_files files = {
			certs_path(cases[i].chain), certs_path(cases[i].key), certs_path(cases[i].bundle)};
		if (cs_tls_new(cases[i].role, &files, &test_clock, &tls, &e) == 0)
			fail_msg("%s: loaded", cases[i].chain);
		if (!strstr(e.text, cases[i].says))
			fail_msg("'%s' does not say '%s'", e.text, cases[i].says);
		assert_null(tls);
	}
	struct cs_tls *tls;
	struct cs_error e;
	cs_tls_free(must_load(CS_TLS_CLIENT, "longest-node", "bundle.pem"));
	now_unix_s = NOW + 3600;
	assert_true(load(CS_TLS_CLIENT, "node1", "bundle.pem", &tls, &e) < 0);
	assert_int_equal(e.reason, CS_R_SVID_EXPIRED);
	now_unix_s = NOW;
}

static void chain_limits(void **state)
{
	(void)state;
	struct cs_tls_chain chain;
	struct cs_error e;
	struct cs_der der = certs_file("leaf-ok-spire"), large = certs_file("large");
	const unsigned char *p = der.data, *q = large.data;
	X509 *x = d2i_X509(NULL, &p, (long)der.len), *y = d2i_X509(NULL, &q, (long)large.len);
	STACK_OF(X509) *all = sk_X509_new_null();
	assert_true(cs_tls_chain_get(NULL, &chain, &e) < 0);
	assert_int_equal(e.reason, CS_R_NO_CERTIFICATE);
	assert_true(cs_tls_chain_get(all, &chain, &e) < 0);
	assert_int_equal(e.reason, CS_R_NO_CERTIFICATE);
	for (size_t i = 1; i <= CS_CHAIN_MAX; i++) {
		sk_X509_push(all, x);
		assert_int_equal(cs_tls_chain_get(all, &chain, &e), 0);
		assert_int_equal(chain.n, i);
		assert_true(cs_der_equal(chain.cert[i - 1], der));
	}
	sk_X509_push(all, x);
	assert_true(cs_tls_chain_get(all, &chain, &e) < 0);
	assert_int_equal(e.reason, CS_R_CHAIN_TOO_LARGE);
	sk_X509_zero(all);
	sk_X509_push(all, y);
	assert_int_equal(cs_tls_chain_get(all, &chain, &e), 0);
	sk_X509_push(all, y);
	assert_true(cs_tls_chain_get(all, &chain, &e) < 0);
	assert_int_equal(e.reason, CS_R_CHAIN_TOO_LARGE);
	sk_X509_free(all);
	X509_free(x);
	X509_free(y);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_know_each_other),
		cmocka_unit_test(server_refuses),
		cmocka_unit_test(client_refuses),
		cmocka_unit_test(only_tls13),
		cmocka_unit_test(renewed),
		cmocka_unit_test(bad_files),
		cmocka_unit_test(chain_limits),
	};
	return cmocka_run_group_tests(tests, NULL, certs_files_free);
}

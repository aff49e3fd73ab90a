/* The TLS half of a connection: OpenSSL over memory BIOs, so that the loop owns the socket. */
#include "http2.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

static const uint8_t h2[] = {2, 'h', '2'};

static int select_h2(SSL *ssl, const unsigned char **out, unsigned char *outlen, const unsigned char *in,
	unsigned int inlen, void *data)
{
	(void)ssl;
	(void)data;
	unsigned char *selected;
	if (SSL_select_next_proto(&selected, outlen, h2, sizeof(h2), in, inlen) != OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*out = selected;
	return SSL_TLSEXT_ERR_OK;
}

/* "svid-expired: sentence", as the context's own verification left it on OpenSSL's queue. */
static int verify_error(struct cs_error *e, const char *what, const char *refusal)
{
	char name[64];
	snprintf(name, sizeof(name), "%.*s", (int)strcspn(refusal, ":"), refusal);
	int reason = cs_reason_parse(name);
	return cs_error_reason(e, -EACCES, reason < 0 ? CS_R_NONE : (enum cs_reason)reason, "%s: %s", what, refusal);
}

/* OpenSSL's first reason, and the verifier's if it was that. */
static int tls_error(struct cs_http2 *h, struct cs_error *e, const char *what)
{
	const char *data = "";
	unsigned long code = ERR_get_error_all(NULL, NULL, NULL, &data, NULL);
	const char *text = code ? ERR_reason_error_string(code) : NULL;
	long verify = SSL_get_verify_result(h->ssl);
	int r = ERR_GET_LIB(code) == ERR_LIB_USER ? verify_error(e, what, data) : 0;
	ERR_clear_error(); /* data was OpenSSL's */
	if (r < 0)
		return r;
	if (verify != X509_V_OK)
		return cs_error_set(e, -EPROTO, "%s: %s", what, X509_verify_cert_error_string(verify));
	return cs_error_set(e, -EPROTO, "%s: %s", what, text ? text : "unknown error");
}

/* OpenSSL checks it while it checks the chain. Wildcards stand for whole labels only. */
static bool expect_name(SSL *ssl, const char *name)
{
	struct in6_addr ip;
	if (inet_pton(AF_INET, name, &ip) == 1 || inet_pton(AF_INET6, name, &ip) == 1)
		return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return *name && SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

/* Once per context: workers read it. */
static void select_h2_in(SSL_CTX *ctx)
{
	static int prepared = -1; /* an index that OpenSSL gives out once; the loop's thread only */
	if (prepared < 0)
		prepared = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	if (SSL_CTX_get_ex_data(ctx, prepared))
		return;
	SSL_CTX_set_alpn_select_cb(ctx, select_h2, NULL);
	SSL_CTX_set_ex_data(ctx, prepared, ctx);
}

int cs_http2_tls_start(struct cs_http2 *h, struct cs_error *e)
{
	*e = (struct cs_error){.code = -EACCES, .text = "there is no certificate to speak TLS with"};
	SSL_CTX *ctx = h->tls->context(h->tls->data, e);
	if (!ctx)
		return e->code < 0 ? e->code : -EACCES;
	int mode = SSL_CTX_get_verify_mode(ctx);
	if (!(mode & SSL_VERIFY_PEER) || (h->server && !(mode & SSL_VERIFY_FAIL_IF_NO_PEER_CERT)))
		return cs_error_set(e, -EINVAL, "the TLS context does not ask for the peer's certificate");
	if (h->server)
		select_h2_in(ctx);
	ERR_clear_error();
	h->ssl = SSL_new(ctx);
	if (!h->ssl)
		return cs_error_set(e, -ENOMEM, "no memory for TLS");
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
	SSL_set_bio(h->ssl, in, out);
	SSL_set_mode(h->ssl, SSL_MODE_RELEASE_BUFFERS); /* thousands of idle connections */
	if (!in || !out || SSL_set_alpn_protos(h->ssl, h2, sizeof(h2)) != 0)
		return cs_error_set(e, -ENOMEM, "no memory for TLS");
	if (h->server) {
		/* No resumption: every connection shows its certificate. */
		SSL_set_options(h->ssl, SSL_OP_NO_TICKET);
		SSL_set_num_tickets(h->ssl, 0);
		SSL_set_accept_state(h->ssl);
		return 0;
	}
	SSL_set_connect_state(h->ssl);
	if (h->tls->server_name && !expect_name(h->ssl, h->tls->server_name))
		return cs_error_set(e, -EINVAL, "'%s' is no server's name", h->tls->server_name);
	SSL_do_handshake(h->ssl);
	return 0;
}

/* The chain as the peer sent it, leaf first, on both sides; OpenSSL leaves the leaf out on the server's. */
static STACK_OF(X509) * peer_chain(SSL *ssl)
{
	X509 *leaf = SSL_get1_peer_certificate(ssl);
	STACK_OF(X509) *sent = SSL_get_peer_cert_chain(ssl), *chain = sk_X509_new_null();
	bool ok = leaf && chain && sk_X509_push(chain, leaf) > 0;
	if (!ok)
		X509_free(leaf);
	for (int i = SSL_is_server(ssl) ? 0 : 1; ok && i < sk_X509_num(sent); i++) {
		X509 *x = sk_X509_value(sent, i);
		ok = X509_up_ref(x) && sk_X509_push(chain, x) > 0;
	}
	if (ok)
		return chain;
	sk_X509_pop_free(chain, X509_free);
	return NULL;
}

/* Who is it? */
static int identify(struct cs_http2 *h, struct cs_error *e)
{
	const unsigned char *alpn;
	unsigned int n;
	SSL_get0_alpn_selected(h->ssl, &alpn, &n);
	if (n != 2 || memcmp(alpn, "h2", 2) != 0)
		return cs_error_set(e, -EPROTO, "the other side does not speak HTTP/2 (no ALPN h2)");
	STACK_OF(X509) *chain = peer_chain(h->ssl);
	if (!chain)
		return cs_error_set(e, -EACCES, "the other side showed no certificate");
	h->peer[0] = '\0';
	int r = h->tls->peer(chain, h->peer, h->tls->data, e);
	sk_X509_pop_free(chain, X509_free);
	if (r < 0)
		return r;
	if (!h->peer[0])
		return cs_error_set(e, -EACCES, "the other side's certificate gives it no name");
	return 0;
}

/* 1: it needs more bytes; 0: the peer is known. */
static int shake_hands(struct cs_http2 *h, struct cs_error *e)
{
	ERR_clear_error();
	int done = SSL_do_handshake(h->ssl);
	if (done == 1)
		return identify(h, e);
	return SSL_get_error(h->ssl, done) == SSL_ERROR_WANT_READ ? 1 : tls_error(h, e, "the TLS handshake failed");
}

static int read_inside(struct cs_http2 *h, struct cs_error *e)
{
	uint8_t plain[16384];
	for (;;) {
		ERR_clear_error();
		int n = SSL_read(h->ssl, plain, sizeof(plain));
		if (n > 0) {
			int r = cs_http2_input(h, plain, (size_t)n, e);
			if (r < 0)
				return r;
			continue;
		}
		switch (SSL_get_error(h->ssl, n)) {
		case SSL_ERROR_WANT_READ:
			return 0;
		case SSL_ERROR_ZERO_RETURN:
			return cs_error_set(e, -ECONNRESET, "the other side closed the connection");
		default:
			return tls_error(h, e, "TLS");
		}
	}
}

int cs_http2_tls_read(struct cs_http2 *h, const uint8_t *bytes, size_t n, struct cs_error *e)
{
	if (BIO_write(SSL_get_rbio(h->ssl), bytes, (int)n) != (int)n)
		return cs_error_set(e, -ENOMEM, "no memory for TLS");
	if (!h->is_up && h->handshakes) {
		cs_http2_tls_work(h);
		return 0;
	}
	if (!h->is_up) {
		int r = shake_hands(h, e);
		if (r != 0)
			return r < 0 ? r : 0;
		r = cs_http2_up(h, e);
		if (r < 0)
			return r;
	}
	return read_inside(h, e);
}

/* ---- in a worker ---- */

static void work(uv_work_t *uv)
{
	struct cs_http2 *h = uv->data;
	h->result = shake_hands(h, &h->error);
}

static void worked(uv_work_t *uv, int status);

static void start_some(struct cs_http2_handshakes *all)
{
	while (all->waiting && all->running < CS_HTTP2_WORKERS) {
		struct cs_http2 *h = all->waiting;
		all->waiting = h->next_waiting;
		h->waiting = false;
		h->working = true;
		h->rounds++;
		h->work.data = h;
		all->running++;
		uv_queue_work(&h->loop->uv, &h->work, work, worked);
	}
}

static void worked(uv_work_t *uv, int status)
{
	(void)status; /* never cancelled */
	struct cs_http2 *h = uv->data;
	struct cs_http2_handshakes *all = h->handshakes;
	h->working = false;
	h->idle_since_ms = cs_loop_mono_ms(h->loop);
	all->running--;
	start_some(all);
	cs_http2_worked(h); /* which may be the end of it */
}

void cs_http2_tls_work(struct cs_http2 *h)
{
	struct cs_http2 **last = &h->handshakes->waiting;
	while (*last)
		last = &(*last)->next_waiting;
	*last = h;
	h->next_waiting = NULL;
	h->waiting = true;
	start_some(h->handshakes);
}

void cs_http2_tls_forget(struct cs_http2 *h)
{
	struct cs_http2 **at = &h->handshakes->waiting;
	while (*at != h)
		at = &(*at)->next_waiting;
	*at = h->next_waiting;
	h->waiting = false;
}

int cs_http2_tls_after_work(struct cs_http2 *h, struct cs_error *e)
{
	if (h->result != 0) {
		if (h->result < 0)
			*e = h->error;
		return h->result < 0 ? h->result : 0;
	}
	int r = cs_http2_up(h, e);
	return r < 0 ? r : read_inside(h, e);
}

/* ---- bytes ---- */

int cs_http2_tls_write(struct cs_http2 *h, const uint8_t *bytes, size_t n, struct cs_error *e)
{
	ERR_clear_error();
	int r = SSL_write(h->ssl, bytes, (int)n);
	return r == (int)n ? 0 : tls_error(h, e, "TLS");
}

void cs_http2_tls_end(struct cs_http2 *h)
{
	ERR_clear_error();
	SSL_shutdown(h->ssl); /* whether it comes across is the peer's affair */
}

size_t cs_http2_tls_pending(const struct cs_http2 *h)
{
	return h->ssl ? BIO_ctrl_pending(SSL_get_wbio(h->ssl)) : 0;
}

size_t cs_http2_tls_take(struct cs_http2 *h, uint8_t *out, size_t room)
{
	int n = BIO_read(SSL_get_wbio(h->ssl), out, room > INT32_MAX ? INT32_MAX : (int)room);
	return n > 0 ? (size_t)n : 0;
}

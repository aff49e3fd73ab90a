#include "etcd_private.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <sys/random.h>
#include <utlist.h>
#include "mem.h"

char *cs_etcd_strdup(const char *s)
{
	return s ? cs_xstrdup(s) : NULL;
}

/* ---- endpoints ---- */

static bool is_loopback(const char *host)
{
	struct in_addr ip4;
	struct in6_addr ip6;
	if (inet_pton(AF_INET, host, &ip4) == 1)
		return ntohl(ip4.s_addr) >> 24 == 127;
	if (inet_pton(AF_INET6, host, &ip6) == 1)
		return IN6_IS_ADDR_LOOPBACK(&ip6);
	return false; /* a name can become anything */
}

static int parse_endpoint(struct endpoint *p, const char *url, struct cs_error *e)
{
	const char *rest = strncmp(url, "https://", 8) == 0  ? url + 8
			   : strncmp(url, "http://", 7) == 0 ? url + 7
							     : NULL;
	const char *colon = rest ? strrchr(rest, ':') : NULL;
	if (!colon || colon == rest || strlen(rest) >= sizeof(p->target) || strpbrk(rest, "/?#@ "))
		return cs_error_set(e, -EINVAL, "'%s' is no endpoint of etcd: write https://HOST:PORT", url);
	p->plain = rest == url + 7;
	p->url = cs_xstrdup(url);
	snprintf(p->target, sizeof(p->target), "%s", rest);
	bool bracket = *rest == '[' && colon[-1] == ']';
	size_t n = (size_t)(colon - rest) - (bracket ? 2 : 0);
	p->host = cs_xcalloc(1, n + 1);
	memcpy(p->host, rest + (bracket ? 1 : 0), n);
	if (p->plain && !is_loopback(p->host))
		return cs_error_set(e, -EINVAL,
			"%s: without TLS only an address of this machine is spoken to; write https://", url);
	return 0;
}

static int open_channel(struct endpoint *p, struct cs_error *e)
{
	struct cs_etcd *etcd = p->etcd;
	const struct cs_grpc_channel_options options = {
		.target = p->target,
		.tls = p->plain ? NULL : &p->tls,
		.plain = p->plain,
		.limits = {.message_max = CS_ETCD_MESSAGE_MAX,
			.unpack_max = CS_ETCD_UNPACK_MAX,
			.window = 1u << 20,
			.conn_window = 4u << 20,
			.handshake_ms = CS_ETCD_CONNECT_MS},
		.backoff_max_ms = CS_ETCD_RETRY_MAX_MS,
	};
	int r = cs_grpc_channel_new(etcd->loop, &options, &p->channel, e);
	if (r == 0)
		etcd->handles++;
	return r;
}

static int add_endpoint(struct cs_etcd *etcd, const char *url, struct cs_error *e)
{
	struct endpoint *p = &etcd->endpoints[etcd->nendpoints++];
	p->etcd = etcd;
	int r = parse_endpoint(p, url, e);
	if (r < 0)
		return r;
	cs_etcd_tls_init(p);
	return open_channel(p, e);
}

void cs_etcd_turn(struct cs_etcd *etcd, size_t endpoint)
{
	if (etcd->current == endpoint)
		etcd->current = (endpoint + 1) % etcd->nendpoints;
}

const char *cs_etcd_endpoint(const struct cs_etcd *etcd)
{
	return etcd->endpoints[etcd->current].url;
}

int64_t cs_etcd_backoff_ms(const struct cs_etcd *etcd, unsigned n)
{
	if (n < etcd->nendpoints)
		return 0;
	unsigned round = n - (unsigned)etcd->nendpoints;
	int64_t ms = round < 5 ? 50 << round : CS_ETCD_RETRY_MAX_MS;
	uint32_t jitter = 0;
	if (getrandom(&jitter, sizeof(jitter), GRND_NONBLOCK) < 0)
		jitter = 0;
	ms = ms < CS_ETCD_RETRY_MAX_MS ? ms : CS_ETCD_RETRY_MAX_MS;
	return ms / 2 + jitter % (ms + 1);
}

size_t cs_etcd_fields(const struct cs_etcd *etcd, bool with_token, struct cs_grpc_field *fields)
{
	size_t n = 0;
	/* A member that was cut off from its cluster says so instead of waiting for it. */
	fields[n++] = (struct cs_grpc_field){"hasleader", "true"};
	if (with_token && etcd->token)
		fields[n++] = (struct cs_grpc_field){"token", etcd->token};
	return n;
}

/* ---- life ---- */

static void wipe(char *secret)
{
	if (secret)
		OPENSSL_cleanse(secret, strlen(secret));
	free(secret);
}

static void free_etcd(struct cs_etcd *etcd)
{
	for (size_t i = 0; i < etcd->nendpoints; i++) {
		cs_etcd_tls_fini(&etcd->endpoints[i]);
		free(etcd->endpoints[i].url);
		free(etcd->endpoints[i].host);
	}
	free(etcd->ca_file);
	free(etcd->cert_file);
	free(etcd->key_file);
	free(etcd->server_name);
	free(etcd->user);
	wipe(etcd->password);
	wipe(etcd->token);
	free(etcd);
}

void cs_etcd_handle_closed(struct cs_etcd *etcd)
{
	if (--etcd->handles > 0 || !etcd->closing)
		return;
	void (*closed)(void *) = etcd->closed;
	void *data = etcd->closed_data;
	free_etcd(etcd);
	if (closed)
		closed(data);
}

static void on_channel_closed(void *data)
{
	cs_etcd_handle_closed(data);
}

static int check_options(const struct cs_etcd_options *o, struct cs_error *e)
{
	if (o->nendpoints == 0 || o->nendpoints > CS_ETCD_ENDPOINTS_MAX)
		return cs_error_set(e, -EINVAL, "etcd needs 1 to %d endpoints, and there are %zu",
			CS_ETCD_ENDPOINTS_MAX, o->nendpoints);
	if (!o->cert_file != !o->key_file)
		return cs_error_set(e, -EINVAL, "etcd: a client certificate and its key are given both or neither");
	if (!o->user != !o->password)
		return cs_error_set(e, -EINVAL, "etcd: user and password are given both or neither");
	for (size_t i = 0; i < o->nendpoints; i++)
		if (strncmp(o->endpoints[i], "https://", 8) == 0 && !o->ca_file)
			return cs_error_set(
				e, -EINVAL, "%s: no file with the CA of etcd's certificates is given", o->endpoints[i]);
	return 0;
}

int cs_etcd_new(struct cs_loop *loop, const struct cs_etcd_options *o, struct cs_etcd **ret, struct cs_error *e)
{
	int r = check_options(o, e);
	if (r < 0)
		return r;
	struct cs_etcd *etcd = cs_xcalloc(1, sizeof(*etcd));
	etcd->loop = loop;
	etcd->ca_file = cs_etcd_strdup(o->ca_file);
	etcd->cert_file = cs_etcd_strdup(o->cert_file);
	etcd->key_file = cs_etcd_strdup(o->key_file);
	etcd->server_name = cs_etcd_strdup(o->server_name);
	etcd->user = cs_etcd_strdup(o->user);
	etcd->password = cs_etcd_strdup(o->password);
	etcd->handles = 1; /* ours, until it is closed */
	for (size_t i = 0; i < o->nendpoints && r == 0; i++)
		r = add_endpoint(etcd, o->endpoints[i], e);
	if (r < 0)
		cs_etcd_close(etcd, NULL, NULL);
	else
		*ret = etcd;
	return r;
}

void cs_etcd_close(struct cs_etcd *etcd, void (*closed)(void *data), void *data)
{
	etcd->closing = true;
	etcd->closed = closed;
	etcd->closed_data = data;
	cs_etcd_calls_shut_down(etcd);
	while (etcd->streams)
		cs_etcd_stream_close(etcd->streams);
	for (size_t i = 0; i < etcd->nendpoints; i++)
		if (etcd->endpoints[i].channel)
			cs_grpc_channel_close(etcd->endpoints[i].channel, on_channel_closed, etcd);
	cs_etcd_handle_closed(etcd);
}

size_t cs_etcd_prefix_end(struct cs_etcd_bytes prefix, uint8_t *ret)
{
	size_t n = prefix.len;
	if (n > 0)
		memcpy(ret, prefix.data, n);
	while (n > 0 && ret[n - 1] == 0xff)
		n--;
	if (n > 0)
		ret[n - 1]++;
	return n;
}

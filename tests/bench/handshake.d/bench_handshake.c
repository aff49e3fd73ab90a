/* Mutual handshakes by the shipped code of countersign-handshaker (both sides, memory BIOs) whose signatures come from
 * two processes with spire-adapter's signer, everything on one core; beside the crypto floor in the same run. */
#include <jansson.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>
#include "ca.h"
#include "floor.h"
#include "signer_process.h"
#include "tls_side.h"
#include "../measure.h"

#define ROUNDS      151
#define EACH        10
#define DOMAIN_NAME "example.org"

static const uint32_t identity[2] = {300, 301};
static const char *const spiffe_id[2] = {"spiffe://example.org/identity/300", "spiffe://example.org/identity/301"};

struct node {
	struct cs_hs_world world;
	pid_t signer;
};

/* One entry of a list: u32 length, DER. */
static size_t list_of(X509 *cert, uint8_t *out, size_t size)
{
	uint8_t *p = out + sizeof(uint32_t);
	uint32_t n = (uint32_t)i2d_X509(cert, NULL);
	if (n + sizeof(n) > size)
		exit(1);
	memcpy(out, &n, sizeof(n));
	i2d_X509(cert, &p);
	return sizeof(n) + n;
}

static void node_init(struct node *node, const struct cs_ca *ca, int i)
{
	struct cs_error e;
	struct cs_issued issued;
	uint8_t list[4096];
	bench_need(cs_ca_issue(ca, spiffe_id[i], 3600, time(NULL), &issued, &e), &e);
	bench_need(cs_hs_world_init(&node->world, &e), &e);
	bench_need(cs_hs_side_contexts(&node->world, &e), &e);
	EVP_PKEY_up_ref(issued.key);
	cs_sign_channel_take(&node->world.signer, signer_process_take(issued.key, identity[i], 1, &node->signer));
	struct cs_hs_bundle bundle = {.generation = 1, .trust_domain = DOMAIN_NAME};
	bench_need(cs_hs_world_bundle(
			   &node->world, &bundle, list, list_of((X509 *)cs_ca_root_borrow(ca), list, sizeof(list)), &e),
		&e);
	struct cs_hs_svid svid = {.generation = 1, .identity = identity[i]};
	snprintf(svid.spiffe_id, sizeof(svid.spiffe_id), "%s", spiffe_id[i]);
	bench_need(cs_hs_world_svid(&node->world, &svid, list, list_of(issued.leaf, list, sizeof(list)), &e), &e);
	cs_issued_fini(&issued);
}

/* The second signer holds a copy of the first one's connection (fork), so both end only when both are closed. */
static void nodes_fini(struct node nodes[2])
{
	cs_hs_world_fini(&nodes[0].world);
	cs_hs_world_fini(&nodes[1].world);
	waitpid(nodes[0].signer, NULL, 0);
	waitpid(nodes[1].signer, NULL, 0);
}

/* Node 0 dials node 1, both sides verify and prove; then the acceptor's close_notify reaches the dialler. */
static void handshake(struct node nodes[2])
{
	static struct cs_hs_side side[2];
	struct cs_error e;
	BIO *a, *b;
	char sni[64], byte;
	snprintf(sni, sizeof(sni), "%u.%s", identity[1], DOMAIN_NAME);
	bench_need(cs_hs_side_client(&side[0], &nodes[0].world, identity[0], sni, spiffe_id[1], &e), &e);
	bench_need(cs_hs_side_server(&side[1], &nodes[1].world, NULL, &e), &e);
	if (BIO_new_bio_pair(&a, 32768, &b, 32768) != 1)
		exit(1);
	SSL_set_bio(side[0].ssl, a, a);
	SSL_set_bio(side[1].ssl, b, b);
	bool done[2] = {false, false};
	for (int turn = 0; turn < 16 && !(done[0] && done[1]); turn++)
		done[turn & 1] = done[turn & 1] || SSL_do_handshake(side[turn & 1].ssl) == 1;
	if (!done[0] || !done[1] || !side[0].peer || !side[1].peer || SSL_shutdown(side[1].ssl) < 0 ||
		SSL_read(side[0].ssl, &byte, 1) > 0 || SSL_get_shutdown(side[0].ssl) != SSL_RECEIVED_SHUTDOWN) {
		char detail[128];
		cs_hs_side_failure(&side[0], SSL_ERROR_SSL, detail, sizeof(detail));
		fprintf(stderr, "bench: the handshake failed: %s\n", detail);
		exit(1);
	}
	cs_hs_side_fini(&side[0]);
	cs_hs_side_fini(&side[1]);
}

static void write_json(const char *file, double handshake_us, double floor_us)
{
	json_t *o = json_pack("{s:f, s:f, s:f, s:f}", "handshake_us", handshake_us, "floor_us", floor_us, "ratio",
		handshake_us / floor_us, "per_second", 1e6 / handshake_us);
	if (!o || json_dump_file(o, file, JSON_INDENT(2)) != 0) {
		fprintf(stderr, "bench: cannot write %s\n", file);
		exit(1);
	}
	json_decref(o);
}

static void print_machine(void)
{
	struct utsname u;
	char line[256], model[200] = "unknown processor";
	FILE *f = fopen("/proc/cpuinfo", "r");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "model name : %199[^\n]", model) == 1)
			break;
	if (f)
		fclose(f);
	uname(&u);
	printf("machine: %s, Linux %s, %s\n\n", model, u.release, OpenSSL_version(OPENSSL_VERSION));
}

static void measure(struct node nodes[2], double *ret_handshake_us, double *ret_floor_us)
{
	double shakes[ROUNDS], floors[ROUNDS];
	struct floor *f = floor_new();
	for (int i = 0; i < EACH; i++) { /* warm: the chains are cached from here on */
		handshake(nodes);
		floor_once(f);
	}
	for (int round = 0; round < ROUNDS; round++) {
		double t0 = bench_ms();
		for (int i = 0; i < EACH; i++)
			floor_once(f);
		double t1 = bench_ms();
		for (int i = 0; i < EACH; i++)
			handshake(nodes);
		floors[round] = (t1 - t0) * 1e3 / EACH;
		shakes[round] = (bench_ms() - t1) * 1e3 / EACH;
	}
	floor_free(f);
	*ret_handshake_us = bench_median(shakes, ROUNDS);
	*ret_floor_us = bench_median(floors, ROUNDS);
}

int main(int argc, char **argv)
{
	const char *json = argc == 3 && strcmp(argv[1], "--json") == 0 ? argv[2] : NULL;
	if (argc > 1 && !json) {
		fprintf(stderr, "usage: tests/bench/handshake [--json FILE]\n");
		return 2;
	}
	char dir[] = "/tmp/cs-bench-XXXXXX", file[64];
	static struct node nodes[2];
	struct cs_error e;
	struct cs_ca *ca;
	cpu_set_t first;
	CPU_ZERO(&first);
	CPU_SET(0, &first);
	sched_setaffinity(0, sizeof(first), &first);
	signal(SIGPIPE, SIG_IGN);
	if (!mkdtemp(dir))
		return 1;
	bench_need(cs_ca_open(dir, DOMAIN_NAME, time(NULL), &ca, NULL, &e), &e);
	node_init(&nodes[0], ca, 0);
	node_init(&nodes[1], ca, 1);
	cs_ca_free(ca);
	double handshake_us, floor_us;
	measure(nodes, &handshake_us, &floor_us);
	nodes_fini(nodes);
	snprintf(file, sizeof(file), "%s/ca.pem", dir);
	unlink(file);
	snprintf(file, sizeof(file), "rm -rf %s", dir);
	if (system(file) != 0)
		fprintf(stderr, "bench: %s is left behind\n", dir);

	printf("Mutual TLS 1.3 handshake, P-256 SVIDs, X25519, AES-128-GCM; both sides over memory BIOs and both "
	       "signers (processes\n"
	       "of their own, over SEQPACKET sockets) on one core; chains cached. Floor: 2 keygen, 2 derive, 2 sign, 4 "
	       "verify.\n"
	       "Medians of %d rounds of %d, floor and handshake in turn.\n",
		ROUNDS, EACH);
	print_machine();
	printf("  %-28s %8.0f us   %8.0f per second\n", "handshake", handshake_us, 1e6 / handshake_us);
	printf("  %-28s %8.0f us\n", "crypto floor", floor_us);
	printf("  %-28s %8.2f      (limit 1.70)\n", "ratio", handshake_us / floor_us);
	if (json)
		write_json(json, handshake_us, floor_us);
	return handshake_us / floor_us <= 1.7 ? 0 : 1;
}

/* sign.sock as its clients see it: order, bounds, roles, slow keys, ends in the middle of work. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <openssl/ec.h>
#include <openssl/rsa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "log.h"
#include "sign_server.h"
#include "signer.h"

enum { FAST = 70001, SLOW = 70002 };

struct fixture {
	struct cs_loop loop;
	struct cs_roles roles;
	struct cs_metrics *metrics;
	struct cs_keys *keys;
	struct cs_sign_server *server;
	char dir[32], path[64];
	int client;
	uv_poll_t poll;
	struct cs_sign_answer got[64];
	unsigned ngot, want;
	bool eof;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct cs_error e;
	strcpy(f->dir, "/tmp/cs-test-sign-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/sign.sock", f->dir);
	f->roles = (struct cs_roles){.n = 1, .members = {{.roles = CS_ROLE_AUTHD, .id = geteuid()}}};
	assert_int_equal(cs_loop_init(&f->loop, NULL, &e), 0);
	f->metrics = cs_metrics_new("spire-adapter");
	f->keys = cs_keys_new();
	assert_int_equal(cs_keys_put_take(f->keys, FAST, 9, EVP_EC_gen("P-256"), 0, &e), 0);
	assert_int_equal(cs_keys_put_take(f->keys, SLOW, 9, EVP_RSA_gen(2048), 0, &e), 0);
	assert_int_equal(cs_sign_server_new(&f->loop, f->path, &f->roles, f->keys, f->metrics, &f->server, &e), 0);
	f->client = -1;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	cs_sign_server_close(f->server);
	if (f->client >= 0)
		uv_close((uv_handle_t *)&f->poll, NULL);
	cs_loop_run(&f->loop);
	cs_loop_fini(&f->loop);
	cs_sign_server_free(f->server);
	cs_keys_free(f->keys);
	cs_metrics_free(f->metrics);
	if (f->client >= 0)
		close(f->client);
	assert_int_equal(access(f->path, F_OK), -1); /* the socket goes with the server */
	rmdir(f->dir);
	free(f);
	return 0;
}

static void on_answer(uv_poll_t *poll, int status, int events)
{
	struct fixture *f = poll->data;
	(void)status, (void)events;
	while (f->ngot < f->want) {
		ssize_t n = recv(f->client, &f->got[f->ngot], sizeof(f->got[0]), MSG_DONTWAIT | MSG_TRUNC);
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			f->eof = true;
			break;
		}
		assert_int_equal(n, sizeof(struct cs_sign_answer));
		f->ngot++;
	}
	uv_poll_stop(poll);
}

static void dial(struct fixture *f)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	strcpy(a.sun_path, f->path);
	f->client = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(f->client, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(uv_poll_init(&f->loop.uv, &f->poll, f->client), 0);
	f->poll.data = f;
}

static void ask(struct fixture *f, uint64_t seq, uint32_t identity)
{
	struct cs_sign_request q = {.seq = seq,
		.generation = 9,
		.identity = identity,
		.scheme = identity == SLOW ? 0x0804 : 0x0403,
		.kind = CS_SIGN_TLS13_SERVER,
		.hash_len = 32};
	assert_int_equal(send(f->client, &q, sizeof(q), 0), sizeof(q));
}

/* Until so many answers are here, or the end of the connection. */
static void await(struct fixture *f, unsigned n)
{
	f->want = n;
	uv_poll_start(&f->poll, UV_READABLE, on_answer);
	while (uv_is_active((uv_handle_t *)&f->poll))
		uv_run(&f->loop.uv, UV_RUN_ONCE);
}

static void the_socket_is_for_one_user(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

static void answers_in_order_whatever_the_keys(void **state)
{
	struct fixture *f = *state;
	dial(f);
	for (unsigned i = 0; i < 8; i++)
		ask(f, 100 + i, i % 2 ? FAST : SLOW);
	await(f, 8);
	for (unsigned i = 0; i < 8; i++) {
		assert_int_equal(f->got[i].seq, 100 + i);
		assert_int_equal(f->got[i].reason, CS_R_NONE);
		if (i % 2 == 0)
			assert_int_equal(f->got[i].len, 256);
	}
}

static void refuses_more_than_eight_at_once(void **state)
{
	struct fixture *f = *state;
	dial(f);
	for (unsigned i = 0; i < 16; i++)
		ask(f, i, SLOW);
	await(f, 16);
	for (unsigned i = 0; i < 16; i++) {
		assert_int_equal(f->got[i].seq, i);
		assert_int_equal(f->got[i].reason, i < CS_SIGN_UNANSWERED ? CS_R_NONE : CS_R_TOO_MANY);
	}
	ask(f, 99, SLOW); /* and goes on */
	await(f, 17);
	assert_int_equal(f->got[16].reason, CS_R_NONE);
}

/* Nobody reads the answers: we keep no more than a ring of them, and none is lost. */
static void waits_for_a_client_that_does_not_read(void **state)
{
	struct fixture *f = *state;
	unsigned asked = 0, seen = 0;
	dial(f);
	int small = 4096;
	setsockopt(f->client, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	struct cs_sign_request q = {.generation = 9, .identity = FAST, .scheme = 0x0403, .kind = 1, .hash_len = 32};
	for (unsigned idle = 0; idle < 50;) {
		q.seq = asked;
		if (send(f->client, &q, sizeof(q), MSG_DONTWAIT) == sizeof(q)) {
			asked++;
			idle = 0;
		} else {
			idle++;
		}
		uv_run(&f->loop.uv, UV_RUN_NOWAIT);
		assert_true(asked < 20000);
	}
	while (seen < asked) {
		f->ngot = 0;
		await(f, asked - seen < 64 ? asked - seen : 64);
		assert_false(f->eof);
		for (unsigned i = 0; i < f->ngot; i++)
			assert_int_equal(f->got[i].seq, seen++);
	}
}

static void a_message_of_another_size_ends_the_connection(void **state)
{
	struct fixture *f = *state;
	struct cs_sign_request q[2] = {{0}};
	dial(f);
	ask(f, 1, FAST);
	await(f, 1);
	assert_int_equal(send(f->client, q, sizeof(q[0]) + 1, 0), sizeof(q[0]) + 1);
	await(f, 2);
	assert_true(f->eof);
	assert_int_equal(f->ngot, 1);
}

static void nobody_but_authd_may_ask(void **state)
{
	struct fixture *f = *state;
	f->roles.members[0].roles = CS_ROLE_LOCAL & ~CS_ROLE_AUTHD;
	dial(f);
	ask(f, 1, FAST);
	await(f, 1);
	assert_true(f->eof);
	assert_int_equal(f->ngot, 0);
}

static void a_client_may_go_while_we_work(void **state)
{
	struct fixture *f = *state;
	dial(f);
	for (unsigned i = 0; i < 8; i++)
		ask(f, i, SLOW);
	uv_run(&f->loop.uv, UV_RUN_NOWAIT); /* accepts */
	uv_run(&f->loop.uv, UV_RUN_NOWAIT); /* takes the requests */
	shutdown(f->client, SHUT_RDWR);
	uv_run(&f->loop.uv, UV_RUN_NOWAIT);
}

static void the_server_may_go_while_it_works(void **state)
{
	struct fixture *f = *state;
	dial(f);
	for (unsigned i = 0; i < 8; i++)
		ask(f, i, SLOW);
	uv_run(&f->loop.uv, UV_RUN_NOWAIT);
	uv_run(&f->loop.uv, UV_RUN_NOWAIT); /* the rest is teardown's, with ASan looking on */
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_socket_is_for_one_user),
		T(answers_in_order_whatever_the_keys),
		T(refuses_more_than_eight_at_once),
		T(waits_for_a_client_that_does_not_read),
		T(a_message_of_another_size_ends_the_connection),
		T(nobody_but_authd_may_ask),
		T(a_client_may_go_while_we_work),
		T(the_server_may_go_while_it_works),
	};
	cs_log_init("test", CS_LOG_ERROR, CS_LOG_PLAIN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

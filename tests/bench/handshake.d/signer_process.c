#include "signer_process.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "loop.h"
#include "signer.h"

static int64_t now_ms(void)
{
	return cs_clock_system.mono_ms(NULL);
}

static void serve(int fd, EVP_PKEY *key, uint32_t identity, uint64_t generation)
{
	struct cs_error e;
	struct cs_keys *keys = cs_keys_new();
	struct cs_sign_bucket bucket;
	if (cs_keys_put_take(keys, identity, generation, key, now_ms(), &e) < 0) {
		fprintf(stderr, "signer: %s\n", e.text);
		_exit(1);
	}
	cs_sign_bucket_init(&bucket, now_ms());
	for (;;) {
		struct cs_sign_request request;
		struct cs_sign_work work;
		ssize_t n = recv(fd, &request, sizeof(request), MSG_TRUNC);
		if (n <= 0 || cs_signer_handle(keys, &bucket, &request, (size_t)n, 0, now_ms(), &work) < 0)
			break;
		if (work.key)
			cs_sign_work_do(&work);
		if (send(fd, &work.answer, sizeof(work.answer), 0) < 0)
			break;
	}
	cs_keys_free(keys);
	_exit(0);
}

int signer_process_take(EVP_PKEY *key, uint32_t identity, uint64_t generation, pid_t *ret_pid)
{
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0 || (*ret_pid = fork()) < 0) {
		perror("signer");
		exit(1);
	}
	if (*ret_pid == 0) {
		close(ends[0]);
		serve(ends[1], key, identity, generation);
	}
	close(ends[1]);
	EVP_PKEY_free(key);
	return ends[0];
}

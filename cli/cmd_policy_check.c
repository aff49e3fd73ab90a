/* policy check: works without a daemon, for it starts the daemon's own program in its mode --check-policy. */
#include "commands.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "instance.h"

#define PROGRAM "countersign-identityd"

/* The one beside this program, so that a version checks with its own compiler; else the one in PATH. */
static void exec_program(char **argv)
{
	char path[CS_PATH];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - sizeof(PROGRAM));
	path[n > 0 ? n : 0] = '\0';
	char *slash = strrchr(path, '/');
	if (slash) {
		strcpy(slash + 1, PROGRAM);
		execv(path, argv);
	}
	execvp(PROGRAM, argv);
}

static int run(struct cs_cli *cli, struct cs_error *e)
{
	char **argv = calloc(cli->nwords + 5, sizeof(*argv));
	if (!argv)
		abort();
	argv[0] = (char *)PROGRAM;
	argv[1] = (char *)"--check-policy";
	argv[2] = cli->words[0];
	argv[3] = (char *)"--"; /* a file may be called --help */
	memcpy(argv + 4, cli->words + 1, (cli->nwords - 1) * sizeof(*argv));
	exec_program(argv); /* its output and exit code are ours */
	cs_error_errno(
		e, -errno, "cannot start " PROGRAM ", which checks policies (neither beside countersign nor in PATH)");
	free(argv);
	return CS_FAILED;
}

const struct cs_command cs_cmd_policy_check = {.name = "policy check",
	.summary = "Check policy files without a daemon",
	.usage = "FILE...",
	.min_words = 1,
	.max_words = 4096,
	.plain = true,
	.notes = "Starts countersign-identityd --check-policy, and passes on what it prints and its exit code.",
	.examples = "  countersign policy check policy/*.yaml\n",
	.run = run};

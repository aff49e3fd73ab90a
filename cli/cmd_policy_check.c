/* policy check: works without a daemon, for it starts the daemon's own program in its mode --check-policy. */
#include "commands.h"

#include <stdlib.h>
#include <string.h>
#include "program.h"

static int run(struct cs_cli *cli, struct cs_error *e)
{
	char **argv = calloc(cli->nwords + 8, sizeof(*argv));
	size_t n = 0;
	if (!argv)
		abort();
	argv[n++] = (char *)"countersign-identityd";
	argv[n++] = (char *)"--check-policy";
	if (cs_cli_value(cli, "strict"))
		argv[n++] = (char *)"--strict";
	argv[n++] = (char *)"-o";
	argv[n++] = (char *)(cli->json ? "json" : "table");
	argv[n++] = (char *)"--"; /* a file may be called --help */
	memcpy(argv + n, cli->words, cli->nwords * sizeof(*argv));
	cs_cli_exec("identity", argv, e); /* its output and exit code are ours */
	free(argv);
	return CS_CLI_FAILED;
}

static const struct cs_option options[] = {
	{.name = "strict", .help = "Refuse a rule that would be wider than written"},
};

const struct cs_command cs_cmd_policy_check = {.name = "policy check",
	.summary = "Say what policies would do, without a daemon",
	.usage = "[--strict] FILE|DIR...",
	.options = options,
	.noptions = 1,
	.min_words = 1,
	.max_words = 4096,
	.notes =
		"Starts countersign-identityd --check-policy, and passes on what it prints and its exit code: 0 fine,\n"
		"1 a policy is refused, 2 wrong usage or a file that cannot be read. '-' is standard input.",
	.examples = "  countersign policy check policy/*.yaml\n"
		    "  countersign policy check --strict /etc/countersign/policies -o json\n",
	.run = run};

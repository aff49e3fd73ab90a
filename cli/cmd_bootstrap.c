/* bootstrap spire: starts the registrar's program in its mode --bootstrap-spire, which has its own options and help. */
#include "commands.h"

#include <stdlib.h>
#include <string.h>
#include "program.h"

static int run(struct cs_cli *cli, struct cs_error *e)
{
	char **argv = calloc(cli->nwords + 6, sizeof(*argv));
	size_t n = 0;
	if (!argv)
		abort();
	argv[n++] = (char *)"countersign-registrar";
	argv[n++] = (char *)"--bootstrap-spire";
	if (cli->help)
		argv[n++] = (char *)"--help";
	if (cli->json) {
		argv[n++] = (char *)"-o";
		argv[n++] = (char *)"json";
	}
	memcpy(argv + n, cli->words, cli->nwords * sizeof(*argv));
	cs_cli_exec("spire-adapter", argv, e); /* its output and exit code are ours */
	free(argv);
	return CS_CLI_FAILED;
}

const struct cs_command cs_cmd_bootstrap_spire = {.name = "bootstrap spire",
	.summary = "Make the SPIRE entries that Countersign itself needs, or check an installation",
	.usage = "[--print|--check] --trust-domain NAME --node NAME... [OPTION...]",
	.passes_on = true,
	.examples = "  countersign bootstrap spire --trust-domain example.org --node n1 --cluster-node n1\n"
		    "  countersign bootstrap spire --check --trust-domain example.org --node n1\n",
	.run = run};

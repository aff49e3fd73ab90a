/* store copy, store new-epoch: with no daemon running; they start identityd's program in these modes. */
#include "commands.h"

#include <stdlib.h>
#include "program.h"

static const struct cs_option options[] = {
	{.name = "config", .arg = "FILE", .help = "Configuration of identityd: trust domain, ranges, where etcd is"},
	{.name = "set", .arg = "KEY=VALUE", .many = true, .help = "A setting that overrides it"},
};

/* What identityd reads its configuration from. */
static size_t configuration(const struct cs_cli *cli, char **argv)
{
	size_t n = 0;
	const char *value;
	argv[n++] = (char *)"countersign-identityd";
	if (cli->instance) {
		argv[n++] = (char *)"--instance";
		argv[n++] = (char *)cli->instance;
	}
	if ((value = cs_cli_value(cli, "config"))) {
		argv[n++] = (char *)"--config";
		argv[n++] = (char *)value;
	}
	for (size_t i = 0; (value = cs_cli_nth(cli, "set", i)); i++) {
		argv[n++] = (char *)"--set";
		argv[n++] = (char *)value;
	}
	return n;
}

static int run_copy(struct cs_cli *cli, struct cs_error *e)
{
	char *argv[2 * CS_CLI_GIVEN + 16] = {0};
	size_t n = configuration(cli, argv);
	argv[n++] = (char *)"--copy-store";
	argv[n++] = cli->words[0];
	argv[n++] = (char *)"--to";
	argv[n++] = cli->words[1];
	cs_cli_exec("identity", argv, e); /* its output and exit code are ours */
	return CS_CLI_FAILED;
}

static int run_new_epoch(struct cs_cli *cli, struct cs_error *e)
{
	char *argv[2 * CS_CLI_GIVEN + 16] = {0};
	size_t n = configuration(cli, argv);
	argv[n++] = (char *)"--new-epoch";
	argv[n++] = cli->words[0];
	cs_cli_exec("identity", argv, e);
	return CS_CLI_FAILED;
}

#define STORES                                                                                                         \
	"A store is sqlite (the instance's own file), etcd (what etcd.* of identityd's configuration says), or the\n"  \
	"path of a SQLite file. End every countersign-identityd of the cluster role that uses it first;\n"             \
	"one that still leads it is named, and nothing is done.\n"

const struct cs_command cs_cmd_store_copy = {.name = "store copy",
	.summary = "Copy the cluster role's store to another place: SQLite to etcd, or back",
	.usage = "[--config FILE] [--set KEY=VALUE]... FROM TO",
	.options = options,
	.noptions = 2,
	.min_words = 2,
	.max_words = 2,
	.plain = true,
	.notes =
		STORES "The target must be empty. What was copied is compared byte for byte; the copy gets an epoch of "
		       "its own, so that\nno follower goes on where the original was.",
	.examples = "  countersign store copy --config /etc/countersign/identityd.yaml sqlite etcd\n"
		    "  countersign store copy --config /etc/countersign/identityd.yaml etcd /var/backups/store.db\n",
	.run = run_copy};

const struct cs_command cs_cmd_store_new_epoch = {.name = "store new-epoch",
	.summary = "Give a store that was restored from a backup a new epoch",
	.usage = "[--config FILE] [--set KEY=VALUE]... STORE",
	.options = options,
	.noptions = 2,
	.min_words = 1,
	.max_words = 1,
	.plain = true,
	.notes = STORES "Without it, followers that had heard more than the backup has would go on in the middle of "
			"another story.",
	.examples = "  countersign store new-epoch --config /etc/countersign/identityd.yaml sqlite\n",
	.run = run_new_epoch};

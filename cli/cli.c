#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "instance.h"
#include "settings.h"

enum common { INSTANCE, OUTPUT, TIMEOUT, VERSION, HELP };

static const struct cs_option common[] = {
	[INSTANCE] = {.name = "instance",
		.arg = "DIR",
		.help = "The node whose daemons are asked; default " CS_INSTANCE_DEFAULT},
	[OUTPUT] = {.name = "output", .letter = 'o', .arg = "FORM", .help = "table (default) or json"},
	[TIMEOUT] = {.name = "timeout", .arg = "TIME", .help = "How long to wait for an answer, like 5s"},
	[VERSION] = {.name = "version", .help = "Print the version, and end"},
	[HELP] = {.name = "help", .letter = 'h', .help = "Print this, and end"},
};
#define NCOMMON (sizeof(common) / sizeof(common[0]))

/* ---- options of the command ---- */

const char *cs_cli_nth(const struct cs_cli *cli, const char *option, size_t i)
{
	for (size_t g = 0; g < cli->ngiven; g++)
		if (strcmp(cli->given[g].option->name, option) == 0 && i-- == 0)
			return cli->given[g].value;
	return NULL;
}

const char *cs_cli_value(const struct cs_cli *cli, const char *option)
{
	return cs_cli_nth(cli, option, 0);
}

int cs_cli_number(const struct cs_cli *cli, const char *option, uint32_t max, uint32_t *ret, struct cs_error *e)
{
	const char *text = cs_cli_value(cli, option);
	if (!text) {
		*ret = 0;
		return CS_CLI_OK;
	}
	char *end;
	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	if (errno || *end || text[0] < '0' || text[0] > '9' || n == 0 || n > max) {
		cs_error_set(e, -EINVAL, "--%s %s: not a number from 1 to %u", option, text, max);
		return CS_CLI_USAGE;
	}
	*ret = (uint32_t)n;
	return CS_CLI_OK;
}

/* ---- parsing ---- */

/* How many words the name has, if argv begins with them; else 0. */
static int words_matching(const struct cs_command *c, int argc, char **argv)
{
	const char *p = c->name;
	for (int i = 0; i < argc; i++) {
		size_t len = strcspn(p, " ");
		if (strlen(argv[i]) != len || strncmp(argv[i], p, len) != 0)
			return 0;
		if (!p[len])
			return i + 1;
		p += len + 1;
	}
	return 0;
}

static bool is_group(const char *word)
{
	size_t len = strlen(word);
	for (size_t i = 0; cs_commands[i]; i++)
		if (strncmp(cs_commands[i]->name, word, len) == 0 && cs_commands[i]->name[len] == ' ')
			return true;
	return false;
}

/* "list, explain, flush" */
static void second_words(const char *group, char *out, size_t size)
{
	size_t len = strlen(group), n = 0;
	for (size_t i = 0; cs_commands[i]; i++) {
		const char *name = cs_commands[i]->name;
		if (strncmp(name, group, len) == 0 && name[len] == ' ' && n < size)
			n += (size_t)snprintf(out + n, size - n, "%s%s", n ? ", " : "", name + len + 1);
	}
}

/* argv begins where the command should. */
static int no_command(int argc, char **argv, struct cs_error *e)
{
	const char *names[64] = {0};
	char typed[128], words[128] = "";
	for (size_t i = 0; cs_commands[i] && i < 63; i++)
		names[i] = cs_commands[i]->name;
	bool group = is_group(argv[0]);
	if (group)
		second_words(argv[0], words, sizeof(words));
	if (group && (argc < 2 || argv[1][0] == '-'))
		return cs_error_set(e, -EINVAL, "'%s' needs one more word: %s; see countersign --help", argv[0], words);
	snprintf(typed, sizeof(typed), "%s%s%s", argv[0], group ? " " : "", group ? argv[1] : "");
	const char *near = cs_nearest(typed, names);
	if (near)
		return cs_error_set(e, -EINVAL, "there is no command '%s'; did you mean '%s'?", typed, near);
	return cs_error_set(e, -EINVAL, "there is no command '%s'; see countersign --help", typed);
}

static int take_common(struct cs_cli *cli, enum common which, const char *value, struct cs_error *e)
{
	switch (which) {
	case INSTANCE:
		cli->instance = value;
		break;
	case OUTPUT:
		if (strcmp(value, "json") != 0 && strcmp(value, "table") != 0)
			return cs_error_set(e, -EINVAL, "--output %s: write table or json", value);
		cli->json = value[0] == 'j';
		break;
	case TIMEOUT:
		if (cs_duration_parse(value, &cli->timeout_ms, e) < 0)
			return cs_error_prefix(e, "--timeout");
		if (cli->timeout_ms < 1)
			return cs_error_set(e, -EINVAL, "--timeout %s: at least 1ms", value);
		break;
	case VERSION:
		cli->version = true;
		break;
	case HELP:
		cli->help = true;
		break;
	}
	return 0;
}

static int take_own(struct cs_cli *cli, const struct cs_option *option, const char *value, struct cs_error *e)
{
	if (!option->many && cs_cli_value(cli, option->name))
		return cs_error_set(e, -EINVAL, "--%s is given twice", option->name);
	if (cli->ngiven == CS_CLI_GIVEN)
		return cs_error_set(e, -E2BIG, "more than %d options", CS_CLI_GIVEN);
	cli->given[cli->ngiven].option = option;
	cli->given[cli->ngiven++].value = value;
	return 0;
}

static int check(const struct cs_cli *cli, struct cs_error *e)
{
	const struct cs_command *c = cli->command;
	if (c->plain && cli->json)
		return cs_error_set(e, -EINVAL, "'%s' has no JSON form", c->name);
	for (size_t i = 0; i < c->noptions; i++)
		if (c->options[i].required && !cs_cli_value(cli, c->options[i].name))
			return cs_error_set(e, -EINVAL, "--%s %s is missing; see countersign %s --help",
				c->options[i].name, c->options[i].arg, c->name);
	if (cli->nwords < c->min_words || cli->nwords > c->max_words)
		return cs_error_set(e, -EINVAL, "usage: countersign %s%s%s; see countersign %s --help", c->name,
			c->usage[0] ? " " : "", c->usage, c->name);
	return 0;
}

/* Common options before the command; *ret_at is where it begins. */
static int parse_front(struct cs_cli *cli, int argc, char **argv, int *ret_at, struct cs_error *e)
{
	struct cs_options_reader r = {.tables = {common}, .n = {NCOMMON}, .argc = argc, .argv = argv, .at = 1};
	const struct cs_option *option;
	const char *value;
	int found;
	while ((found = cs_options_next(&r, &option, &value, e)) == CS_OPTIONS_OPTION) {
		int rc = take_common(cli, (enum common)(option - common), value, e);
		if (rc < 0)
			return rc;
	}
	*ret_at = found == CS_OPTIONS_WORD ? r.at - 1 : argc;
	return found < 0 ? found : 0;
}

static int parse_rest(struct cs_cli *cli, int argc, char **argv, int at, struct cs_error *e)
{
	struct cs_options_reader r = {.tables = {cli->command->options, common},
		.n = {cli->command->noptions, NCOMMON},
		.argc = argc,
		.argv = argv,
		.at = at};
	const struct cs_option *option;
	const char *value;
	int found;
	cli->words = argv + at; /* words move to its front, over what was read already */
	while ((found = cs_options_next(&r, &option, &value, e)) > 0) {
		int rc = 0;
		if (found == CS_OPTIONS_WORD)
			cli->words[cli->nwords++] = (char *)value;
		else if (option >= common && option < common + NCOMMON)
			rc = take_common(cli, (enum common)(option - common), value, e);
		else
			rc = take_own(cli, option, value, e);
		if (rc < 0)
			return rc;
	}
	cli->words[cli->nwords] = NULL;
	return found < 0 || cli->help || cli->version ? found : check(cli, e);
}

static int parse(struct cs_cli *cli, int argc, char **argv, struct cs_error *e)
{
	int at, words = 0, rc = parse_front(cli, argc, argv, &at, e);
	if (rc < 0)
		return rc;
	if (at < argc && strcmp(argv[at], "help") == 0)
		cli->help = true;
	if (cli->help || cli->version)
		if (at == argc || strcmp(argv[at], "help") == 0)
			return 0;
	if (at >= argc)
		return cs_error_set(e, -EINVAL, "a command is missing; see countersign --help");
	for (size_t i = 0; cs_commands[i] && !words; i++) {
		words = words_matching(cs_commands[i], argc - at, argv + at);
		if (words)
			cli->command = cs_commands[i];
	}
	if (!words && argc - at == 2 && is_group(argv[at]) &&
		(strcmp(argv[at + 1], "--help") == 0 || strcmp(argv[at + 1], "-h") == 0)) {
		cli->help = true;
		return 0;
	}
	if (!words)
		return no_command(argc - at, argv + at, e);
	if (cli->command->passes_on) {
		cli->words = argv + at + words;
		cli->nwords = (size_t)(argc - at - words);
		return 0;
	}
	return parse_rest(cli, argc, argv, at + words, e);
}

int cs_cli_parse(struct cs_cli *cli, int argc, char **argv, bool *ret_end, struct cs_error *e)
{
	if (parse(cli, argc, argv, e) < 0)
		return CS_CLI_USAGE;
	bool passes_on = cli->command && cli->command->passes_on;
	if (cli->help && !passes_on)
		cs_cli_help(cli->command, cli->out);
	else if (cli->version)
		fprintf(cli->out, "countersign %s\n", CS_VERSION);
	if (cli->command && !cli->timeout_ms)
		cli->timeout_ms = cli->command->timeout_ms ? cli->command->timeout_ms : 5000;
	*ret_end = (cli->help && !passes_on) || cli->version;
	return CS_CLI_OK;
}

/* ---- help ---- */

static void help_program(FILE *out)
{
	fprintf(out, "countersign: shows and changes what the Countersign daemons of this node know.\n\n"
		     "Usage: countersign COMMAND [OPTION...]\n\nCommands:\n");
	for (size_t i = 0; cs_commands[i]; i++)
		fprintf(out, "  %-20s %s.\n", cs_commands[i]->name, cs_commands[i]->summary);
	fprintf(out, "\nOptions of every command:\n");
	cs_options_help(common, NCOMMON, out);
	fprintf(out, "\nExamples:\n"
		     "  countersign status\n"
		     "  countersign auth list -o json\n"
		     "  countersign endpoint register --help\n");
}

void cs_cli_help(const struct cs_command *c, FILE *out)
{
	if (!c) {
		help_program(out);
	} else {
		fprintf(out, "countersign %s: %s.\n\nUsage: countersign %s%s%s\n", c->name, c->summary, c->name,
			c->usage[0] ? " " : "", c->usage);
		if (c->notes)
			fprintf(out, "\n%s\n", c->notes);
		fprintf(out, "\nOptions:\n");
		cs_options_help(c->options, c->noptions, out);
		for (size_t i = 0; i < NCOMMON; i++)
			if (i != OUTPUT || !c->plain)
				cs_options_help(&common[i], 1, out);
		fprintf(out, "\nExamples:\n%s", c->examples);
	}
	fprintf(out, "\nExit codes: 0 fine, 1 failure, 2 wrong usage, 3 refused or not found, 4 not yet (--wait).\n");
}

/* ---- the program ---- */

int64_t cs_cli_now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int cs_cli_main(int argc, char **argv)
{
	const char *no_colour = getenv("NO_COLOR"); /* https://no-color.org */
	struct cs_cli cli = {.out = stdout,
		.instance = CS_INSTANCE_DEFAULT,
		.colour = isatty(STDOUT_FILENO) && !(no_colour && *no_colour)};
	struct cs_error e = {0};
	bool end;
	int code = cs_cli_parse(&cli, argc, argv, &end, &e);
	if (code == CS_CLI_OK && !end)
		code = cli.command->run(&cli, &e);
	if (code != CS_CLI_OK && e.text[0])
		fprintf(stderr, "countersign: %s\n", e.text);
	if (fflush(stdout) != 0 && code == CS_CLI_OK) {
		fprintf(stderr, "countersign: cannot write the answer: %s\n", strerror(errno));
		code = CS_CLI_FAILED;
	}
	return code;
}

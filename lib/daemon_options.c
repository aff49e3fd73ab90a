#include "daemon_options.h"

#include <errno.h>
#include <string.h>

enum standard { INSTANCE, CONFIG, SET, CHECK_CONFIG, PRINT_REFERENCE, VERSION, HELP };

static const struct cs_option standard[] = {
	[INSTANCE] = {.name = "instance",
		.arg = "DIR",
		.help = "Sockets and state of this node; default " CS_INSTANCE_DEFAULT},
	[CONFIG] = {.name = "config", .arg = "FILE", .help = "Settings, as YAML"},
	[SET] = {.name = "set", .arg = "NAME=VALUE", .help = "One setting, over what the file says", .many = true},
	[CHECK_CONFIG] = {.name = "check-config", .help = "Read all settings, report the first error, and end"},
	[PRINT_REFERENCE] = {.name = "print-reference", .help = "Print the settings as Markdown, and end"},
	[VERSION] = {.name = "version", .help = "Print the version, and end"},
	[HELP] = {.name = "help", .letter = 'h', .help = "Print this, and end"},
};
#define NSTANDARD (sizeof(standard) / sizeof(standard[0]))

/* ---- parsing ---- */

static int take_standard(struct cs_daemon_args *args, enum standard which, const char *value, struct cs_error *e)
{
	switch (which) {
	case INSTANCE:
	case CONFIG: {
		const char **to = which == INSTANCE ? &args->instance : &args->config;
		if (*to)
			return cs_error_set(e, -EINVAL, "--%s is given twice", standard[which].name);
		*to = value;
		break;
	}
	case SET:
		if (args->nsets == CS_DAEMON_SETS)
			return cs_error_set(e, -E2BIG, "more than %d times --set; use --config FILE", CS_DAEMON_SETS);
		args->sets[args->nsets++] = value;
		break;
	case CHECK_CONFIG:
		args->check_config = true;
		break;
	case PRINT_REFERENCE:
		args->print_reference = true;
		break;
	case VERSION:
		args->version = true;
		break;
	case HELP:
		args->help = true;
		break;
	}
	return 0;
}

static int take_own(struct cs_daemon *d, struct cs_daemon_args *args, const struct cs_option *option, const char *value,
	struct cs_error *e)
{
	size_t i = (size_t)(option - d->spec->options);
	if (d->options[i])
		return cs_error_set(e, -EINVAL, "--%s is given twice", option->name);
	if (option->mode && args->mode)
		return cs_error_set(e, -EINVAL, "--%s and --%s are two different things to do; choose one",
			args->mode->name, option->name);
	d->options[i] = value;
	if (option->mode)
		args->mode = option;
	return 0;
}

int cs_daemon_args_parse(struct cs_daemon *d, struct cs_daemon_args *args, int argc, char **argv, struct cs_error *e)
{
	struct cs_options_reader r = {.tables = {standard, d->spec->options},
		.n = {NSTANDARD, d->spec->noptions},
		.argc = argc,
		.argv = argv,
		.at = 1};
	const struct cs_option *option;
	const char *value;
	int nrest = 0, found; /* words move to the front of argv, over what was read already */
	d->rest = argv + (argc > 0);
	while ((found = cs_options_next(&r, &option, &value, e)) > 0) {
		int rc = 0;
		if (found == CS_OPTIONS_WORD)
			d->rest[nrest++] = (char *)value;
		else if (option >= standard && option < standard + NSTANDARD)
			rc = take_standard(args, (enum standard)(option - standard), value, e);
		else
			rc = take_own(d, args, option, value, e);
		if (rc < 0)
			return rc;
	}
	if (found < 0)
		return found;
	if (argc > 0)
		d->rest[nrest] = NULL;
	if (nrest && !args->help && (!args->mode || !args->mode->rest))
		return cs_error_set(
			e, -EINVAL, "unexpected argument '%s'; options begin with --, see --help", d->rest[0]);
	return 0;
}

/* ---- help ---- */

void cs_daemon_help(const struct cs_daemon_spec *spec, FILE *out)
{
	fprintf(out, "%s: %s%s\n\nUsage: %s [OPTION...]\n\nOptions:\n", spec->program, spec->summary,
		cs_full_stop(spec->summary), spec->program);
	cs_options_help(standard, NSTANDARD, out);
	size_t daemons = 0; /* its options as a daemon; from the first mode on they are of what it does instead */
	while (daemons < spec->noptions && !spec->options[daemons].mode)
		daemons++;
	cs_options_help(spec->options, daemons, out);
	if (daemons < spec->noptions)
		fprintf(out, "\nInstead of running as a daemon, and what goes with it:\n");
	cs_options_help(spec->options + daemons, spec->noptions - daemons, out);
	fprintf(out, "\nSettings (a dot is a level of indentation in the file):\n");
	cs_settings_help(&spec->settings, out);
	if (spec->examples)
		fprintf(out, "\nExamples:\n%s", spec->examples);
	fprintf(out, "\nExit codes: 0 fine, 1 failure, 2 wrong usage or configuration.\n");
}

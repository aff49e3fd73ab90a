#include "daemon_options.h"

#include <errno.h>
#include <string.h>

enum standard { INSTANCE, CONFIG, SET, CHECK_CONFIG, PRINT_REFERENCE, VERSION, HELP };

static const struct cs_option standard[] = {
	[INSTANCE] = {.name = "instance",
		.arg = "DIR",
		.help = "Sockets and state of this node; default " CS_INSTANCE_DEFAULT},
	[CONFIG] = {.name = "config", .arg = "FILE", .help = "Settings, as YAML"},
	[SET] = {.name = "set", .arg = "NAME=VALUE", .help = "One setting, over what the file says; may be repeated"},
	[CHECK_CONFIG] = {.name = "check-config", .help = "Read all settings, report the first error, and end"},
	[PRINT_REFERENCE] = {.name = "print-reference", .help = "Print the settings as Markdown, and end"},
	[VERSION] = {.name = "version", .help = "Print the version, and end"},
	[HELP] = {.name = "help", .help = "Print this, and end"},
};
#define NSTANDARD (sizeof(standard) / sizeof(standard[0]))

/* ---- parsing ---- */

/* One argument taken apart: --name or --name=value. */
struct word {
	const char *name;
	size_t len;
	const char *value; /* NULL: none with it */
};

static const struct cs_option *find(const struct cs_option *options, size_t n, const struct word *w)
{
	for (size_t i = 0; i < n; i++)
		if (strlen(options[i].name) == w->len && strncmp(options[i].name, w->name, w->len) == 0)
			return &options[i];
	return NULL;
}

static int unknown(const struct cs_daemon_spec *spec, const struct word *w, struct cs_error *e)
{
	const char *names[NSTANDARD + CS_DAEMON_OPTIONS + 1] = {0};
	char word[64];
	size_t n = 0;
	for (size_t i = 0; i < NSTANDARD; i++)
		names[n++] = standard[i].name;
	for (size_t i = 0; i < spec->noptions; i++)
		names[n++] = spec->options[i].name;
	snprintf(word, sizeof(word), "%.*s", (int)w->len, w->name);
	const char *near = cs_nearest(word, names);
	return cs_error_set(e, -EINVAL, "unknown option --%s; %s%s", word, near ? "did you mean --" : "see --help",
		near ? near : "");
}

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
	d->options[i] = value ? value : "";
	if (option->mode)
		args->mode = option;
	return 0;
}

/* The option at argv[*i], which moves on over a value of its own. */
static int take(struct cs_daemon *d, struct cs_daemon_args *args, int argc, char **argv, int *i, struct cs_error *e)
{
	struct word w = {.name = argv[*i] + 2, .len = strcspn(argv[*i] + 2, "=")};
	const struct cs_option *own = NULL, *option = find(standard, NSTANDARD, &w);
	if (w.name[w.len] == '=')
		w.value = w.name + w.len + 1;
	if (!option)
		option = own = find(d->spec->options, d->spec->noptions, &w);
	if (!option)
		return unknown(d->spec, &w, e);
	if (option->arg && !w.value) {
		if (*i + 1 == argc)
			return cs_error_set(
				e, -EINVAL, "--%s needs a value: --%s %s", option->name, option->name, option->arg);
		w.value = argv[++*i];
	} else if (!option->arg && w.value) {
		return cs_error_set(e, -EINVAL, "--%s takes no value", option->name);
	}
	if (own)
		return take_own(d, args, own, w.value, e);
	return take_standard(args, (enum standard)(option - standard), w.value, e);
}

int cs_daemon_args_parse(struct cs_daemon *d, struct cs_daemon_args *args, int argc, char **argv, struct cs_error *e)
{
	int nrest = 0; /* what is no option moves to the end of argv that was read already */
	char **rest = argv + 1;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "-h") == 0) {
			args->help = true;
			continue;
		}
		if (strncmp(argv[i], "--", 2) != 0) {
			rest[nrest++] = argv[i];
			continue;
		}
		int r = take(d, args, argc, argv, &i, e);
		if (r < 0)
			return r;
	}
	rest[argc > 1 ? nrest : 0] = NULL;
	d->rest = rest;
	if (nrest && !args->help && (!args->mode || !args->mode->rest))
		return cs_error_set(e, -EINVAL, "unexpected argument '%s'; options begin with --, see --help", rest[0]);
	return 0;
}

/* ---- help ---- */

static void help_option(const struct cs_option *o, FILE *out)
{
	char left[64];
	snprintf(left, sizeof(left), "--%s%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "",
		o->rest ? "..." : "");
	fprintf(out, "  %-24s %s.\n", left, o->help);
}

void cs_daemon_help(const struct cs_daemon_spec *spec, FILE *out)
{
	fprintf(out, "%s: %s.\n\nUsage: %s [OPTION...]\n\nOptions:\n", spec->program, spec->summary, spec->program);
	for (size_t i = 0; i < NSTANDARD; i++)
		help_option(&standard[i], out);
	if (spec->noptions)
		fprintf(out, "\nInstead of running as a daemon, and what goes with it:\n");
	for (size_t i = 0; i < spec->noptions; i++)
		help_option(&spec->options[i], out);
	fprintf(out, "\nSettings (a dot is a level of indentation in the file):\n");
	cs_settings_help(&spec->settings, out);
	if (spec->examples)
		fprintf(out, "\nExamples:\n%s", spec->examples);
	fprintf(out, "\nExit codes: 0 fine, 1 failure, 2 wrong usage or configuration.\n");
}

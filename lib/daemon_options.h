/* The command line of a daemon. Shared by lib/daemon*.c. */
#ifndef CS_DAEMON_OPTIONS_H
#define CS_DAEMON_OPTIONS_H

#include "daemon.h"

#define CS_DAEMON_SETS 64

struct cs_daemon_args {
	const char *instance, *config;
	const char *sets[CS_DAEMON_SETS];
	size_t nsets;
	bool help, version, check_config, print_reference;
	const struct cs_option *mode; /* NULL: run as a daemon */
};

/* Fills args, d->options and d->rest, which point into argv. */
CS_MUST_USE int cs_daemon_args_parse(
	struct cs_daemon *d, struct cs_daemon_args *args, int argc, char **argv, struct cs_error *e);
void cs_daemon_help(const struct cs_daemon_spec *spec, FILE *out);

#endif

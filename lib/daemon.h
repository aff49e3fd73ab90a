/* What the main() of every daemon does, so that main() is a page: options, configuration, log, directories, roles,
 * loop, status, readiness, exit codes.
 *
 *	int main(int argc, char **argv)
 *	{
 *		return cs_daemon_main(&spec, argc, argv);
 *	}
 *
 * Standard options: --instance DIR, --config FILE, --set KEY=VALUE (repeatable), --check-config, --help, --version,
 * --print-reference (Markdown for docs/reference/). Exit codes: 0 fine, 1 failure at runtime, 2 wrong usage or
 * configuration. */
#ifndef CS_DAEMON_H
#define CS_DAEMON_H

#include "error.h"
#include "instance.h"
#include "loop.h"
#include "metrics.h"
#include "options.h"
#include "settings.h"
#include "status.h"

#define CS_EXIT_FAILURE   1
#define CS_EXIT_USAGE     2
#define CS_DAEMON_OPTIONS 16

/* The settings that every daemon has. Embedded in the daemon's config; CS_DAEMON_SETTINGS gives the rows. */
struct cs_daemon_config {
	int log_level, log_format;
	struct cs_strings viewer, operator, agent, adapter, authd;
};
extern const char *const cs_log_levels[], *const cs_log_formats[];

#define CS_DAEMON_SETTINGS(config, field)                                                                              \
	CS_SET_ENUM(config, field.log_level, "log.level", "info", cs_log_levels, "What is logged from here upwards"),  \
		CS_SET_ENUM(config, field.log_format, "log.format", "auto", cs_log_formats,                            \
			"Form of the log; auto is plain on a terminal and JSON lines elsewhere"),                      \
		CS_SET_LIST(config, field.viewer, "roles.viewer", "group:countersign?", 0, 64,                         \
			"Who may read: user:NAME, group:NAME, uid:N, gid:N, a '?' at the end for 'if it exists'; "     \
			"root always may"),                                                                            \
		CS_SET_LIST(config, field.operator, "roles.operator", "", 0, 64,                                       \
			"Who may act on what runs (flush, authenticate now, ...)"),                                    \
		CS_SET_LIST(config, field.agent, "roles.agent", "", 0, 64, "Node agents, which register endpoints"),   \
		CS_SET_LIST(config, field.adapter, "roles.adapter", "", 0, 64, "The user of spire-adapter"),           \
		CS_SET_LIST(config, field.authd, "roles.authd", "", 0, 64, "The user of authd")

struct cs_daemon;
struct cs_daemon_spec {
	const char *name;     /* "authd": DIR/authd, "daemon" in the log */
	const char *program;  /* "countersign-authd" */
	const char *summary;  /* one sentence */
	const char *examples; /* lines for --help */
	struct cs_settings settings;
	const struct cs_option *options; /* the daemon's first, then modes and what goes with them */
	size_t noptions;
	size_t config_size;
	size_t common_offset; /* of the struct cs_daemon_config in the config */
	/* Checks across settings, after all of them are read; may be NULL. An error ends with exit code 2. */
	int (*check)(struct cs_daemon *d, struct cs_error *e);
	/* A mode option was given: do it, print, return the exit code. */
	int (*run_mode)(struct cs_daemon *d);
	/* The instance is there, and locked (cs_instance_lock). Open everything and start; call cs_daemon_ready() when it serves, here or later. */
	int (*start)(struct cs_daemon *d, struct cs_error *e);
	/* Close every handle; the loop ends by itself when the last is closed. Also after a start() that failed,
	 * but not when something failed before it (status.sock is taken). */
	void (*stop)(struct cs_daemon *d);
	/* The loop has ended: free. Called if stop() was. */
	void (*fini)(struct cs_daemon *d);
};

struct cs_daemon {
	const struct cs_daemon_spec *spec;
	char instance[CS_PATH]; /* DIR, absolute, without a slash at its end */
	void *config;           /* spec->config_size bytes, filled */
	const char
		*options[CS_DAEMON_OPTIONS]; /* by the order of spec->options: value, "" for a flag, NULL: not given */
	char **rest;                         /* NULL-terminated */
	struct cs_roles *roles;              /* of the settings, for cs_grpc_server */
	struct cs_loop loop;
	struct cs_metrics *metrics;
	struct cs_status *status; /* serves DIR/<name>/status.sock from before start() */
	void *app;                /* the daemon's own */
	int exit_code;
	bool start_called;
};

int cs_daemon_main(const struct cs_daemon_spec *spec, int argc, char **argv);
/* It serves: READY=1 to systemd and a line in the log. */
void cs_daemon_ready(struct cs_daemon *d);
/* End in an orderly way, but with exit code 1, after an error that the daemon cannot live with. Logs it. */
void cs_daemon_fatal(struct cs_daemon *d, const struct cs_error *e);
/* DIR/<name>/<file>. */
CS_MUST_USE int cs_daemon_path(const struct cs_daemon *d, const char *file, char out[CS_PATH], struct cs_error *e);

#endif

#include "daemon.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "daemon_options.h"
#include "grpc_roles.h"
#include "log.h"
#include "notify.h"

const char *const cs_log_levels[] = {"debug", "info", "warn", "error", NULL};
const char *const cs_log_formats[] = {"auto", "json", "plain", NULL};

static struct cs_daemon_config *common(const struct cs_daemon *d)
{
	return (void *)((char *)d->config + d->spec->common_offset);
}

/* ---- settings, roles, directory ---- */

/* "group:countersign?": no such group is no error. */
static int allow_one(struct cs_roles *roles, uint32_t role, const char *who, struct cs_error *e)
{
	char name[256];
	size_t len = strlen(who);
	bool maybe = len > 0 && who[len - 1] == '?';
	snprintf(name, sizeof(name), "%.*s", (int)(len - maybe), who);
	int r = cs_roles_allow(roles, role, name, e);
	return r == -ENOENT && maybe ? 0 : r;
}

static int read_roles(struct cs_daemon *d, struct cs_error *e)
{
	const struct cs_daemon_config *c = common(d);
	const struct {
		uint32_t role;
		const struct cs_strings *who;
	} lists[] = {{CS_ROLE_VIEWER, &c->viewer}, {CS_ROLE_OPERATOR, &c->operator}, {CS_ROLE_AGENT, &c->agent},
							   {CS_ROLE_ADAPTER, &c->adapter}, {CS_ROLE_AUTHD, &c->authd}};
	int r = 0;
	cs_roles_init(d->roles);
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]) && r == 0; i++)
		for (size_t j = 0; j < lists[i].who->n && r == 0; j++) {
			r = allow_one(d->roles, lists[i].role, lists[i].who->items[j], e);
			if (r < 0)
				cs_error_prefix(e, "roles.%s", cs_role_name(lists[i].role));
		}
	return r;
}

static int configure(struct cs_daemon *d, const struct cs_daemon_args *args, struct cs_error *e)
{
	const struct cs_settings *s = &d->spec->settings;
	int r = cs_settings_defaults(s, d->config, e);
	if (r == 0 && args->config)
		r = cs_settings_file(s, d->config, args->config, e);
	for (size_t i = 0; i < args->nsets && r == 0; i++) {
		r = cs_settings_set(s, d->config, args->sets[i], e);
		if (r < 0)
			cs_error_prefix(e, "--set");
	}
	if (r == 0)
		r = read_roles(d, e);
	if (r == 0 && d->spec->check)
		r = d->spec->check(d, e);
	return r;
}

/* DIR absolute and without slashes at its end, for it is in every path and in bpffs. */
static int set_instance(struct cs_daemon *d, const char *dir, struct cs_error *e)
{
	char *path = d->instance, cwd[CS_PATH] = "";
	if (!dir)
		dir = CS_INSTANCE_DEFAULT;
	if (dir[0] != '/' && !getcwd(cwd, sizeof(cwd)))
		return cs_error_errno(e, -errno, "cannot find the current directory");
	if (snprintf(path, CS_PATH, "%s%s%s", cwd, dir[0] != '/' ? "/" : "", dir) >= CS_PATH)
		return cs_error_set(e, -ENAMETOOLONG, "the instance directory %s is too long", dir);
	for (size_t n = strlen(path); n > 1 && path[n - 1] == '/';)
		path[--n] = '\0';
	char name[64];
	return cs_instance_name(path, name, e);
}

int cs_daemon_path(const struct cs_daemon *d, const char *file, char out[CS_PATH], struct cs_error *e)
{
	return cs_instance_path(d->instance, d->spec->name, file, out, e);
}

/* ---- the loop ---- */

void cs_daemon_ready(struct cs_daemon *d)
{
	struct cs_error e;
	cs_info("serving", cs_str("version", CS_VERSION), cs_str("instance", d->instance));
	if (cs_notify("READY=1\nSTATUS=serving", &e) < 0)
		cs_warn("the service manager was not told", cs_err(&e));
}

void cs_daemon_fatal(struct cs_daemon *d, const struct cs_error *e)
{
	cs_fail("cannot go on", cs_err(e), cs_why(e->reason));
	d->exit_code = CS_EXIT_FAILURE;
	cs_loop_stop(&d->loop);
}

static void on_stop(struct cs_loop *loop, void *data)
{
	(void)loop;
	struct cs_daemon *d = data;
	struct cs_error e;
	cs_info("stopping");
	if (cs_notify("STOPPING=1", &e) < 0)
		cs_warn("the service manager was not told", cs_err(&e));
	if (d->spec->stop && d->start_called)
		d->spec->stop(d);
	cs_status_close(d->status);
}

static int start(struct cs_daemon *d, struct cs_error *e)
{
	char path[CS_PATH];
	int r = cs_loop_signals(&d->loop, e);
	if (r == 0)
		r = cs_daemon_path(d, "status.sock", path, e);
	if (r == 0)
		r = cs_status_listen(d->status, path, d->roles, e);
	if (r < 0)
		return r;
	d->start_called = true;
	return d->spec->start(d, e);
}

static int run(struct cs_daemon *d)
{
	struct cs_error e = {0};
	int lock = -1;
	umask(022);
	if (cs_instance_make(d->instance, d->spec->name, &e) < 0 ||
		(lock = cs_instance_lock(d->instance, d->spec->name, &e)) < 0 || cs_loop_init(&d->loop, NULL, &e) < 0) {
		cs_fail("cannot start", cs_err(&e));
		return CS_EXIT_FAILURE; /* and with the process goes the lock */
	}
	d->metrics = cs_metrics_new(d->spec->name);
	d->status = cs_status_new(&d->loop, d->spec->name, d->metrics);
	cs_loop_on_stop(&d->loop, on_stop, d);
	if (start(d, &e) < 0) {
		cs_fail("cannot start", cs_err(&e), cs_why(e.reason));
		d->exit_code = CS_EXIT_FAILURE;
		cs_loop_stop(&d->loop);
	}
	cs_loop_run(&d->loop);
	if (d->spec->fini && d->start_called)
		d->spec->fini(d);
	cs_loop_fini(&d->loop);
	cs_status_free(d->status);
	cs_metrics_free(d->metrics);
	close(lock);
	uv_library_shutdown(); /* worker threads end while OpenSSL, which keeps state for each, is still there */
	return d->exit_code;
}

/* ---- main ---- */

static int usage_error(const struct cs_daemon *d, const struct cs_error *e)
{
	fprintf(stderr, "%s: %s\n", d->spec->program, e->text);
	return CS_EXIT_USAGE;
}

static int configured(struct cs_daemon *d, const struct cs_daemon_args *args)
{
	struct cs_error e;
	if (set_instance(d, args->instance, &e) < 0 || configure(d, args, &e) < 0)
		return usage_error(d, &e);
	if (args->check_config) {
		printf("the configuration is fine\n");
		return 0;
	}
	cs_log_init(d->spec->name, (enum cs_log_level)common(d)->log_level, (enum cs_log_format)common(d)->log_format);
	return args->mode ? d->spec->run_mode(d) : run(d);
}

int cs_daemon_main(const struct cs_daemon_spec *spec, int argc, char **argv)
{
	struct cs_roles roles;
	struct cs_daemon_args args = {0};
	struct cs_daemon d = {.spec = spec, .roles = &roles};
	struct cs_error e;
	if (cs_daemon_args_parse(&d, &args, argc, argv, &e) < 0)
		return usage_error(&d, &e);
	if (args.help) {
		cs_daemon_help(spec, stdout);
		return 0;
	}
	if (args.version) {
		printf("%s %s\n", spec->program, CS_VERSION);
		return 0;
	}
	if (args.print_reference) {
		cs_settings_reference(&spec->settings, spec->program, spec->summary, stdout);
		return 0;
	}
	d.config = calloc(1, spec->config_size);
	if (!d.config)
		abort();
	int code = configured(&d, &args);
	cs_settings_free(&spec->settings, d.config);
	free(d.config);
	return code;
}

/* countersign-authd: the monitor. */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>
#include "authd.h"

static int check(struct cs_daemon *d, struct cs_error *e)
{
	const struct cs_authd_config *c = d->config;
	uid_t uid;
	gid_t gid;
	if (d->options[0]) /* --detach needs no handshakers */
		return 0;
	return c->handshaker_user[0] ? cs_handshakers_user(c->handshaker_user, &uid, &gid, e) : 0;
}

static void on_nothing(void *data, uint32_t ifindex, enum cs_reason reason, const char *name)
{
	(void)data;
	(void)ifindex;
	(void)reason;
	(void)name;
}

static int detach(const struct cs_daemon *d, struct cs_error *e)
{
	char name[64];
	int lock = cs_instance_lock(d->instance, d->spec->name, e);
	int r = lock < 0 && lock != -ENOENT ? lock : cs_instance_name(d->instance, name, e);
	if (r < 0)
		return r;
	struct cs_datapath_config config = cs_authd_datapath_config(d->config, name);
	struct cs_datapath *dp = cs_datapath_open(&config, e);
	struct cs_attach *attach = dp ? cs_attach_new(dp, on_nothing, NULL, e) : NULL;
	r = attach ? cs_attach_remove_all(attach, e) : e->code;
	if (r == 0)
		r = cs_datapath_unpin(dp, e);
	cs_attach_free(attach);
	cs_datapath_free(dp);
	if (lock >= 0)
		close(lock);
	return r;
}

/* --detach: the one way to open what this daemon closed. */
static int run_mode(struct cs_daemon *d)
{
	struct cs_error e = {0};
	if (detach(d, &e) < 0) {
		fprintf(stderr, "%s: %s\n", d->spec->program, e.text);
		return CS_EXIT_FAILURE;
	}
	printf("detached: the endpoints of %s are open, nothing is checked any more\n", d->instance);
	return 0;
}

static const struct cs_option options[] = {
	{.name = "detach",
		.mode = true,
		.help = "Remove all programs and maps of this instance: its endpoints are OPEN from then on"},
};

static const struct cs_daemon_spec spec = {
	.name = "authd",
	.program = "countersign-authd",
	.summary = "Authenticates pairs of workloads with the authd of other nodes, and enforces what policy says of "
		   "them.",
	.examples = "  countersign-authd --instance /var/lib/countersign/node1\n"
		    "  countersign-authd --set datapath.audit=true      # drop nothing, record everything\n"
		    "  countersign-authd --instance DIR --detach        # open everything again\n",
	.settings = {0},
	.options = options,
	.noptions = sizeof(options) / sizeof(options[0]),
	.config_size = sizeof(struct cs_authd_config),
	.common_offset = offsetof(struct cs_authd_config, common),
	.check = check,
	.run_mode = run_mode,
	.start = cs_authd_start,
	.stop = cs_authd_stop,
	.fini = cs_authd_fini,
};

int main(int argc, char **argv)
{
	struct cs_daemon_spec with_settings = spec;
	with_settings.settings = cs_authd_settings;
	return cs_daemon_main(&with_settings, argc, argv);
}

/* exporter: the metrics of all daemons of the instance over HTTP. The daemons listen on no TCP port for this; the exporter
 * needs no more than the role viewer. libmicrohttpd is driven by the one loop: its epoll descriptor is polled, and a request
 * is suspended while the daemons are asked. */
#include "commands.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "exporter.h"
#include "log.h"
#include "notify.h"

#define DEFAULT_LISTEN "127.0.0.1:9964"

static void on_stop(struct cs_loop *loop, void *data)
{
	(void)loop;
	struct cs_error e;
	cs_info("stopping");
	if (cs_notify("STOPPING=1", &e) < 0)
		cs_warn("the service manager was not told", cs_err(&e));
	cs_exporter_close(data);
}

static int run(struct cs_cli *cli, struct cs_error *e)
{
	const char *listen = cs_cli_value(cli, "listen");
	struct cs_loop loop;
	struct cs_exporter *exporter = NULL;
	char address[CS_EXPORTER_ADDRESS];
	struct cs_error ignored;
	cs_log_init("exporter", CS_LOG_INFO, CS_LOG_AUTO);
	if (cs_loop_init(&loop, NULL, e) < 0)
		return CS_CLI_FAILED;
	int r = cs_loop_signals(&loop, e);
	if (r == 0)
		r = cs_exporter_new(
			&loop, cli->instance, listen ? listen : DEFAULT_LISTEN, cli->timeout_ms, &exporter, e);
	if (r == 0) {
		cs_loop_on_stop(&loop, on_stop, exporter);
		cs_exporter_address(exporter, address);
		cs_info("serving", cs_str("url", address));
		if (cs_notify("READY=1", &ignored) < 0)
			cs_warn("the service manager was not told", cs_err(&ignored));
		cs_loop_run(&loop);
	}
	cs_exporter_free(exporter);
	cs_loop_fini(&loop);
	return r == -EINVAL ? CS_CLI_USAGE : r < 0 ? CS_CLI_FAILED : CS_CLI_OK;
}

static const struct cs_option options[] = {
	{.name = "listen", .arg = "ADDRESS:PORT", .help = "Where to serve; default " DEFAULT_LISTEN},
};

const struct cs_command cs_cmd_exporter = {.name = "exporter",
	.summary = "Serve the metrics of all daemons of this node to Prometheus",
	.usage = "[--listen ADDRESS:PORT]",
	.options = options,
	.noptions = 1,
	.plain = true,
	.timeout_ms = 3000,
	.notes = "Needs no privilege but the role viewer. A daemon that is down is countersign_up{daemon=...} 0.",
	.examples = "  countersign exporter\n"
		    "  countersign exporter --listen '[::]:9964'\n"
		    "  curl http://127.0.0.1:9964/metrics\n",
	.run = run};

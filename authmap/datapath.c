/* Opening: probe, load two instances over one set of pinned maps. */
#include "datapath_private.h"

#include <errno.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <datapath.skel.h>

#include <linux/pkt_cls.h>

struct cs_datapath_config cs_datapath_defaults(void)
{
	return (struct cs_datapath_config){.bpffs = "/sys/fs/bpf",
		.instance = "default",
		.array_ifindex = 65535,
		.endpoints = 4096,
		.addresses = 262144,
		.prefixes = 16384,
		.policy = 262144,
		.auth = 65536,
		.pending = 16384,
		.flows = 65536,
		.seen = 16384,
		.nodes = 8192,
		.held_bytes = 1 << 20,
		.signal_bytes = 1 << 18,
		.drop_bytes = 1 << 18};
}

const char *cs_attach_mode_name(enum cs_attach_mode mode)
{
	static const char *const names[] = {"auto", "tcx", "clsact"};
	return names[mode];
}

const char *cs_csum_mode_name(enum cs_csum_mode mode)
{
	static const char *const names[] = {"auto", "kfunc", "pseudo-header"};
	return names[mode];
}

static const char *const map_names[MAP_ALL] = {
	[CS_MAP_ENDPOINT] = "cs_endpoint",
	[CS_MAP_ADDR4] = "cs_addr4",
	[CS_MAP_ADDR6] = "cs_addr6",
	[CS_MAP_PREFIX4] = "cs_prefix4",
	[CS_MAP_PREFIX6] = "cs_prefix6",
	[CS_MAP_POLICY] = "cs_policy",
	[CS_MAP_AUTH] = "cs_auth",
	[CS_MAP_BASIS] = "cs_basis",
	[CS_MAP_PENDING] = "cs_pending",
	[CS_MAP_FLOWS] = "cs_flows",
	[CS_MAP_BUDGET] = "cs_budget",
	[CS_MAP_NODE] = "cs_node",
	[MAP_COUNT] = "cs_count",
	[MAP_CONFIG] = "cs_config",
	[MAP_SEEN] = "cs_seen",
	[MAP_HELD] = "cs_held",
	[MAP_SIGNAL] = "cs_signal",
	[MAP_DROP] = "cs_drop",
};

const char *cs_map_name(int index)
{
	return map_names[index];
}

/* What libbpf last complained about: its functions return a bare number, and say on this channel what it is about. */
static char libbpf_said[512];

static int hear_libbpf(enum libbpf_print_level level, const char *fmt, va_list args)
{
	if (level != LIBBPF_WARN)
		return 0;
	char line[512];
	vsnprintf(line, sizeof(line), fmt, args);
	/* One line, and not the verifier's whole log. */
	line[strcspn(line, "\n")] = '\0';
	if (!strstr(line, "BEGIN PROG LOAD LOG") && !strstr(line, "END PROG LOAD LOG"))
		snprintf(libbpf_said, sizeof(libbpf_said), "%s", line);
	return 0;
}

static int make_dirs(struct cs_datapath *dp, const struct cs_datapath_config *config, struct cs_error *e)
{
	/* bpffs takes no dot in a name, and an instance has no colon in its own. */
	char name[64];
	snprintf(name, sizeof(name), "%s", config->instance);
	for (char *c = name; *c; c++)
		if (*c == '.')
			*c = ':';
	const char *forms[] = {
		"%s/countersign", "%s/countersign/%s", "%s/countersign/%s/v%d", "%s/countersign/%s/v%d/links"};
	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		char path[CS_DATAPATH_PATH];
		if (snprintf(path, sizeof(path), forms[i], config->bpffs, name, CS_ABI) >= (int)sizeof(path) - 64)
			return cs_error_set(e, -ENAMETOOLONG, "datapath.bpffs: %s is too long a path", config->bpffs);
		if (mkdir(path, 0700) < 0 && errno != EEXIST)
			return cs_error_errno(e, -errno, "cannot make the directory %s", path);
		if (i == 2)
			memcpy(dp->dir, path, sizeof(path));
	}
	return 0;
}

static void set_sizes(const struct cs_datapath *dp, struct datapath_bpf *obj, const struct cs_datapath_config *c)
{
	const struct {
		struct bpf_map *map;
		uint32_t rows;
	} sizes[] = {{obj->maps.cs_addr4, c->addresses}, {obj->maps.cs_addr6, c->addresses},
		{obj->maps.cs_prefix4, c->prefixes}, {obj->maps.cs_prefix6, c->prefixes},
		{obj->maps.cs_policy, c->policy}, {obj->maps.cs_auth, c->auth}, {obj->maps.cs_basis, c->auth},
		{obj->maps.cs_pending, c->pending}, {obj->maps.cs_budget, 2 * c->endpoints + c->nodes},
		{obj->maps.cs_flows, c->flows}, {obj->maps.cs_seen, c->seen}, {obj->maps.cs_node, c->nodes},
		{obj->maps.cs_held, c->held_bytes}, {obj->maps.cs_signal, c->signal_bytes},
		{obj->maps.cs_drop, c->drop_bytes}};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		(void)bpf_map__set_max_entries(sizes[i].map, sizes[i].rows);
	(void)bpf_map__set_type(obj->maps.cs_endpoint, dp->endpoint_hash ? BPF_MAP_TYPE_HASH : BPF_MAP_TYPE_ARRAY);
	(void)bpf_map__set_max_entries(obj->maps.cs_endpoint, dp->endpoint_rows);
}

static struct datapath_bpf *open_object(
	const struct cs_datapath *dp, const struct cs_datapath_config *config, struct cs_error *e)
{
	struct datapath_bpf *obj = datapath_bpf__open();
	if (!obj) {
		cs_error_errno(e, -errno, "cannot open the datapath's object: %s", libbpf_said);
		return NULL;
	}
	set_sizes(dp, obj, config);
	obj->rodata->held_action = dp->attach == CS_ATTACH_CLSACT ? TC_ACT_STOLEN : TC_ACT_SHOT;
	obj->rodata->csum_kfunc = dp->csum == CS_CSUM_KFUNC;
	return obj;
}

static int load_object(struct datapath_bpf *obj, struct cs_error *e)
{
	libbpf_said[0] = '\0';
	int r = datapath_bpf__load(obj);
	if (r < 0)
		return cs_error_errno(e, r, "the kernel refuses the datapath's programs or maps (%s)", libbpf_said);
	return 0;
}

static int load_first(
	struct cs_datapath *dp, const struct cs_datapath_config *config, struct cs_pins *pins, struct cs_error *e)
{
	struct datapath_bpf *obj = open_object(dp, config, e);
	if (!obj)
		return -ENOMEM;
	cs_pins_fini(pins);
	int r = cs_pins_reuse(dp, obj->obj, pins, e);
	if (r == 0)
		r = load_object(obj, e);
	if (r < 0) {
		datapath_bpf__destroy(obj);
		return r;
	}
	dp->instance[0] = obj;
	for (int i = 0; i < MAP_ALL; i++)
		dp->map_fd[i] = bpf_object__find_map_fd_by_name(obj->obj, map_names[i]);
	return 0;
}

static int load_another(struct cs_datapath *dp, const struct cs_datapath_config *config, int n, struct cs_error *e)
{
	struct datapath_bpf *obj = open_object(dp, config, e);
	if (!obj)
		return -ENOMEM;
	dp->instance[n] = obj;
	for (int i = 0; i < MAP_ALL; i++) {
		struct bpf_map *map = bpf_object__find_map_by_name(obj->obj, map_names[i]);
		int r = bpf_map__reuse_fd(map, dp->map_fd[i]);
		if (r < 0)
			return cs_error_errno(e, r, "cannot share the map %s", map_names[i]);
	}
	return load_object(obj, e);
}

/* Known checksum state where the kernel has it. The kfunc is tried rather than looked for: a name in BTF says nothing
 * about who may call it. */
static int load_by_csum(
	struct cs_datapath *dp, const struct cs_datapath_config *config, struct cs_pins *pins, struct cs_error *e)
{
	dp->csum = config->csum == CS_CSUM_AUTO ? CS_CSUM_KFUNC : config->csum;
	int r = load_first(dp, config, pins, e);
	if (r < 0 && config->csum == CS_CSUM_AUTO) {
		dp->csum = CS_CSUM_PSEUDO;
		r = load_first(dp, config, pins, e);
	}
	if (r < 0 && config->csum == CS_CSUM_KFUNC)
		cs_error_prefix(e, "datapath.csum: kfunc, which needs bpf_cast_to_kern_ctx (Linux 6.2)");
	return r;
}

static int load_all(struct cs_datapath *dp, const struct cs_datapath_config *config, struct cs_error *e)
{
	struct cs_pins pins;
	cs_pins_init(&pins);
	int r = load_by_csum(dp, config, &pins, e);
	for (int i = 1; r == 0 && i < CS_INSTANCES; i++)
		r = load_another(dp, config, i, e);
	if (r == 0)
		r = cs_pins_replace(dp, &pins, e);
	cs_pins_fini(&pins);
	return r;
}

static int map_config(struct cs_datapath *dp, struct cs_error *e)
{
	dp->config_size = (size_t)sysconf(_SC_PAGESIZE);
	void *page = mmap(NULL, dp->config_size, PROT_READ | PROT_WRITE, MAP_SHARED, dp->map_fd[MAP_CONFIG], 0);
	if (page == MAP_FAILED)
		return cs_error_errno(e, -errno, "cannot map cs_config");
	dp->config = page;
	__atomic_store_n(&dp->config->abi, CS_ABI, __ATOMIC_RELAXED);
	return 0;
}

/* Of this network namespace. Indices only grow, so a node that has seen many interfaces come and go has large ones. */
static uint32_t largest_ifindex(void)
{
	uint32_t max = 0;
	struct if_nameindex *names = if_nameindex();
	for (const struct if_nameindex *n = names; n && n->if_index; n++)
		if (n->if_index > max)
			max = n->if_index;
	if_freenameindex(names);
	return max;
}

struct cs_datapath *cs_datapath_open(const struct cs_datapath_config *config, struct cs_error *e)
{
	libbpf_set_print(hear_libbpf);
	if (cs_datapath_probe(config, e) < 0)
		return NULL;
	struct cs_datapath *dp = calloc(1, sizeof(*dp));
	if (!dp) {
		cs_error_errno(e, -ENOMEM, "cannot open the datapath");
		return NULL;
	}
	dp->attach = config->attach != CS_ATTACH_AUTO ? config->attach
		     : cs_probe_tcx()                 ? CS_ATTACH_TCX
						      : CS_ATTACH_CLSACT;
	dp->endpoint_hash = largest_ifindex() > config->array_ifindex;
	dp->endpoint_rows = dp->endpoint_hash ? config->endpoints : config->array_ifindex + 1;
	if (make_dirs(dp, config, e) < 0 || load_all(dp, config, e) < 0 || map_config(dp, e) < 0) {
		cs_datapath_free(dp);
		return NULL;
	}
	return dp;
}

void cs_datapath_free(struct cs_datapath *dp)
{
	if (!dp)
		return;
	if (dp->config)
		munmap(dp->config, dp->config_size);
	for (int i = 0; i < CS_INSTANCES; i++)
		if (dp->instance[i])
			datapath_bpf__destroy(dp->instance[i]);
	free(dp);
}

int cs_datapath_unpin(struct cs_datapath *dp, struct cs_error *e)
{
	char path[CS_DATAPATH_PATH + 32];
	int r = cs_pins_remove(dp, e);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "%s/links", dp->dir);
	/* The instance's own directory goes too, unless another ABI lives there. */
	if (rmdir(path) < 0 || rmdir(dp->dir) < 0)
		return cs_error_errno(e, -errno, "cannot remove %s", dp->dir);
	snprintf(path, sizeof(path), "%s", dp->dir);
	*strrchr(path, '/') = '\0';
	(void)rmdir(path);
	return 0;
}

enum cs_attach_mode cs_datapath_attach_mode(const struct cs_datapath *dp)
{
	return dp->attach;
}

enum cs_csum_mode cs_datapath_csum_mode(const struct cs_datapath *dp)
{
	return dp->csum;
}

const char *cs_datapath_dir(const struct cs_datapath *dp)
{
	return dp->dir;
}

int cs_datapath_prog_fd(const struct cs_datapath *dp, enum cs_prog prog, int instance)
{
	const struct datapath_bpf *obj = dp->instance[instance];
	const struct bpf_program *programs[] = {
		[CS_PROG_FROM] = obj->progs.cs_from,
		[CS_PROG_TO] = obj->progs.cs_to,
		[CS_PROG_INJECT] = obj->progs.cs_inject,
		[CS_PROG_SETTLE] = obj->progs.cs_settle,
	};
	return bpf_program__fd(programs[prog]);
}

int cs_datapath_map_fd(const struct cs_datapath *dp, const char *name)
{
	for (int i = 0; i < MAP_ALL; i++)
		if (strcmp(map_names[i], name) == 0)
			return dp->map_fd[i];
	return -ENOENT;
}

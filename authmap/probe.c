/* Is everything there that the datapath needs? Each step tries one thing on objects that vanish with their descriptors. */
#include "datapath_private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <linux/bpf.h>

struct probe {
	const struct cs_datapath_config *config;
	int hash, frozen, prog, syscall;
};

static int try_map_create(struct probe *p)
{
	p->hash = bpf_map_create(BPF_MAP_TYPE_HASH, NULL, 4, 4, 1, NULL);
	return p->hash;
}

static int try_map_update(struct probe *p)
{
	uint32_t key = 1, value = 2;
	return bpf_map_update_elem(p->hash, &key, &value, BPF_ANY);
}

static int try_map_lookup(struct probe *p)
{
	uint32_t key = 1, value;
	return bpf_map_lookup_elem(p->hash, &key, &value);
}

static int try_map_next(struct probe *p)
{
	uint32_t key;
	return bpf_map_get_next_key(p->hash, NULL, &key);
}

static int try_map_delete(struct probe *p)
{
	uint32_t key = 1;
	return bpf_map_delete_elem(p->hash, &key);
}

static int try_map_freeze(struct probe *p)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_RDONLY_PROG);
	p->frozen = bpf_map_create(BPF_MAP_TYPE_ARRAY, NULL, 4, 4, 1, &opts);
	return p->frozen < 0 ? p->frozen : bpf_map_freeze(p->frozen);
}

static int try_type(int type, uint32_t key, uint32_t value, uint32_t rows, uint32_t flags)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = flags);
	int fd = bpf_map_create(type, NULL, key, value, rows, &opts);
	if (fd >= 0)
		close(fd);
	return fd;
}

static int try_array(struct probe *p)
{
	(void)p;
	return try_type(BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_MMAPABLE);
}

static int try_lru(struct probe *p)
{
	(void)p;
	return try_type(BPF_MAP_TYPE_LRU_HASH, 4, 4, 64, 0);
}

static int try_lpm(struct probe *p)
{
	(void)p;
	return try_type(BPF_MAP_TYPE_LPM_TRIE, 8, 4, 1, BPF_F_NO_PREALLOC);
}

static int try_percpu(struct probe *p)
{
	(void)p;
	return try_type(BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 1, 0);
}

static int try_ring(struct probe *p)
{
	(void)p;
	return try_type(BPF_MAP_TYPE_RINGBUF, 0, 0, (uint32_t)sysconf(_SC_PAGESIZE), 0);
}

/* Global functions are checked by their BTF, so without it the verifier gives up on size. */
static int try_btf_load(struct probe *p)
{
	(void)p;
	struct btf *btf = btf__new_empty();
	if (!btf)
		return -errno;
	uint32_t size;
	int fd = btf__add_int(btf, "int", 4, BTF_INT_SIGNED);
	const void *raw = fd < 0 ? NULL : btf__raw_data(btf, &size);
	fd = raw ? bpf_btf_load(raw, size, NULL) : -EINVAL;
	if (fd >= 0)
		close(fd);
	btf__free(btf);
	return fd;
}

static int load_empty(enum bpf_prog_type type, uint32_t flags)
{
	const struct bpf_insn code[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0}, {.code = BPF_JMP | BPF_EXIT}};
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .prog_flags = flags);
	return bpf_prog_load(type, "cs_probe", "GPL", code, sizeof(code) / sizeof(code[0]), &opts);
}

static int try_prog_load(struct probe *p)
{
	p->prog = load_empty(BPF_PROG_TYPE_SCHED_CLS, 0);
	return p->prog;
}

static int try_syscall_load(struct probe *p)
{
	p->syscall = load_empty(BPF_PROG_TYPE_SYSCALL, BPF_F_SLEEPABLE);
	return p->syscall;
}

static int try_test_run(struct probe *p)
{
	uint64_t ctx = 0;
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = &ctx, .ctx_size_in = sizeof(ctx));
	return bpf_prog_test_run_opts(p->syscall, &opts);
}

static int try_info(struct probe *p)
{
	struct bpf_map_info info = {0};
	uint32_t size = sizeof(info);
	return bpf_obj_get_info_by_fd(p->hash, &info, &size);
}

static int probe_path(const struct probe *p, char path[CS_DATAPATH_PATH])
{
	int n = snprintf(path, CS_DATAPATH_PATH, "%s/countersign_probe_%d", p->config->bpffs, (int)getpid());
	return n < CS_DATAPATH_PATH ? 0 : -ENAMETOOLONG;
}

static int try_pin(struct probe *p)
{
	char path[CS_DATAPATH_PATH];
	int r = probe_path(p, path);
	if (r < 0)
		return r;
	(void)unlink(path); /* of a process of this number that was killed here */
	return bpf_obj_pin(p->hash, path);
}

static int try_obj_get(struct probe *p)
{
	char path[CS_DATAPATH_PATH];
	int r = probe_path(p, path);
	if (r < 0)
		return r;
	int fd = bpf_obj_get(path);
	if (fd >= 0)
		close(fd);
	return fd;
}

/* No interface has this index: a kernel that has TCX says ENODEV, one that has not says EINVAL. */
#define NO_IFINDEX INT_MAX

static int try_link_create(struct probe *p)
{
	int fd = cs_tcx_link_create(p->prog, NO_IFINDEX, CS_FROM, 0);
	if (fd >= 0)
		close(fd);
	return fd == -ENODEV ? 0 : fd < 0 ? fd : -EINVAL;
}

static int try_link_update(struct probe *p)
{
	int r = bpf_link_update(-1, p->prog, NULL);
	return r == -EBADF ? 0 : r;
}

static int try_query(struct probe *p)
{
	(void)p;
	struct cs_tcx_query query;
	int r = cs_tcx_query(NO_IFINDEX, CS_FROM, &query);
	return r == -ENODEV ? 0 : r;
}

struct step {
	const char *what, *need;
	int (*try)(struct probe *p);
};

static const struct step steps[] = {
	{"bpf(BPF_MAP_CREATE)", "hash maps", try_map_create},
	{"bpf(BPF_MAP_UPDATE_ELEM)", "to write its maps", try_map_update},
	{"bpf(BPF_MAP_LOOKUP_ELEM)", "to read its maps", try_map_lookup},
	{"bpf(BPF_MAP_GET_NEXT_KEY)", "to walk its maps", try_map_next},
	{"bpf(BPF_MAP_DELETE_ELEM)", "to take entries away", try_map_delete},
	{"array maps that can be mapped (Linux 5.5)", "its configuration", try_array},
	{"LRU hash maps (Linux 4.10)", "replies", try_lru},
	{"LPM tries (Linux 4.11)", "address prefixes", try_lpm},
	{"per-CPU array maps", "counters", try_percpu},
	{"ring buffers (Linux 5.8)", "held packets", try_ring},
	{"bpf(BPF_MAP_FREEZE)", "constants that the verifier knows", try_map_freeze},
	{"bpf(BPF_BTF_LOAD)", "functions that are verified once", try_btf_load},
	{"bpf(BPF_PROG_LOAD)", "tc programs", try_prog_load},
	{"bpf programs of type syscall (Linux 5.14)", "to settle budgets", try_syscall_load},
	{"bpf(BPF_PROG_TEST_RUN)", "to settle budgets", try_test_run},
	{"bpf(BPF_OBJ_GET_INFO_BY_FD)", "to recognise what an earlier life left", try_info},
	{"bpf(BPF_OBJ_PIN)", "maps that outlive authd", try_pin},
	{"bpf(BPF_OBJ_GET)", "to take over what an earlier life left", try_obj_get},
};
static const struct step tcx_steps[] = {
	{"TCX links, bpf(BPF_LINK_CREATE) (Linux 6.6)", "datapath.attach: tcx", try_link_create},
	{"bpf(BPF_LINK_UPDATE)", "to take over TCX links", try_link_update},
	{"bpf(BPF_PROG_QUERY)", "to see who runs before it", try_query},
};

static int run(struct probe *p, const struct step *list, size_t n, struct cs_error *e)
{
	for (size_t i = 0; i < n; i++) {
		int r = list[i].try(p);
		if (r < 0)
			return cs_error_errno(e, r,
				"this kernel (or a filter on this process) refuses %s, which the datapath needs for "
				"%s%s",
				list[i].what, list[i].need, r == -EPERM && geteuid() != 0 ? "; run authd as root" : "");
	}
	return 0;
}

static int check_bpffs(const char *path, struct cs_error *e)
{
	struct statfs fs;
	if (statfs(path, &fs) < 0)
		return cs_error_errno(e, -errno, "datapath.bpffs: %s", path);
	if (fs.f_type != BPF_FS_MAGIC)
		return cs_error_set(e, -EINVAL,
			"datapath.bpffs: %s is not a bpffs, so nothing would outlive this process; mount one: mount -t "
			"bpf bpf %s",
			path, path);
	return 0;
}

bool cs_probe_tcx(void)
{
	struct probe p = {.hash = -1, .frozen = -1, .syscall = -1};
	if (try_prog_load(&p) < 0)
		return false;
	bool has = try_link_create(&p) == 0;
	close(p.prog);
	return has;
}

int cs_datapath_probe(const struct cs_datapath_config *config, struct cs_error *e)
{
	struct probe p = {.config = config, .hash = -1, .frozen = -1, .prog = -1, .syscall = -1};
	int r = check_bpffs(config->bpffs, e);
	if (r < 0)
		return r;
	if (access("/sys/kernel/btf/vmlinux", R_OK) < 0)
		return cs_error_errno(e, -errno,
			"this kernel does not describe its types (CONFIG_DEBUG_INFO_BTF), which the datapath needs: "
			"/sys/kernel/btf/vmlinux");
	r = run(&p, steps, sizeof(steps) / sizeof(steps[0]), e);
	if (r == 0 &&
		(config->attach == CS_ATTACH_TCX || (config->attach == CS_ATTACH_AUTO && try_link_create(&p) == 0)))
		r = run(&p, tcx_steps, sizeof(tcx_steps) / sizeof(tcx_steps[0]), e);
	char path[CS_DATAPATH_PATH];
	if (probe_path(&p, path) == 0)
		(void)unlink(path);
	const int fds[] = {p.hash, p.frozen, p.prog, p.syscall};
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	return r;
}

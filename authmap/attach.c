#include "attach.h"

#include <dirent.h>
#include <errno.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <uthash.h>
#include "rtnl.h"
#include "tcx.h"

#define MOVES_MAX       3 /* to the front, in MOVES_WINDOW_MS */
#define MOVES_WINDOW_MS 60000
#define CLSACT_HANDLE   1
#define CLSACT_PRIORITY 1 /* the first that there is */
#define SHADOW_NAME     64
#define NEW_SUFFIX      "_new"

struct hook {
	int link_fd;       /* TCX; -1: none */
	int instance;      /* of the program that runs there */
	uint64_t revision; /* of the hook when we were last seen first; 0: look */
	int moves;
	int64_t moves_since_ms;
};

struct iface {
	uint32_t ifindex;
	struct hook hook[2];
	enum cs_reason reason;
	char shadow[SHADOW_NAME];
	char xdp[SHADOW_NAME]; /* the XDP program, as of the last check */
	UT_hash_handle hh;
};

struct cs_attach {
	struct cs_datapath *dp;
	cs_attach_fn on_change;
	void *data;
	struct iface *ifaces;
	uint32_t prog_id[2][CS_INSTANCES];
};

static int prog_fd(const struct cs_attach *a, enum cs_dir dir, int instance)
{
	return cs_datapath_prog_fd(a->dp, dir == CS_FROM ? CS_PROG_FROM : CS_PROG_TO, instance);
}

static int prog_info(int fd, uint32_t *ret_id, char name[BPF_OBJ_NAME_LEN])
{
	struct bpf_prog_info info = {0};
	uint32_t size = sizeof(info);
	int r = bpf_obj_get_info_by_fd(fd, &info, &size);
	if (r < 0)
		return r;
	*ret_id = info.id;
	if (name)
		memcpy(name, info.name, BPF_OBJ_NAME_LEN);
	return 0;
}

/* The program's name if the kernel tells. */
static void prog_name(uint32_t id, const char *kind, char out[SHADOW_NAME])
{
	char name[BPF_OBJ_NAME_LEN] = "";
	int fd = bpf_prog_get_fd_by_id(id);
	if (fd >= 0) {
		(void)prog_info(fd, &id, name);
		close(fd);
	}
	snprintf(out, SHADOW_NAME, "%s%s%s(program id %u)", kind, name, name[0] ? " " : "", id);
}

/* Is this program one of ours, of whatever life? */
static bool is_ours(uint32_t id, enum cs_dir dir)
{
	char name[BPF_OBJ_NAME_LEN] = "";
	int fd = bpf_prog_get_fd_by_id(id);
	if (fd < 0)
		return false;
	int r = prog_info(fd, &id, name);
	close(fd);
	return r == 0 && strcmp(name, dir == CS_FROM ? "cs_from" : "cs_to") == 0;
}

/* Pins */

static void link_path(const struct cs_attach *a, uint32_t ifindex, enum cs_dir dir, const char *suffix, char *out)
{
	snprintf(out, CS_DATAPATH_PATH + 64, "%s/links/%u_%s%s", cs_datapath_dir(a->dp), ifindex,
		dir == CS_FROM ? "from" : "to", suffix);
}

static void unpin_link(const struct cs_attach *a, uint32_t ifindex, enum cs_dir dir, const char *suffix)
{
	char path[CS_DATAPATH_PATH + 64];
	link_path(a, ifindex, dir, suffix, path);
	(void)unlink(path);
}

/* Under its final name, which may be taken by the link that this one replaces. A new name first: at no moment is no link
 * pinned, and a life that ends in between leaves two. */
static int pin_link(struct cs_attach *a, uint32_t ifindex, enum cs_dir dir, int fd)
{
	char path[CS_DATAPATH_PATH + 64], fresh[CS_DATAPATH_PATH + 64];
	link_path(a, ifindex, dir, "", path);
	link_path(a, ifindex, dir, NEW_SUFFIX, fresh);
	(void)unlink(fresh);
	int r = bpf_obj_pin(fd, fresh);
	if (r < 0)
		return r;
	(void)unlink(path);
	return rename(fresh, path) < 0 ? -errno : 0;
}

/* TCX */

/* Attaches in front of everybody. A link of ours that is there already goes when the new one is in place. */
static int tcx_front(struct cs_attach *a, struct iface *i, enum cs_dir dir, struct cs_error *e)
{
	struct hook *h = &i->hook[dir];
	/* One instance cannot be twice at a hook, not even for the moment in which it moves. */
	int instance = h->link_fd >= 0 ? !h->instance : 0;
	int fd = cs_tcx_link_create(prog_fd(a, dir, instance), i->ifindex, dir, CS_TCX_BEFORE);
	if (fd < 0)
		return cs_error_errno(e, fd, "cannot attach to interface %u (TCX)", i->ifindex);
	int r = pin_link(a, i->ifindex, dir, fd);
	if (r < 0) {
		close(fd);
		return cs_error_errno(
			e, r, "cannot pin the link of interface %u in %s/links", i->ifindex, cs_datapath_dir(a->dp));
	}
	if (h->link_fd >= 0)
		close(h->link_fd);
	h->link_fd = fd;
	h->instance = instance;
	h->revision = 0;
	return 0;
}

/* clsact */

static int clsact_query(uint32_t ifindex, enum cs_dir dir, uint32_t *ret_prog)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex,
		.attach_point = dir == CS_FROM ? BPF_TC_INGRESS : BPF_TC_EGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = CLSACT_HANDLE, .priority = CLSACT_PRIORITY);
	int r = bpf_tc_query(&hook, &opts);
	*ret_prog = r == 0 ? opts.prog_id : 0;
	return r;
}

static int clsact_attach(struct cs_attach *a, struct iface *i, enum cs_dir dir, struct cs_error *e)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)i->ifindex,
		.attach_point = dir == CS_FROM ? BPF_TC_INGRESS : BPF_TC_EGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = CLSACT_HANDLE, .priority = CLSACT_PRIORITY,
		.prog_fd = prog_fd(a, dir, 0), .flags = BPF_TC_F_REPLACE);
	uint32_t there;
	int r = bpf_tc_hook_create(&hook);
	if (r < 0 && r != -EEXIST)
		return cs_error_errno(e, r, "cannot make a clsact qdisc on interface %u", i->ifindex);
	if (clsact_query(i->ifindex, dir, &there) == 0 && !is_ours(there, dir))
		return cs_error_reason(e, -EBUSY, CS_R_SHADOWED,
			"interface %u has a foreign filter at priority %d (program id %u), where the check must be",
			i->ifindex, CLSACT_PRIORITY, there);
	r = bpf_tc_attach(&hook, &opts);
	return r < 0 ? cs_error_errno(e, r, "cannot attach to interface %u (clsact)", i->ifindex) : 0;
}

/* Only what is ours, of whatever life. */
static int clsact_detach(uint32_t ifindex, enum cs_dir dir)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex,
		.attach_point = dir == CS_FROM ? BPF_TC_INGRESS : BPF_TC_EGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = CLSACT_HANDLE, .priority = CLSACT_PRIORITY);
	uint32_t there;
	if (clsact_query(ifindex, dir, &there) < 0 || !is_ours(there, dir))
		return 0;
	return bpf_tc_detach(&hook, &opts);
}

static bool is_tcx(const struct cs_attach *a)
{
	return cs_datapath_attach_mode(a->dp) == CS_ATTACH_TCX;
}

/* Interfaces */

static struct iface *find(const struct cs_attach *a, uint32_t ifindex)
{
	struct iface *i;
	HASH_FIND(hh, a->ifaces, &ifindex, sizeof(ifindex), i);
	return i;
}

static struct iface *find_or_new(struct cs_attach *a, uint32_t ifindex)
{
	struct iface *i = find(a, ifindex);
	if (i)
		return i;
	i = calloc(1, sizeof(*i));
	if (!i)
		return NULL;
	i->ifindex = ifindex;
	i->hook[CS_FROM].link_fd = i->hook[CS_TO].link_fd = -1;
	HASH_ADD(hh, a->ifaces, ifindex, sizeof(i->ifindex), i);
	return i;
}

static void drop(struct cs_attach *a, struct iface *i)
{
	for (int dir = CS_FROM; dir <= CS_TO; dir++)
		if (i->hook[dir].link_fd >= 0)
			close(i->hook[dir].link_fd);
	HASH_DEL(a->ifaces, i);
	free(i);
}

int cs_attach_suitable(uint32_t ifindex, struct cs_error *e)
{
	struct cs_link_info link;
	int r = cs_rtnl_link(ifindex, &link, e);
	if (r < 0)
		return r;
	bool known = strcmp(link.kind, "veth") == 0 || strcmp(link.kind, "tun") == 0;
	if (known && link.type == ARPHRD_ETHER)
		return 0;
	return cs_error_reason(e, -EOPNOTSUPP, CS_R_INTERFACE_UNSUITABLE,
		"interface %s is %s%s: only the host side of a veth pair or a tap device can be enforced, because "
		"every "
		"other kind has a way round tc",
		link.name,
		known          ? "not Ethernet, of kind "
		: link.kind[0] ? "of kind "
			       : "a physical device",
		link.kind);
}

/* It runs before tc, and may redirect. */
static void look_for_xdp(struct iface *i)
{
	struct cs_link_info link;
	i->xdp[0] = '\0';
	if (cs_rtnl_link(i->ifindex, &link, NULL) == 0 && link.xdp_prog)
		prog_name(link.xdp_prog, "XDP ", i->xdp);
}

static int add_hook(struct cs_attach *a, struct iface *i, enum cs_dir dir, struct cs_error *e)
{
	if (!is_tcx(a)) {
		int r = clsact_attach(a, i, dir, e);
		if (r < 0)
			return r;
		if (i->hook[dir].link_fd >= 0) { /* an earlier life used TCX */
			unpin_link(a, i->ifindex, dir, "");
			close(i->hook[dir].link_fd);
			i->hook[dir].link_fd = -1;
		}
		return 0;
	}
	if (i->hook[dir].link_fd < 0) {
		int r = tcx_front(a, i, dir, e);
		if (r < 0)
			return r;
	}
	/* An earlier life used clsact. Two checks in a row would take a packet's tag from each other. */
	int r = clsact_detach(i->ifindex, dir);
	return r < 0 ? cs_error_errno(e, r, "cannot remove the earlier filter from interface %u", i->ifindex) : 0;
}

int cs_attach_add(struct cs_attach *a, uint32_t ifindex, struct cs_error *e)
{
	int r = cs_attach_suitable(ifindex, e);
	if (r < 0)
		return r;
	struct iface *i = find_or_new(a, ifindex);
	if (!i)
		return cs_error_errno(e, -ENOMEM, "cannot attach to interface %u", ifindex);
	look_for_xdp(i);
	int from = add_hook(a, i, CS_FROM, e);
	int to = add_hook(a, i, CS_TO, from < 0 ? NULL : e);
	return from < 0 ? from : to;
}

void cs_attach_forget(struct cs_attach *a, uint32_t ifindex)
{
	for (int dir = CS_FROM; dir <= CS_TO; dir++) {
		unpin_link(a, ifindex, (enum cs_dir)dir, "");
		unpin_link(a, ifindex, (enum cs_dir)dir, NEW_SUFFIX);
	}
	struct iface *i = find(a, ifindex);
	if (i)
		drop(a, i);
}

/* What an earlier life left */

/* One pin: a link that lives gets this life's program, one whose interface is gone goes too. */
static int take_over(struct cs_attach *a, const char *name, struct cs_error *e)
{
	char path[CS_DATAPATH_PATH + 320];
	uint32_t ifindex, prog;
	enum cs_dir dir;
	snprintf(path, sizeof(path), "%s/links/%s", cs_datapath_dir(a->dp), name);
	int fd = bpf_obj_get(path);
	if (fd < 0)
		return cs_error_errno(e, fd, "cannot open the pinned link %s", path);
	int r = cs_tcx_link_info(fd, &ifindex, &dir, &prog);
	if (r < 0) {
		close(fd);
		return unlink(path) < 0 ? cs_error_errno(e, -errno, "cannot remove %s", path) : 0;
	}
	struct iface *i = find_or_new(a, ifindex);
	if (!i) {
		close(fd);
		return cs_error_errno(e, -ENOMEM, "cannot take over %s", path);
	}
	struct hook *h = &i->hook[dir];
	/* A life that ended while it moved to the front left two, and one is enough. */
	if (h->link_fd >= 0) {
		close(fd);
		return unlink(path) < 0 ? cs_error_errno(e, -errno, "cannot remove %s", path) : 0;
	}
	r = bpf_link_update(fd, prog_fd(a, dir, 0), NULL);
	if (r < 0) {
		close(fd);
		return cs_error_errno(e, r, "cannot give %s this life's program", path);
	}
	h->link_fd = fd;
	h->instance = 0;
	char wanted[CS_DATAPATH_PATH + 64];
	link_path(a, ifindex, dir, "", wanted);
	if (strcmp(path, wanted) != 0 && rename(path, wanted) < 0)
		return cs_error_errno(e, -errno, "cannot rename %s", path);
	return 0;
}

static int take_over_all(struct cs_attach *a, struct cs_error *e)
{
	char path[CS_DATAPATH_PATH + 16];
	snprintf(path, sizeof(path), "%s/links", cs_datapath_dir(a->dp));
	struct dirent **names;
	int n = scandir(path, &names, NULL, alphasort), r = 0;
	if (n < 0)
		return cs_error_errno(e, -errno, "cannot read %s", path);
	for (int k = 0; k < n; k++) {
		if (r == 0 && names[k]->d_name[0] != '.')
			r = take_over(a, names[k]->d_name, e);
		free(names[k]);
	}
	free(names);
	return r;
}

struct cs_attach *cs_attach_new(struct cs_datapath *dp, cs_attach_fn on_change, void *data, struct cs_error *e)
{
	struct cs_attach *a = calloc(1, sizeof(*a));
	if (!a) {
		cs_error_errno(e, -ENOMEM, "cannot attach");
		return NULL;
	}
	*a = (struct cs_attach){.dp = dp, .on_change = on_change, .data = data};
	int r = 0;
	for (int dir = CS_FROM; r == 0 && dir <= CS_TO; dir++)
		for (int n = 0; r == 0 && n < CS_INSTANCES; n++)
			r = prog_info(prog_fd(a, (enum cs_dir)dir, n), &a->prog_id[dir][n], NULL);
	if (r < 0)
		cs_error_errno(e, r, "cannot look at the datapath's programs");
	else
		r = take_over_all(a, e);
	if (r < 0) {
		cs_attach_free(a);
		return NULL;
	}
	return a;
}

void cs_attach_free(struct cs_attach *a)
{
	if (!a)
		return;
	struct iface *i, *next;
	HASH_ITER (hh, a->ifaces, i, next)
		drop(a, i);
	free(a);
}

/* Are we first? */

static void report(struct cs_attach *a, struct iface *i, enum cs_reason reason, const char *name)
{
	if (i->reason == reason && strcmp(i->shadow, name) == 0)
		return;
	i->reason = reason;
	if (name != i->shadow)
		snprintf(i->shadow, sizeof(i->shadow), "%s", name);
	if (a->on_change)
		a->on_change(a->data, i->ifindex, reason, i->shadow);
}

static bool may_move(struct hook *h, int64_t now_ms)
{
	if (h->moves == 0 || now_ms - h->moves_since_ms >= MOVES_WINDOW_MS) {
		h->moves = 0;
		h->moves_since_ms = now_ms;
	}
	return h->moves++ < MOVES_MAX;
}

/* True: somebody runs, or ran until now, before us; shadow names it. */
static bool tcx_shadowed(struct cs_attach *a, struct iface *i, enum cs_dir dir, int64_t now_ms, char *shadow)
{
	struct hook *h = &i->hook[dir];
	struct cs_tcx_query q;
	int r = cs_tcx_query(i->ifindex, dir, &q);
	if (r < 0) {
		snprintf(shadow, SHADOW_NAME, "unknown: %s", strerror(-r));
		return r != -ENODEV;
	}
	if (h->revision && q.revision == h->revision)
		return false;
	if (q.count && q.prog_ids[0] == a->prog_id[dir][h->instance]) {
		h->revision = q.revision;
		return false;
	}
	if (q.count)
		prog_name(q.prog_ids[0], "", shadow);
	else
		snprintf(shadow, SHADOW_NAME, "nobody: the link was detached");
	h->revision = 0;
	if (may_move(h, now_ms))
		(void)tcx_front(a, i, dir, NULL); /* no success: still not first at the next poll */
	return true;
}

static bool clsact_shadowed(struct cs_attach *a, struct iface *i, enum cs_dir dir, int64_t now_ms, char *shadow)
{
	struct cs_tcx_query q;
	uint32_t there = 0;
	if (cs_tcx_query(i->ifindex, dir, &q) == 0 && q.count) {
		prog_name(q.prog_ids[0], "TCX ", shadow);
		return true;
	}
	int r = clsact_query(i->ifindex, dir, &there);
	if (r == -ENODEV || there == a->prog_id[dir][0])
		return false;
	if (there)
		prog_name(there, "", shadow);
	else
		snprintf(shadow, SHADOW_NAME, "nobody: the filter was removed");
	if (may_move(&i->hook[dir], now_ms))
		(void)clsact_attach(a, i, dir, NULL);
	return true;
}

static void poll_one(struct cs_attach *a, struct iface *i, int64_t now_ms)
{
	char shadow[2][SHADOW_NAME] = {"", ""};
	bool shadowed = false;
	for (int dir = CS_FROM; dir <= CS_TO; dir++)
		if (is_tcx(a) ? tcx_shadowed(a, i, (enum cs_dir)dir, now_ms, shadow[dir])
			      : clsact_shadowed(a, i, (enum cs_dir)dir, now_ms, shadow[dir]))
			shadowed = true;
		else
			shadow[dir][0] = '\0';
	const char *name = shadow[CS_FROM][0] ? shadow[CS_FROM] : shadow[CS_TO][0] ? shadow[CS_TO] : i->xdp;
	report(a, i, shadowed || i->xdp[0] ? CS_R_SHADOWED : CS_R_NONE, name);
}

void cs_attach_poll(struct cs_attach *a, int64_t now_mono_ms)
{
	struct iface *i, *next;
	HASH_ITER (hh, a->ifaces, i, next)
		poll_one(a, i, now_mono_ms);
}

void cs_attach_check(struct cs_attach *a, uint32_t ifindex, int64_t now_mono_ms)
{
	struct iface *i = find(a, ifindex);
	if (!i)
		return;
	look_for_xdp(i);
	poll_one(a, i, now_mono_ms);
}

int cs_attach_state(const struct cs_attach *a, uint32_t ifindex, const char **name)
{
	const struct iface *i = find(a, ifindex);
	if (!i)
		return -ENOENT;
	if (name)
		*name = i->shadow;
	return (int)i->reason;
}

int cs_attach_remove_all(struct cs_attach *a, struct cs_error *e)
{
	int first = 0;
	struct iface *i, *next;
	HASH_ITER (hh, a->ifaces, i, next)
		cs_attach_forget(a, i->ifindex);
	/* Filters have no pins to find them by. */
	struct if_nameindex *names = if_nameindex();
	if (!names)
		return cs_error_errno(e, -errno, "cannot list the interfaces");
	for (const struct if_nameindex *n = names; n->if_index; n++)
		for (int dir = CS_FROM; dir <= CS_TO; dir++) {
			int r = clsact_detach(n->if_index, (enum cs_dir)dir);
			if (r < 0 && first == 0)
				first = cs_error_errno(e, r, "cannot detach from %s", n->if_name);
		}
	if_freenameindex(names);
	return first;
}

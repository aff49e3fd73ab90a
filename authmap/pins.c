/* What an earlier life pinned: maps that fit are used as they are, maps of another size or kind are replaced by copies.
 * Nothing of the earlier life is touched before all of this one's is there. The programs that it left attached go on with
 * the old maps until attach.h gives their hooks this life's, and nobody writes in between. */
#include "datapath_private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

static void map_path(const struct cs_datapath *dp, int index, const char *suffix, char path[CS_DATAPATH_PATH + 32])
{
	snprintf(path, CS_DATAPATH_PATH + 32, "%s/%s%s", dp->dir, cs_map_name(index), suffix);
}

/* 1: fits, 0: another size or kind, or a negative errno. */
static int fits(int fd, const struct bpf_map *want, const char *path, struct cs_error *e)
{
	struct bpf_map_info info = {0};
	uint32_t size = sizeof(info);
	int r = bpf_obj_get_info_by_fd(fd, &info, &size);
	if (r < 0)
		return cs_error_errno(e, r, "cannot look at the pinned map %s", path);
	if (info.key_size != bpf_map__key_size(want) || info.value_size != bpf_map__value_size(want))
		return cs_error_set(e, -EINVAL,
			"the rows of the pinned map %s have another size than this version's, so it is not of this "
			"program; "
			"open the node (--detach) before this version starts",
			path);
	return info.type == bpf_map__type(want) && info.max_entries == bpf_map__max_entries(want);
}

int cs_pins_reuse(const struct cs_datapath *dp, struct bpf_object *object, struct cs_pins *pins, struct cs_error *e)
{
	for (int i = 0; i < MAP_ALL; i++) {
		char path[CS_DATAPATH_PATH + 32];
		struct bpf_map *map = bpf_object__find_map_by_name(object, cs_map_name(i));
		map_path(dp, i, "", path);
		int fd = bpf_obj_get(path);
		if (fd == -ENOENT)
			continue;
		if (fd < 0)
			return cs_error_errno(e, fd, "cannot open the pinned map %s", path);
		pins->old[i] = fd;
		int r = fits(fd, map, path, e);
		if (r > 0) {
			pins->same[i] = true;
			r = bpf_map__reuse_fd(map, fd);
			if (r < 0)
				return cs_error_errno(e, r, "cannot take over the map %s", path);
		}
		if (r < 0)
			return r;
	}
	return 0;
}

static bool has_rows(int index)
{
	return index < CS_MAPS || index == MAP_SEEN; /* not the rings, the counters, the configuration */
}

static int copy_rows(const struct cs_datapath *dp, int index, int old, struct cs_error *e)
{
	uint8_t key[CS_ROW_KEY_MAX], next[CS_ROW_KEY_MAX], value[CS_ROW_VALUE_MAX];
	int r = bpf_map_get_next_key(old, NULL, key);
	while (r == 0) {
		r = bpf_map_lookup_elem(old, key, value);
		bool is_row = r == 0 && (index != CS_MAP_ENDPOINT || ((struct cs_endpoint *)value)->identity);
		if (is_row)
			r = bpf_map_update_elem(dp->map_fd[index], key, value, BPF_ANY);
		if (r < 0 && r != -ENOENT)
			return cs_error_errno(e, r,
				"the map %s/%s cannot be copied to one of the size that is set now; set a larger one",
				dp->dir, cs_map_name(index));
		r = bpf_map_get_next_key(old, key, next);
		memcpy(key, next, sizeof(key));
	}
	return r == -ENOENT ? 0 : cs_error_errno(e, r, "cannot walk the map %s/%s", dp->dir, cs_map_name(index));
}

static int pin(const struct cs_datapath *dp, int index, struct cs_error *e)
{
	char path[CS_DATAPATH_PATH + 32], fresh[CS_DATAPATH_PATH + 32];
	map_path(dp, index, "", path);
	map_path(dp, index, "_new", fresh);
	(void)unlink(fresh);
	int r = bpf_obj_pin(dp->map_fd[index], fresh);
	if (r == 0 && rename(fresh, path) < 0)
		r = -errno;
	return r < 0 ? cs_error_errno(e, r, "cannot pin the map %s", path) : 0;
}

int cs_pins_replace(const struct cs_datapath *dp, const struct cs_pins *pins, struct cs_error *e)
{
	int r = 0;
	for (int i = 0; r == 0 && i < MAP_ALL; i++)
		if (pins->old[i] >= 0 && !pins->same[i] && has_rows(i))
			r = copy_rows(dp, i, pins->old[i], e);
	for (int i = 0; r == 0 && i < MAP_ALL; i++)
		if (!pins->same[i])
			r = pin(dp, i, e);
	return r;
}

void cs_pins_init(struct cs_pins *pins)
{
	*pins = (struct cs_pins){0};
	for (int i = 0; i < MAP_ALL; i++)
		pins->old[i] = -1;
}

void cs_pins_fini(struct cs_pins *pins)
{
	for (int i = 0; i < MAP_ALL; i++)
		if (pins->old[i] >= 0)
			close(pins->old[i]);
	cs_pins_init(pins);
}

int cs_pins_remove(const struct cs_datapath *dp, struct cs_error *e)
{
	for (int i = 0; i < MAP_ALL; i++) {
		char path[CS_DATAPATH_PATH + 32];
		map_path(dp, i, "", path);
		if (unlink(path) < 0 && errno != ENOENT)
			return cs_error_errno(e, -errno, "cannot unpin %s", path);
		map_path(dp, i, "_new", path);
		(void)unlink(path); /* of a life that was killed while it pinned */
	}
	return 0;
}

/* Between the files of the datapath's user space: datapath.c, maps.c, probe.c. */
#ifndef CS_DATAPATH_PRIVATE_H
#define CS_DATAPATH_PRIVATE_H

#include "datapath.h"
#include "tcx.h"

struct datapath_bpf;

/* By number, so that a typed function costs no search by name. */
enum cs_map_index {
	MAP_ENDPOINT = CS_MAP_ENDPOINT,
	MAP_COUNT = CS_MAPS,
	MAP_CONFIG,
	MAP_SEEN,
	MAP_HELD,
	MAP_SIGNAL,
	MAP_DROP,
	MAP_ALL,
};

struct cs_datapath {
	char dir[CS_DATAPATH_PATH];
	enum cs_attach_mode attach;
	enum cs_csum_mode csum;
	struct datapath_bpf *instance[CS_INSTANCES];
	int map_fd[MAP_ALL];
	bool endpoint_hash;
	uint32_t endpoint_rows;
	struct cs_config *config; /* the page of cs_config */
	size_t config_size;
};

/* Widest key and value of all maps but the rings. */
#define CS_ROW_KEY_MAX   64
#define CS_ROW_VALUE_MAX 512
_Static_assert(sizeof(struct cs_flow_key) <= CS_ROW_KEY_MAX, "a key has room");
_Static_assert(
	sizeof(struct cs_node) <= CS_ROW_VALUE_MAX && sizeof(struct cs_basis) <= CS_ROW_VALUE_MAX, "a row has room");

/* pins.c: the maps of an earlier life. */
struct bpf_object;
struct cs_pins {
	int old[MAP_ALL];   /* descriptors, -1: nothing was pinned */
	bool same[MAP_ALL]; /* it fits, and is this life's too */
};
void cs_pins_init(struct cs_pins *pins);
void cs_pins_fini(struct cs_pins *pins);
/* Before loading: maps that fit are given to the object. Fills *pins also on failure. */
CS_MUST_USE int cs_pins_reuse(
	const struct cs_datapath *dp, struct bpf_object *object, struct cs_pins *pins, struct cs_error *e);
/* After loading: rows are copied from maps that do not fit, and all is pinned that was not. */
CS_MUST_USE int cs_pins_replace(const struct cs_datapath *dp, const struct cs_pins *pins, struct cs_error *e);
CS_MUST_USE int cs_pins_remove(const struct cs_datapath *dp, struct cs_error *e);

/* Can this kernel attach TCX links? */
bool cs_probe_tcx(void);
/* "cs_auth" of CS_MAP_AUTH. */
const char *cs_map_name(int index);

#endif

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

/* Can this kernel attach TCX links? */
bool cs_probe_tcx(void);
/* "cs_auth" of CS_MAP_AUTH. */
const char *cs_map_name(int index);

#endif

/* Executes what the world plans, on the maps and at the interfaces. */
#ifndef CS_APPLY_H
#define CS_APPLY_H

#include "attach.h"
#include "datapath.h"
#include "hold.h"
#include "world.h"

struct cs_apply {
	struct cs_world *world;
	struct cs_datapath *dp;
	struct cs_attach *attach;
	struct cs_hold *hold;
	/* The two places in the order where entries are looked at: before policy rows change, and after. */
	void (*entries)(void *data, bool before);
	void *data;
	uint64_t operations, failures; /* so far */
	bool again;                    /* something failed for another reason than room: run it again in a while */
};

/* All that is planned now; again where a failure opens or closes something else. Failures are logged here. */
void cs_apply_run(struct cs_apply *a);

/* What an earlier life left in the pinned maps, into the world: at start. */
CS_MUST_USE int cs_apply_adopt(struct cs_apply *a, struct cs_error *e);

#endif

/* The test is authd's main: what the parts ask of it. */
#include "authd.h"

struct cs_instant cs_authd_now(const struct cs_authd *a)
{
	return (struct cs_instant){cs_datapath_now_ns(), cs_loop_mono_ms(a->loop), cs_loop_unix_ms(a->loop)};
}

struct cs_facts cs_authd_facts(const struct cs_authd *a)
{
	return (struct cs_facts){
		.world = a->world, .svids = a->svids, .pairs = a->pairs, .now_unix_s = cs_loop_unix_ms(a->loop) / 1000};
}

void cs_authd_apply(struct cs_authd *a)
{
	(void)a;
}

/* The datapath on interfaces: two hooks each, CS_FROM (tc ingress) and CS_TO (tc egress) of the host side.
 *
 * Under TCX a hook is a link pinned under <dir>/links/, first in line; under clsact a filter of priority 1. Both outlive
 * authd, and its next life takes them over without a gap. Everything at an interface without a row in cs_endpoint is
 * dropped, so attaching closes it, and only cs_attach_remove_all() opens it again. */
#ifndef CS_ATTACH_H
#define CS_ATTACH_H

#include "datapath.h"

struct cs_attach;

/* An interface's state changed. reason: CS_R_NONE (we are first), or CS_R_SHADOWED and who runs before us ("name (program
 * id 7)"). A foreign program that was moved behind us is reported as shadowed too, until the next poll. */
typedef void (*cs_attach_fn)(void *data, uint32_t ifindex, enum cs_reason reason, const char *name);

/* Takes over what earlier lives left pinned (each link gets this life's program); pins of interfaces that are gone are
 * removed. dp and data are borrowed. NULL: see e. */
struct cs_attach *cs_attach_new(struct cs_datapath *dp, cs_attach_fn on_change, void *data, struct cs_error *e);
/* Programs stay where they are. NULL is fine. */
void cs_attach_free(struct cs_attach *attach);

/* Can this interface be enforced at all? Only Ethernet devices of kind veth and tap are: everything else has a way round
 * tc (CS_R_INTERFACE_UNSUITABLE). ifindex in this network namespace. */
CS_MUST_USE int cs_attach_suitable(uint32_t ifindex, struct cs_error *e);
/* Both hooks; idempotent, and refuses what is not suitable. When one hook fails, the other stays closed. */
CS_MUST_USE int cs_attach_add(struct cs_attach *attach, uint32_t ifindex, struct cs_error *e);
/* The interface is gone: forget it and its pins. */
void cs_attach_forget(struct cs_attach *attach, uint32_t ifindex);

/* Is the check still first? Call it every second, for the kernel announces no TCX program. Where a foreign program runs
 * before ours, ours moves to the front; three times in a minute, or without success, the interface stays shadowed. */
void cs_attach_poll(struct cs_attach *attach, int64_t now_mono_ms);
/* The same for one interface, with its XDP program (which rtnetlink does announce: call it on RTM_NEWLINK). */
void cs_attach_check(struct cs_attach *attach, uint32_t ifindex, int64_t now_mono_ms);
/* CS_R_NONE or CS_R_SHADOWED with the name; -ENOENT if the interface is not attached. name is borrowed, may be NULL. */
CS_MUST_USE int cs_attach_state(const struct cs_attach *attach, uint32_t ifindex, const char **name);

/* --detach: the node is open from here on. Goes on past failures and reports the first. */
CS_MUST_USE int cs_attach_remove_all(struct cs_attach *attach, struct cs_error *e);

#endif

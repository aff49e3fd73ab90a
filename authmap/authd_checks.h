/* What countersign-authd says of its health (Status.Get): one check per thing that it cannot do its work without. */
#ifndef CS_AUTHD_CHECKS_H
#define CS_AUTHD_CHECKS_H

#include "authd.h"

struct cs_authd_checks *cs_authd_checks_new(struct cs_authd *a);
/* Looks at everything: once it is all open, and every second. */
void cs_authd_checks_tick(struct cs_authd *a);
void cs_authd_checks_free(struct cs_authd_checks *checks);

#endif

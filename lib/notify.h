/* sd_notify(3) without libsystemd: one datagram to the socket that $NOTIFY_SOCKET names. */
#ifndef CS_NOTIFY_H
#define CS_NOTIFY_H

#include "error.h"

/* 1 if sent, 0 if nobody asked (no $NOTIFY_SOCKET), or an error. state: "READY=1", "STOPPING=1", "STATUS=...";
 * several are joined by newlines. Never blocks. */
int cs_notify(const char *state, struct cs_error *e);

#endif

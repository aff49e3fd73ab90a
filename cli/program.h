/* What works without a daemon is a mode of that daemon's program; this starts it in our place. */
#ifndef CS_CLI_PROGRAM_H
#define CS_CLI_PROGRAM_H

#include "error.h"

/* The one that came with this program (beside it, installed in ../sbin, or in ../ROOM of a build), so that both are of one
 * version; else the one in PATH. argv[0] is its name. Returns only if there is none, with the sentence that says so. */
int cs_cli_exec(const char *room, char **argv, struct cs_error *e);

#endif

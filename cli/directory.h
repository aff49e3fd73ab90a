/* The directory as a document: one call of Directory.Follow with `once`. */
#ifndef CS_CLI_DIRECTORY_H
#define CS_CLI_DIRECTORY_H

#include "cli.h"

/* {"identities": [...], "nodes": [...], "policies": [...], "silent_ms": N}; the lists in their order. An enum cs_exit. */
CS_MUST_USE int cs_directory_read(const struct cs_cli *cli, json_t **ret_document, struct cs_error *e);

#endif

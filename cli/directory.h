/* The directory as a document: one call of Directory.Follow with `once`. */
#ifndef CS_CLI_DIRECTORY_H
#define CS_CLI_DIRECTORY_H

#include "cli.h"

enum cs_directory_list { CS_DIRECTORY_IDENTITIES, CS_DIRECTORY_NODES, CS_DIRECTORY_POLICIES, CS_DIRECTORY_REVOCATIONS };

/* {"identities": [...], "nodes": [...], "policies": [...], "revocations": [...], "silent_ms": N}; the lists in their order, and only the one
 * that is asked for is whole. An enum cs_exit. */
CS_MUST_USE int cs_directory_read(
	const struct cs_cli *cli, enum cs_directory_list which, json_t **ret_document, struct cs_error *e);

/* Under a table: how old the document is, if the cluster role has been silent for long. */
void cs_directory_note_silence(const struct cs_cli *cli, const json_t *document);

#endif

/* Policies from files. Blocks: daemons call it from a worker thread. */
#ifndef CS_POLICY_FILES_H
#define CS_POLICY_FILES_H

#include "policy.h"

#define CS_POLICY_FILES_MAX 4096 /* in a directory */

struct cs_policy_files {
	char **paths; /* sorted bytewise */
	size_t n;
};
/* A file gives itself; a directory its *.yaml and *.yml (not hidden ones, no subdirectories; links are followed, as
 * they are what a ConfigMap is made of). */
CS_MUST_USE int cs_policy_files_list(const char *path, struct cs_policy_files *ret, struct cs_error *e);
void cs_policy_files_fini(struct cs_policy_files *files);

/* Adds the policies of one file, all or none; "-" is stdin. -EINVAL, -EEXIST and -E2BIG are the content's fault. */
CS_MUST_USE int cs_policy_file_load(const char *path, struct cs_cnp_set *set, struct cs_error *e);

#endif

/* YAML into a small tree with line numbers, for files with structure (policies, placements). Bytes in, tree or error
 * out; bounded in bytes, nodes, depth and documents. Anchors, aliases and tags are refused, and a key given twice. */
#ifndef CS_YAML_TREE_H
#define CS_YAML_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include "error.h"

enum cs_yaml_limits {
	CS_YAML_FILE_MAX = 1 << 20,   /* bytes */
	CS_YAML_NODES_MAX = 65536,    /* bounds memory */
	CS_YAML_DEPTH_MAX = 24,       /* bounds recursion of those who walk */
	CS_YAML_DOCUMENTS_MAX = 1024, /* in a file */
	CS_YAML_LIST_MAX = 4096,      /* elements of any one list or mapping */
	CS_YAML_SCALAR_MAX = 4096,    /* bytes of any one scalar */
};

enum cs_yaml_kind { CS_YAML_SCALAR, CS_YAML_LIST, CS_YAML_MAP };

struct cs_yaml {
	enum cs_yaml_kind kind;
	unsigned line;        /* from 1 */
	char *key;            /* in a mapping, else NULL */
	char *text;           /* scalar: NUL-terminated, without NUL inside */
	bool quoted;          /* scalar: "1" and not 1 */
	struct cs_yaml *kids; /* list or mapping: first child; document list: see cs_yaml_parse */
	struct cs_yaml *next;
	size_t nkids;
};

/* *ret is the first document's root, its `next` the second's, ...; NULL for a file without documents. Documents that
 * hold nothing (a `---` too many) are left out. Errors begin with "file:line: ". */
CS_MUST_USE int cs_yaml_parse(const char *file, const void *bytes, size_t n, struct cs_yaml **ret, struct cs_error *e);
void cs_yaml_free(struct cs_yaml *documents);

/* Child of a mapping, or NULL. */
const struct cs_yaml *cs_yaml_get(const struct cs_yaml *map, const char *key);
/* "a list", "a mapping", "text", "a number", "true or false", "nothing": what a person would call it. */
const char *cs_yaml_kind_name(const struct cs_yaml *node);
/* A scalar that YAML reads as text: quoted, or plain and not null, bool or number. */
bool cs_yaml_is_text(const struct cs_yaml *node);
/* A plain scalar that YAML reads as nothing (`key:`, ~, null). */
bool cs_yaml_is_null(const struct cs_yaml *node);

#endif

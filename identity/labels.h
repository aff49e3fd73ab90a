/* Label sets: what an identity is made of. As in Cilium a label is source:key=value, a set is a map keyed by the key
 * alone (so one key has one source), and its canonical form is `source:key=value;` for each label, keys sorted
 * bytewise. There is no escaping: a character that would need it is refused, so that equal text means an equal set.
 * Every refusal has the reason labels-invalid. Pure: no I/O, no clock. */
#ifndef CS_LABELS_H
#define CS_LABELS_H

#include <stdbool.h>
#include <stddef.h>
#include <countersign/v1/common.pb-c.h>
#include "error.h"

enum cs_label_limits {
	CS_LABELS_MAX = 64,        /* labels in a set */
	CS_LABEL_KEY_MAX = 317,    /* a DNS name (253), '/', a name (63): Kubernetes' longest */
	CS_LABEL_VALUE_MAX = 255,  /* Kubernetes stops at 63; container runtimes do not */
	CS_LABELS_TEXT_MAX = 4096, /* canonical form: it is a key of the stores */
};

/* What a workload without this label is in: namespace `default`. Selectors of a policy are scoped by it. */
#define CS_LABEL_NAMESPACE         "io.kubernetes.pod.namespace"
#define CS_LABEL_NAMESPACE_DEFAULT "default"

struct cs_label {
	const char *source; /* static: "k8s", "container", "unspec", "reserved", "cidr" */
	char *key;          /* printable ASCII without space ';' '=' ':' */
	char *value;        /* printable ASCII and space, without ';'; may be empty */
};
struct cs_labels {              /* zeroed = the empty set */
	struct cs_label *items; /* sorted by key */
	size_t n;
};

void cs_labels_fini(struct cs_labels *l);

/* The static name of a source of n bytes, or NULL. Neither `any` nor the empty source is one: no label has it. */
const char *cs_label_source(const char *source, size_t n);

/* Add one label; strings are copied. An empty source is `unspec`, as in Cilium. A key that is there already, with
 * whatever source and value, is refused. */
CS_MUST_USE int cs_labels_add(
	struct cs_labels *l, const char *source, const char *key, const char *value, struct cs_error *e);
/* The same from "[source:]key[=value]" of n bytes, as people type it. */
CS_MUST_USE int cs_labels_add_text(struct cs_labels *l, const char *text, size_t n, struct cs_error *e);

/* A whole set from "label;label;..." of n bytes, in any order, last ';' optional. *ret is untouched on failure. */
CS_MUST_USE int cs_labels_parse(const char *text, size_t n, struct cs_labels *ret, struct cs_error *e);
CS_MUST_USE int cs_labels_from_proto(
	Countersign__V1__Label *const *labels, size_t n, struct cs_labels *ret, struct cs_error *e);
/* What an endpoint may claim: 1 label at least, and no source that only the system gives (reserved, cidr). */
CS_MUST_USE int cs_labels_check_claim(const struct cs_labels *l, struct cs_error *e);

/* Canonical form, malloc'd; NULL when out of memory. cs_labels_parse of it gives the same set. */
char *cs_labels_format(const struct cs_labels *l);
CS_MUST_USE int cs_labels_copy(const struct cs_labels *l, struct cs_labels *ret, struct cs_error *e);
/* The label of that key, or NULL. */
const struct cs_label *cs_labels_get(const struct cs_labels *l, const char *key);
bool cs_labels_equal(const struct cs_labels *a, const struct cs_labels *b);

#endif

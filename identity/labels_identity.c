/* The identity's labels of an endpoint's: what the filter takes, or a user-reserved identity. */
#include "labels_filter.h"

#include <errno.h>

static int fixed_labels(const struct cs_numbers *numbers, const char *name, struct cs_labels *ret, uint32_t *ret_fixed,
	struct cs_error *e)
{
	struct cs_labels labels = {0};
	uint32_t id = cs_number_fixed(numbers, name);
	if (id == 0)
		return cs_error_reason(e, -EINVAL, CS_R_LABELS_INVALID,
			"the label " CS_LABEL_FIXED
			" names '%.64s', but there is no user-reserved identity of that name "
			"(identity.fixed)",
			name);
	int r = cs_labels_add(&labels, "reserved", name, "", e);
	if (r < 0)
		return r;
	*ret = labels;
	*ret_fixed = id;
	return 0;
}

int cs_identity_labels(const struct cs_label_filter *f, const struct cs_numbers *numbers,
	const struct cs_labels *labels, struct cs_labels *ret, uint32_t *ret_fixed, struct cs_error *e)
{
	const struct cs_label *fixed = cs_labels_get(labels, CS_LABEL_FIXED);
	struct cs_labels taken = {0};
	int r = 0;
	if (fixed)
		return fixed_labels(numbers, fixed->value, ret, ret_fixed, e);
	for (size_t i = 0; i < labels->n && r == 0; i++) {
		const struct cs_label *l = &labels->items[i];
		if (cs_label_filter_takes(f, l))
			r = cs_labels_add(&taken, l->source, l->key, l->value, e);
	}
	if (r == 0 && taken.n == 0 && labels->n > 0)
		r = cs_error_reason(e, -EINVAL, CS_R_LABELS_INVALID,
			"none of the %zu labels is part of an identity (%s:%s is not); see labels.filter", labels->n,
			labels->items[0].source, labels->items[0].key);
	if (r < 0) {
		cs_labels_fini(&taken);
		return r;
	}
	*ret = taken;
	*ret_fixed = 0;
	return 0;
}

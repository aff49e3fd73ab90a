/* Which numbers are free, and who has the others. */
#include "store_private.h"

#include "labels.h"
#include "mem.h"

#define TOLD_AGAIN_MS 10000

static bool rests(const struct cs_store *s, const struct cs_slot *slot)
{
	return slot->retired && slot->retired->fact.retired.until_store_ms > cs_store_now_ms(s);
}

/* Numbers that nobody ever had come first: what was issued to their last owner is the longest ago. */
uint32_t cs_store_free_id(struct cs_store *s)
{
	const struct cs_store_config *c = &s->config;
	uint32_t size = c->id_max - c->id_min + 1;
	uint32_t id = s->meta.next_id;
	for (uint32_t tried = 0; tried < size; tried++, id++) {
		if (id < c->id_min || id > c->id_max)
			id = c->id_min;
		const struct cs_slot *slot = cs_facts_slot(s->facts, id);
		if (slot && (slot->identity || rests(s, slot)))
			continue;
		s->meta.next_id = id + 1;
		return id;
	}
	return 0;
}

/* What has rested for long enough counts until somebody gets it, or garbage is collected. */
void cs_store_usage(const struct cs_store *s, struct cs_store_usage *ret)
{
	*ret = (struct cs_store_usage){.size = s->config.id_max - s->config.id_min + 1,
		.in_use = s->facts->in_use,
		.resting = s->facts->resting};
}

/* --- who has them --- */

struct tally {
	UT_hash_handle hh;
	size_t n;
	char text[];
};

static void count(struct tally **tallies, const char *text)
{
	struct tally *t;
	size_t n = strlen(text);
	HASH_FIND(hh, *tallies, text, n, t);
	if (!t) {
		t = cs_xcalloc(1, sizeof(*t) + n + 1);
		memcpy(t->text, text, n + 1);
		HASH_ADD_KEYPTR(hh, *tallies, t->text, n, t);
	}
	t->n++;
}

static int by_most(const struct tally *a, const struct tally *b)
{
	return (a->n < b->n) - (a->n > b->n);
}

static void drop(struct tally **tallies)
{
	struct tally *t, *tmp;
	HASH_ITER (hh, *tallies, t, tmp) {
		HASH_DEL(*tallies, t);
		free(t);
	}
}

/* "shop 30000, web 12", and frees them. */
static void top(struct tally **tallies, char *out, size_t size)
{
	size_t n = 0;
	int told = 0;
	HASH_SRT(hh, *tallies, by_most);
	out[0] = '\0';
	for (const struct tally *t = *tallies; t && told++ < 3 && n < size; t = t->hh.next)
		n += (size_t)snprintf(out + n, size - n, "%s%s %zu", n ? ", " : "", t->text, t->n);
	drop(tallies);
}

/* How many identities are in which namespace, and how many values each key has. */
struct survey {
	struct tally *namespaces, *values, *keys;
};

static void survey_identity(void *data, const struct cs_fact *fact)
{
	struct survey *survey = data;
	struct cs_labels labels;
	struct cs_error e;
	const char *text = fact->identity.labels;
	if (cs_labels_parse(text, strlen(text), &labels, &e) < 0)
		return;
	const struct cs_label *ns = cs_labels_get(&labels, CS_LABEL_NAMESPACE);
	count(&survey->namespaces, ns ? ns->value : CS_LABEL_NAMESPACE_DEFAULT);
	for (size_t i = 0; i < labels.n; i++) {
		char pair[CS_LABEL_KEY_MAX + CS_LABEL_VALUE_MAX + 2];
		struct tally *seen;
		snprintf(pair, sizeof(pair), "%s=%s", labels.items[i].key, labels.items[i].value);
		HASH_FIND_STR(survey->values, pair, seen);
		if (!seen)
			count(&survey->keys, labels.items[i].key);
		count(&survey->values, pair);
	}
	cs_labels_fini(&labels);
}

/* Looking through all identities takes a moment, and an exhausted range is asked for often. */
const char *cs_store_exhausted(struct cs_store *s)
{
	int64_t now_ms = s->clock->mono_ms(s->clock->data);
	if (s->exhausted && now_ms < s->exhausted_until_mono_ms)
		return s->exhausted;
	struct survey survey = {0};
	struct cs_store_usage usage;
	char namespaces[256], keys[512];
	cs_store_usage(s, &usage);
	cs_facts_each(s->facts, CS_FACT_IDENTITY, survey_identity, &survey);
	top(&survey.namespaces, namespaces, sizeof(namespaces));
	top(&survey.keys, keys, sizeof(keys));
	drop(&survey.values);
	free(s->exhausted);
	if (asprintf(&s->exhausted,
		    "all %zu identities from %u to %u are taken: %zu are in use (most in the namespaces %s; the keys "
		    "with the most values are %s), %zu rest until what was issued to their last owner has ended "
		    "(id.quarantine). Fewer label sets are needed: labels that differ per workload make one each "
		    "(countersign identity lint)",
		    usage.size, s->config.id_min, s->config.id_max, usage.in_use, namespaces, keys, usage.resting) < 0)
		cs_mem_check(NULL);
	s->exhausted_until_mono_ms = now_ms + TOLD_AGAIN_MS;
	return s->exhausted;
}

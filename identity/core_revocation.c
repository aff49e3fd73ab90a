/* Revocations in the core: what they name must be there, who asked is written down, and those whose time is over go. */
#include "core_private.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/random.h>
#include "mem.h"
#include "revocation.h"

static int check_is_there(struct cs_core *core, const Countersign__V1__Revocation *r, struct cs_error *e)
{
	bool placed = r->subject_case == COUNTERSIGN__V1__REVOCATION__SUBJECT_PLACEMENT;
	uint32_t id = placed                                                             ? r->placement->identity
		      : r->subject_case == COUNTERSIGN__V1__REVOCATION__SUBJECT_IDENTITY ? r->identity
											 : 0;
	const char *node = placed                                                         ? r->placement->node
			   : r->subject_case == COUNTERSIGN__V1__REVOCATION__SUBJECT_NODE ? r->node
											  : NULL;
	if (id != 0 && !cs_facts_identity(cs_core_facts(core), id))
		return cs_error_set(e, -ENOENT, "there is no identity %u (countersign identity list)", id);
	if (node && !cs_facts_node(cs_core_facts(core), node))
		return cs_error_set(e, -ENOENT, "there is no node '%.253s' (countersign node list)", node);
	return 0;
}

/* "root (uid 0)". Asks the user database, which may block. */
static char *who(uid_t uid)
{
	char buffer[4096], *text = NULL;
	struct passwd entry, *found = NULL;
	getpwuid_r(uid, &entry, buffer, sizeof(buffer), &found);
	int n = found ? asprintf(&text, "%.64s (uid %u)", found->pw_name, (unsigned)uid)
		      : asprintf(&text, "uid %u", (unsigned)uid);
	return n < 0 ? cs_mem_check(NULL) : text;
}

static char *random_id(void)
{
	uint64_t n;
	char *text = NULL;
	if (getrandom(&n, sizeof(n), 0) != sizeof(n) || asprintf(&text, "r-%016llx", (unsigned long long)n) < 0)
		abort();
	return text;
}

static void set_text(char **field, char *text_take)
{
	if (*field != protobuf_c_empty_string)
		free(*field);
	*field = text_take;
}

int cs_core_revocation_fill(struct cs_core *core, struct cs_ask *ask)
{
	Countersign__V1__Revocation *r = ask->revocation;
	struct cs_error *e = &ask->error;
	int result = cs_revocation_check(r, cs_core_now_unix_ms(core) / 1000, core->config->svid_max_life_ms / 1000, e);
	if (result == 0)
		result = check_is_there(core, r, e);
	if (result < 0)
		return result;
	set_text(&r->id, random_id());
	set_text(&r->who, who(ask->uid));
	free(ask->body);
	ask->nbody = countersign__v1__revocation__get_packed_size(r);
	ask->body = cs_xcalloc(1, ask->nbody);
	countersign__v1__revocation__pack(r, ask->body);
	return 0;
}

cs_record *cs_core_revocation_record(const struct cs_store_revocation *in, bool deleted)
{
	cs_record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__Revocation key = COUNTERSIGN__V1__REVOCATION__INIT;
	Countersign__V1__Revocation *body = deleted ? NULL : countersign__v1__revocation__unpack(NULL, in->n, in->body);
	key.id = (char *)in->id;
	r.record_case = COUNTERSIGN__V1__RECORD__RECORD_REVOCATION;
	r.revocation = body ? body : &key;
	r.deleted = deleted;
	cs_record *copy = cs_record_copy(&r, deleted);
	if (body)
		countersign__v1__revocation__free_unpacked(body, NULL);
	return copy;
}

struct over {
	int64_t now_unix_s;
	char **ids;
	size_t n;
};

static void look(void *data, const struct cs_fact *fact)
{
	struct over *over = data;
	Countersign__V1__Revocation *r =
		countersign__v1__revocation__unpack(NULL, fact->revocation.n, fact->revocation.body);
	if (r && r->until_unix_s <= over->now_unix_s) {
		over->ids = cs_xrealloc(over->ids, over->n + 1, sizeof(char *));
		over->ids[over->n++] = cs_xstrdup(fact->revocation.id);
	}
	if (r)
		countersign__v1__revocation__free_unpacked(r, NULL);
}

char **cs_core_revocations_over(struct cs_core *core, size_t *ret_n)
{
	struct over over = {.now_unix_s = cs_core_now_unix_ms(core) / 1000};
	cs_facts_each(cs_store_facts(core->store), CS_FACT_REVOCATION, look, &over);
	*ret_n = over.n;
	return over.ids;
}

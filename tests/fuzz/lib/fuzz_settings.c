/* The file of settings: whatever the bytes are, every value that got in is within its row's limits. */
#include <stdlib.h>
#include <string.h>

#include "settings.h"

struct config {
	bool on;
	int64_t port, ttl_ms;
	char *name, *dir;
	int mode;
	struct cs_strings who;
};

static const char *const modes[] = {"enforce", "audit", NULL};
static const struct cs_setting rows[] = {
	CS_SET_BOOL(struct config, on, "hold.on", "true", "x"),
	CS_SET_INT(struct config, port, "auth.port", "4250", 1, 65535, NULL, "x"),
	CS_SET_DURATION(struct config, ttl_ms, "auth.max_ttl", "1h", 1000, 86400000, "x"),
	CS_SET_STRING(struct config, name, "a.b.c.name", "n1", 1, 16, "x"),
	CS_SET_PATH(struct config, dir, "policy.dir", "", 0, "x"),
	CS_SET_ENUM(struct config, mode, "mode", "enforce", modes, "x"),
	CS_SET_LIST(struct config, who, "roles.viewer", "a,b", 0, 3, "x"),
};
static const struct cs_settings table = {rows, sizeof(rows) / sizeof(rows[0])};

#define CHECK(x)                                                                                                       \
	do {                                                                                                           \
		if (!(x))                                                                                              \
			abort();                                                                                       \
	} while (0)

static void check(const struct config *c)
{
	CHECK(c->port >= 1 && c->port <= 65535);
	CHECK(c->ttl_ms >= 1000 && c->ttl_ms <= 86400000);
	CHECK(c->name && strlen(c->name) >= 1 && strlen(c->name) <= 16);
	CHECK(c->dir && (!*c->dir || *c->dir == '/') && strlen(c->dir) <= 255);
	CHECK(c->mode == 0 || c->mode == 1);
	CHECK(c->who.n <= 3);
	for (size_t i = 0; i < c->who.n; i++)
		CHECK(c->who.items[i] && *c->who.items[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config c = {0};
	struct cs_error e = {0};
	CHECK(cs_settings_defaults(&table, &c, &e) == 0);
	if (cs_settings_yaml(&table, &c, "fuzz", (const char *)data, size, &e) < 0)
		CHECK(e.code < 0 && *e.text && !strchr(e.text, '\n'));
	check(&c);
	char *assignment = strndup((const char *)data, size);
	CHECK(assignment);
	if (cs_settings_set(&table, &c, assignment, &e) < 0)
		CHECK(e.code < 0 && *e.text && !strchr(e.text, '\n'));
	check(&c);
	free(assignment);
	cs_settings_free(&table, &c);
	return 0;
}

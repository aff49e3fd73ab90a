/* The SQLite store as a file: no identity lost, whatever happens to the process or the disk, and files of earlier
 * versions carried over. What it keeps to as a store: test_store_rules.c. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <sqlite3.h>
#include "mem.h"
#include "store_fixture.h"

static void execute(const char *sql)
{
	sqlite3 *db;
	assert_int_equal(sqlite3_open(store_path, &db), SQLITE_OK);
	if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
		fail_msg("%s", sqlite3_errmsg(db));
	sqlite3_close(db);
}

static void refused_open(int code, const char *text)
{
	struct cs_error e = {0};
	assert_int_equal(store_open_error(&e), code);
	if (!strstr(e.text, text) || !strstr(e.text, store_path))
		fail_msg("'%s' is not in '%s'", text, e.text);
}

static void test_refused_files(void **state)
{
	(void)state;
	struct cs_store *s = store_open();
	refused_open(-EBUSY, "another process has the store");
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	claim_now(s, "n1", "b", "k8s:app=b;", 2);
	cs_store_close(s);
	execute("PRAGMA user_version = 3");
	refused_open(-EPROTO, "schema 3, this program knows 2: use the version that made it");
	execute("PRAGMA user_version = 2; PRAGMA application_id = 1");
	refused_open(-EPROTO, "another program's");
	execute("PRAGMA application_id = 1129531215");
	cs_store_close(store_open());
	/* By hand: a value that is not the one of its key, something unknown, no meta. */
	execute("CREATE TABLE good AS SELECT * FROM fact;"
		"UPDATE fact SET value = (SELECT value FROM fact WHERE key = 'identity/256') WHERE key = "
		"'identity/257'");
	refused_open(-EPROTO, "'identity/257' is damaged");
	execute("INSERT OR REPLACE INTO fact SELECT * FROM good; INSERT INTO fact VALUES ('what/1', x'00')");
	refused_open(-EPROTO, "the key 'what/1'");
	execute("DELETE FROM fact WHERE key = 'what/1'; DELETE FROM fact WHERE key = 'identity/256'");
	refused_open(-EPROTO, "identity 256, which is not there");
	execute("DELETE FROM fact WHERE key = 'meta'");
	refused_open(-EPROTO, "lost its key 'meta'");
	execute("DELETE FROM fact; INSERT INTO fact SELECT * FROM good");
	cs_store_close(store_open());
	sqlite3 *shell;
	assert_int_equal(sqlite3_open(store_path, &shell), SQLITE_OK);
	assert_int_equal(sqlite3_exec(shell, "BEGIN EXCLUSIVE", NULL, NULL, NULL), SQLITE_OK);
	refused_open(-EBUSY, "another program has it open");
	sqlite3_close(shell);
	assert_int_equal(truncate(store_path, 4096), 0);
	refused_open(-EIO, "malformed; restore a backup");
	int fd = open(store_path, O_WRONLY | O_TRUNC);
	assert_int_equal(write(fd, "this is not a database at all, and long enough to be looked at\n", 63), 63);
	close(fd);
	refused_open(-EIO, "not a database; restore a backup");
}

/* As the version with a table for each kind wrote it. */
static const char schema1[] =
	"CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL, revision INTEGER NOT NULL,"
	" trust_domain TEXT NOT NULL) STRICT;"
	"CREATE TABLE identity (id INTEGER PRIMARY KEY CHECK (id BETWEEN 256 AND 65535), labels TEXT NOT NULL UNIQUE,"
	" spiffe_id TEXT NOT NULL UNIQUE, incarnation INTEGER NOT NULL) STRICT;"
	"CREATE TABLE node (name TEXT PRIMARY KEY, port INTEGER NOT NULL, path TEXT NOT NULL) STRICT, WITHOUT ROWID;"
	"CREATE TABLE node_address (ip BLOB PRIMARY KEY, node TEXT NOT NULL REFERENCES node (name),"
	" position INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
	"CREATE INDEX node_address_node ON node_address (node);"
	"CREATE TABLE claim (node TEXT NOT NULL, endpoint TEXT NOT NULL, identity INTEGER NOT NULL REFERENCES identity "
	"(id), PRIMARY KEY (node, endpoint)) STRICT, WITHOUT ROWID;"
	"CREATE TABLE claim_address (ip BLOB PRIMARY KEY, node TEXT NOT NULL, endpoint TEXT NOT NULL,"
	" position INTEGER NOT NULL, FOREIGN KEY (node, endpoint) REFERENCES claim (node, endpoint)) STRICT, WITHOUT "
	"ROWID;"
	"CREATE INDEX claim_address_claim ON claim_address (node, endpoint);"
	"CREATE TABLE quarantine (ip BLOB PRIMARY KEY, identity INTEGER NOT NULL, node TEXT NOT NULL, endpoint TEXT "
	"NOT NULL, until_unix_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
	"CREATE INDEX quarantine_until ON quarantine (until_unix_ms);"
	"CREATE TABLE prefix (number INTEGER PRIMARY KEY CHECK (number BETWEEN 1 AND 16777215), ip BLOB NOT NULL,"
	" bits INTEGER NOT NULL, UNIQUE (ip, bits)) STRICT;"
	"INSERT INTO meta VALUES (1, 77, 41, 'example.org');"
	"INSERT INTO identity VALUES (256, 'k8s:app=a;', 'spiffe://example.org/identity/256', 11),"
	" (257, 'k8s:app=b;', 'spiffe://example.org/identity/257', 12);"
	"INSERT INTO node VALUES ('n1', 4250, 'unknown');"
	"INSERT INTO node_address VALUES (x'0a000002', 'n1', 1), (x'0a000001', 'n1', 0);"
	"INSERT INTO claim VALUES ('n1', 'a', 256), ('n2', 'b', 257);"
	"INSERT INTO claim_address VALUES (x'0a000064', 'n1', 'a', 0), (x'fd000000000000000000000000000001', 'n1', "
	"'a', 1);"
	"INSERT INTO quarantine VALUES (x'0a000065', 256, 'n9', 'old', 1800000005000);"
	"INSERT INTO prefix VALUES (7, x'c0a80000', 16);"
	"PRAGMA application_id = 1129531215; PRAGMA user_version = 1";

static void test_schema_1_is_carried_over(void **state)
{
	(void)state;
	store_config.address_quarantine_ms = 75000;
	execute(schema1);
	for (int i = 0; i < 2; i++) {
		struct cs_store *s = store_open();
		static struct told told;
		store_list(s, &told);
		assert_true(told.epoch == 77);
		assert_int_equal(told.revision, 42);
		assert_true(told.incarnations == (11 ^ 12));
		static const char *const facts[] = {"+ identity 256 k8s:app=a; spiffe://example.org/identity/256\n",
			"+ identity 257 k8s:app=b; spiffe://example.org/identity/257\n", "+ node n1 2 4250 unknown\n",
			"+ claim n1 a 256 10.0.0.100\n", "+ claim n2 b 257 -\n", "+ prefix 16777223 /16 v4\n",
			"+ address 10.0.0.101 256\n"};
		size_t length = strlen("= 42\n");
		for (size_t k = 0; k < sizeof(facts) / sizeof(facts[0]); k++) {
			length += strlen(facts[k]);
			if (!strstr(told.text, facts[k]))
				fail_msg("'%s' is not in '%s'", facts[k], told.text);
		}
		assert_int_equal(strlen(told.text), length); /* and nothing else */
		const struct cs_store_claim *claim = cs_facts_claim(cs_store_facts(s), "n1", "a");
		assert_int_equal(claim->naddrs, 2);
		assert_int_equal(claim->addrs[1].len, 16);
		assert_int_equal(cs_facts_node(cs_store_facts(s), "n1")->addrs[0].bytes[3], 1);
		assert_int_equal(try_claim(s, "n1", "x", "k8s:app=x;", 101), CS_R_ADDRESS_IN_QUARANTINE);
		cs_store_close(s);
	}
	struct cs_store *s = store_open();
	assert_int_equal(claim_now(s, "n1", "c", "k8s:app=c;", 3), 258);
	cs_store_close(s);
}

/* One that cannot be carried over stays as it is. */
static void test_damaged_schema_1(void **state)
{
	(void)state;
	execute(schema1);
	execute("DROP TABLE prefix");
	refused_open(-EIO, "carry the store over");
	execute("CREATE TABLE prefix (number INTEGER PRIMARY KEY, ip BLOB NOT NULL, bits INTEGER NOT NULL)");
	struct cs_store *s = store_open();
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_IDENTITY), 2);
	cs_store_close(s);
}

/* A disk that fills up: an error that says so, nothing half done, and it goes on when there is room again. */
static void disk_full_child(void)
{
	/* In a child with a mount namespace of its own. Exit codes tell which step failed. */
	if (unshare(geteuid() == 0 ? CLONE_NEWNS : CLONE_NEWUSER | CLONE_NEWNS) < 0)
		_exit(77);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("none", store_dir, "tmpfs", 0, "size=512k") < 0)
		_exit(77);
	struct cs_store *s = store_open();
	char ballast[160];
	snprintf(ballast, sizeof(ballast), "%s/ballast", store_dir);
	int fd = open(ballast, O_WRONLY | O_CREAT, 0600), last = -1, r = 0;
	char zeros[1024] = {0};
	while (write(fd, zeros, sizeof(zeros)) > 0)
		;
	if (ftruncate(fd, lseek(fd, 0, SEEK_CUR) - 131072) < 0)
		_exit(2);
	struct cs_error e = {0};
	for (int i = 0; i < 2000 && r == 0; i++) {
		char labels[32];
		snprintf(labels, sizeof(labels), "k8s:n=%d;", i);
		/* Half of them change a claim that is there. */
		struct cs_store_op op = claim_op("n1", i % 2 ? "same" : labels, labels, i % 2 ? 1000000 : (uint32_t)i);
		struct cs_store_op *ops[] = {&op};
		uint64_t revision;
		r = cs_store_commit(s, ops, 1, NULL, &revision, &e);
		if (r == 0)
			last = i;
		else if (op.identity != 0 || op.changed)
			_exit(3); /* an answer to something that did not happen */
		cs_store_op_fini(&op);
	}
	if (last < 3 || r != -ENOSPC || !strstr(e.text, "disk under") || !strstr(e.text, "is full"))
		_exit(4);
	if (ftruncate(fd, 0) < 0)
		_exit(5);
	close(fd);
	uint32_t id = claim_now(s, "n1", "after", "k8s:after=1;", 99999);
	if (id != CS_IDENTITY_MIN + (uint32_t)last + 1)
		_exit(6); /* the failed one took a number */
	cs_store_close(s);
	s = store_open();
	size_t identities = cs_facts_count(cs_store_facts(s), CS_FACT_IDENTITY);
	size_t claims = cs_facts_count(cs_store_facts(s), CS_FACT_CLAIM);
	if (identities != (size_t)last + 2 || claims != (size_t)last / 2 + 3)
		_exit(7);
	cs_store_close(s);
	exit(0);
}

static void test_disk_full(void **state)
{
	(void)state;
	pid_t pid = fork();
	if (pid == 0)
		disk_full_child();
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		print_message("needs a mount namespace\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* Killed in the middle of commits: what was answered is there, and what is there is consistent. */
static void killed_child(int out, uint32_t from)
{
	struct cs_store *s = store_open();
	for (uint32_t i = from;; i++) {
		char labels[32];
		snprintf(labels, sizeof(labels), "k8s:n=%u;", i);
		struct cs_store_op op = claim_op("n1", labels, labels, i);
		if (commit_op(s, &op, NULL) < 0 || op.result < 0)
			_exit(1);
		uint32_t answer[2] = {i, op.identity};
		if (write(out, answer, sizeof(answer)) != sizeof(answer))
			_exit(1);
		cs_store_op_fini(&op);
	}
}

static void test_killed(void **state)
{
	(void)state;
	static uint32_t answered[CS_NODE_ENDPOINTS_MAX];
	uint32_t n = 0;
	for (int round = 0; round < 20; round++) {
		int fds[2];
		assert_int_equal(pipe(fds), 0);
		pid_t pid = fork();
		if (pid == 0) {
			close(fds[0]);
			killed_child(fds[1], n);
		}
		close(fds[1]);
		uint32_t answer[2], goal = n + 1 + (uint32_t)round * 3 % 17;
		while (read(fds[0], answer, sizeof(answer)) == sizeof(answer)) {
			answered[answer[0]] = answer[1];
			n = answer[0] + 1;
			if (n >= goal)
				kill(pid, SIGKILL);
		}
		close(fds[0]);
		int status;
		waitpid(pid, &status, 0);
		assert_true(WIFSIGNALED(status));
		struct cs_store *s = store_open();
		for (uint32_t i = 0; i < n; i++) {
			char labels[32];
			snprintf(labels, sizeof(labels), "k8s:n=%u;", i);
			const struct cs_store_identity *identity = cs_facts_identity_of(cs_store_facts(s), labels);
			assert_non_null(identity);
			assert_int_equal(identity->id, answered[i]);
			for (uint32_t k = 0; k < i; k++)
				assert_true(answered[k] != answered[i]);
		}
		cs_store_close(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_refused_files, store_setup),
		cmocka_unit_test_setup(test_schema_1_is_carried_over, store_setup),
		cmocka_unit_test_setup(test_damaged_schema_1, store_setup),
		cmocka_unit_test_setup(test_disk_full, store_setup),
		cmocka_unit_test_setup(test_killed, store_setup),
	};
	return cmocka_run_group_tests(tests, store_group_setup, store_group_teardown);
}

/* The built-in CA: what it makes, how it keeps its root, what it refuses. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "ca.h"
#include "tls.h"

#define DOMAIN "example.org"
#define ID     "spiffe://example.org/identity/70001"
#define HOUR_S 3600

extern char **environ;

struct fixture {
	char base[64], dir[80], out[80];
	struct cs_error e;
	int64_t now_unix_s;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	strcpy(f->base, "/tmp/cs-test-ca-XXXXXX");
	assert_non_null(mkdtemp(f->base));
	snprintf(f->dir, sizeof(f->dir), "%s/ca", f->base);
	snprintf(f->out, sizeof(f->out), "%s/out", f->base);
	f->now_unix_s = time(NULL);
	*state = f;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	nftw(f->base, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

static struct cs_ca *open_ca(struct fixture *f)
{
	struct cs_ca *ca = NULL;
	int r = cs_ca_open(f->dir, DOMAIN, f->now_unix_s, &ca, NULL, &f->e);
	if (r < 0)
		fail_msg("%s", f->e.text);
	return ca;
}

/* Whoever opens the CA now must be refused, with these words. */
static void refused(struct fixture *f, const char *domain, int64_t now_unix_s, int code, const char *words)
{
	struct cs_ca *ca = NULL;
	assert_int_equal(cs_ca_open(f->dir, domain, now_unix_s, &ca, NULL, &f->e), code);
	assert_null(ca);
	if (!strstr(f->e.text, words))
		fail_msg("'%s' does not say '%s'", f->e.text, words);
}

static struct cs_issued issue(struct fixture *f, struct cs_ca *ca, const char *id)
{
	struct cs_issued issued = {0};
	if (cs_ca_issue(ca, id, HOUR_S, f->now_unix_s, &issued, &f->e) < 0)
		fail_msg("%s", f->e.text);
	return issued;
}

static int64_t unix_s(const ASN1_TIME *t)
{
	struct tm tm;
	assert_true(ASN1_TIME_to_tm(t, &tm));
	return timegm(&tm);
}

static void name_is(const X509_NAME *name, const char *want)
{
	char buf[256];
	X509_NAME_oneline(name, buf, sizeof(buf));
	assert_string_equal(buf, want);
}

static void uri_is(const X509 *x, const char *want)
{
	int critical;
	GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, &critical, NULL);
	assert_non_null(names);
	assert_int_equal(critical, 0);
	assert_int_equal(sk_GENERAL_NAME_num(names), 1);
	GENERAL_NAME *name = sk_GENERAL_NAME_value(names, 0);
	assert_int_equal(name->type, GEN_URI);
	assert_int_equal(name->d.uniformResourceIdentifier->length, strlen(want));
	assert_memory_equal(name->d.uniformResourceIdentifier->data, want, strlen(want));
	GENERAL_NAMES_free(names);
}

static void leaf_has_spires_profile(void **state)
{
	struct fixture *f = *state;
	struct cs_ca *ca = open_ca(f);
	struct cs_issued a = issue(f, ca, ID);
	X509 *root = (X509 *)cs_ca_root_borrow(ca);
	assert_int_equal(X509_get_version(a.leaf), X509_VERSION_3);
	name_is(X509_get_subject_name(a.leaf), "/C=US/O=SPIRE");
	assert_int_equal(X509_NAME_cmp(X509_get_issuer_name(a.leaf), X509_get_subject_name(root)), 0);
	uri_is(a.leaf, ID);
	assert_int_equal(X509_check_ca(a.leaf), 0);
	assert_int_equal(
		X509_get_key_usage(a.leaf), X509v3_KU_DIGITAL_SIGNATURE | KU_KEY_ENCIPHERMENT | KU_KEY_AGREEMENT);
	assert_int_equal(X509_get_extended_key_usage(a.leaf), XKU_SSL_SERVER | XKU_SSL_CLIENT);
	const int critical[] = {NID_key_usage, NID_basic_constraints};
	for (int i = 0; i < 2; i++)
		assert_true(X509_EXTENSION_get_critical(
			X509_get_ext(a.leaf, X509_get_ext_by_NID(a.leaf, critical[i], -1))));
	assert_int_equal(X509_get_ext_count(a.leaf), 6);
	assert_int_equal(ASN1_OCTET_STRING_cmp(X509_get0_authority_key_id(a.leaf), X509_get0_subject_key_id(root)), 0);
	assert_non_null(X509_get0_subject_key_id(a.leaf));
	assert_int_equal(unix_s(X509_get0_notBefore(a.leaf)), f->now_unix_s - 10);
	assert_int_equal(unix_s(X509_get0_notAfter(a.leaf)), f->now_unix_s + HOUR_S);
	assert_int_equal(a.not_before_unix_s, f->now_unix_s - 10);
	assert_int_equal(a.not_after_unix_s, f->now_unix_s + HOUR_S);
	assert_true(X509_check_private_key(a.leaf, a.key));
	assert_int_equal(X509_verify(a.leaf, X509_get0_pubkey(root)), 1);
	cs_issued_fini(&a);
	cs_ca_free(ca);
}

static void each_leaf_has_its_own_key_and_serial(void **state)
{
	struct fixture *f = *state;
	struct cs_ca *ca = open_ca(f);
	struct cs_issued a = issue(f, ca, ID), b = issue(f, ca, ID);
	assert_int_not_equal(EVP_PKEY_eq(a.key, b.key), 1);
	assert_int_not_equal(ASN1_INTEGER_cmp(X509_get0_serialNumber(a.leaf), X509_get0_serialNumber(b.leaf)), 0);
	BIGNUM *n = ASN1_INTEGER_to_BN(X509_get0_serialNumber(a.leaf), NULL);
	assert_int_equal(BN_num_bits(n), 127);
	assert_false(BN_is_negative(n));
	BN_free(n);
	cs_issued_fini(&a);
	cs_issued_fini(&b);
	cs_ca_free(ca);
}

static void root_has_spires_profile(void **state)
{
	struct fixture *f = *state;
	struct cs_ca *ca = open_ca(f);
	X509 *root = (X509 *)cs_ca_root_borrow(ca);
	assert_int_equal(X509_check_ca(root), 1);
	assert_int_equal(X509_get_key_usage(root), KU_KEY_CERT_SIGN | KU_CRL_SIGN);
	uri_is(root, "spiffe://" DOMAIN);
	assert_true(X509_NAME_get_index_by_NID(X509_get_subject_name(root), NID_serialNumber, -1) >= 0);
	assert_int_equal(cs_ca_not_after_unix_s(ca), f->now_unix_s + CS_CA_ROOT_TTL_S);
	assert_string_equal(cs_ca_trust_domain_borrow(ca), DOMAIN);
	cs_ca_free(ca);
}

static void a_leaf_ends_with_the_root(void **state)
{
	struct fixture *f = *state;
	struct cs_ca *ca = open_ca(f);
	struct cs_issued a;
	int64_t end_unix_s = cs_ca_not_after_unix_s(ca);
	assert_int_equal(cs_ca_issue(ca, ID, HOUR_S, end_unix_s - 60, &a, &f->e), 0);
	assert_int_equal(a.not_after_unix_s, end_unix_s);
	cs_issued_fini(&a);
	assert_int_equal(cs_ca_issue(ca, ID, HOUR_S, end_unix_s, &a, &f->e), -EKEYEXPIRED);
	cs_ca_free(ca);
}

static void issues_to_nobody_else(void **state)
{
	struct fixture *f = *state;
	struct cs_ca *ca = open_ca(f);
	struct cs_issued a;
	const char *const bad[] = {"spiffe://example.org", "spiffe://example.org/", "spiffe://other.org/identity/1",
		"spiffe://example.org/a//b", "spiffe://example.org/a,URI:spiffe://example.org/b", "", "identity/7"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_true(cs_ca_issue(ca, bad[i], HOUR_S, f->now_unix_s, &a, &f->e) < 0);
	assert_int_equal(cs_ca_issue(ca, bad[2], HOUR_S, f->now_unix_s, &a, &f->e), -EINVAL);
	assert_int_equal(f->e.reason, CS_R_TRUST_DOMAIN_MISMATCH);
	assert_true(cs_ca_issue(ca, ID, 0, f->now_unix_s, &a, &f->e) < 0);
	cs_ca_free(ca);
}

static void the_root_is_made_once(void **state)
{
	struct fixture *f = *state;
	struct cs_ca *a, *b;
	bool made;
	assert_int_equal(cs_ca_open(f->dir, DOMAIN, f->now_unix_s, &a, &made, &f->e), 0);
	assert_true(made);
	assert_int_equal(cs_ca_open(f->dir, DOMAIN, f->now_unix_s, &b, &made, &f->e), 0);
	assert_false(made);
	assert_int_equal(X509_cmp(cs_ca_root_borrow(a), cs_ca_root_borrow(b)), 0);
	struct cs_issued leaf = issue(f, b, ID);
	assert_int_equal(X509_verify(leaf.leaf, X509_get0_pubkey(cs_ca_root_borrow(a))), 1);
	cs_issued_fini(&leaf);
	cs_ca_free(a);
	cs_ca_free(b);
	struct stat st;
	assert_int_equal(stat(f->dir, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	char path[128];
	snprintf(path, sizeof(path), "%s/ca.pem", f->dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

/* Several adapters start on an empty directory at the same moment: one root, and exactly one maker. */
static void the_root_is_made_once_by_many(void **state)
{
	struct fixture *f = *state;
	enum { N = 8 };
	pid_t pids[N];
	int go[2], makers = 0;
	assert_int_equal(pipe(go), 0);
	for (int i = 0; i < N; i++) {
		pids[i] = fork();
		assert_true(pids[i] >= 0);
		if (pids[i] == 0) {
			struct cs_ca *ca = NULL;
			bool made = false;
			char c;
			close(go[1]);
			ssize_t n = read(go[0], &c, 1); /* returns when all are there and the parent closes */
			if (n != 0 || cs_ca_open(f->dir, DOMAIN, f->now_unix_s, &ca, &made, &f->e) < 0)
				_exit(9);
			cs_ca_free(ca);
			_exit(made ? 1 : 0);
		}
	}
	close(go[0]);
	close(go[1]);
	for (int i = 0; i < N; i++) {
		int status;
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
		makers += WEXITSTATUS(status);
	}
	assert_int_equal(makers, 1);
	cs_ca_free(open_ca(f));
}

static void overwrite(struct fixture *f, const char *text)
{
	char path[128];
	snprintf(path, sizeof(path), "%s/ca.pem", f->dir);
	int fd = open(path, O_WRONLY | O_TRUNC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static void refuses_a_root_that_is_not_right(void **state)
{
	struct fixture *f = *state;
	char path[128], text[8192];
	cs_ca_free(open_ca(f));
	refused(f, "other.org", f->now_unix_s, -EINVAL, "give each trust domain a directory of its own");
	refused(f, "Not A Domain", f->now_unix_s, -EINVAL, "");
	refused(f, DOMAIN, f->now_unix_s + CS_CA_ROOT_TTL_S, -EKEYEXPIRED, "expired");
	refused(f, DOMAIN, f->now_unix_s - 11, -EKEYEXPIRED, "clock");

	/* The key of one CA with the certificate of another. */
	snprintf(path, sizeof(path), "%s/ca.pem", f->dir);
	FILE *in = fopen(path, "r");
	size_t n = fread(text, 1, sizeof(text) - 1, in);
	text[n] = '\0';
	fclose(in);
	overwrite(f, "nothing");
	refused(f, DOMAIN, f->now_unix_s, -EINVAL, "not a PEM key");
	BIO *bio = BIO_new(BIO_s_mem()); /* nobody is asked for the password */
	char *encrypted;
	EVP_PKEY *key = EVP_EC_gen("P-256");
	assert_true(PEM_write_bio_PKCS8PrivateKey(bio, key, EVP_aes_128_cbc(), "secret", 6, NULL, NULL));
	EVP_PKEY_free(key);
	assert_true(BIO_write(bio, "", 1) == 1 && BIO_get_mem_data(bio, &encrypted) > 100);
	overwrite(f, encrypted);
	BIO_free(bio);
	refused(f, DOMAIN, f->now_unix_s, -EINVAL, "not a PEM key");
	assert_int_equal(unlink(path), 0);
	cs_ca_free(open_ca(f));
	in = fopen(path, "r");
	char other[8192];
	n = fread(other, 1, sizeof(other) - 1, in);
	other[n] = '\0';
	fclose(in);
	char mixed[16384], *cert = strstr(other, "-----BEGIN CERTIFICATE");
	*strstr(text, "-----BEGIN CERTIFICATE") = '\0';
	snprintf(mixed, sizeof(mixed), "%s%s", text, cert);
	overwrite(f, mixed);
	refused(f, DOMAIN, f->now_unix_s, -EINVAL, "not a root made with its key");
}

static void refuses_files_that_others_reach(void **state)
{
	struct fixture *f = *state;
	char path[128], elsewhere[128];
	cs_ca_free(open_ca(f));
	snprintf(path, sizeof(path), "%s/ca.pem", f->dir);
	assert_int_equal(chmod(f->dir, 0750), 0);
	refused(f, DOMAIN, f->now_unix_s, -EPERM, "chmod");
	assert_int_equal(chmod(f->dir, 0700), 0);
	assert_int_equal(chmod(path, 0640), 0);
	refused(f, DOMAIN, f->now_unix_s, -EPERM, "chmod 0600");
	assert_int_equal(chmod(path, 0600), 0);
	if (geteuid() == 0) {
		assert_int_equal(chown(path, 12345, 0), 0);
		refused(f, DOMAIN, f->now_unix_s, -EPERM, "belongs to user 12345");
		assert_int_equal(chown(path, 0, 0), 0);
	}
	cs_ca_free(open_ca(f)); /* the negative twin of all of these */
	snprintf(elsewhere, sizeof(elsewhere), "%s/elsewhere", f->base);
	assert_int_equal(rename(path, elsewhere), 0);
	assert_int_equal(symlink(elsewhere, path), 0);
	refused(f, DOMAIN, f->now_unix_s, -ELOOP, "ca.pem");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	refused(f, DOMAIN, f->now_unix_s, -EINVAL, "not a regular file");
	assert_int_equal(unlink(path), 0);
	snprintf(f->dir, sizeof(f->dir), "%s/elsewhere/ca", f->base);
	refused(f, DOMAIN, f->now_unix_s, -ENOTDIR, "elsewhere");
	snprintf(f->dir, sizeof(f->dir), "%s/not/there/ca", f->base);
	cs_ca_free(open_ca(f));
}

static void refuses_a_file_that_is_too_large(void **state)
{
	struct fixture *f = *state;
	static char big[20000];
	cs_ca_free(open_ca(f));
	memset(big, 'x', sizeof(big) - 1);
	overwrite(f, big);
	refused(f, DOMAIN, f->now_unix_s, -EFBIG, "at most");
}

/* A third party's verdict, by its own words. */
static int openssl(const char *const argv[])
{
	pid_t pid;
	int status;
	posix_spawn_file_actions_t quiet;
	posix_spawn_file_actions_init(&quiet);
	posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addopen(&quiet, 2, "/dev/null", O_WRONLY, 0);
	assert_int_equal(posix_spawnp(&pid, "openssl", &quiet, NULL, (char *const *)argv, environ), 0);
	posix_spawn_file_actions_destroy(&quiet);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void openssl_cli_verifies_what_was_written(void **state)
{
	struct fixture *f = *state;
	struct cs_ca *ca = open_ca(f);
	struct cs_issued a = issue(f, ca, "spiffe://example.org/countersign/node/n1");
	assert_int_equal(cs_issued_write(&a, ca, f->out, &f->e), 0);
	assert_int_equal(cs_issued_write(&a, ca, f->out, &f->e), 0); /* again, over itself */
	char bundle[128], chain[128], key[128];
	snprintf(bundle, sizeof(bundle), "%s/bundle.pem", f->out);
	snprintf(chain, sizeof(chain), "%s/svid.pem", f->out);
	snprintf(key, sizeof(key), "%s/svid.key", f->out);
	struct stat st;
	assert_int_equal(stat(key, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	const char *const purposes[] = {"sslserver", "sslclient"};
	for (int i = 0; i < 2; i++)
		assert_int_equal(openssl((const char *[]){"openssl", "verify", "-x509_strict", "-check_ss_sig",
					 "-purpose", purposes[i], "-CAfile", bundle, chain, NULL}),
			0);
	assert_int_equal(openssl((const char *[]){"openssl", "pkey", "-in", key, "-check", "-noout", NULL}), 0);

	/* The negative twin: another CA's bundle. */
	snprintf(f->dir, sizeof(f->dir), "%s/ca2", f->base);
	struct cs_ca *other = open_ca(f);
	assert_int_equal(cs_issued_write(&a, other, f->out, &f->e), 0);
	assert_int_not_equal(openssl((const char *[]){"openssl", "verify", "-CAfile", bundle, chain, NULL}), 0);
	cs_issued_fini(&a);
	cs_ca_free(other);
	cs_ca_free(ca);
}

/* Our own verification, by way of the mTLS that the files are for: each for its own role and not for the other. */
static void identityds_mtls_takes_what_was_written(void **state)
{
	struct fixture *f = *state;
	struct cs_ca *ca = open_ca(f);
	const char *const ids[] = {
		"spiffe://example.org/countersign/identityd", "spiffe://example.org/countersign/node/n1"};
	const enum cs_tls_role roles[] = {CS_TLS_SERVER, CS_TLS_CLIENT};
	char chain[128], key[128], bundle[128];
	snprintf(chain, sizeof(chain), "%s/svid.pem", f->out);
	snprintf(key, sizeof(key), "%s/svid.key", f->out);
	snprintf(bundle, sizeof(bundle), "%s/bundle.pem", f->out);
	const struct cs_tls_files files = {chain, key, bundle};
	for (int i = 0; i < 2; i++) {
		struct cs_issued a = issue(f, ca, ids[i]);
		struct cs_tls *tls;
		assert_int_equal(cs_issued_write(&a, ca, f->out, &f->e), 0);
		if (cs_tls_new(roles[i], &files, NULL, &tls, &f->e) < 0)
			fail_msg("%s", f->e.text);
		assert_string_equal(cs_tls_own_name(tls), i == 0 ? ids[0] : "n1");
		assert_int_equal(cs_tls_not_after_unix_s(tls), a.not_after_unix_s);
		cs_tls_free(tls);
		assert_true(cs_tls_new(roles[1 - i], &files, NULL, &tls, &f->e) < 0);
		cs_issued_fini(&a);
	}
	cs_ca_free(ca);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(leaf_has_spires_profile),
		T(each_leaf_has_its_own_key_and_serial),
		T(root_has_spires_profile),
		T(a_leaf_ends_with_the_root),
		T(issues_to_nobody_else),
		T(the_root_is_made_once),
		T(the_root_is_made_once_by_many),
		T(refuses_a_root_that_is_not_right),
		T(refuses_files_that_others_reach),
		T(refuses_a_file_that_is_too_large),
		T(openssl_cli_verifies_what_was_written),
		T(identityds_mtls_takes_what_was_written),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

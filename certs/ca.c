#include "ca.h"

#include <errno.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "ca_files.h"
#include "ca_profile.h"
#include "spiffe_id.h"
#include "x509.h"

#define CA_FILE "ca.pem"

struct cs_ca {
	EVP_PKEY *key;
	X509 *root;
	char *trust_domain;
	int64_t not_after_unix_s;
};

void cs_ca_free(struct cs_ca *ca)
{
	if (!ca)
		return;
	EVP_PKEY_free(ca->key);
	X509_free(ca->root);
	free(ca->trust_domain);
	free(ca);
}

const X509 *cs_ca_root_borrow(const struct cs_ca *ca)
{
	return ca->root;
}

const char *cs_ca_trust_domain_borrow(const struct cs_ca *ca)
{
	return ca->trust_domain;
}

int64_t cs_ca_not_after_unix_s(const struct cs_ca *ca)
{
	return ca->not_after_unix_s;
}

static int64_t to_unix_s(const ASN1_TIME *time)
{
	struct tm tm;
	return ASN1_TIME_to_tm(time, &tm) ? (int64_t)timegm(&tm) : INT64_MIN;
}

/* The one URI SAN, malloced, or NULL. */
static char *uri_of(const X509 *x)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	char *uri = NULL;
	if (names && sk_GENERAL_NAME_num(names) == 1) {
		int type;
		const ASN1_IA5STRING *value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, 0), &type);
		if (type == GEN_URI)
			uri = strndup((const char *)ASN1_STRING_get0_data(value), (size_t)ASN1_STRING_length(value));
	}
	GENERAL_NAMES_free(names);
	return uri;
}

static int check_domain(const struct cs_ca *ca, const char *path, struct cs_error *e)
{
	char *uri = uri_of(ca->root);
	int r = 0;
	if (!uri || strncmp(uri, "spiffe://", 9) != 0 || strcmp(uri + 9, ca->trust_domain) != 0)
		r = cs_error_set(e, -EINVAL,
			"%s is the CA of '%s', not of 'spiffe://%s'; give each trust domain a directory of its own",
			path, uri ? uri : "", ca->trust_domain);
	free(uri);
	return r;
}

/* Whether this is a root such as we make: P-256, signed by itself, for this trust domain, valid now. */
static int check_root(struct cs_ca *ca, const char *path, int64_t now_unix_s, struct cs_error *e)
{
	char group[32];
	if (!EVP_PKEY_get_group_name(ca->key, group, sizeof(group), NULL) || strcmp(group, "prime256v1") != 0)
		return cs_error_set(e, -EINVAL, "%s: its key is not a P-256 key", path);
	if (!X509_check_private_key(ca->root, ca->key) || X509_verify(ca->root, ca->key) != 1 ||
		X509_check_ca(ca->root) != 1)
		return cs_error_set(e, -EINVAL, "%s: its certificate is not a root made with its key", path);
	int r = check_domain(ca, path, e);
	if (r < 0)
		return r;
	ca->not_after_unix_s = to_unix_s(X509_get0_notAfter(ca->root));
	if (now_unix_s >= ca->not_after_unix_s)
		return cs_error_set(e, -EKEYEXPIRED,
			"%s expired; remove it to make a new CA, which nothing that was issued so far will trust",
			path);
	if (now_unix_s < to_unix_s(X509_get0_notBefore(ca->root)))
		return cs_error_set(e, -EKEYEXPIRED, "%s is not valid yet: look at the machine's clock", path);
	return 0;
}

/* -ENOENT if there is none yet. */
static int load(struct cs_ca *ca, const struct cs_ca_dir *dir, struct cs_error *e)
{
	char *text = NULL, why[256];
	size_t size = 0;
	int r = cs_ca_file_read(dir, CA_FILE, &text, &size, e);
	if (r < 0)
		return r;
	BIO *bio = BIO_new_mem_buf(text, (int)size - 1);
	ca->key = bio ? PEM_read_bio_PrivateKey(bio, NULL, cs_no_password, NULL) : NULL;
	ca->root = bio && ca->key ? PEM_read_bio_X509(bio, NULL, cs_no_password, NULL) : NULL;
	if (!ca->root)
		r = cs_error_set(e, -EINVAL,
			"%s/" CA_FILE
			" is not a PEM key followed by a PEM certificate (%s); restore it, or remove it to "
			"make a new CA",
			dir->path, cs_openssl_why(why, sizeof(why)));
	BIO_free(bio);
	OPENSSL_secure_clear_free(text, size);
	return r;
}

static int save(const struct cs_ca *ca, const struct cs_ca_dir *dir, struct cs_error *e)
{
	char *text;
	BIO *bio = BIO_new(BIO_s_secmem());
	int r;
	if (bio &&
		BIO_printf(bio,
			"Countersign's built-in CA of %s, for this machine only.\n"
			"Who can read this file can be anybody in this trust domain. Never copy it.\n",
			ca->trust_domain) > 0 &&
		PEM_write_bio_PKCS8PrivateKey(bio, ca->key, NULL, NULL, 0, NULL, NULL) &&
		PEM_write_bio_X509(bio, ca->root)) {
		long size = BIO_get_mem_data(bio, &text);
		r = cs_ca_file_write(dir, CA_FILE, 0600, text, (size_t)size, e);
	} else {
		r = cs_error_set(e, -ENOMEM, "no locked memory left to write %s/" CA_FILE, dir->path);
	}
	BIO_free(bio);
	return r;
}

static int make(struct cs_ca *ca, const struct cs_ca_dir *dir, int64_t now_unix_s, struct cs_error *e)
{
	struct cs_ca_validity validity = {now_unix_s - CS_CA_BACKDATE_S, now_unix_s + CS_CA_ROOT_TTL_S};
	ca->key = cs_ca_new_key();
	if (!ca->key)
		return cs_error_set(e, -ENOMEM, "cannot make the key of the CA in %s", dir->path);
	ca->root = cs_ca_new_root(ca->key, ca->trust_domain, validity, e);
	return ca->root ? save(ca, dir, e) : -EIO;
}

static int load_or_make(
	struct cs_ca *ca, const struct cs_ca_dir *dir, int64_t now_unix_s, bool *ret_made, struct cs_error *e)
{
	int r = load(ca, dir, e);
	if (r != -ENOENT)
		return r;
	int lock = cs_ca_dir_lock(dir, e);
	if (lock < 0)
		return lock;
	r = load(ca, dir, e); /* somebody else may have made it while we waited */
	if (r == -ENOENT) {
		r = make(ca, dir, now_unix_s, e);
		*ret_made = r == 0;
	}
	close(lock);
	return r;
}

int cs_ca_open(const char *dir_path, const char *trust_domain, int64_t now_unix_s, struct cs_ca **ret, bool *ret_made,
	struct cs_error *e)
{
	struct cs_ca_dir dir = {.fd = -1};
	struct cs_ca *ca = calloc(1, sizeof(*ca));
	bool made = false;
	char path[4096];
	int r = -ENOMEM;
	if (!ca || !(ca->trust_domain = strdup(trust_domain))) {
		cs_error_set(e, r, "out of memory");
		goto out;
	}
	if ((r = cs_trust_domain_check(trust_domain, strlen(trust_domain), e)) < 0 ||
		(r = cs_ca_dir_open(dir_path, 0700, &dir, e)) < 0 ||
		(r = load_or_make(ca, &dir, now_unix_s, &made, e)) < 0)
		goto out;
	snprintf(path, sizeof(path), "%s/" CA_FILE, dir_path);
	r = check_root(ca, path, now_unix_s, e);
out:
	cs_ca_dir_close(&dir);
	if (r < 0) {
		cs_ca_free(ca);
		return r;
	}
	if (ret_made)
		*ret_made = made;
	*ret = ca;
	return 0;
}

void cs_issued_fini(struct cs_issued *issued)
{
	EVP_PKEY_free(issued->key);
	X509_free(issued->leaf);
	*issued = (struct cs_issued){0};
}

/* Ours to issue: in our trust domain, and somebody (X509-SVID 2: a leaf's path is not the root). */
static int check_id(const struct cs_ca *ca, const char *spiffe_id, struct cs_error *e)
{
	struct cs_spiffe_id id;
	char domain[CS_TRUST_DOMAIN_MAX + 1];
	int r = cs_spiffe_id_parse(&id, spiffe_id, strlen(spiffe_id), e);
	if (r < 0)
		return r;
	cs_spiffe_id_domain(&id, domain);
	if (strcmp(domain, ca->trust_domain) != 0)
		return cs_error_reason(e, -EINVAL, CS_R_TRUST_DOMAIN_MISMATCH,
			"%s is not of the built-in CA's trust domain %s", spiffe_id, ca->trust_domain);
	if (!*cs_spiffe_id_path(&id))
		return cs_error_set(e, -EINVAL, "%s names a trust domain, not somebody in it", spiffe_id);
	return 0;
}

int cs_ca_issue(const struct cs_ca *ca, const char *spiffe_id, int64_t ttl_s, int64_t now_unix_s, struct cs_issued *ret,
	struct cs_error *e)
{
	int r = check_id(ca, spiffe_id, e);
	if (r < 0)
		return r;
	if (ttl_s <= 0 || now_unix_s >= ca->not_after_unix_s)
		return cs_error_set(
			e, -EKEYEXPIRED, "the built-in CA's root has expired, or the lifetime is not positive");
	int64_t until_unix_s = now_unix_s + ttl_s < ca->not_after_unix_s ? now_unix_s + ttl_s : ca->not_after_unix_s;
	struct cs_issued made = {.key = cs_ca_new_key(),
		.not_before_unix_s = now_unix_s - CS_CA_BACKDATE_S,
		.not_after_unix_s = until_unix_s};
	if (!made.key)
		return cs_error_set(
			e, -ENOMEM, "cannot make a key for %s: no randomness or no locked memory", spiffe_id);
	made.leaf = cs_ca_new_leaf(made.key, spiffe_id,
		(struct cs_ca_validity){made.not_before_unix_s, made.not_after_unix_s}, ca->key, ca->root, e);
	if (!made.leaf) {
		cs_issued_fini(&made);
		return -EIO;
	}
	*ret = made;
	return 0;
}

static int write_pem(
	const struct cs_ca_dir *dir, const char *name, mode_t mode, X509 *cert, EVP_PKEY *key, struct cs_error *e)
{
	char *text;
	BIO *bio = BIO_new(key ? BIO_s_secmem() : BIO_s_mem());
	int r;
	if (bio && (key ? PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL)
			: PEM_write_bio_X509(bio, cert))) {
		long size = BIO_get_mem_data(bio, &text);
		r = cs_ca_file_write(dir, name, mode, text, (size_t)size, e);
	} else {
		r = cs_error_set(e, -ENOMEM, "no memory left to write %s/%s", dir->path, name);
	}
	BIO_free(bio);
	return r;
}

int cs_issued_write(const struct cs_issued *issued, const struct cs_ca *ca, const char *dir_path, struct cs_error *e)
{
	struct cs_ca_dir dir;
	int r = cs_ca_dir_open(dir_path, 0755, &dir, e);
	if (r < 0)
		return r;
	if ((r = write_pem(&dir, "bundle.pem", 0644, ca->root, NULL, e)) == 0 &&
		(r = write_pem(&dir, "svid.key", 0600, NULL, issued->key, e)) == 0)
		r = write_pem(&dir, "svid.pem", 0644, issued->leaf, NULL, e);
	cs_ca_dir_close(&dir);
	return r;
}

#include "spire_files.h"

#include <errno.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "ca_files.h"
#include "log.h"

#define RETRY_MS 10000 /* a disk that was full */

enum { BUNDLE, KEY, CHAIN, FILES }; /* in the order of writing */
static const char *const names[FILES] = {"bundle.pem", "svid.key", "svid.pem"};

struct text {
	char *data; /* in secure memory, if the process has that; NULL: the file goes */
	size_t size;
};

struct content {
	struct text text[FILES];
};

struct cs_spire_files {
	struct cs_loop *loop;
	char dir[PATH_MAX];
	struct content waiting, writing; /* what comes next, what a worker has */
	bool is_waiting, is_writing, said, closing;
	bool removed;                         /* put last: that there is none */
	uint8_t digest[SHA256_DIGEST_LENGTH]; /* of what was put last; zero: nothing */
	uv_work_t work;
	struct cs_timer timer;
	int result;
	struct cs_error error;
};

static void content_fini(struct content *c)
{
	for (int i = 0; i < FILES; i++)
		OPENSSL_secure_clear_free(c->text[i].data, c->text[i].size);
	*c = (struct content){0};
}

/* ---- the worker ---- */

static int write_or_remove(const struct cs_ca_dir *dir, const char *name, const struct text *text, struct cs_error *e)
{
	if (text->data)
		return cs_ca_file_write(dir, name, 0600, text->data, text->size, e);
	if (unlinkat(dir->fd, name, 0) < 0 && errno != ENOENT)
		return cs_error_errno(e, -errno, "cannot remove %s/%s", dir->path, name);
	return 0;
}

static void work(uv_work_t *uv)
{
	struct cs_spire_files *f = uv->data;
	struct cs_ca_dir dir;
	f->result = 0;
	if (!f->writing.text[BUNDLE].data && access(f->dir, F_OK) < 0 && errno == ENOENT)
		return; /* nothing to remove, not even of an earlier life */
	f->result = cs_ca_dir_open(f->dir, 0700, &dir, &f->error);
	if (f->result < 0)
		return;
	for (int i = 0; i < FILES && f->result == 0; i++)
		f->result = write_or_remove(&dir, names[i], &f->writing.text[i], &f->error);
	cs_ca_dir_close(&dir);
}

static void begin(struct cs_spire_files *f);

static void done(uv_work_t *uv, int status)
{
	struct cs_spire_files *f = uv->data;
	(void)status; /* never cancelled */
	f->is_writing = false;
	if (f->closing) {
		content_fini(&f->writing);
		return;
	}
	if (f->result == 0) {
		cs_debug("files of an own SVID are written", cs_str("directory", f->dir));
		f->said = false;
		content_fini(&f->writing);
	} else {
		if (!f->said)
			cs_fail("an own SVID cannot be handed over; it is tried again", cs_err(&f->error));
		f->said = true;
		if (f->is_waiting) {
			content_fini(&f->writing);
		} else {
			f->waiting = f->writing;
			f->writing = (struct content){0};
			f->is_waiting = true;
			cs_timer_start(&f->timer, RETRY_MS, 0);
			return;
		}
	}
	begin(f);
}

static void begin(struct cs_spire_files *f)
{
	if (f->is_writing || !f->is_waiting)
		return;
	f->writing = f->waiting;
	f->waiting = (struct content){0};
	f->is_waiting = false;
	f->is_writing = true;
	uv_queue_work(&f->loop->uv, &f->work, work, done);
}

static void on_timer(struct cs_timer *timer)
{
	begin(timer->data);
}

/* ---- what to write ---- */

static int pem_certs(BIO *bio, const struct cs_der *certs, size_t n)
{
	int r = 0;
	for (size_t i = 0; i < n && r == 0; i++)
		if (PEM_write_bio(bio, PEM_STRING_X509, "", certs[i].data, (long)certs[i].len) <= 0)
			r = -ENOMEM;
	return r;
}

static int text_of(struct text *ret, const struct cs_der *certs, size_t n, EVP_PKEY *key)
{
	BIO *bio = BIO_new(BIO_s_secmem());
	int r = bio ? 0 : -ENOMEM;
	if (r == 0 && key && !PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL))
		r = -ENOMEM;
	if (r == 0 && !key)
		r = pem_certs(bio, certs, n);
	char *data;
	long size = r == 0 ? BIO_get_mem_data(bio, &data) : 0;
	if (r == 0 && !(ret->data = OPENSSL_secure_malloc((size_t)size)))
		r = -ENOMEM;
	if (r == 0) {
		memcpy(ret->data, data, (size_t)size);
		ret->size = (size_t)size;
	}
	BIO_free(bio); /* clears secure memory */
	return r;
}

static void put(struct cs_spire_files *f, struct content *content, const uint8_t digest[SHA256_DIGEST_LENGTH])
{
	memcpy(f->digest, digest, sizeof(f->digest));
	content_fini(&f->waiting);
	f->waiting = *content;
	f->is_waiting = true;
	begin(f);
}

/* All zero if that fails: then it is written once more than needed. */
static void digest_of(const struct cs_spire_own *own, uint8_t ret[SHA256_DIGEST_LENGTH])
{
	EVP_MD_CTX *sha = EVP_MD_CTX_new();
	bool ok = sha && EVP_DigestInit_ex(sha, EVP_sha256(), NULL) &&
		  EVP_DigestUpdate(sha, own->chain.leaf_sha256, sizeof(own->chain.leaf_sha256));
	for (size_t i = 0; ok && i < own->nbundle; i++)
		ok = EVP_DigestUpdate(sha, own->bundle[i].data, own->bundle[i].len);
	if (!ok || !EVP_DigestFinal_ex(sha, ret, NULL))
		memset(ret, 0, SHA256_DIGEST_LENGTH);
	EVP_MD_CTX_free(sha);
}

void cs_spire_files_put(struct cs_spire_files *f, const struct cs_spire_own *own)
{
	uint8_t digest[SHA256_DIGEST_LENGTH];
	struct content content = {0};
	digest_of(own, digest);
	if (f->closing || memcmp(digest, f->digest, sizeof(digest)) == 0)
		return;
	if (text_of(&content.text[BUNDLE], own->bundle, own->nbundle, NULL) < 0 ||
		text_of(&content.text[KEY], NULL, 0, own->key) < 0 ||
		text_of(&content.text[CHAIN], own->chain.cert, own->chain.n, NULL) < 0) {
		content_fini(&content);
		cs_fail("no locked memory to hand an own SVID over", cs_str("directory", f->dir));
		return; /* with the next message again */
	}
	f->removed = false;
	put(f, &content, digest);
}

void cs_spire_files_remove(struct cs_spire_files *f)
{
	static const uint8_t nothing[SHA256_DIGEST_LENGTH];
	struct content content = {0};
	if (f->closing || f->removed)
		return;
	f->removed = true;
	put(f, &content, nothing);
}

int cs_spire_files_new(struct cs_loop *loop, const char *dir, struct cs_spire_files **ret, struct cs_error *e)
{
	struct cs_spire_files *f = calloc(1, sizeof(*f));
	if (!f)
		return cs_error_set(e, -ENOMEM, "out of memory");
	f->loop = loop;
	f->work.data = f;
	snprintf(f->dir, sizeof(f->dir), "%s", dir);
	cs_timer_init(&f->timer, loop, on_timer, f);
	*ret = f;
	return 0;
}

void cs_spire_files_close(struct cs_spire_files *f)
{
	if (!f || f->closing)
		return;
	f->closing = true;
	cs_timer_close(&f->timer, NULL);
}

void cs_spire_files_free(struct cs_spire_files *f)
{
	if (!f)
		return;
	content_fini(&f->waiting);
	content_fini(&f->writing);
	free(f);
}

/* Durable files of the built-in CA, by directory descriptor: what is checked is what is used. All of it blocks. */
#ifndef CS_CA_FILES_H
#define CS_CA_FILES_H

#include <sys/types.h>
#include "error.h"

#define CS_CA_FILE_MAX 16384 /* a key, a certificate and a comment */

struct cs_ca_dir {
	const char *path; /* borrowed, for messages */
	int fd;
};

/* Makes (with this mode; parents with 0755) and opens a directory. Refused: another owner than root or this user, and any permission bit
 * that mode does not have for group and others. */
CS_MUST_USE int cs_ca_dir_open(const char *path, mode_t mode, struct cs_ca_dir *ret, struct cs_error *e);
void cs_ca_dir_close(struct cs_ca_dir *dir);

/* Waits for DIR/lock; closing the returned descriptor releases it. */
CS_MUST_USE int cs_ca_dir_lock(const struct cs_ca_dir *dir, struct cs_error *e);

/* A secret file, into OpenSSL's secure memory and NUL-terminated; free with OPENSSL_secure_clear_free(*ret, *ret_size).
 * -ENOENT if there is none. Refused: anything but a regular file, other owners, any access for group and others. */
CS_MUST_USE int cs_ca_file_read(
	const struct cs_ca_dir *dir, const char *name, char **ret, size_t *ret_size, struct cs_error *e);

/* Replaces a file by rename; file and directory are fsynced before this returns. One writer at a time. */
CS_MUST_USE int cs_ca_file_write(
	const struct cs_ca_dir *dir, const char *name, mode_t mode, const void *data, size_t size, struct cs_error *e);

#endif

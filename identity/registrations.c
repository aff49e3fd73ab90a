#include "registrations.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include "mem.h"

#define FILE_MAX_BYTES (64 * 1024) /* labels have 4 KiB at most */
#define HASH_TEXT      33          /* 16 bytes in hex */
#define TEMPORARY      ".new"

/* An id may hold anything printable: its hash names the file. */
static void file_name(const char *id, char out[HASH_TEXT])
{
	unsigned char hash[EVP_MAX_MD_SIZE];
	unsigned n = 0;
	if (EVP_Digest(id, strlen(id), hash, &n, EVP_sha256(), NULL) != 1)
		abort();
	for (int i = 0; i < 16; i++)
		snprintf(out + 2 * i, 3, "%02x", hash[i]);
}

static int open_dir(const char *dir, struct cs_error *e)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? cs_error_errno(e, -errno, "cannot open the state directory %s", dir) : fd;
}

static int read_one(int dirfd, const char *dir, const char *name, uint8_t *bytes, size_t *ret_n, struct cs_error *e)
{
	int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return cs_error_errno(e, -errno, "cannot open %s/%s", dir, name);
	ssize_t n = read(fd, bytes, FILE_MAX_BYTES);
	int err = errno;
	close(fd);
	if (n < 0)
		return cs_error_errno(e, -err, "cannot read %s/%s", dir, name);
	*ret_n = (size_t)n;
	return 0;
}

static int load_entry(int dirfd, const char *dir, const char *name,
	int (*fn)(void *, const uint8_t *, size_t, struct cs_error *), void *data, struct cs_error *e)
{
	size_t n = strlen(name);
	if (name[0] == '.')
		return 0;
	if (n > strlen(TEMPORARY) && strcmp(name + n - strlen(TEMPORARY), TEMPORARY) == 0) {
		unlinkat(dirfd, name, 0);
		return 0;
	}
	uint8_t *bytes = cs_xcalloc(1, FILE_MAX_BYTES);
	int r = read_one(dirfd, dir, name, bytes, &n, e);
	if (r == 0) {
		r = fn(data, bytes, n, e);
		if (r < 0)
			cs_error_prefix(e,
				"%s/%s holds no registration that can be read; move it away, and register its endpoint "
				"anew",
				dir, name);
	}
	free(bytes);
	return r;
}

int cs_registrations_load(
	const char *dir, int (*fn)(void *, const uint8_t *, size_t, struct cs_error *), void *data, struct cs_error *e)
{
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return cs_error_errno(e, -errno, "cannot make the state directory %s", dir);
	DIR *handle = opendir(dir);
	if (!handle)
		return cs_error_errno(e, -errno, "cannot read the state directory %s", dir);
	int r = 0;
	for (struct dirent *entry; r == 0 && (entry = readdir(handle));)
		r = load_entry(dirfd(handle), dir, entry->d_name, fn, data, e);
	closedir(handle);
	return r;
}

static int write_error(const char *dir, const char *what, struct cs_error *e)
{
	int err = errno;
	if (err == ENOSPC || err == EDQUOT)
		return cs_error_set(e, -ENOSPC,
			"cannot store the registration: the disk under %s is full; make room and try again", dir);
	return cs_error_errno(e, -err, "cannot %s in %s", what, dir);
}

static int write_all(int fd, const uint8_t *bytes, size_t n)
{
	for (size_t done = 0; done < n;) {
		ssize_t put = write(fd, bytes + done, n - done);
		if (put < 0 && errno != EINTR)
			return -1;
		done += put > 0 ? (size_t)put : 0;
	}
	return fsync(fd);
}

static int put_one(int dirfd, const char *dir, const struct cs_registration *reg, struct cs_error *e)
{
	char name[HASH_TEXT], temporary[HASH_TEXT + sizeof(TEMPORARY)];
	file_name(reg->id, name);
	if (!reg->bytes)
		return unlinkat(dirfd, name, 0) < 0 && errno != ENOENT ? write_error(dir, "remove a registration", e)
								       : 0;
	snprintf(temporary, sizeof(temporary), "%s" TEMPORARY, name);
	int fd = openat(dirfd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return write_error(dir, "make a file", e);
	int r = write_all(fd, reg->bytes, reg->n);
	if (r < 0)
		r = write_error(dir, "write a registration", e);
	close(fd);
	if (r == 0 && renameat(dirfd, temporary, dirfd, name) < 0)
		r = write_error(dir, "rename a registration", e);
	if (r < 0)
		unlinkat(dirfd, temporary, 0);
	return r;
}

int cs_registrations_write(
	const char *dir, const struct cs_registration *list, size_t n, size_t *ret_done, struct cs_error *e)
{
	int fd = open_dir(dir, e), r = 0;
	*ret_done = 0;
	if (fd < 0)
		return fd;
	while (*ret_done < n && (r = put_one(fd, dir, &list[*ret_done], e)) == 0)
		(*ret_done)++;
	if (*ret_done > 0 && fsync(fd) < 0) {
		*ret_done = 0; /* whether they are there is unknown: nobody is told that they are */
		r = write_error(dir, "sync the directory", e);
	}
	close(fd);
	return r;
}

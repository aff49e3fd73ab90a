#include "ca_files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static bool foreign(const struct stat *st)
{
	return st->st_uid != 0 && st->st_uid != geteuid();
}

static int check_dir(int fd, const char *path, mode_t mode, struct cs_error *e)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return cs_error_errno(e, -errno, "cannot look at %s", path);
	if (foreign(&st))
		return cs_error_set(e, -EPERM, "%s belongs to user %u, not to root or to this daemon's user %u", path,
			(unsigned)st.st_uid, (unsigned)geteuid());
	if (st.st_mode & 077 & ~mode)
		return cs_error_set(e, -EPERM, "%s has mode %04o and may have at most %04o; chmod it", path,
			(unsigned)(st.st_mode & 07777), (unsigned)mode);
	return 0;
}

static int make_parents(const char *path, struct cs_error *e)
{
	char part[PATH_MAX];
	if (snprintf(part, sizeof(part), "%s", path) >= (int)sizeof(part))
		return cs_error_set(e, -ENAMETOOLONG, "the directory name %s is too long", path);
	for (char *p = part + 1; *part && (p = strchr(p, '/')); p++) {
		*p = '\0';
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return cs_error_errno(e, -errno, "cannot make the directory %s", part);
		*p = '/';
	}
	return 0;
}

int cs_ca_dir_open(const char *path, mode_t mode, struct cs_ca_dir *ret, struct cs_error *e)
{
	int made = make_parents(path, e);
	if (made < 0)
		return made;
	if (mkdir(path, mode) < 0 && errno != EEXIST)
		return cs_error_errno(e, -errno, "cannot make the directory %s", path);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return cs_error_errno(e, -errno, "cannot open the directory %s", path);
	int r = check_dir(fd, path, mode, e);
	if (r < 0) {
		close(fd);
		return r;
	}
	*ret = (struct cs_ca_dir){.path = path, .fd = fd};
	return 0;
}

void cs_ca_dir_close(struct cs_ca_dir *dir)
{
	if (dir->path)
		close(dir->fd);
	*dir = (struct cs_ca_dir){.fd = -1};
}

int cs_ca_dir_lock(const struct cs_ca_dir *dir, struct cs_error *e)
{
	int fd = openat(dir->fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return cs_error_errno(e, -errno, "cannot open %s/lock", dir->path);
	int r;
	while ((r = flock(fd, LOCK_EX)) < 0 && errno == EINTR)
		;
	if (r < 0) {
		r = cs_error_errno(e, -errno, "cannot lock %s/lock", dir->path);
		close(fd);
		return r;
	}
	return fd;
}

static int check_secret(int fd, const struct cs_ca_dir *dir, const char *name, size_t *ret_size, struct cs_error *e)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return cs_error_errno(e, -errno, "cannot look at %s/%s", dir->path, name);
	if (!S_ISREG(st.st_mode))
		return cs_error_set(e, -EINVAL, "%s/%s is not a regular file", dir->path, name);
	if (foreign(&st))
		return cs_error_set(e, -EPERM, "%s/%s belongs to user %u, not to root or to this daemon's user %u",
			dir->path, name, (unsigned)st.st_uid, (unsigned)geteuid());
	if (st.st_mode & 077)
		return cs_error_set(e, -EPERM, "%s/%s holds a key and has mode %04o; chmod 0600 it", dir->path, name,
			(unsigned)(st.st_mode & 07777));
	if (st.st_size > CS_CA_FILE_MAX)
		return cs_error_set(e, -EFBIG, "%s/%s has %lld bytes; at most %d are read", dir->path, name,
			(long long)st.st_size, CS_CA_FILE_MAX);
	*ret_size = (size_t)st.st_size;
	return 0;
}

static int read_all(int fd, char *buf, size_t size)
{
	for (size_t got = 0; got < size;) {
		ssize_t n = read(fd, buf + got, size - got);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		got += (size_t)n;
	}
	buf[size] = '\0';
	return 0;
}

int cs_ca_file_read(const struct cs_ca_dir *dir, const char *name, char **ret, size_t *ret_size, struct cs_error *e)
{
	/* Non-blocking, so that a FIFO in its place cannot hang the daemon. */
	int fd = openat(dir->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return cs_error_errno(e, -errno, "cannot open %s/%s", dir->path, name);
	size_t size = 0;
	int r = check_secret(fd, dir, name, &size, e);
	char *buf = NULL;
	if (r == 0 && !(buf = OPENSSL_secure_malloc(size + 1)))
		r = cs_error_set(e, -ENOMEM, "no locked memory left to read %s/%s", dir->path, name);
	if (r == 0 && (r = read_all(fd, buf, size)) < 0) {
		cs_error_errno(e, r, "cannot read %s/%s", dir->path, name);
		OPENSSL_secure_clear_free(buf, size + 1);
	}
	close(fd);
	if (r < 0)
		return r;
	*ret = buf;
	*ret_size = size + 1;
	return 0;
}

static int write_all(int fd, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t n = write(fd, data, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		size -= (size_t)n;
	}
	return fsync(fd) < 0 ? -errno : 0;
}

int cs_ca_file_write(
	const struct cs_ca_dir *dir, const char *name, mode_t mode, const void *data, size_t size, struct cs_error *e)
{
	char tmp[64];
	if (snprintf(tmp, sizeof(tmp), ".%s.new", name) >= (int)sizeof(tmp))
		return cs_error_set(e, -ENAMETOOLONG, "the file name %s is too long", name);
	unlinkat(dir->fd, tmp, 0); /* of somebody who was killed right here */
	int fd = openat(dir->fd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	if (fd < 0)
		return cs_error_errno(e, -errno, "cannot make a file in %s", dir->path);
	int r = fchmod(fd, mode) < 0 ? -errno : write_all(fd, data, size); /* whatever the umask says */
	close(fd);
	if (r == 0 && (renameat(dir->fd, tmp, dir->fd, name) < 0 || fsync(dir->fd) < 0))
		r = -errno;
	if (r < 0) {
		unlinkat(dir->fd, tmp, 0);
		return cs_error_errno(e, r, "cannot write %s/%s", dir->path, name);
	}
	return 0;
}

#include "instance.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUN_PATH_MAX 107

int cs_instance_path(const char *instance, const char *daemon, const char *file, char out[CS_PATH], struct cs_error *e)
{
	int n = snprintf(out, CS_PATH, "%s/%s/%s", instance, daemon, file);
	if (n > SUN_PATH_MAX)
		return cs_error_set(e, -ENAMETOOLONG,
			"the instance directory %s is too long: a socket path has at most %d characters; choose a "
			"shorter one",
			instance, SUN_PATH_MAX);
	return 0;
}

int cs_instance_name(const char *instance, char out[64], struct cs_error *e)
{
	size_t end = strlen(instance);
	while (end > 0 && instance[end - 1] == '/')
		end--;
	size_t start = end;
	while (start > 0 && instance[start - 1] != '/')
		start--;
	size_t n = end - start;
	if (n == 0 || n > 63 || instance[start] == '.' ||
		strspn(instance + start, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") < n)
		return cs_error_set(e, -EINVAL,
			"the last part of the instance directory '%s' names the instance: 1 to 63 letters, digits, "
			"'.', '_' or '-', "
			"not starting with '.'",
			instance);
	memcpy(out, instance + start, n);
	out[n] = '\0';
	return 0;
}

static int make_dir(const char *path, struct cs_error *e)
{
	struct stat st;
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		return cs_error_errno(e, -errno, "cannot make the directory %s", path);
	if (lstat(path, &st) < 0)
		return cs_error_errno(e, -errno, "cannot look at %s", path);
	if (!S_ISDIR(st.st_mode))
		return cs_error_set(e, -ENOTDIR, "%s is not a directory", path);
	if (st.st_uid != 0 && st.st_uid != geteuid())
		return cs_error_set(e, -EPERM, "%s belongs to user %u, not to root or to this daemon's user %u", path,
			(unsigned)st.st_uid, (unsigned)geteuid());
	if (st.st_mode & 022)
		return cs_error_set(e, -EPERM, "others than its owner may write to %s; chmod go-w it", path);
	return 0;
}

int cs_instance_make(const char *instance, const char *daemon, struct cs_error *e)
{
	char path[CS_PATH];
	if (instance[0] != '/')
		return cs_error_set(e, -EINVAL, "the instance directory '%s' is not an absolute path", instance);
	int n = snprintf(path, sizeof(path), "%s", instance);
	if (n >= (int)sizeof(path) - 32)
		return cs_error_set(e, -ENAMETOOLONG, "the instance directory %s is too long", instance);
	for (char *p = path + 1; *p; p++) { /* parents as they come: only the last two are ours to judge */
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return cs_error_errno(e, -errno, "cannot make the directory %s", path);
		*p = '/';
	}
	int r = make_dir(path, e);
	if (r < 0)
		return r;
	snprintf(path + n, sizeof(path) - (size_t)n, "/%s", daemon);
	return make_dir(path, e);
}

int cs_instance_lock(const char *instance, const char *daemon, struct cs_error *e)
{
	char path[CS_PATH];
	int r = cs_instance_path(instance, daemon, "lock", path, e);
	if (r < 0)
		return r;
	int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return cs_error_errno(e, -errno, "cannot open %s", path);
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	r = errno == EWOULDBLOCK ? cs_error_set(e, -EBUSY,
					   "another process is %s of the instance %s (it holds %s); stop it, or choose "
					   "another --instance",
					   daemon, instance, path)
				 : cs_error_errno(e, -errno, "cannot lock %s", path);
	close(fd);
	return r;
}

#include "policy_files.h"
#include "policy_yaml.h"
#include "yaml_tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void cs_policy_files_fini(struct cs_policy_files *files)
{
	for (size_t i = 0; i < files->n; i++)
		free(files->paths[i]);
	free(files->paths);
	*files = (struct cs_policy_files){0};
}

static bool is_policy_name(const char *name)
{
	const char *dot = strrchr(name, '.');
	return name[0] != '.' && dot && (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0);
}

static int add_path(struct cs_policy_files *files, char *path)
{
	char **grown = realloc(files->paths, (files->n + 1) * sizeof(*grown));
	if (!path || !grown) {
		free(path);
		files->paths = grown ? grown : files->paths;
		return -ENOMEM;
	}
	files->paths = grown;
	files->paths[files->n++] = path;
	return 0;
}

static int by_path(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int list_directory(DIR *dir, const char *path, struct cs_policy_files *files, struct cs_error *e)
{
	for (;;) {
		char *full = NULL;
		errno = 0;
		const struct dirent *entry = readdir(dir);
		if (!entry && errno)
			return cs_error_errno(e, -errno, "read directory %s", path);
		if (!entry)
			break;
		if (!is_policy_name(entry->d_name))
			continue;
		if (files->n == CS_POLICY_FILES_MAX)
			return cs_error_set(
				e, -E2BIG, "directory %s has more than %d policy files", path, CS_POLICY_FILES_MAX);
		if (asprintf(&full, "%s/%s", path, entry->d_name) < 0)
			full = NULL;
		if (add_path(files, full) < 0)
			return cs_error_set(e, -ENOMEM, "out of memory");
	}
	if (files->n)
		qsort(files->paths, files->n, sizeof(*files->paths), by_path);
	return 0;
}

int cs_policy_files_list(const char *path, struct cs_policy_files *ret, struct cs_error *e)
{
	struct cs_policy_files files = {0};
	int r = 0;
	DIR *dir = strcmp(path, "-") == 0 ? NULL : opendir(path);
	if (dir) {
		r = list_directory(dir, path, &files, e);
		closedir(dir);
	} else if (strcmp(path, "-") != 0 && errno != ENOTDIR) {
		r = cs_error_errno(e, -errno, "open %s", path);
	} else if (add_path(&files, strdup(path)) < 0) {
		r = cs_error_set(e, -ENOMEM, "out of memory");
	}
	if (r < 0) {
		cs_policy_files_fini(&files);
		return r;
	}
	*ret = files;
	return 0;
}

/* Reads to the end, at most one byte more than may be parsed. */
static ssize_t read_all(int fd, char *buffer)
{
	size_t n = 0;
	while (n < CS_YAML_FILE_MAX + 1) {
		ssize_t one = read(fd, buffer + n, CS_YAML_FILE_MAX + 1 - n);
		if (one < 0 && errno == EINTR)
			continue;
		if (one < 0)
			return -errno;
		if (one == 0)
			break;
		n += (size_t)one;
	}
	return (ssize_t)n;
}

int cs_policy_file_load(const char *path, struct cs_cnp_set *set, struct cs_error *e)
{
	bool is_stdin = strcmp(path, "-") == 0;
	int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return cs_error_errno(e, -errno, "open %s", path);
	char *buffer = malloc(CS_YAML_FILE_MAX + 1);
	ssize_t n = buffer ? read_all(fd, buffer) : -ENOMEM;
	int r = n < 0 ? cs_error_errno(e, (int)n, "read %s", path)
		      : cs_policy_yaml_parse(is_stdin ? "stdin" : path, buffer, (size_t)n, set, e);
	free(buffer);
	if (!is_stdin)
		close(fd);
	return r;
}

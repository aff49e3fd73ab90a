#include "program.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "instance.h"

int cs_cli_exec(const char *room, char **argv, struct cs_error *e)
{
	char dir[CS_PATH], build[CS_PATH], path[3 * CS_PATH];
	const char *const places[] = {".", "../sbin", build};
	ssize_t n = readlink("/proc/self/exe", dir, sizeof(dir) - 1);
	dir[n > 0 ? n : 0] = '\0';
	char *slash = strrchr(dir, '/');
	snprintf(build, sizeof(build), "../%s", room);
	for (size_t i = 0; slash && i < sizeof(places) / sizeof(places[0]); i++) {
		*slash = '\0';
		snprintf(path, sizeof(path), "%s/%s/%s", dir, places[i], argv[0]);
		execv(path, argv);
	}
	execvp(argv[0], argv);
	return cs_error_errno(e, -errno, "cannot start %s (neither beside countersign nor in PATH)", argv[0]);
}

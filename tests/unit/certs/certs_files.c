#include "certs_files.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>

static struct kept {
	struct kept *next;
	uint8_t bytes[];
} * kept;

const char *certs_path(const char *file)
{
	static char paths[4][512];
	static unsigned next;
	char *path = paths[next++ % 4];
	snprintf(path, sizeof(paths[0]), "%s/%s", CERTS_DIR, file);
	return path;
}

struct cs_der certs_file(const char *name)
{
	char file[128];
	snprintf(file, sizeof(file), "%s.der", name);
	FILE *f = fopen(certs_path(file), "rb");
	if (!f || fseek(f, 0, SEEK_END) != 0)
		err(1, "%s", certs_path(file));
	long size = ftell(f);
	rewind(f);
	/* No byte more than there is, so that the address sanitizer sees a read beyond the end. */
	struct kept *k = malloc(sizeof(*k) + (size_t)size);
	if (size < 0 || !k || fread(k->bytes, 1, (size_t)size, f) != (size_t)size)
		err(1, "%s", certs_path(file));
	fclose(f);
	k->next = kept;
	kept = k;
	return (struct cs_der){k->bytes, (size_t)size};
}

int certs_files_free(void **state)
{
	(void)state;
	while (kept) {
		struct kept *k = kept;
		kept = k->next;
		free(k);
	}
	return 0;
}

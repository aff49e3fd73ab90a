/* The certificates that make_certs.py made. */
#ifndef CS_TEST_CERTS_FILES_H
#define CS_TEST_CERTS_FILES_H

#include "der.h"

#define NOW 1800000000 /* make_certs.py's, too */

/* NAME.der, or an aborted test. Kept until certs_files_free(), which is a group's teardown. */
struct cs_der certs_file(const char *name);
int certs_files_free(void **state);
/* The path of FILE in the same directory; one of the last four. */
const char *certs_path(const char *file);

#endif

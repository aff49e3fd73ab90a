/* Options of a command line, as data: --name VALUE, --name=VALUE, --flag, and -x VALUE where there is a letter.
 * "--" ends the options. */
#ifndef CS_OPTIONS_H
#define CS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include "error.h"

struct cs_option {
	const char *name; /* without the dashes */
	const char *arg;  /* "FILE" in the help; NULL: takes no value */
	const char *help; /* one sentence, no full stop */
	char letter;      /* 0: none */
	bool many;        /* may be given more than once */
	bool required;    /* checked by whoever reads the options; the help says it */
	/* Of a daemon's own options (daemon.h): the program does that one thing and ends; no instance is made, no socket. */
	bool mode;
	bool rest; /* further arguments may follow, as in --check-policy FILE... */
};

struct cs_options_reader {
	const struct cs_option *tables[3]; /* of this program; the first match counts */
	size_t n[3];
	int argc;
	char **argv;
	int at;          /* the next of argv to read; 1 at the start */
	bool only_words; /* after "--" */
};

enum cs_options_found { CS_OPTIONS_END = 0, CS_OPTIONS_OPTION, CS_OPTIONS_WORD };

/* One of the above, or -EINVAL: unknown (with the nearest known name), without its value, or with one too many. An
 * option gives *ret_option and *ret_value ("" for a flag), a word gives *ret_value. Both are borrowed from argv. */
int cs_options_next(
	struct cs_options_reader *r, const struct cs_option **ret_option, const char **ret_value, struct cs_error *e);
/* The lines of a table for --help. */
void cs_options_help(const struct cs_option *options, size_t n, FILE *out);

#endif

/* countersign: what people type. A client of the local services and of nothing else. */
#ifndef CS_CLI_H
#define CS_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "error.h"
#include "grpc.h"
#include "options.h"

enum cs_exit {
	CS_CLI_OK = 0,
	CS_CLI_FAILED =
		1, /* the daemon cannot be reached, did not answer, or something broke; `status`: not all is well */
	CS_CLI_USAGE = 2,   /* the command line is wrong */
	CS_CLI_REFUSED = 3, /* the daemon refused: no such thing, not allowed, not valid */
	CS_CLI_NOT_YET = 4, /* it was done, but what --wait asked for did not come in time */
};

#define CS_CLI_GIVEN 256 /* options on one command line */

struct cs_command;
struct cs_cli {
	const struct cs_command *command;
	const char *instance;
	bool json, colour, help, version;
	int64_t timeout_ms; /* of the whole call */
	struct {
		const struct cs_option *option;
		const char *value;
	} given[CS_CLI_GIVEN];
	size_t ngiven;
	char **words; /* NULL-terminated */
	size_t nwords;
	FILE *out;
};

/* One row of the table of commands. */
struct cs_command {
	const char *name; /* "endpoint register" */
	const char *summary;
	const char *usage; /* what follows the name: "--id ID ..." */
	const struct cs_option *options;
	size_t noptions;
	size_t min_words, max_words;
	bool plain;         /* has no -o: prints what it prints */
	bool passes_on;     /* all that follows its name, also options and --help, is for the program that run starts */
	int64_t timeout_ms; /* default of --timeout */
	const char *notes;  /* paragraphs for --help; may be NULL */
	const char *examples;
	/* An enum cs_exit; other than CS_CLI_OK with a sentence in e, unless all was said on stdout. */
	int (*run)(struct cs_cli *cli, struct cs_error *e);
};
extern const struct cs_command *const cs_commands[]; /* NULL-terminated */

/* Unix time, for what is shown as "3m ago". */
int64_t cs_cli_now_ms(void);
/* The (first) value of an option of this command, or NULL. */
const char *cs_cli_value(const struct cs_cli *cli, const char *option);
/* Its i-th value, or NULL when there are no more. */
const char *cs_cli_nth(const struct cs_cli *cli, const char *option, size_t i);
/* A number of an option, 0 if it is not given. CS_CLI_USAGE with a sentence if it is none from 1 to max. */
CS_MUST_USE int cs_cli_number(
	const struct cs_cli *cli, const char *option, uint32_t max, uint32_t *ret, struct cs_error *e);

/* Fills cli from argv. CS_CLI_OK: run cli->command. Otherwise end: help was printed (*ret_end, CS_CLI_OK), or CS_CLI_USAGE. */
CS_MUST_USE int cs_cli_parse(struct cs_cli *cli, int argc, char **argv, bool *ret_end, struct cs_error *e);
void cs_cli_help(const struct cs_command *command, FILE *out); /* NULL: of the program */

/* The whole program. */
int cs_cli_main(int argc, char **argv);

#endif

/* toPorts: read and checked, so that a typing error is found, and kept only as words: verdicts are for pairs. */
#include "policy_read.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *const to_ports_fields[] = {"ports", "rules", NULL};
static const char *const port_fields[] = {"port", "protocol", "endPort", NULL};
static const char *const l7_fields[] = {"http", "kafka", "dns", "l7proto", "l7", NULL};
static const char *const protocols[] = {"TCP", "UDP", "SCTP", "ICMP", "ICMPv6", "ANY"};
#define ANY "ANY"

struct port {
	unsigned first, last; /* 0: any port, or a named one */
	const char *name;     /* named port, or NULL */
	const char *protocol;
};

/* 0 to 65535, written with or without quotes. */
static int read_number(struct cs_reader *r, const struct cs_yaml *node, unsigned *ret)
{
	unsigned n = 0;
	if (node->kind != CS_YAML_SCALAR || !*node->text || strlen(node->text) > 5 ||
		strspn(node->text, "0123456789") != strlen(node->text))
		return cs_read_fail(r, node, "%s must be a number from 0 to 65535", node->key);
	for (const char *p = node->text; *p; p++)
		n = n * 10 + (unsigned)(*p - '0');
	if (n > 65535)
		return cs_read_fail(r, node, "%s %s is more than 65535", node->key, node->text);
	*ret = n;
	return 0;
}

static bool is_port_name(const struct cs_yaml *node)
{
	return cs_yaml_is_text(node) && strlen(node->text) <= 15 &&
	       strspn(node->text, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(node->text) &&
	       strpbrk(node->text, "abcdefghijklmnopqrstuvwxyz");
}

static int read_protocol(struct cs_reader *r, const struct cs_yaml *node, const char **ret)
{
	int rc = cs_read_kind(r, node, CS_YAML_SCALAR);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < sizeof(protocols) / sizeof(protocols[0]); i++)
		if (strcasecmp(node->text, protocols[i]) == 0) {
			*ret = protocols[i];
			return 0;
		}
	return cs_read_fail(
		r, node, "protocol '%.64s' is not known; known are TCP, UDP, SCTP, ICMP, ICMPv6 and ANY", node->text);
}

static int read_port(struct cs_reader *r, const struct cs_yaml *map, struct port *ret)
{
	*ret = (struct port){.protocol = ANY};
	int rc = cs_read_kind(r, map, CS_YAML_MAP);
	if (rc == 0)
		rc = cs_read_fields(r, map, port_fields);
	if (rc < 0)
		return rc;
	const struct cs_yaml *port = cs_yaml_get(map, "port"), *protocol = cs_yaml_get(map, "protocol"),
			     *end = cs_yaml_get(map, "endPort");
	if (!port)
		return cs_read_fail(r, map, "field 'port' is missing");
	if (is_port_name(port))
		ret->name = port->text;
	else
		rc = read_number(r, port, &ret->first);
	if (rc == 0 && protocol)
		rc = read_protocol(r, protocol, &ret->protocol);
	if (rc == 0 && end)
		rc = read_number(r, end, &ret->last);
	if (rc == 0 && ret->last && (ret->name || ret->last < ret->first))
		return cs_read_fail(r, end, "endPort %u needs a port that is a number and not above it", ret->last);
	return rc;
}

/* Words like "53/UDP, 8000-8010/TCP". *narrows is false once some element means every port. */
static int put_ports(struct cs_reader *r, const struct cs_yaml *list, FILE *out, bool *narrows)
{
	for (const struct cs_yaml *kid = list->kids; kid; kid = kid->next) {
		struct port p;
		int rc = read_port(r, kid, &p);
		if (rc < 0)
			return rc;
		*narrows &= p.name || p.first || p.last || strcmp(p.protocol, ANY) != 0;
		fputs(ftell(out) > 0 ? ", " : "", out);
		if (p.name)
			fputs(p.name, out);
		else if (p.last > p.first)
			fprintf(out, "%u-%u", p.first, p.last);
		else if (p.first)
			fprintf(out, "%u", p.first);
		else
			fputs("any port", out);
		fprintf(out, "/%s", p.protocol);
	}
	return 0;
}

static int put_l7(struct cs_reader *r, const struct cs_yaml *map, FILE *out)
{
	int rc = cs_read_fields(r, map, l7_fields);
	if (rc < 0 || !map->kids)
		return rc;
	for (const struct cs_yaml *kid = map->kids; kid; kid = kid->next)
		fprintf(out, "%s%s", kid == map->kids ? " (" : ", ", kid->key);
	fputc(')', out);
	return 0;
}

static int put_to_ports(struct cs_reader *r, const struct cs_yaml *map, FILE *out, bool *all)
{
	const struct cs_yaml *ports = NULL, *rules = NULL;
	bool narrows = true;
	int rc = cs_read_kind(r, map, CS_YAML_MAP);
	if (rc == 0)
		rc = cs_read_fields(r, map, to_ports_fields);
	if (rc == 0)
		rc = cs_read_need(r, map, "ports", CS_YAML_LIST, &ports);
	if (rc == 0)
		rc = cs_read_may(r, map, "rules", CS_YAML_MAP, &rules);
	if (rc < 0)
		return rc;
	if (ports->nkids == 0)
		return cs_read_fail(r, ports, "'ports' is empty; leave toPorts out to mean every port");
	rc = put_ports(r, ports, out, &narrows);
	if (rc == 0 && rules)
		rc = put_l7(r, rules, out);
	*all |= !narrows && !(rules && rules->kids);
	return rc;
}

int cs_read_ports(struct cs_reader *r, const struct cs_yaml *list, char **ret)
{
	char *text = NULL;
	size_t n = 0;
	bool all = list->nkids == 0;
	FILE *out = open_memstream(&text, &n);
	if (!out)
		return cs_read_nomem(r);
	int rc = 0;
	for (const struct cs_yaml *kid = list->kids; rc == 0 && kid; kid = kid->next)
		rc = put_to_ports(r, kid, out, &all);
	if (fclose(out) != 0 && rc == 0)
		rc = cs_read_nomem(r);
	if (rc < 0 || all) {
		free(text);
		return rc;
	}
	*ret = text;
	return 0;
}

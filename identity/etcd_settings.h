/* The settings etcd.*, as one who keeps a store in etcd puts them into its table, and what they come to. */
#ifndef CS_ETCD_SETTINGS_H
#define CS_ETCD_SETTINGS_H

#include "settings.h"
#include "store_etcd.h"

#define CS_ETCD_PASSWORD_MAX 1024

struct cs_etcd_settings {
	struct cs_strings endpoints;
	char *ca, *cert, *key, *server_name, *user, *password_file, *prefix;
	int64_t lease_ms, timeout_ms;
};

/* Rows for the table of config type C, in which `m` is a struct cs_etcd_settings. */
#define CS_ETCD_SETTINGS(C, m)                                                                                         \
	CS_SET_LIST(C, m.endpoints, "etcd.endpoints", "", 0, CS_ETCD_ENDPOINTS_MAX,                                    \
		"https://HOST:PORT of the members of the etcd that keeps the store, of which one is used at a time; "  \
		"http:// only to an address of this machine; empty: the store is a file of this one process"),         \
		CS_SET_PATH(C, m.ca, "etcd.ca", "", 0, "Authorities of etcd's certificates, PEM"),                     \
		CS_SET_PATH(C, m.cert, "etcd.cert", "", 0, "Client certificate for etcd, PEM"),                        \
		CS_SET_PATH(C, m.key, "etcd.key", "", 0, "Its key"),                                                   \
		CS_SET_STRING(C, m.server_name, "etcd.server_name", "", 0, 253,                                        \
			"What etcd's certificates are for; empty: each endpoint's own host"),                          \
		CS_SET_STRING(C, m.user, "etcd.user", "", 0, 255, "User of etcd, if it asks for one"),                 \
		CS_SET_PATH(C, m.password_file, "etcd.password_file", "", 0, "File with that user's password"),        \
		CS_SET_STRING(C, m.prefix, "etcd.prefix", CS_STORE_ETCD_PREFIX, 1, CS_STORE_ETCD_PREFIX_MAX,           \
			"What all keys begin with, ending in '/'; one for each cluster that shares an etcd"),          \
		CS_SET_DURATION(C, m.lease_ms, "etcd.lease", "10s", 2000, 120000,                                      \
			"A replica that leads and is silent for so long leads no more; whole seconds"),                \
		CS_SET_DURATION(C, m.timeout_ms, "etcd.timeout", "5s", 500, 60000, "For one request to etcd")

/* Is the store in etcd? */
bool cs_etcd_settings_used(const struct cs_etcd_settings *settings);
/* The configuration that these settings come to; it borrows from them and, where there is a password, has that in `password`,
 * which the caller wipes. Blocks: reads the password's file. */
CS_MUST_USE int cs_etcd_settings_config(const struct cs_etcd_settings *settings, struct cs_etcd_config *ret,
	char password[CS_ETCD_PASSWORD_MAX], struct cs_error *e);

#endif

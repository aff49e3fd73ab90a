#include "etcd_settings.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

bool cs_etcd_settings_used(const struct cs_etcd_settings *s)
{
	return s->endpoints.n > 0;
}

static int read_password(const char *file, char password[CS_ETCD_PASSWORD_MAX], struct cs_error *e)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return cs_error_errno(e, -errno, "etcd.password_file: cannot open %s", file);
	ssize_t n = read(fd, password, CS_ETCD_PASSWORD_MAX);
	int r = n < 0 ? cs_error_errno(e, -errno, "etcd.password_file: cannot read %s", file) : 0;
	close(fd);
	if (r < 0)
		return r;
	if (n == CS_ETCD_PASSWORD_MAX)
		return cs_error_set(
			e, -E2BIG, "etcd.password_file: %s has more than %d bytes", file, CS_ETCD_PASSWORD_MAX - 1);
	password[n] = '\0';
	password[strcspn(password, "\r\n")] = '\0';
	return password[0] ? 0 : cs_error_set(e, -EINVAL, "etcd.password_file: %s has no password", file);
}

static const char *or_null(const char *text)
{
	return text[0] ? text : NULL;
}

int cs_etcd_settings_config(const struct cs_etcd_settings *s, struct cs_etcd_config *ret,
	char password[CS_ETCD_PASSWORD_MAX], struct cs_error *e)
{
	password[0] = '\0';
	if (!s->user[0] != !s->password_file[0])
		return cs_error_set(e, -EINVAL, "etcd.user and etcd.password_file are set both or neither");
	int r = s->user[0] ? read_password(s->password_file, password, e) : 0;
	if (r < 0)
		return r;
	*ret = (struct cs_etcd_config){
		.client = {.endpoints = (const char *const *)s->endpoints.items,
			.nendpoints = s->endpoints.n,
			.ca_file = or_null(s->ca),
			.cert_file = or_null(s->cert),
			.key_file = or_null(s->key),
			.server_name = or_null(s->server_name),
			.user = or_null(s->user),
			.password = or_null(password)},
		.prefix = s->prefix,
		.lease_ms = s->lease_ms,
		.timeout_ms = s->timeout_ms,
	};
	return 0;
}

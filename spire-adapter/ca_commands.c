#include "ca_commands.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <time.h>
#include "ca.h"
#include "spiffe_id.h"

static void print_time(const char *label, int64_t unix_s)
{
	char text[32];
	time_t t = (time_t)unix_s;
	struct tm tm;
	gmtime_r(&t, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	printf("  %-8s %s\n", label, text);
}

static void print_fingerprint(const X509 *cert)
{
	unsigned char sha[EVP_MAX_MD_SIZE];
	unsigned n = 0;
	printf("  %-8s ", "sha256");
	if (X509_digest(cert, EVP_sha256(), sha, &n))
		for (unsigned i = 0; i < n; i++)
			printf("%02x", sha[i]);
	printf("\n");
}

int cs_command_ca_init(const char *ca_dir, const char *trust_domain, struct cs_error *e)
{
	struct cs_ca *ca;
	bool made;
	int r = cs_ca_open(ca_dir, trust_domain, time(NULL), &ca, &made, e);
	if (r < 0)
		return r;
	printf("%s the built-in CA of spiffe://%s\n", made ? "made" : "there already:", trust_domain);
	printf("  %-8s %s/ca.pem\n", "file", ca_dir);
	print_fingerprint(cs_ca_root_borrow(ca));
	print_time("expires", cs_ca_not_after_unix_s(ca));
	printf("It is for this machine only: who reads that file can be anybody in the trust domain. Never copy it.\n");
	cs_ca_free(ca);
	return 0;
}

static int issue(const struct cs_ca *ca, const struct cs_spiffe_id *id, const char *out, struct cs_error *e)
{
	struct cs_issued issued;
	int r = cs_ca_issue(ca, id->text, CS_CA_NODE_TTL_S, time(NULL), &issued, e);
	if (r < 0)
		return r;
	r = cs_issued_write(&issued, ca, out, e);
	if (r == 0) {
		printf("issued %s\n", id->text);
		printf("  %-8s %s/svid.pem\n  %-8s %s/svid.key\n  %-8s %s/bundle.pem\n", "chain", out, "key", out,
			"bundle", out);
		print_time("expires", issued.not_after_unix_s);
		printf("Nobody renews it: issue it again before that.\n");
	}
	cs_issued_fini(&issued);
	return r;
}

int cs_command_issue(
	const char *ca_dir, const char *trust_domain, const char *path, const char *out, struct cs_error *e)
{
	struct cs_spiffe_id id;
	struct cs_ca *ca;
	int r = cs_spiffe_id_make(&id, trust_domain, path, e);
	if (r < 0 || (r = cs_ca_open(ca_dir, trust_domain, time(NULL), &ca, NULL, e)) < 0)
		return r;
	r = issue(ca, &id, out, e);
	cs_ca_free(ca);
	return r;
}

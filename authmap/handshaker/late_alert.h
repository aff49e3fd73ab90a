/* The acceptor's refusal. A TLS 1.3 server knows whether it accepts only after the client's Finished, and OpenSSL has
 * no call that sends an alert from then on. So this makes the one record itself: the first under the server's
 * application traffic key (RFC 8446 5.2, 5.3, 6), which is the first only because the server sends no tickets. */
#ifndef CS_LATE_ALERT_H
#define CS_LATE_ALERT_H

#include <openssl/ssl.h>
#include <stddef.h>
#include <stdint.h>

#define CS_LATE_ALERT_RECORD 24 /* 5 header + 2 alert + 1 content type + 16 tag */
#define CS_TRAFFIC_SECRET    48

/* Keeps the server's first application traffic secret of each connection in *secret, taken from OpenSSL's key log. */
struct cs_traffic_secret {
	uint8_t bytes[CS_TRAFFIC_SECRET];
	size_t len; /* 32 or 48; 0: not known yet */
};
/* For SSL_CTX_set_keylog_callback's line: fills *secret if the line is the one. */
void cs_traffic_secret_from_keylog(const char *line, struct cs_traffic_secret *secret);

/* A fatal alert as a record. 0, or -1 if the suite is not one of ours or the secret is missing. */
int cs_late_alert(OSSL_LIB_CTX *ctx, const SSL_CIPHER *cipher, const struct cs_traffic_secret *secret, uint8_t alert,
	uint8_t record[CS_LATE_ALERT_RECORD]);

#endif

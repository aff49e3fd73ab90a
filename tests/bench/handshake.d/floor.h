/* What the cryptography of one mutual TLS 1.3 handshake costs, both sides, with EVP calls on contexts that are reused:
 * 2 key generations and 2 derivations (X25519), 2 signatures and 4 verifications (ECDSA P-256). */
#ifndef FLOOR_H
#define FLOOR_H

struct floor;
struct floor *floor_new(void); /* aborts on failure */
void floor_once(struct floor *f);
void floor_free(struct floor *f);

#endif

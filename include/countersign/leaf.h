/* What is remembered of one verified chain: facts that a revocation or a lost root of trust can name. From the
 * handshaker in a verdict, kept by authd in cs_basis. Bytes only, for C and for BPF. */
#ifndef COUNTERSIGN_LEAF_H
#define COUNTERSIGN_LEAF_H

struct cs_leaf {
	unsigned char sha256[32];
	unsigned char root_sha256[32];
	unsigned char authority_kid[32]; /* subject key id of the authority that signed the leaf; zero-filled */
	unsigned char serial[20];        /* big endian, right-aligned */
	unsigned char pad[4];
};
_Static_assert(sizeof(struct cs_leaf) == 120, "cs_leaf");
#endif

/* spire-adapter's signer in a process of its own, with one key, on the other end of a SEQPACKET socketpair. */
#ifndef SIGNER_PROCESS_H
#define SIGNER_PROCESS_H

#include <openssl/evp.h>
#include <stdint.h>
#include <sys/types.h>

/* Takes over key. Returns the connection; *ret_pid ends when it is closed. */
int signer_process_take(EVP_PKEY *key, uint32_t identity, uint64_t generation, pid_t *ret_pid);

#endif

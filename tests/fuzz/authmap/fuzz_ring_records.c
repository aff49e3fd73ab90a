/* The rings are shared memory under a pin: what comes out of them is taken at its word only where the word adds up. */
#include <stdint.h>
#include <stdlib.h>
#include "hold.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cs_held head;
	const uint8_t *frame = data;
	if (cs_hold_parse(data, size, &head, &frame) < 0)
		return 0;
	if ((head.caplen != 0) != (frame != NULL) || head.caplen > CS_HELD_MAX || head.dir > CS_TO || !head.ifindex)
		abort();
	if (frame && (frame != data + sizeof(head) || head.caplen > size - sizeof(head)))
		abort();
	if (head.csum == CS_CSUM_PARTIAL && (uint32_t)head.csum_start + head.csum_offset + 2 > head.len)
		abort();
	uint32_t sum = 0; /* every byte that would be sent is there */
	for (uint32_t i = 0; i < head.caplen; i++)
		sum += frame[i];
	return sum == UINT32_MAX;
}

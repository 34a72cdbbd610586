/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Server ids as they stand at the front of the plaintext of a QUIC connection id. */
#pragma once

#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include "contract.h"

/*
 * The big-endian number in the first `length` bytes, 1 to 15, of 16 that were loaded as two words;
 * NO_SERVER if it is no server id.
 */
static __always_inline int quic_id_number(__u64 high, __u64 low, __u32 length)
{
	__u64 number = bpf_be64_to_cpu(high);
	__u32 more = (length - 8) * 8;

	if (length <= 8)
		number >>= -more & 63;
	else if (number >= SERVER_IDS >> 8)
		return NO_SERVER;
	else
		number = number << (more & 63) | bpf_be64_to_cpu(low) >> (-more & 63);
	return number < SERVER_IDS ? (int)number : NO_SERVER;
}

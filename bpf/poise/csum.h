/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Incremental Internet checksums: HC' = ~(~HC + ~m + m'), RFC 1624 equation 3.
 * Differences are gathered in 64 bits, where no carry is lost, and folded once.
 */
#pragma once

#include <stdbool.h>
#include <linux/types.h>

/* Of sums below 2^36, that is of at most sixteen words of 32 bits. */
static __always_inline __u16 csum_fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static __always_inline __u64 csum_words(const void *from, __u32 words)
{
	const __u32 *word = from;
	__u64 sum = 0;

	for (__u32 i = 0; i < words; i++)
		sum += word[i];
	return sum;
}

/* The difference that replacing a word of at most 32 bits makes. */
static __always_inline __u64 csum_change(__u32 from, __u32 to)
{
	return (__u64)(__u32)~from + to;
}

/* A word at an odd offset from the checksum's start adds its bytes to the other halves. */
static __always_inline __u64 csum_change_at(__u32 from, __u32 to, bool odd)
{
	__u64 change = csum_change(from, to);

	return odd ? __builtin_bswap16(csum_fold(change)) : change;
}

static __always_inline void csum_apply(__sum16 *csum, __u64 change)
{
	*csum = ~csum_fold((__u64)(__u16)~*csum + change);
}

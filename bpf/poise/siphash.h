/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The end of a SipHash-1-3: what is left to do once the first blocks of the message are taken
 * in. Aumasson and Bernstein, "SipHash: a fast short-input PRF", INDOCRYPT 2012; one compression
 * and three finalisation rounds, which costs less than half of SipHash-2-4 here and is what
 * Linux, Rust and Python use for hash tables.
 */
#pragma once

#include <linux/types.h>

#define rotate_left(x, bits) (((x) << (bits)) | ((x) >> (64 - (bits))))

#define sip_first_half()                                               \
	do {                                                           \
		v0 += v1; v1 = rotate_left(v1, 13); v1 ^= v0;          \
		v0 = rotate_left(v0, 32);                              \
	} while (0)

#define sip_second_half()                                              \
	do {                                                           \
		v2 += v3; v3 = rotate_left(v3, 16); v3 ^= v2;          \
		v0 += v3; v3 = rotate_left(v3, 21); v3 ^= v0;          \
		v2 += v1; v1 = rotate_left(v1, 17); v1 ^= v2;          \
		v2 = rotate_left(v2, 32);                              \
	} while (0)

#define sip_round()                                                    \
	do {                                                           \
		sip_first_half();                                      \
		sip_second_half();                                     \
	} while (0)

/* The first half of a block's round does not touch v3, where the block goes: it may come before. */
#define sip_absorb_after_first_half(block)                             \
	do {                                                           \
		v3 ^= (block);                                         \
		sip_second_half();                                     \
		v0 ^= (block);                                         \
	} while (0)

/*
 * `last` holds the bytes that are left, and in its highest byte the length of the whole message.
 * `state` has the first half of the next block's round behind it already.
 */
static __always_inline __u64 siphash13_finish(const __u64 state[4], __u64 last)
{
	__u64 v0 = state[0], v1 = state[1], v2 = state[2], v3 = state[3];

	sip_absorb_after_first_half(last);

	v2 ^= 0xff;
	sip_round();
	sip_round();
	sip_round();
	return v0 ^ v1 ^ v2 ^ v3;
}

/* The same with two blocks before the last one. */
static __always_inline __u64 siphash13_finish_three(const __u64 state[4], __u64 first, __u64 second, __u64 last)
{
	__u64 v0 = state[0], v1 = state[1], v2 = state[2], v3 = state[3];

	sip_absorb_after_first_half(first);
	sip_first_half();
	sip_absorb_after_first_half(second);
	sip_first_half();
	sip_absorb_after_first_half(last);

	v2 ^= 0xff;
	sip_round();
	sip_round();
	sip_round();
	return v0 ^ v1 ^ v2 ^ v3;
}

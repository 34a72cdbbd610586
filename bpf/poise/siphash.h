/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * SipHash-1-3 of 8 to 15 bytes. Aumasson and Bernstein, "SipHash: a fast short-input PRF",
 * INDOCRYPT 2012; one compression and three finalisation rounds, which costs less than
 * half of SipHash-2-4 here and is what Linux, Rust and Python use for hash tables.
 */
#pragma once

#include <linux/types.h>

#define rotate_left(x, bits) (((x) << (bits)) | ((x) >> (64 - (bits))))

#define sip_round()                                                    \
	do {                                                           \
		v0 += v1; v1 = rotate_left(v1, 13); v1 ^= v0;          \
		v0 = rotate_left(v0, 32);                              \
		v2 += v3; v3 = rotate_left(v3, 16); v3 ^= v2;          \
		v0 += v3; v3 = rotate_left(v3, 21); v3 ^= v0;          \
		v2 += v1; v1 = rotate_left(v1, 17); v1 ^= v2;          \
		v2 = rotate_left(v2, 32);                              \
	} while (0)

/* `second` holds the bytes after the eighth, and in its highest byte the length. */
static __always_inline __u64 siphash13(const __u64 key[2], __u64 first, __u64 second)
{
	__u64 v0 = key[0] ^ 0x736f6d6570736575ULL;
	__u64 v1 = key[1] ^ 0x646f72616e646f6dULL;
	__u64 v2 = key[0] ^ 0x6c7967656e657261ULL;
	__u64 v3 = key[1] ^ 0x7465646279746573ULL;

	v3 ^= first;
	sip_round();
	v0 ^= first;
	v3 ^= second;
	sip_round();
	v0 ^= second;

	v2 ^= 0xff;
	sip_round();
	sip_round();
	sip_round();
	return v0 ^ v1 ^ v2 ^ v3;
}

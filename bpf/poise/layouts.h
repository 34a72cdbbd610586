/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The two timestamp layouts of Barbette et al., NSDI 2020, for research. Both keep the low half of
 * the server's TSval and give the rest to a wider cookie:
 *
 *	MSB:  | version 1 | cookie 15 | low 16 bits of the server's |
 *	LSB:  | low 16 bits of the server's | cookie 16 |
 *
 * The upper half of an echo is restored from what the server sent last. MSB: the version flips
 * whenever the upper half changes, and selects between the last two. LSB: an echo with bit 15 of
 * the clock set that comes while the server's is clear is of the time before the upper half rose.
 *
 * Not for service: see docs/research.md.
 */
#pragma once

#include "contract.h"
#include "tables.h"

#define CLOCK_MASK 0xffff
#define MSB_COOKIE_MASK 0x7fff
#define LSB_COOKIE_MASK 0xffff
#define VERSION_SHIFT 31
#define EPOCH_BIT 0x8000

/* In place of a server id: no row is that of such a server. */
#define UNKNOWN_SERVER (MAX_VIPS * SERVER_IDS)

/*
 * By server row. Written without a lock: what a race can spoil is an echo, as anything else can
 * that these layouts do not know of the server's clock.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DEFAULT_VIPS * SERVER_IDS);
	__type(key, __u32);
	__type(value, struct server_clock);
} server_clocks SEC(".maps");

/* Functions of their own, so that the program of the default layout only has the calls. */

/* The server's TSval with the cookie in it, for one of the layouts but LAYOUT_LOW. */
__attribute__((noinline)) __u32 stamp_in_layout(__u32 layout, __u32 row, __u32 tsval, __u64 hash)
{
	struct server_clock *clock = bpf_map_lookup_elem(&server_clocks, &row);
	__u32 cookie = row % SERVER_IDS ^ hash, version;

	if (!clock)
		return tsval;
	if (layout == LAYOUT_LSB) {
		clock->tsval[0] = tsval;
		return tsval << 16 | (cookie & LSB_COOKIE_MASK);
	}
	version = clock->version & 1;
	if ((clock->tsval[version] ^ tsval) & ~CLOCK_MASK) {
		version ^= 1;
		clock->tsval[version] = tsval;
		clock->version = version;
	}
	return version << VERSION_SHIFT | (cookie & MSB_COOKIE_MASK) << 16 | (tsval & CLOCK_MASK);
}

/* The id of the server that an echo names, or UNKNOWN_SERVER: the cookie could name more than there are. */
__attribute__((noinline)) __u32 server_in_layout(__u32 layout, __u32 tsecr, __u64 hash)
{
	__u32 id = layout == LAYOUT_LSB ? (tsecr ^ hash) & LSB_COOKIE_MASK : (tsecr >> 16 ^ hash) & MSB_COOKIE_MASK;

	return id < SERVER_IDS ? id : UNKNOWN_SERVER;
}

/* What the server is to see in place of the echo: exactly what it sent, if its clock is known. */
__attribute__((noinline)) __u32 restore_in_layout(__u32 layout, __u32 row, __u32 tsecr)
{
	struct server_clock *clock = bpf_map_lookup_elem(&server_clocks, &row);
	__u32 low, upper;

	if (!clock)
		return tsecr;
	if (layout == LAYOUT_LSB) {
		low = tsecr >> 16;
		upper = clock->tsval[0] & ~CLOCK_MASK;
		if (low & EPOCH_BIT && !(clock->tsval[0] & EPOCH_BIT))
			upper -= CLOCK_MASK + 1;
		return upper | low;
	}
	upper = clock->tsval[tsecr >> VERSION_SHIFT & 1] & ~CLOCK_MASK;
	return upper | (tsecr & CLOCK_MASK);
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A small table of recent handshakes. It never decides the server of an established
 * connection that has timestamps; it is there because a server checks the echo of its
 * SYN-ACK exactly (tcp_check_req() since Linux 6.15, and SYN cookies keep options in the
 * low six bits), and because Linux sends some resets without a timestamp.
 *
 * A set-associative array instead of a hash map: one cache line, no allocation, no
 * eviction list, so that a flood of SYNs costs what a quiet hour costs.
 */
#pragma once

#include <stdbool.h>
#include "contract.h"
#include "cookie.h"
#include "tables.h"

/* Mappable, and so page-aligned: a row is one cache line, not two halves. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DEFAULT_HANDSHAKE_ROWS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct handshake_row);
} handshakes SEC(".maps");

#define SYN_DATA_MAX 0xffff
#define SYN_COOKIE_OPTION_BITS 0x3f	/* TSBITS in net/ipv4/syncookies.c */

/* Where a flow's handshake is remembered: valid if `row` is not NULL. */
struct handshake {
	struct handshake_row *row;
	__u32 way;
	__u32 server;
	__u32 flags;
};

static __always_inline struct handshake_row *handshake_row(__u64 hash)
{
	const struct settings *settings = get_settings();
	__u32 row = hash >> 9;

	if (!settings)
		return NULL;
	row &= settings->handshake_mask;
	return bpf_map_lookup_elem(&handshakes, &row);
}

static __always_inline bool is_of(__u64 who, __u64 hash)
{
	return who >> 32 == hash >> 32 && (__u16)who;
}

/* Finds what is remembered of a flow; false if it is forgotten. */
static __always_inline bool handshake_find(struct handshake_row *row, __u64 hash, struct handshake *found)
{
	__u32 way = HANDSHAKE_WAYS;
	__u64 who;

	if (!row)
		return false;
	for (int i = HANDSHAKE_WAYS - 1; i >= 0; i--)
		if (is_of(row->who[i], hash))
			way = i;
	barrier_var(way);	/* one path for the verifier, not one for each way */
	if (way >= HANDSHAKE_WAYS)
		return false;
	who = *(volatile __u64 *)&row->who[way];
	found->row = row;
	found->way = way;
	found->server = (__u16)(who >> 16);
	found->flags = (__u16)who;
	return is_of(who, hash);
}

/*
 * Remembers a new connection in place of the row's oldest. `same`, an earlier one of the same
 * ends, is forgotten where it stands: put in its place, the new one could be the next to go.
 */
static __always_inline void handshake_put(struct handshake_row *row, const struct handshake *same, __u64 hash,
					  __u32 isn, __u32 server, __u32 tsval, __u32 flags)
{
	__u32 way;

	if (!row)
		return;
	if (same)
		row->who[same->way] = 0;
	way = row->next++ % HANDSHAKE_WAYS;
	barrier_var(way);
	if (way >= HANDSHAKE_WAYS)
		return;
	row->isn[way] = isn;
	row->first_tsval[way] = tsval;
	row->last_tsval[way] = tsval;
	row->who[way] = hash >> 32 << 32 | server << 16 | flags;
}

/*
 * Notes the timestamp of a server's SYN-ACK; false if its SYN is forgotten. `isn` is the client's
 * as far as the acknowledgement tells: it may cover data that came with the SYN (RFC 7413).
 */
static __always_inline bool handshake_answer(struct handshake_row *row, __u64 hash, __u32 isn, __u32 server,
					     __u32 tsval)
{
	struct handshake seen;

	if (!handshake_find(row, hash, &seen)) {
		handshake_put(row, NULL, hash, isn, server, tsval, HANDSHAKE_USED | HANDSHAKE_ANSWERED);
		return false;
	}
	if (isn - row->isn[seen.way] > SYN_DATA_MAX || seen.server != server) {
		handshake_put(row, &seen, hash, isn, server, tsval, HANDSHAKE_USED | HANDSHAKE_ANSWERED);
		return false;
	}
	if (!(seen.flags & HANDSHAKE_ANSWERED)) {
		row->first_tsval[seen.way] = tsval;
		row->who[seen.way] |= HANDSHAKE_ANSWERED;
	}
	row->last_tsval[seen.way] = tsval;
	return true;
}

/* Whether the server's reset with this acknowledgement answers a SYN: it refuses the connection. */
static __always_inline bool handshake_refused(__u64 hash, __u32 server, __u32 ack)
{
	struct handshake_row *row = handshake_row(hash);
	struct handshake seen;

	return handshake_find(row, hash, &seen) && seen.server == server &&
	       !(seen.flags & (HANDSHAKE_ANSWERED | HANDSHAKE_ACCEPTED)) && ack - 1 - row->isn[seen.way] <= SYN_DATA_MAX;
}

/* Notes that a connection has no timestamps after all: its SYN-ACK, from this server, has none. */
static __always_inline void handshake_plain(struct handshake_row *row, __u64 hash, __u32 server)
{
	struct handshake seen;

	if (handshake_find(row, hash, &seen) && seen.server == server)
		row->who[seen.way] |= HANDSHAKE_PLAIN | HANDSHAKE_ACCEPTED;
}

/*
 * The TSval that the server wrote into the SYN-ACK of which this is the echo. Exact for its
 * first and its last; for one in between any value between them is accepted, and the low six
 * bits are the same in all of them when they hold options.
 */
static __always_inline __u32 handshake_restore(const struct handshake *seen, __u32 tsecr)
{
	__u32 first = seen->row->first_tsval[seen->way];
	__u32 last = seen->row->last_tsval[seen->way];

	if (((tsecr ^ first) & ~COOKIE_BITS) == 0)
		return first;
	if (((tsecr ^ last) & ~COOKIE_BITS) == 0)
		return last;
	return ((tsecr | COOKIE_BITS) & ~SYN_COOKIE_OPTION_BITS) |
	       (first & SYN_COOKIE_OPTION_BITS);
}

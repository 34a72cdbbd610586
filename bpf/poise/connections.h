/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The connections of stateful VIPs. The hash of a flow picks a row; the cookie in the timestamps is
 * the slot in it, so that a client's packet takes one array access. What carries no cookie, as all
 * packets from servers, finds the slot through the row's index: one cache line more, with a short
 * tag for each of the connections that share it.
 *
 * A row's free slots stand in a queue, oldest first. A SYN takes the first and puts it at the end
 * again: only an established connection leaves the queue, and comes back at its end. So a flood of
 * SYNs takes no slot for good, a connection that has ended can still be found while its last packets
 * pass, and one that was thought idle goes on if it is heard of before its slot is needed.
 */
#pragma once

#include <stdbool.h>
#include "budget.h"
#include "contract.h"
#include "cookie.h"
#include "stats.h"
#include "tables.h"

/* Mappable, and so page-aligned: a connection is one cache line, not two halves. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DEFAULT_CONNECTION_ROWS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct connection_row);
} connections SEC(".maps");

/* By server row, see struct counted; mappable as `lives` is. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DEFAULT_VIPS * SERVER_IDS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct counted);
} open_connections SEC(".maps");

#define NO_SLOT (-1)
#define PLACE_GONE 1

#define CONNECTION_FINS (CONNECTION_CLIENT_FIN | CONNECTION_SERVER_FIN)

enum search {
	FIND_OPEN,	/* the flow's, if it is not over */
	FIND_ANY,
	FIND_ISN,	/* that of this SYN */
	FIND_SERVER,	/* on this server */
};

static __always_inline struct connection_row *connection_row(__u64 hash)
{
	const struct settings *settings = get_settings();
	__u32 row = hash >> 9;

	if (!settings)
		return NULL;
	row &= settings->connection_mask;
	return bpf_map_lookup_elem(&connections, &row);
}

static __always_inline bool belongs_to(__u64 who, __u32 fingerprint)
{
	return who >> 32 == fingerprint && (__u16)who;
}

static __always_inline bool is_over(__u64 who)
{
	return who & CONNECTION_CLOSED || (who & CONNECTION_FINS) == CONNECTION_FINS;
}

static __always_inline __u32 server_of_connection(__u64 who)
{
	return (__u16)(who >> 16);
}

/*
 * Rows of servers that lost a connection under the lock of a row: no table may be looked up there, so
 * they are counted behind it: one of the same ends, the one whose slot is reused, and
 * one whose place in the index is.
 */
#define NOBODY 0xffffffff

struct lost {
	__u32 of_ends;
	__u32 of_slot;
	__u32 of_place;
};

/* The row of a connection's server if it is not over, else NOBODY. */
static __always_inline __u32 open_at(const struct connection_row *row, __u32 slot)
{
	__u64 who = row->connections[slot % ROW_SLOTS].who;

	if (!(who & CONNECTION_USED) || is_over(who))
		return NOBODY;
	return server_row(row->origins[slot % ROW_SLOTS].flow.vip, server_of_connection(who));
}

static __always_inline void count_open(__u32 server, int change)
{
	struct counted *counted = bpf_map_lookup_elem(&open_connections, &server);

	if (counted)
		__sync_fetch_and_add(&counted->open, change);
}

/* Where in the index a connection stands: in a line, from a place on, under a tag. */
static __always_inline __u32 index_place(__u32 fingerprint, __u32 step)
{
	return fingerprint % INDEX_LINES * LINE_PLACES + (fingerprint / INDEX_LINES + step) % LINE_PLACES;
}

static __always_inline __u16 index_entry(__u32 fingerprint, __u32 slot)
{
	return (fingerprint >> 10 | 1) << 9 | slot;
}

static __always_inline int find_in(struct connection_row *row, __u32 fingerprint, enum search by, __u32 value)
{
	for (__u32 step = 0; step < LINE_PLACES; step++) {
		__u16 place = row->index[index_place(fingerprint, step)];
		__u32 slot = place % ROW_SLOTS;
		struct connection *connection = &row->connections[slot];
		__u64 who;

		if (!place)
			return NO_SLOT;
		if (place - slot != index_entry(fingerprint, 0))
			continue;
		who = *(volatile __u64 *)&connection->who;
		if (!belongs_to(who, fingerprint))
			continue;
		if (by == FIND_OPEN && is_over(who))
			continue;
		if (by == FIND_ISN && (is_over(who) || connection->isn != value))
			continue;
		if (by == FIND_SERVER && server_of_connection(who) != value)
			continue;
		return slot;
	}
	return NO_SLOT;
}

/* A function of its own, so that the verifier follows the loop once. */
__attribute__((noinline)) int find_slot(__u64 hash, enum search by, __u32 value)
{
	struct connection_row *row = connection_row(hash);

	return row ? find_in(row, hash >> 32, by, value) : NO_SLOT;
}

/* The server of a flow, or NO_SERVER if it has no connection that is not over. */
__attribute__((noinline)) int find_server_of_connection(__u64 hash)
{
	struct connection_row *row = connection_row(hash);
	int slot = find_slot(hash, FIND_OPEN, 0);

	if (!row || slot < 0)
		return NO_SERVER;
	return server_of_connection(row->connections[slot % ROW_SLOTS].who);
}

static __always_inline void remove_from_index(struct connection_row *row, __u32 fingerprint, __u32 slot)
{
	for (__u32 step = 0; step < LINE_PLACES; step++) {
		__u32 at = index_place(fingerprint, step);

		if (row->index[at] == index_entry(fingerprint, slot)) {
			row->index[at] = PLACE_GONE;
			return;
		}
	}
}

/* In place of one that is not established, if the line is full; false if all of it are. */
static __always_inline bool put_into_index(struct connection_row *row, __u32 fingerprint, __u32 slot,
					   struct lost *lost)
{
	for (__u32 step = 0; step < LINE_PLACES; step++) {
		__u32 at = index_place(fingerprint, step);

		if (row->index[at] <= PLACE_GONE) {
			row->index[at] = index_entry(fingerprint, slot);
			return true;
		}
	}
	for (__u32 step = 0; step < LINE_PLACES; step++) {
		__u32 at = index_place(fingerprint, step);
		struct connection *other = &row->connections[row->index[at] % ROW_SLOTS];

		if (!(other->who & CONNECTION_ESTABLISHED)) {
			lost->of_place = open_at(row, row->index[at]);
			other->who = 0;
			row->index[at] = index_entry(fingerprint, slot);
			return true;
		}
	}
	return false;
}

static __always_inline void put_into_queue(struct connection_row *row, __u32 slot, __u32 length)
{
	__u32 end = (row->head + length) % ROW_SLOTS;

	row->queue[end] = slot ^ end;
}

/* The slot that has been free for the longest time; what was there is forgotten. */
static __always_inline int reuse_slot(struct connection_row *row, __u32 fingerprint, struct lost *lost)
{
	__u32 slot = ROW_SLOTS;
	__u64 who;

	/* Many turns are rare: each established connection takes one here once. */
	for (int i = 0; i < ROW_SLOTS && row->taken < ROW_SLOTS; i++) {
		__u32 at = row->head % ROW_SLOTS;
		__u32 first = (row->queue[at] ^ at) % ROW_SLOTS;

		row->head = (at + 1) % ROW_SLOTS;
		if (!(row->connections[first].who & CONNECTION_ESTABLISHED)) {
			slot = first;
			break;
		}
		row->connections[first].taken = true;
		row->taken++;
	}
	barrier_var(slot);
	if (slot >= ROW_SLOTS)
		return NO_SLOT;
	put_into_queue(row, slot, ROW_SLOTS - 1 - row->taken);
	who = row->connections[slot].who;
	if (who)
		remove_from_index(row, who >> 32, slot);
	lost->of_slot = open_at(row, slot);
	row->connections[slot].who = 0;
	return put_into_index(row, fingerprint, slot, lost) ? slot : NO_SLOT;
}

static __always_inline void count_lost(const struct lost *lost)
{
	if (lost->of_ends != NOBODY)
		count_open(lost->of_ends, -1);
	if (lost->of_slot != NOBODY)
		count_open(lost->of_slot, -1);
	if (lost->of_place != NOBODY)
		count_open(lost->of_place, -1);
}

/*
 * Enters a connection; returns its slot. The server has at most one with the same ends, which therefore
 * gives its slot to the new one. That stays established then, as the old one may prove to be alive.
 */
__attribute__((noinline)) int open_connection(const struct flow *flow, __u64 hash, __u32 isn, __u32 server,
					      __u32 flags)
{
	struct connection_row *row = connection_row(hash);
	__u32 fingerprint = hash >> 32, now = coarse_time();
	struct lost lost = { NOBODY, NOBODY, NOBODY };
	struct connection *connection;
	__u64 who;
	int slot;

	if (!row || !flow)
		return NO_SLOT;
	bpf_spin_lock(&row->lock);
	slot = find_in(row, fingerprint, FIND_SERVER, server);
	if (slot >= 0)
		lost.of_ends = open_at(row, slot);
	if (slot >= 0 && !(row->connections[slot % ROW_SLOTS].who & CONNECTION_ESTABLISHED)) {
		/* Free already, and perhaps the next to be reused: too soon for a new connection. */
		remove_from_index(row, fingerprint, slot);
		row->connections[slot % ROW_SLOTS].who = 0;
		slot = NO_SLOT;
	}
	if (slot < 0)
		slot = reuse_slot(row, fingerprint, &lost);
	barrier_var(slot);
	if (slot < 0 || slot >= ROW_SLOTS) {
		bpf_spin_unlock(&row->lock);
		count_lost(&lost);
		return NO_SLOT;
	}
	connection = &row->connections[slot];
	who = connection->who;
	connection->isn = isn;
	connection->first_tsval = 0;
	connection->last_tsval = 0;
	connection->awaited = isn + 1;
	connection->packets_to_server = 0;
	connection->bytes_to_server = 0;
	connection->packets_to_client = 0;
	connection->bytes_to_client = 0;
	connection->seen = now;
	row->origins[slot].flow = *flow;
	row->origins[slot].created = now;
	connection->who = (__u64)fingerprint << 32 | server << 16 | CONNECTION_USED | (who & CONNECTION_ESTABLISHED) |
			  flags;
	bpf_spin_unlock(&row->lock);
	count_open(server_row(flow->vip, server), 1);
	count_lost(&lost);
	return slot;
}

/* Changes the flags of a connection; one that is over goes back to the free slots. */
static __always_inline void change_in(struct connection_row *row, __u32 fingerprint, __u32 slot, __u32 set, __u32 clear)
{
	struct connection *connection = &row->connections[slot % ROW_SLOTS];
	__u32 before, after;
	__u64 who;

	bpf_spin_lock(&row->lock);
	before = open_at(row, slot);
	who = connection->who;
	if (belongs_to(who, fingerprint)) {
		who = (who | set) & ~(__u64)clear;
		if (is_over(who))
			who &= ~(__u64)CONNECTION_ESTABLISHED;
		connection->who = who;
		if (!(who & CONNECTION_ESTABLISHED) && connection->taken) {
			put_into_queue(row, slot, ROW_SLOTS - row->taken);
			row->taken--;
			connection->taken = false;
		}
	}
	after = open_at(row, slot);
	bpf_spin_unlock(&row->lock);
	if (before == after)
		return;
	if (before != NOBODY)
		count_open(before, -1);
	if (after != NOBODY)
		count_open(after, 1);
}

__attribute__((noinline)) int change_connection(__u64 hash, __u32 slot, __u32 set, __u32 clear)
{
	struct connection_row *row = connection_row(hash);

	if (row)
		change_in(row, hash >> 32, slot % ROW_SLOTS, set, clear);
	return 0;
}

/* Closes the connection of a flow with a server; for connections that are reset from here. */
__attribute__((noinline)) int close_connection(__u64 hash, __u32 server)
{
	int slot = find_slot(hash, FIND_SERVER, server);

	return slot < 0 ? 0 : change_connection(hash, slot, CONNECTION_CLOSED, 0);
}

/* What TC's test run of `sweep` gets instead of a packet. */
struct sweep {
	__u8 ethernet[16];
	__u32 first;	/* row */
	__u32 rows;
	__u32 now;	/* in units of struct connection */
	__u32 zero;
	__u8 rest[32];
};

/* Frees the slots of a row's connections that have been idle for too long; returns how many. */
__attribute__((noinline)) int sweep_slot(__u32 number, __u32 slot, __u32 now)
{
	struct connection_row *row = bpf_map_lookup_elem(&connections, &number);
	struct connection *connection;
	__u32 limit;
	__u64 who;

	if (!row)
		return 0;
	connection = &row->connections[slot % ROW_SLOTS];
	who = *(volatile __u64 *)&connection->who;
	limit = who & CONNECTION_FINS ? MAX_IDLE_AFTER_FIN : MAX_IDLE;
	/* Signed: a packet may have come since. */
	if (!(who & CONNECTION_ESTABLISHED) || (__s32)(now - connection->seen) <= (__s32)limit)
		return 0;
	change_in(row, who >> 32, slot % ROW_SLOTS, CONNECTION_CLOSED, 0);
	return 1;
}

static __always_inline int sweep_rows(struct __sk_buff *skb)
{
	struct sweep *wanted = (void *)(long)skb->data;
	__u32 first, rows, now;
	int freed = 0;

	if ((void *)(wanted + 1) > (void *)(long)skb->data_end)
		return 0;
	first = wanted->first;
	rows = wanted->rows;
	now = wanted->now;
	for (__u32 i = 0; i < MAX_SWEPT && i < rows; i++)
		for (__u32 slot = 0; slot < ROW_SLOTS; slot++)
			freed += sweep_slot(first + i, slot, now);
	return freed;
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which server takes a new connection. Its random numbers come from the flow's keyed hash and the
 * initial sequence number, so that servers/pick.py picks as is done here.
 */
#pragma once

#include "tables.h"

/* Whose turn it is, per VIP; shared by all CPUs, so that the turns are strict. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DEFAULT_VIPS);
	__type(key, __u32);
	__type(value, __u32);
} turns SEC(".maps");

/* Rows of the schedule that are tried when a server that was picked is just being taken out. */
#define MAX_TRIED 8

#define MAX_LOAD 0xffffffff

/* Whether a server takes new connections. */
static __always_inline bool may_connect(const struct vip *vip, __u32 id)
{
	__u32 row = server_row(vip->index, id);
	struct server *server = bpf_map_lookup_elem(&servers, &row);

	return server && server->state == SERVER_READY;
}

static __always_inline __u32 scheduled(const struct pool *pool, __u32 turn)
{
	return pool->schedule[turn % MAX_SCHEDULE] % SERVER_IDS;
}

/*
 * The first server that takes connections, from a turn on; NO_SERVER if none does. Called when one that
 * was picked does not: for as long as it takes to write the next pool.
 */
__attribute__((noinline)) int next_ready(const struct vip *vip, __u32 turn)
{
	struct pool *pool;

	if (!vip)
		return NO_SERVER;
	pool = bpf_map_lookup_elem(&pools, &vip->pool);
	if (!pool || !pool->turns)
		return NO_SERVER;
	for (int i = 0; i < MAX_TRIED; i++) {
		__u32 id = scheduled(pool, turn++ % pool->turns);

		if (may_connect(vip, id))
			return id;
	}
	for (__u32 at = 0; at < SERVER_IDS && at < pool->size; at++)
		if (may_connect(vip, pool->ids[at]))
			return pool->ids[at];
	return NO_SERVER;
}

/* The load in effect. */
static __always_inline __u32 load_of(const struct live *live)
{
	__u64 load = live->load + (__u64)live->placed * live->step;

	return load > MAX_LOAD ? MAX_LOAD : load;
}

static __always_inline struct live *live_of(const struct vip *vip, __u32 id)
{
	__u32 row = server_row(vip->index, id);

	return bpf_map_lookup_elem(&lives, &row);
}

#define RANK_LATENCY 0x3fffffff		/* microseconds that are told apart */
#define RANK_HOT 62

/*
 * Who is better has the lower rank. As Prequal has it (Wydrowski et al., NSDI 2024, section 4): hot and
 * cold are told apart by load, and the cold compared by latency first, if `by_latency`. Here and below
 * without branches, as no processor could foretell them.
 */
static __always_inline __s64 rank_of(const struct live *live, __u32 hot_above, bool by_latency)
{
	__u64 load = load_of(live);
	__u64 is_hot = (hot_above - load) >> 63;
	__u64 latency = by_latency ? live->latency & RANK_LATENCY & (is_hot - 1) : 0;

	return is_hot << RANK_HOT | latency << 32 | load;
}

/* Of 64 random bits one half each. */
static __always_inline __u32 random_turn(__u32 random, __u32 turns)
{
	return (__u64)random * turns >> 32;
}

/* The better one of two random turns; among equals the first. */
static __always_inline int select_of_two(const struct vip *vip, const struct pool *pool, __u64 random,
					 __u32 hot_above, bool by_latency)
{
	__u32 one = scheduled(pool, random_turn(random, pool->turns));
	__u32 other = scheduled(pool, random_turn(random >> 32, pool->turns));
	struct live *of_one = live_of(vip, one), *of_other = live_of(vip, other);
	__s64 better;

	if (!of_one || !of_other)
		return NO_SERVER;
	/* What is not known of one of them is no reason to prefer the other. */
	by_latency = by_latency && of_one->latency && of_other->latency;
	better = (rank_of(of_other, hot_above, by_latency) - rank_of(of_one, hot_above, by_latency)) >> 63;
	barrier_var(better);
	return (one ^ ((one ^ other) & better)) % SERVER_IDS;
}

/* The least loaded of all; among equals whose turn it is, or the first. */
static __always_inline int select_least(const struct vip *vip, const struct pool *pool, __u32 turn)
{
	__u32 chosen = scheduled(pool, turn % pool->turns);
	struct live *live = live_of(vip, chosen);
	__s64 least = live ? load_of(live) : MAX_LOAD;

	for (int i = 0; i < SERVER_IDS && i < pool->size; i++) {
		__u32 id = pool->ids[i] % SERVER_IDS;
		__s64 less;

		live = live_of(vip, id);
		if (!live)
			break;
		less = load_of(live) - least;
		less &= less >> 63;	/* without a branch, of which the verifier would follow each way */
		barrier_var(less);
		least += less;
		chosen ^= (chosen ^ id) & (less >> 63);
	}
	return chosen % SERVER_IDS;
}

/* A function of its own, so that the verifier follows the loop once. */
__attribute__((noinline)) int pick_least(const struct vip *vip, __u32 turn)
{
	struct pool *pool = vip ? bpf_map_lookup_elem(&pools, &vip->pool) : NULL;

	return pool && pool->turns ? select_least(vip, pool, turn) : NO_SERVER;
}

static __always_inline __u32 take_turn(const struct vip *vip)
{
	__u32 *turn = bpf_map_lookup_elem(&turns, &vip->index);

	return turn ? __sync_fetch_and_add(turn, 1) : 0;
}

/*
 * The server that the hash of a flow stands for, as long as the pool stays the same; NO_SERVER if the
 * pool is empty. A Maglev table moves few flows when the servers change (Eisenbud et al., "Maglev",
 * NSDI 2016): so it is used for flows without cookie, whatever the policy, but for plain hashing.
 */
__attribute__((noinline)) int select_by_hash(const struct vip *vip, __u64 hash)
{
	struct maglev *maglev;
	struct pool *pool;
	__u32 turn;
	int id;

	if (!vip)
		return NO_SERVER;
	pool = bpf_map_lookup_elem(&pools, &vip->pool);
	if (!pool || !pool->turns)
		return NO_SERVER;
	turn = (__u32)(hash >> 32) % pool->turns;
	if (vip->policy == POLICY_HASH) {
		id = scheduled(pool, turn);
	} else {
		maglev = bpf_map_lookup_elem(&maglevs, &vip->pool);
		if (!maglev)
			return NO_SERVER;
		id = maglev->ids[(hash >> 32) * MAGLEV_ROWS >> 32];
	}
	return may_connect(vip, id) ? id : next_ready(vip, turn + 1);
}

/* Whether new flows without cookie are placed by the policy too, as long as they can be remembered. */
static __always_inline bool looks_at_load(const struct vip *vip)
{
	return vip->policy >= POLICY_TWO;
}

/* The server of a new connection by a policy that looks at the load. `isn`: as below. */
static __always_inline int find_by_load(const struct vip *vip, __u64 hash, __u32 isn)
{
	__u32 turn = hash >> 32;
	struct pool *pool;
	struct live *live;
	__u64 random;
	int id;

	pool = bpf_map_lookup_elem(&pools, &vip->pool);
	if (!pool || !pool->turns)
		return NO_SERVER;
	random = (hash ^ isn * HASH_FACTOR) * HASH_FACTOR;
	random ^= random >> 32;
	if (vip->policy == POLICY_TWO) {
		id = select_of_two(vip, pool, random, MAX_LOAD, false);
	} else if (vip->policy == POLICY_PREQUAL) {
		id = select_of_two(vip, pool, random, vip->hot_above, true);
	} else {
		turn = take_turn(vip);
		id = pick_least(vip, turn);
	}
	if (id < 0 || !may_connect(vip, id))
		id = next_ready(vip, turn + 1);
	if (id < 0)
		return NO_SERVER;
	/* Its load rises at once, however late the next report is. */
	live = live_of(vip, id);
	if (live)
		__sync_fetch_and_add(&live->placed, 1);
	return id;
}

static __always_inline int select_by_turn(const struct vip *vip)
{
	struct pool *pool = bpf_map_lookup_elem(&pools, &vip->pool);
	__u32 turn = take_turn(vip);
	int id;

	if (!pool || !pool->turns)
		return NO_SERVER;
	id = scheduled(pool, turn % pool->turns);
	return may_connect(vip, id) ? id : next_ready(vip, turn + 1);
}

/*
 * The server of a new connection by the VIP's policy; NO_SERVER if none takes any. `isn`: a number that
 * differs from one connection of the flow to the next.
 */
static __always_inline int select_by_policy(const struct vip *vip, __u64 hash, __u32 isn)
{
	if (vip->policy == POLICY_TURN)
		return select_by_turn(vip);
	if (looks_at_load(vip))
		return find_by_load(vip, hash, isn);
	return select_by_hash(vip, hash);
}

/* The same as a function of its own, for where it matters less that a call costs some nanoseconds. */
__attribute__((noinline)) int select_server(const struct vip *vip, __u64 hash, __u32 isn)
{
	return vip ? select_by_policy(vip, hash, isn) : NO_SERVER;
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which server takes a new connection. */
#pragma once

#include "tables.h"

/* Whose turn it is, per VIP; shared by all CPUs, so that the turns are strict. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_VIPS);
	__type(key, __u32);
	__type(value, __u32);
} turns SEC(".maps");

static __always_inline int pool_at(const struct pool *pool, __u32 at)
{
	return pool->ids[at & (SERVER_IDS - 1)];
}

/*
 * The server that the hash of a flow stands for; NO_SERVER if the pool is empty. Plain hashing is
 * there for comparison; a Maglev table moves few flows when the servers change (Eisenbud et al.,
 * "Maglev", NSDI 2016).
 */
static __always_inline int select_by_hash(const struct vip *vip, __u64 hash)
{
	struct pool *pool = bpf_map_lookup_elem(&pools, &vip->pool);
	struct maglev *maglev;

	if (!pool || !pool->size)
		return NO_SERVER;
	if (vip->policy == POLICY_HASH)
		return pool_at(pool, (__u32)(hash >> 32) % pool->size);
	maglev = bpf_map_lookup_elem(&maglevs, &vip->pool);
	return maglev ? maglev->ids[(hash >> 32) * MAGLEV_ROWS >> 32] : NO_SERVER;
}

static __always_inline int select_by_turn(const struct vip *vip)
{
	struct pool *pool = bpf_map_lookup_elem(&pools, &vip->pool);
	__u32 *turn = bpf_map_lookup_elem(&turns, &vip->index);

	if (!pool || !turn || !pool->size)
		return NO_SERVER;
	return pool_at(pool, __sync_fetch_and_add(turn, 1) % pool->size);
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The tables that Python fills: VIPs, servers, pools and settings. */
#pragma once

#include <linux/in.h>
#include "contract.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

/*
 * The VIPs, by a perfect hash: Python looks for a seed under which no two of them share a row
 * (vip_row()), so that one multiplication and one comparison find a VIP, or that there is none;
 * a hash map costs 15 ns more. The table has two halves, and the seed's lowest bit says which
 * is in use: the other one is filled, then the seed is replaced, in one word.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * VIP_ROWS);
	__type(key, __u32);
	__type(value, struct vip);
} vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_VIPS * SERVER_IDS);
	__type(key, __u32);
	__type(value, struct server);
} servers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_VIPS * SERVER_IDS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service);
	__type(value, struct origin);
} origins SEC(".maps");

/* Two pools a VIP: one in use, one to be written. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * MAX_VIPS);
	__type(key, __u32);
	__type(value, struct pool);
} pools SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_DIRECT_PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u8);
} direct SEC(".maps");

static __always_inline struct settings *get_settings(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&settings, &only);
}

/* Multiply-shift hashing: Dietzfelbinger et al., "A reliable randomized algorithm for the closest-pair problem", 1997. */
static __always_inline __u32 vip_row(__u64 end, __u32 seed)
{
	__u64 factor = seed * 0x9e3779b97f4a7c15ULL | 1;

	return (seed & 1) * VIP_ROWS + (end * factor >> 52);
}

static __always_inline struct vip *find_vip(const struct settings *settings, __be32 address, __be16 port)
{
	/* The bytes of struct service; BPF objects are compiled for little-endian machines. */
	__u64 end = (__u64)IPPROTO_TCP << 48 | (__u64)port << 32 | address;
	__u32 row = vip_row(end, settings->vip_seed);
	struct vip *vip = bpf_map_lookup_elem(&vips, &row);

	return vip && *(__u64 *)&vip->end == end ? vip : NULL;
}

/* Row of the servers and traffic tables. */
static __always_inline __u32 server_row(__u32 vip, __u32 server)
{
	return vip * SERVER_IDS + server;
}

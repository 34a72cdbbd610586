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
 * VIPs, and the ends that packets of servers come from, each in one of the PROBES rows that follow
 * its hash: open addressing in an array, because the parts of a hash map lie all over memory,
 * which costs 10 to 20 ns more. Python places them. A row with no end was never used and ends the
 * search; one with the end GONE may be followed by others.
 */
#define GONE 1ULL

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VIP_ROWS);
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
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ORIGIN_ROWS);
	__type(key, __u32);
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

static __always_inline const struct settings *get_settings(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&settings, &only);
}

/* Multiply-shift hashing: Dietzfelbinger et al., J. Algorithms 25(1), 1997. */
#define HASH_FACTOR 0x9e3779b97f4a7c15ULL
#define VIP_SHIFT 54
#define ORIGIN_SHIFT 51

/* struct service as a number; BPF objects are compiled for little-endian machines. */
static __always_inline __u64 end_number(__be32 address, __be16 port)
{
	return (__u64)IPPROTO_TCP << 48 | (__u64)port << 32 | address;
}

/* The element of a table whose `end`, its first member, is the wanted one; NULL if there is none. */
static __always_inline void *find_end(void *table, __u64 end, __u32 shift, __u32 rows)
{
	__u32 first = end * HASH_FACTOR >> shift;

	for (int i = 0; i < PROBES; i++) {
		__u32 row = (first + i) % rows;
		__u64 *found = bpf_map_lookup_elem(table, &row);

		if (!found || !*found)
			return NULL;
		if (*found == end)
			return found;
	}
	return NULL;
}

static __always_inline struct vip *find_vip(__be32 address, __be16 port)
{
	return find_end(&vips, end_number(address, port), VIP_SHIFT, VIP_ROWS);
}

static __always_inline struct origin *find_origin(__be32 address, __be16 port)
{
	return find_end(&origins, end_number(address, port), ORIGIN_SHIFT, ORIGIN_ROWS);
}

/* Row of the servers and traffic tables. */
static __always_inline __u32 server_row(__u32 vip, __u32 server)
{
	return vip * SERVER_IDS + server;
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The tables that Python fills: VIPs, servers, pools, links and settings. */
#pragma once

#include "contract.h"
#include "parse.h"

/* Set before loading, with the sizes of the tables that depend on it. */
const volatile __u32 vip_limit_log2 = 6;	/* of DEFAULT_VIPS */

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
	__uint(max_entries, DEFAULT_VIPS << VIP_ROWS_SHIFT);
	__type(key, __u32);
	__type(value, struct vip);
} vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DEFAULT_VIPS * SERVER_IDS);
	__type(key, __u32);
	__type(value, struct server);
} servers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DEFAULT_VIPS << ORIGIN_ROWS_SHIFT);
	__type(key, __u32);
	__type(value, struct origin);
} origins SEC(".maps");

/* IPv6 addresses, apart, so that the rows of IPv4 stay small: by VIP index, and by server row. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DEFAULT_VIPS);
	__type(key, __u32);
	__type(value, struct address);
} vip_addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DEFAULT_VIPS * SERVER_IDS);
	__type(key, __u32);
	__type(value, struct address);
} server_addresses SEC(".maps");

/* Two pools a VIP: one in use, one to be written; and the Maglev table of each. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * DEFAULT_VIPS);
	__type(key, __u32);
	__type(value, struct pool);
} pools SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * DEFAULT_VIPS);
	__type(key, __u32);
	__type(value, struct maglev);
} maglevs SEC(".maps");

/* By server row. Mappable, so that Python reads and writes them all without a system call for each. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DEFAULT_VIPS * SERVER_IDS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct live);
} lives SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_DIRECT_PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u8);
} direct SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_DIRECT_PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix6);
	__type(value, __u8);
} direct6 SEC(".maps");

/* By the interface that a route names. Only those with VLAN tags are here. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LINKS);
	__type(key, __u32);
	__type(value, struct link);
} links SEC(".maps");

static __always_inline const struct settings *get_settings(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&settings, &only);
}

/* Whether a connection that is not known may be so in a moment: its client will send again. */
static __always_inline bool is_renewing(void)
{
	const struct settings *settings = get_settings();

	return settings && settings->renewing;
}

/* Row of the servers and traffic tables. */
static __always_inline __u32 server_row(__u32 vip, __u32 server)
{
	return vip * SERVER_IDS + server;
}

/* The address of a server of `family` whose row this is; NULL never happens. */
static __always_inline const void *server_address(const struct server *server, __u32 row, const int family)
{
	if (family == AF_INET)
		return &server->address;
	return bpf_map_lookup_elem(&server_addresses, &row);
}

/* Multiply-shift hashing: Dietzfelbinger et al., J. Algorithms 25(1), 1997. */
#define HASH_FACTOR 0x9e3779b97f4a7c15ULL

/* An end of a connection as one number; BPF objects are compiled for little-endian machines. */
static __always_inline __u64 end_number(__be32 address, __be16 port, __u8 protocol)
{
	return (__u64)protocol << 48 | (__u64)port << 32 | address;
}

#define IPV6_NUMBERS (6ULL << 56)

/* Of IPv6 it is a hash: whoever finds a row by it compares the address too. */
static __always_inline __u64 end_number6(const struct address *address, __be16 port, __u8 protocol)
{
	__u64 high = (__u64)address->word[1] << 32 | address->word[0];
	__u64 low = (__u64)address->word[3] << 32 | address->word[2];
	__u64 number = (high ^ ((__u64)protocol << 48 | (__u64)port << 32)) * HASH_FACTOR;

	return IPV6_NUMBERS | ((number ^ number >> 32) + low) * HASH_FACTOR >> 8;
}

static __always_inline bool same_address(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

/* The element of a table of 2^`bits` rows whose `end`, its first member, is the wanted one; NULL if there is none. */
static __always_inline void *find_end(void *table, __u64 end, __u32 bits)
{
	__u32 first = end * HASH_FACTOR >> (64 - bits);

	for (int i = 0; i < PROBES; i++) {
		__u32 row = (first + i) & ((1U << bits) - 1);
		__u64 *found = bpf_map_lookup_elem(table, &row);

		if (!found || !*found)
			return NULL;
		if (*found == end)
			return found;
	}
	return NULL;
}

static __always_inline void *find_in_vips(__u64 end)
{
	return find_end(&vips, end, vip_limit_log2 + VIP_ROWS_SHIFT);
}

static __always_inline void *find_in_origins(__u64 end)
{
	return find_end(&origins, end, vip_limit_log2 + ORIGIN_ROWS_SHIFT);
}

static __always_inline struct vip *find_vip4(__be32 address, __be16 port, __u8 protocol)
{
	return find_in_vips(end_number(address, port, protocol));
}

static __always_inline struct vip *find_vip6(const struct address *address, __be16 port, __u8 protocol)
{
	struct vip *vip = find_in_vips(end_number6(address, port, protocol));
	struct address *of_vip;

	if (!vip)
		return NULL;
	of_vip = bpf_map_lookup_elem(&vip_addresses, &vip->index);
	if (!of_vip || !same_address(of_vip, address) || vip->port != port || vip->protocol != protocol)
		return NULL;
	return vip;
}

static __always_inline struct origin *find_origin4(__be32 address, __be16 port, __u8 protocol)
{
	return find_in_origins(end_number(address, port, protocol));
}

/* The VIP of a server's packet; NULL while it is being added or removed. */
static __always_inline struct vip *vip_of(const struct origin *origin)
{
	__u32 row = origin->vip_row;
	struct vip *vip = bpf_map_lookup_elem(&vips, &row);

	return vip && vip->protocol ? vip : NULL;
}

static __always_inline struct origin *find_origin6(const struct address *address, __be16 port, __u8 protocol)
{
	struct origin *origin = find_in_origins(end_number6(address, port, protocol));
	struct address *of_server;
	__u32 row;

	if (!origin)
		return NULL;
	row = server_row(origin->vip, origin->server);
	of_server = bpf_map_lookup_elem(&server_addresses, &row);
	return of_server && same_address(of_server, address) ? origin : NULL;
}

/* The VIP that a packet with ports is for. */
static __always_inline struct vip *find_vip(const struct packet *packet, const int family)
{
	__be16 port = packet->udp->dest;	/* ports stand at the same place in TCP and UDP */

	if (family == AF_INET)
		return find_vip4(packet->ip->daddr, port, packet->protocol);
	return find_vip6((struct address *)&packet->ip6->daddr, port, packet->protocol);
}

/* The server that a packet with ports comes from. */
static __always_inline struct origin *find_origin(const struct packet *packet, const int family)
{
	__be16 port = packet->udp->source;

	if (family == AF_INET)
		return find_origin4(packet->ip->saddr, port, packet->protocol);
	return find_origin6((struct address *)&packet->ip6->saddr, port, packet->protocol);
}

/* Whether the client of a reply is in a `direct:` prefix. */
static __always_inline bool is_direct(const struct vip *vip, const struct packet *packet, const int family)
{
	if (!(vip->flags & VIP_ASKS_DIRECT))
		return false;
	if (family == AF_INET) {
		struct prefix prefix = { 32, packet->ip->daddr };

		return bpf_map_lookup_elem(&direct, &prefix);
	} else {
		struct prefix6 prefix = { 128, *(struct address *)&packet->ip6->daddr };

		return bpf_map_lookup_elem(&direct6, &prefix);
	}
}

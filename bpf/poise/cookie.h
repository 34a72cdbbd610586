/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The cookie: which server a connection belongs to, hidden in the low ten bits of the
 * server's TCP timestamps and echoed by the client.
 *
 *	TSval to the client:  | 22 bits of the server's own | mark | server id XOR hash |
 *	                                                       1            9
 *
 * The mark is 0 on a SYN-ACK and 1 on everything later, so that TSval never goes backwards
 * (RFC 7323, section 5) and an echo tells which of the two it answers. After Barbette et al.,
 * "A High-Speed Load-Balancer Design with Guaranteed Per-Connection-Consistency", NSDI 2020;
 * they keep the low bits and replace upper ones, which fails after an idle gap.
 */
#pragma once

#include "contract.h"
#include "parse.h"
#include "siphash.h"

#define COOKIE_MASK 0x1ff
#define COOKIE_MARK 0x200
#define COOKIE_BITS (COOKIE_MASK | COOKIE_MARK)

/* Of the hashed message: a VIP's end and a client's address and port. */
#define FLOW_BYTES 14ULL
#define FLOW_BYTES6 42ULL

/*
 * Keyed hash of both ends of a connection. Python has taken in the VIP's end already, which is
 * the same for all its packets.
 */
static __always_inline __u64 flow_hash4(const struct vip *vip, __be32 client, __be16 port)
{
	return siphash13_finish(vip->hash_state, FLOW_BYTES << 56 | (__u64)port << 32 | client);
}

static __always_inline __u64 flow_hash6(const struct vip *vip, const struct address *client, __be16 port)
{
	__u64 high = (__u64)client->word[1] << 32 | client->word[0];
	__u64 low = (__u64)client->word[3] << 32 | client->word[2];

	return siphash13_finish_three(vip->hash_state, high, low, FLOW_BYTES6 << 56 | port);
}

/* Of a packet from a client. */
static __always_inline __u64 hash_from(const struct vip *vip, const struct packet *packet, const int family)
{
	if (family == AF_INET)
		return flow_hash4(vip, packet->ip->saddr, packet->udp->source);
	return flow_hash6(vip, (struct address *)&packet->ip6->saddr, packet->udp->source);
}

/* Of a packet to a client. */
static __always_inline __u64 hash_to(const struct vip *vip, const struct packet *packet, const int family)
{
	if (family == AF_INET)
		return flow_hash4(vip, packet->ip->daddr, packet->udp->dest);
	return flow_hash6(vip, (struct address *)&packet->ip6->daddr, packet->udp->dest);
}

static __always_inline __u32 cookie_server(__u32 tsecr, __u64 hash)
{
	return (tsecr ^ hash) & COOKIE_MASK;
}

static __always_inline __u32 cookie_stamp(__u32 tsval, __u64 hash, __u32 server, bool is_synack)
{
	return (tsval & ~COOKIE_BITS) | (is_synack ? 0 : COOKIE_MARK) | ((server ^ hash) & COOKIE_MASK);
}

/*
 * What the server gets for an echo of anything but a SYN-ACK. Linux ignores an echo that
 * lies a little in the future for round-trip times and for undoing retransmissions; one
 * in the past would spoil both.
 */
static __always_inline __u32 cookie_strip(__u32 tsecr)
{
	return tsecr | COOKIE_BITS;
}

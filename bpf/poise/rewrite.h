/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Rewriting what is behind the Ethernet header; checksums follow the changes. */
#pragma once

#include "contract.h"
#include "csum.h"
#include "parse.h"

/* One hop less, of which the caller has made sure; returns what the IP checksum owes for it. */
static __always_inline __u64 age(const struct packet *packet, const int family)
{
	__u16 from;

	if (family == AF_INET6) {
		packet->ip6->hop_limit--;
		return 0;
	}
	from = *(__u16 *)&packet->ip->ttl;
	packet->ip->ttl--;
	return csum_change(from, *(__u16 *)&packet->ip->ttl);
}

/* Undoes it. */
static __always_inline void unage(const struct packet *packet, const int family)
{
	__u16 from;

	if (family == AF_INET6) {
		packet->ip6->hop_limit++;
		return;
	}
	from = *(__u16 *)&packet->ip->ttl;
	packet->ip->ttl++;
	csum_apply(&packet->ip->check, csum_change(from, *(__u16 *)&packet->ip->ttl));
}

/* Replaces an address; returns what checksums over it owe for it. */
static __always_inline __u64 replace_address(void *address, const void *by, const int family)
{
	__be32 *word = address;
	const __be32 *to = by;
	__u64 change = 0;

	for (int i = 0; i < (family == AF_INET ? 1 : 4); i++) {
		change += csum_change(word[i], to[i]);
		word[i] = to[i];
	}
	return change;
}

/* RFC 768: 0 stands for no checksum, so that a sum of 0 is written as its negative. */
static __always_inline void csum_apply_udp(__sum16 *csum, __u64 change)
{
	if (!*csum)
		return;
	csum_apply(csum, change);
	if (!*csum)
		*csum = 0xffff;
}

static __always_inline void csum_apply_transport(const struct packet *packet, __u64 change, const __u8 protocol)
{
	if (protocol == IPPROTO_TCP)
		csum_apply(&packet->tcp->check, change);
	else
		csum_apply_udp(&packet->udp->check, change);
}

/* Which end of a packet is replaced. */
enum side {
	SOURCE,
	TARGET,
};

/*
 * Replaces one end of the flow and ages the packet. `change` is what the transport checksum owes to
 * changes made elsewhere.
 */
static __always_inline void rewrite_end(const struct packet *packet, const int family, const __u8 protocol,
					const enum side side, const void *address, __be16 port, __u64 change)
{
	__be16 *old_port = side == SOURCE ? &packet->udp->source : &packet->udp->dest;
	__u64 of_address, of_age = age(packet, family);

	if (family == AF_INET) {
		of_address = replace_address(side == SOURCE ? &packet->ip->saddr : &packet->ip->daddr, address, family);
		csum_apply(&packet->ip->check, of_age + of_address);
	} else {
		of_address = replace_address(side == SOURCE ? &packet->ip6->saddr : &packet->ip6->daddr, address, family);
	}
	csum_apply_transport(packet, change + of_address + csum_change(*old_port, port), protocol);
	*old_port = port;
}

/* Replaces a timestamp; returns what the TCP checksum owes for it. */
static __always_inline __u64 rewrite_timestamp(const struct packet *packet, __be32 *word, __u32 to)
{
	__be32 from = *word;
	bool odd = ((void *)word - (void *)packet->tcp) & 1;

	*word = bpf_htonl(to);
	return csum_change_at(from, *word, odd);
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Rewriting headers and sending packets on. */
#pragma once

#include "contract.h"
#include "csum.h"
#include "parse.h"

/* In half words, because memcpy() of a packed member becomes a move for each byte. */
static __always_inline void set_mac(__u8 *to, const __u8 *from)
{
	*(__u16 *)to = *(const __u16 *)from;
	*(__u16 *)(to + 2) = *(const __u16 *)(from + 2);
	*(__u16 *)(to + 4) = *(const __u16 *)(from + 4);
}

/* Both addresses at once: in a struct server they lie as in an Ethernet header. */
static __always_inline void set_macs(struct ethhdr *eth, const struct server *server)
{
	const __u32 *from = (const __u32 *)server->hop_mac;
	__u32 *to = (__u32 *)eth;

	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
}

/* One hop less, of which the caller has made sure; returns what the IP checksum owes for it. */
static __always_inline __u64 age(struct iphdr *ip)
{
	__u16 from = *(__u16 *)&ip->ttl;

	ip->ttl--;
	return csum_change(from, *(__u16 *)&ip->ttl);
}

/*
 * Replaces one end of the connection. `ip_change` and `tcp_change` are what the checksums owe
 * to changes made elsewhere in the packet.
 */
static __always_inline void rewrite_end(struct packet *packet, __be32 *address, __be16 *port, __be32 new_address,
					__be16 new_port, __u64 ip_change, __u64 tcp_change)
{
	__u64 of_address = csum_change(*address, new_address);

	csum_apply(&packet->ip->check, ip_change + of_address);
	csum_apply(&packet->tcp->check, tcp_change + of_address + csum_change(*port, new_port));
	*address = new_address;
	*port = new_port;
}

/* Replaces a timestamp; returns what the TCP checksum owes for it. */
static __always_inline __u64 rewrite_timestamp(const struct packet *packet, __be32 *word, __u32 to)
{
	__be32 from = *word;
	bool odd = ((void *)word - (void *)packet->tcp) & 1;

	*word = bpf_htonl(to);
	return csum_change_at(from, *word, odd);
}

static __always_inline int send(struct xdp_md *ctx, __u32 ifindex)
{
	return ifindex == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(ifindex, 0);
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Turning a client's packet into the ICMP error that answers it, in the VIP's name. */
#pragma once

#include "answer.h"
#include "csum.h"
#include "frame.h"
#include "icmp_header.h"
#include "parse.h"
#include "stats.h"

/* How much may be quoted: the message has at most 576 bytes (RFC 1812, section 4.3.2.3), */
#define QUOTE_MAX4 (576 - sizeof(struct iphdr) - sizeof(struct icmp_header))
/* or the least MTU that all of IPv6 has (RFC 4443, section 2.4 c). */
#define QUOTE_MAX6 (1280 - sizeof(struct ipv6hdr) - sizeof(struct icmp_header))

/* The sum of so many bytes, a multiple of four, for csum_fold(). The verifier follows the loop once. */
__attribute__((noinline)) __u32 sum_of_quote(struct xdp_md *ctx, __u32 offset, __u32 bytes)
{
	const __u32 *word = (void *)(long)ctx->data + (offset & 127);
	void *end = (void *)(long)ctx->data_end;
	__u64 sum = 0;

	for (int i = 0; i < QUOTE_MAX6 / 4; i++, word++) {
		if (i * 4 >= bytes || (void *)(word + 1) > end)
			break;
		sum += *word;
	}
	return csum_fold((__u32)sum + (sum >> 32));
}

/*
 * `icmp`: the header of the error, without its checksum. `quoted`: how many bytes of the packet
 * follow it, if the packet has so many; rounded down to a multiple of four. VLAN tags stay as they
 * are: it goes back by the way that the packet came.
 */
static __always_inline int turn_into_error(struct xdp_md *ctx, const struct packet *packet, const int family,
					   struct icmp_header icmp, __u32 quoted, enum event event)
{
	const __u32 ip_bytes = family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	const __u32 before = ip_bytes + sizeof(icmp);
	__u32 offset = ethernet_length(packet), length = packet->end - (void *)packet->eth;
	__u64 of_addresses, sum = 0;
	void *data, *end, *head;
	__be16 *to, *from;

	if (quoted > ip_length(packet, family))
		quoted = ip_length(packet, family);
	quoted &= ~3U;
	if (offset > ETHERNET_MAX || bpf_xdp_adjust_tail(ctx, (int)(offset + quoted) - (int)length) ||
	    bpf_xdp_adjust_head(ctx, -(int)before))
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	head = data + offset;	/* the new IP header; behind it and that of ICMP is the client's */
	if (data + before + ETHERNET_MAX > end || head + before + ip_bytes > end)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);

	/* The Ethernet header, tags and all: what is copied too much is overwritten. */
	to = data;
	from = data + before;
	for (int i = ETH_ALEN; i < ETHERNET_MAX / 2; i++)
		to[i] = from[i];
	set_mac(data, data + before + ETH_ALEN);
	set_mac(data + ETH_ALEN, data + before);

	if (family == AF_INET) {
		const struct iphdr *ip = head + before;

		write_ipv4(head, ip->daddr, ip->saddr, IPPROTO_ICMP, sizeof(icmp) + quoted);
	} else {
		const struct ipv6hdr *ip = head + before;
		struct address source = *(struct address *)&ip->daddr, target = *(struct address *)&ip->saddr;

		of_addresses = write_ipv6(head, &source, &target, IPPROTO_ICMPV6, sizeof(icmp) + quoted);
		sum = csum_fold(of_addresses + bpf_htonl(IPPROTO_ICMPV6) + bpf_htonl(sizeof(icmp) + quoted));
	}
	sum += sum_of_quote(ctx, offset + before, quoted);
	icmp.checksum = ~csum_fold(sum + csum_words(&icmp, sizeof(icmp) / 4));
	*(struct icmp_header *)(head + ip_bytes) = icmp;
	return with_event(event, XDP_TX);
}

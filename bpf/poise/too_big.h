/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Telling a client that its packet is too big for the way to the server, in the VIP's name. */
#pragma once

#include "answer.h"
#include "budget.h"
#include "csum.h"
#include "frame.h"
#include "icmp_header.h"
#include "parse.h"
#include "stats.h"

/* How much is quoted: the message has at most 576 bytes (RFC 1812, section 4.3.2.3), */
#define QUOTE_MAX4 (576 - sizeof(struct iphdr) - sizeof(struct icmp_header))
/* or the least MTU that all of IPv6 has (RFC 4443, section 2.4 c). */
#define QUOTE_MAX6 (1280 - sizeof(struct ipv6hdr) - sizeof(struct icmp_header))

/* The sum of so many bytes, a multiple of four, after the ICMP header. The verifier follows the loop once. */
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
 * RFC 1191, section 4, and RFC 4443, section 3.2. VLAN tags stay as they are: it goes back by the
 * way that the packet came.
 */
static __always_inline int turn_into_too_big(struct xdp_md *ctx, const struct packet *packet, const int family,
					     __u32 mtu)
{
	const __u32 ip_bytes = family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	const __u32 before = ip_bytes + sizeof(struct icmp_header);
	const __u32 most = family == AF_INET ? QUOTE_MAX4 : QUOTE_MAX6;
	__u32 offset = ethernet_length(packet), length = packet->end - (void *)packet->eth;
	__u32 quoted = ip_length(packet, family);
	struct icmp_header icmp = {};
	__u64 of_addresses, sum;
	__be16 *to, *from;
	void *data, *end, *head;

	if (quoted > most)
		quoted = most;
	quoted &= ~3U;
	if (!spend(BUDGET_TOO_BIG, TOO_BIG_PER_SECOND))
		return with_event(EVENT_DROP_TOO_BIG_LIMIT, XDP_DROP);
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

		icmp.type = ICMP_UNREACHABLE;
		icmp.code = ICMP_FRAGMENTATION_NEEDED;
		write_ipv4(head, ip->daddr, ip->saddr, IPPROTO_ICMP, sizeof(icmp) + quoted);
		sum = 0;
	} else {
		const struct ipv6hdr *ip = head + before;
		struct address source = *(struct address *)&ip->daddr, target = *(struct address *)&ip->saddr;

		icmp.type = ICMPV6_TOO_BIG;
		of_addresses = write_ipv6(head, &source, &target, IPPROTO_ICMPV6, sizeof(icmp) + quoted);
		sum = csum_fold(of_addresses + bpf_htonl(IPPROTO_ICMPV6) + bpf_htonl(sizeof(icmp) + quoted));
	}
	icmp.word = bpf_htonl(mtu);	/* of ICMP in the lower half */
	sum += sum_of_quote(ctx, offset + before, quoted);
	icmp.checksum = ~csum_fold(sum + csum_words(&icmp, sizeof(icmp) / 4));
	*(struct icmp_header *)(head + ip_bytes) = icmp;
	return with_event(EVENT_TOO_BIG_ANSWERED, XDP_TX);
}

/* Functions of their own, because this is rare and their stack should not be the callers'. */
__attribute__((noinline)) int too_big_ipv4(struct xdp_md *ctx, __u32 offset, __u32 mtu)
{
	struct packet packet;

	if (parse_xdp(&packet, ctx, AF_INET, offset & 31) != PARSED)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	if (!(packet.ip->frag_off & bpf_htons(IP_DONT_FRAGMENT)))
		return with_event(EVENT_DROP_TOO_BIG, XDP_DROP);
	return turn_into_too_big(ctx, &packet, AF_INET, mtu);
}

__attribute__((noinline)) int too_big_ipv6(struct xdp_md *ctx, __u32 offset, __u32 mtu)
{
	struct packet packet;

	if (parse_xdp(&packet, ctx, AF_INET6, offset & 31) != PARSED)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	return turn_into_too_big(ctx, &packet, AF_INET6, mtu);
}

/* What becomes of a client's packet, still as it came, that is too big for the way to its server. */
static __always_inline int reply_too_big(struct xdp_md *ctx, const struct packet *packet, const int family, __u32 mtu)
{
	if (family == AF_INET)
		return too_big_ipv4(ctx, ethernet_length(packet), mtu);
	return too_big_ipv6(ctx, ethernet_length(packet), mtu);
}

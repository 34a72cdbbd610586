/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Turning a client's segment into the ICMP error that answers it: port unreachable, on which a
 * client gives up at once (RFC 1122, section 4.2.3.9). It is for those who do not believe a reset.
 */
#pragma once

#include "csum.h"
#include "frame.h"
#include "parse.h"
#include "reset.h"
#include "stats.h"

/* Destination unreachable, port unreachable: RFC 792, and RFC 4443, section 3.1. */
#define ICMP_UNREACHABLE 3
#define ICMP_PORT 3
#define ICMP6_UNREACHABLE 1
#define ICMP6_PORT 4
#define ETHERNET_WORDS (ETHERNET_MAX / 2)
#define QUOTE_MAX (sizeof(struct ipv6hdr) + EXTENSION_BYTES + 60)

struct icmp_header {	/* linux/icmp.h needs a C library */
	__u8 type;
	__u8 code;
	__sum16 check;
	__u32 unused;
};

/* In front of what is quoted. */
struct unreachable4 {
	struct iphdr ip;
	struct icmp_header icmp;
};

struct unreachable6 {
	struct ipv6hdr ip;
	struct icmp_header icmp;
};

/* The sum of a packet's 32-bit words from `offset` to its end, for csum_fold(). A function of its own: it loops. */
__attribute__((noinline)) __u32 sum_from(struct xdp_md *ctx, __u32 offset)
{
	void *end = (void *)(long)ctx->data_end;
	__u32 at = offset & 127;
	__u64 sum = 0;

	for (__u32 i = 0; i < (sizeof(struct unreachable6) + QUOTE_MAX) / 4; i++) {
		__u32 *word = (void *)(long)ctx->data + at;

		if ((void *)(word + 1) > end)
			break;
		sum += *word;
		at += sizeof(*word);
		barrier_var(at);	/* no pointer that the verifier would lose sight of */
	}
	return csum_fold((sum & 0xffffffff) + (sum >> 32));
}

/*
 * Quotes the IP and TCP headers whole, and no payload; that is a multiple of 4 bytes. VLAN tags stay
 * as they are. A reset is never answered.
 */
static __always_inline int turn_into_unreachable(struct xdp_md *ctx, const struct packet *packet, const int family,
						 enum event event)
{
	const __u32 added = family == AF_INET ? sizeof(struct unreachable4) : sizeof(struct unreachable6);
	__u32 quote = packet->transport - (void *)packet->ip + packet->tcp->doff * 4;
	__u32 length = packet->end - (void *)packet->eth;
	__u32 offset = ethernet_length(packet);
	__be16 ethernet[ETHERNET_WORDS] = {};
	struct address source, target;
	void *data, *end;

	if (packet->tcp->rst)
		return with_event(event, XDP_DROP);
	/* An IP header follows, so that what is read and written here may go beyond the Ethernet header. */
	if (offset > ETHERNET_MAX || (void *)packet->eth + ETHERNET_MAX > packet->end)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	set_mac((void *)ethernet, packet->eth->h_source);
	set_mac((void *)(ethernet + 3), packet->eth->h_dest);
	for (__u32 i = 6; i < ETHERNET_WORDS; i++)
		ethernet[i] = ((__be16 *)packet->eth)[i];
	if (family == AF_INET) {
		source.word[0] = packet->ip->daddr;
		target.word[0] = packet->ip->saddr;
	} else {
		source = *(struct address *)&packet->ip6->daddr;
		target = *(struct address *)&packet->ip6->saddr;
	}
	if (bpf_xdp_adjust_tail(ctx, (int)(offset + quote) - (int)length) || bpf_xdp_adjust_head(ctx, -(int)added))
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);

	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + ETHERNET_MAX > end || data + offset + added > end)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	for (__u32 i = 0; i < ETHERNET_WORDS; i++)
		((__be16 *)data)[i] = ethernet[i];
	if (family == AF_INET) {
		struct unreachable4 *front = data + offset;

		front->icmp = (struct icmp_header){ .type = ICMP_UNREACHABLE, .code = ICMP_PORT };
		write_ipv4(&front->ip, source.word[0], target.word[0], IPPROTO_ICMP, sizeof(front->icmp) + quote);
		front->icmp.check = ~csum_fold(sum_from(ctx, offset + sizeof(front->ip)));
	} else {
		struct unreachable6 *front = data + offset;
		__u64 of_addresses;

		front->icmp = (struct icmp_header){ .type = ICMP6_UNREACHABLE, .code = ICMP6_PORT };
		of_addresses = write_ipv6(&front->ip, &source, &target, IPPROTO_ICMPV6, sizeof(front->icmp) + quote);
		front->icmp.check = ~csum_fold(of_addresses + sum_from(ctx, offset + sizeof(front->ip)) +
					       bpf_htonl(IPPROTO_ICMPV6) + bpf_htonl(sizeof(front->icmp) + quote));
	}
	return with_event(event, XDP_TX);
}

/* Functions of their own, as those of resets. */
__attribute__((noinline)) int unreachable_ipv4(struct xdp_md *ctx, __u32 offset, enum event event)
{
	struct packet packet;

	if (parse_xdp(&packet, ctx, AF_INET, offset & 31) != PARSED || packet.protocol != IPPROTO_TCP)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	return turn_into_unreachable(ctx, &packet, AF_INET, event);
}

__attribute__((noinline)) int unreachable_ipv6(struct xdp_md *ctx, __u32 offset, enum event event)
{
	struct packet packet;

	if (parse_xdp(&packet, ctx, AF_INET6, offset & 31) != PARSED || packet.protocol != IPPROTO_TCP)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	return turn_into_unreachable(ctx, &packet, AF_INET6, event);
}

static __always_inline int reply_unreachable(struct xdp_md *ctx, const struct packet *packet, const int family,
					     enum event event)
{
	if (family == AF_INET)
		return unreachable_ipv4(ctx, ethernet_length(packet), event);
	return unreachable_ipv6(ctx, ethernet_length(packet), event);
}

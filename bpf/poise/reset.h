/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Turning a client's packet into the reset that answers it. */
#pragma once

#include "answer.h"
#include "csum.h"
#include "frame.h"
#include "parse.h"
#include "stats.h"

/*
 * RFC 9293, section 3.10.7.1: with ACK, the reset takes its sequence number from it; without,
 * it acknowledges the segment. A reset is never answered. VLAN tags stay as they are.
 */
static __always_inline int turn_into_reset(struct xdp_md *ctx, const struct packet *packet, const int family,
					   enum event event)
{
	const __u32 ip_bytes = family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	__u32 before = packet->transport - (void *)packet->ip;
	__u32 payload = ip_length(packet, family) - before - packet->tcp->doff * 4;
	__u32 length = packet->end - (void *)packet->eth;
	__u32 offset = ethernet_length(packet);
	struct tcphdr segment = *packet->tcp;
	struct address source, target;
	struct tcphdr tcp = {};
	__u8 macs[2 * ETH_ALEN];
	__u64 of_addresses;
	void *data, *end;

	if (segment.rst)
		return with_event(event, XDP_DROP);
	set_mac(macs, packet->eth->h_source);
	set_mac(macs + ETH_ALEN, packet->eth->h_dest);
	if (family == AF_INET) {
		source.word[0] = packet->ip->daddr;
		target.word[0] = packet->ip->saddr;
	} else {
		source = *(struct address *)&packet->ip6->daddr;
		target = *(struct address *)&packet->ip6->saddr;
	}
	if (offset > ETHERNET_MAX || bpf_xdp_adjust_tail(ctx, (int)(offset + ip_bytes + sizeof(tcp)) - (int)length))
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + sizeof(struct ethhdr) > end || data + offset + ip_bytes + sizeof(tcp) > end)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);

	set_macs(data, macs);
	if (family == AF_INET)
		of_addresses = write_ipv4(data + offset, source.word[0], target.word[0], IPPROTO_TCP, sizeof(tcp));
	else
		of_addresses = write_ipv6(data + offset, &source, &target, IPPROTO_TCP, sizeof(tcp));

	tcp.source = segment.dest;
	tcp.dest = segment.source;
	tcp.doff = sizeof(tcp) / 4;
	tcp.rst = 1;
	if (segment.ack) {
		tcp.seq = segment.ack_seq;
	} else {
		tcp.ack = 1;
		tcp.ack_seq = bpf_htonl(bpf_ntohl(segment.seq) + payload + segment.syn + segment.fin);
	}
	tcp.check = ~csum_fold(csum_words(&tcp, sizeof(tcp) / 4) + of_addresses +
			       bpf_htonl(IPPROTO_TCP << 16 | sizeof(tcp)));
	*(struct tcphdr *)(data + offset + ip_bytes) = tcp;
	return with_event(event, XDP_TX);
}

/* Functions of their own, because resets are rare and their stack should not be the callers'. */
__attribute__((noinline)) int reset_ipv4(struct xdp_md *ctx, __u32 offset, enum event event)
{
	struct packet packet;

	if (parse_xdp(&packet, ctx, AF_INET, offset & 31) != PARSED ||
	    packet.protocol != IPPROTO_TCP)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	return turn_into_reset(ctx, &packet, AF_INET, event);
}

__attribute__((noinline)) int reset_ipv6(struct xdp_md *ctx, __u32 offset, enum event event)
{
	struct packet packet;

	if (parse_xdp(&packet, ctx, AF_INET6, offset & 31) != PARSED ||
	    packet.protocol != IPPROTO_TCP)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	return turn_into_reset(ctx, &packet, AF_INET6, event);
}

static __always_inline int reply_reset(struct xdp_md *ctx, const struct packet *packet, const int family,
				       enum event event)
{
	if (family == AF_INET)
		return reset_ipv4(ctx, ethernet_length(packet), event);
	return reset_ipv6(ctx, ethernet_length(packet), event);
}

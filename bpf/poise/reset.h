/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Turning a client's packet into the reset that answers it. */
#pragma once

#include "csum.h"
#include "forward.h"
#include "parse.h"
#include "stats.h"

#define RESET_TTL 64
#define RESET_LENGTH (sizeof(struct iphdr) + sizeof(struct tcphdr))

static __always_inline __u64 sum_words(const void *from, __u32 words)
{
	const __u32 *word = from;
	__u64 sum = 0;

	for (__u32 i = 0; i < words; i++)
		sum += word[i];
	return sum;
}

/*
 * RFC 9293, section 3.10.7.1: with ACK, the reset takes its sequence number from it; without,
 * it acknowledges the segment. A reset is never answered.
 */
static __always_inline int reply_reset(struct xdp_md *ctx, const struct packet *packet, enum event event)
{
	__u32 length = packet->end - (void *)packet->eth;
	__u32 payload = bpf_ntohs(packet->ip->tot_len) - packet->ip->ihl * 4 - packet->tcp->doff * 4;
	struct tcphdr segment = *packet->tcp;
	struct ethhdr eth_in = *packet->eth;
	struct iphdr ip_in = *packet->ip;
	struct tcphdr tcp = {};
	struct iphdr ip = {};
	struct ethhdr *eth;
	void *data, *end;

	if (segment.rst)
		return with_event(event, XDP_DROP);
	if (bpf_xdp_adjust_tail(ctx, (int)(sizeof(*eth) + RESET_LENGTH) - (int)length))
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + sizeof(*eth) + RESET_LENGTH > end)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);

	ip.version = 4;
	ip.ihl = sizeof(ip) / 4;
	ip.tot_len = bpf_htons(RESET_LENGTH);
	ip.frag_off = bpf_htons(IP_DONT_FRAGMENT);
	ip.ttl = RESET_TTL;
	ip.protocol = IPPROTO_TCP;
	ip.saddr = ip_in.daddr;
	ip.daddr = ip_in.saddr;
	ip.check = ~csum_fold(sum_words(&ip, sizeof(ip) / 4));

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
	tcp.check = ~csum_fold(sum_words(&tcp, sizeof(tcp) / 4) + sum_words(&ip.saddr, 2) +
			       bpf_htonl(IPPROTO_TCP << 16 | sizeof(tcp)));

	eth = data;
	set_mac(eth->h_dest, eth_in.h_source);
	set_mac(eth->h_source, eth_in.h_dest);
	*(struct iphdr *)(data + sizeof(*eth)) = ip;
	*(struct tcphdr *)(data + sizeof(*eth) + sizeof(ip)) = tcp;
	return with_event(event, XDP_TX);
}

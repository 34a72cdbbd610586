/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From bytes to headers. Whether a packet concerns us is decided elsewhere. */
#pragma once

#include <stdbool.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include "contract.h"

#define IP_MORE_FRAGMENTS 0x2000
#define IP_DONT_FRAGMENT 0x4000
#define IP_OFFSET 0x1fff

#define TCP_OPTION_END 0
#define TCP_OPTION_NOP 1
#define TCP_OPTION_TIMESTAMP 8
#define TCP_TIMESTAMP_LENGTH 10
#define TCP_HEADER_MAX 60
#define IP_HEADER_MAX 60

struct packet {
	struct ethhdr *eth;
	struct iphdr *ip;
	struct tcphdr *tcp;
	void *end;
};

/* RFC 7323, section 3.2: kind, length, TSval, TSecr; it may stand at any byte. */
struct timestamp {
	__be32 tsval;
	__be32 tsecr;
};

enum parsed {
	PARSED,
	PARSED_NOT_IPV4,
	PARSED_NOT_TCP,
	PARSED_LATER_FRAGMENT,
	PARSED_TRUNCATED,
};

static __always_inline __be16 ether_type(const struct ethhdr *eth)
{
	return ((const __be16 *)eth)[6];	/* struct ethhdr is packed: by name, it would be read byte by byte */
}

/* Finds the headers up to the TCP ports. */
static __always_inline enum parsed parse(struct packet *packet, void *data, void *end)
{
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct tcphdr *tcp;
	__u32 ip_length;

	if ((void *)(eth + 1) > end || ether_type(eth) != bpf_htons(ETH_P_IP))
		return PARSED_NOT_IPV4;
	if ((void *)(ip + 1) > end)
		return PARSED_TRUNCATED;
	if (ip->protocol != IPPROTO_TCP)
		return PARSED_NOT_TCP;
	if (ip->frag_off & bpf_htons(IP_OFFSET))
		return PARSED_LATER_FRAGMENT;
	ip_length = (*(__u8 *)ip & 0x0f) * 4;
	tcp = (void *)ip + ip_length;
	if (ip_length < sizeof(*ip) || (void *)(tcp + 1) > end)
		return PARSED_TRUNCATED;

	packet->eth = eth;
	packet->ip = ip;
	packet->tcp = tcp;
	packet->end = end;
	return PARSED;
}

/* The bytes of the TCP header and its options; 0 if they do not fit the packet. */
static __always_inline __u32 tcp_header_length(const struct packet *packet)
{
	__u32 before = (void *)packet->tcp - (void *)packet->ip;
	__u32 length = packet->tcp->doff * 4;
	__u32 total = bpf_ntohs(packet->ip->tot_len);

	if (length < sizeof(struct tcphdr) || before + length > total ||
	    (void *)packet->ip + total > packet->end)
		return 0;
	return length;
}

/*
 * Where in the TCP header the timestamps stand, or 0. Reading stops at the first option that
 * cannot be, as tcp_parse_options() of Linux does, so that both ends see the options as we do.
 *
 * A function of its own, not inlined: the verifier then follows the loop once, instead of
 * once for everything that comes after it.
 */
__attribute__((noinline)) __u32 search_timestamp(struct xdp_md *ctx, __u32 tcp_offset, __u32 header_length)
{
	void *end = (void *)(long)ctx->data_end;
	__u32 at = sizeof(struct tcphdr);

	if (tcp_offset > sizeof(struct ethhdr) + IP_HEADER_MAX || header_length > TCP_HEADER_MAX)
		return 0;
	for (int i = 0; i < TCP_HEADER_MAX; i++) {
		__u8 *option = (void *)(long)ctx->data + tcp_offset + at;

		if (at + 2 > header_length || (void *)(option + 2) > end || option[0] == TCP_OPTION_END)
			return 0;
		if (option[0] == TCP_OPTION_NOP) {
			at++;
			continue;
		}
		if (option[1] < 2 || at + option[1] > header_length)
			return 0;
		if (option[0] == TCP_OPTION_TIMESTAMP && option[1] == TCP_TIMESTAMP_LENGTH)
			return at + 2;
		at += option[1];
	}
	return 0;
}

/* The timestamps of a segment, or NULL. */
static __always_inline struct timestamp *find_timestamp(struct xdp_md *ctx, const struct packet *packet,
							__u32 header_length)
{
	__u32 *options = (__u32 *)(packet->tcp + 1);
	__u32 at = sizeof(struct tcphdr) + sizeof(*options);
	struct timestamp *found;

	/* What every stack sends once a connection is established: NOP, NOP, timestamp. */
	if (header_length < sizeof(struct tcphdr) + 12 || (void *)(options + 1) > packet->end ||
	    *options != bpf_htonl(0x0101080a))
		at = search_timestamp(ctx, (void *)packet->tcp - (void *)packet->eth, header_length);
	if (!at)
		return NULL;
	found = (void *)packet->tcp + (at & 63);	/* the mask tells the verifier the bound */
	return (void *)(found + 1) <= packet->end ? found : NULL;
}

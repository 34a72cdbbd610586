/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From bytes to headers. Whether a packet concerns us is decided elsewhere. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include "contract.h"

#define AF_INET 2
#define AF_INET6 10

#define IP_MORE_FRAGMENTS 0x2000
#define IP_DONT_FRAGMENT 0x4000
#define IP_OFFSET 0x1fff
#define IP_HEADER_MAX 60

#define VLAN_TAG 4	/* bytes: IEEE 802.1Q, the type of the tag and its value */
#define ETHERNET_MAX (sizeof(struct ethhdr) + MAX_TAGS * VLAN_TAG)

/*
 * What a walk through extension headers finds. Their lengths are multiples of 8 (RFC 8200, section 4),
 * so that in units of 8 bytes from the IPv6 header a place needs few bits.
 */
#define FOUND_TRANSPORT 0x3f
#define FOUND_FRAGMENT_SHIFT 8		/* the fragment header; 0: there is none */
#define FOUND_PROTOCOL_SHIFT 16
#define FOUND_MORE_FRAGMENTS (1 << 24)
#define FOUND_LATER_FRAGMENT (1 << 25)
#define FOUND_TRUNCATED (1 << 26)
#define FOUND_TOO_LONG (1 << 27)

#define EXTENSION_HEADERS 8
#define EXTENSION_BYTES 256
#define IP6_OFFSET 0xfff8
#define IP6_MORE_FRAGMENTS 0x0001
#define TRANSPORT_MAX (ETHERNET_MAX + sizeof(struct ipv6hdr) + EXTENSION_BYTES)

struct packet {
	struct ethhdr *eth;
	union {
		struct iphdr *ip;
		struct ipv6hdr *ip6;
	};
	union {
		void *transport;
		struct tcphdr *tcp;
		struct udphdr *udp;
	};
	void *end;
	struct fragment_header *fragment;	/* of IPv6; may be beyond the end */
	__u8 protocol;
	bool more_fragments;
};

/* Whose memory a packet is in; the kernel translates what reads it differently. */
enum hook {
	IN_XDP,
	IN_TC,
};

enum parsed {
	PARSED,
	PARSED_OTHER_PROTOCOL,
	PARSED_LATER_FRAGMENT,
	PARSED_TRUNCATED,
	PARSED_TOO_LONG,
};

struct fragment_header {	/* RFC 8200, section 4.5 */
	__u8 next;
	__u8 length;		/* reserved here; of others: units of 8 bytes after the first 8 */
	__be16 offset;		/* in its upper 13 bits; the lowest one says that more follow */
	__be32 identification;
};

/* Member 6 of its half words, because struct ethhdr is packed and by name would be read byte by byte. */
static __always_inline __be16 ether_type(const struct ethhdr *eth)
{
	return ((const __be16 *)eth)[6];
}

static __always_inline bool is_vlan(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

/* Of both addresses: what answers a frame goes to its source. */
static __always_inline bool is_unicast(const struct ethhdr *eth)
{
	return !((eth->h_dest[0] | eth->h_source[0]) & 1);
}

/* Bytes of the Ethernet header with its VLAN tags. */
static __always_inline __u32 ethernet_length(const struct packet *packet)
{
	return (void *)packet->ip - (void *)packet->eth;
}

static __always_inline __u32 transport_offset(const struct packet *packet)
{
	return packet->transport - (void *)packet->eth;
}

static __always_inline __u32 walk_extensions(void *ip, void *end)
{
	__u32 at = sizeof(struct ipv6hdr), flags = 0;
	__u8 protocol;

	if (ip + at > end)
		return FOUND_TRUNCATED;
	protocol = ((struct ipv6hdr *)ip)->nexthdr;
	for (int i = 0; i < EXTENSION_HEADERS; i++) {
		struct fragment_header *header = ip + at;
		__u32 length = sizeof(*header);

		if (protocol != IPPROTO_HOPOPTS && protocol != IPPROTO_ROUTING && protocol != IPPROTO_DSTOPTS &&
		    protocol != IPPROTO_FRAGMENT)
			return flags | protocol << FOUND_PROTOCOL_SHIFT | at / 8;
		if ((void *)(header + 1) > end)
			return FOUND_TRUNCATED;
		if (protocol == IPPROTO_FRAGMENT) {
			flags = at / 8 << FOUND_FRAGMENT_SHIFT;
			if (header->offset & bpf_htons(IP6_OFFSET))
				return flags | FOUND_LATER_FRAGMENT;
			if (header->offset & bpf_htons(IP6_MORE_FRAGMENTS))
				flags |= FOUND_MORE_FRAGMENTS;
		} else {
			length *= header->length + 1;
		}
		protocol = header->next;
		at += length;
		if (at > sizeof(struct ipv6hdr) + EXTENSION_BYTES)
			return FOUND_TOO_LONG;
	}
	return FOUND_TOO_LONG;
}

/* Functions of their own, so that the verifier follows the loop once. The mask tells it the bound. */
__attribute__((noinline)) __u32 search_transport(struct xdp_md *ctx, __u32 offset)
{
	return walk_extensions((void *)(long)ctx->data + (offset & 511), (void *)(long)ctx->data_end);
}

__attribute__((noinline)) __u32 search_transport_tc(struct __sk_buff *skb, __u32 offset)
{
	return walk_extensions((void *)(long)skb->data + (offset & 511), (void *)(long)skb->data_end);
}

static __always_inline enum parsed parse_ipv4(struct packet *packet)
{
	struct iphdr *ip = packet->ip;
	__u8 version_and_length;
	__u32 length;

	if ((void *)(ip + 1) > packet->end)
		return PARSED_TRUNCATED;
	version_and_length = *(__u8 *)ip;
	length = (version_and_length & 0x0f) * 4;
	if (version_and_length >> 4 != 4 || length < sizeof(*ip))
		return PARSED_TRUNCATED;
	packet->protocol = ip->protocol;
	packet->transport = (void *)ip + length;
	packet->more_fragments = ip->frag_off & bpf_htons(IP_MORE_FRAGMENTS);
	if (ip->frag_off & bpf_htons(IP_OFFSET))
		return PARSED_LATER_FRAGMENT;
	return PARSED;
}

static __always_inline enum parsed parse_ipv6(struct packet *packet, void *ctx, const enum hook hook)
{
	struct ipv6hdr *ip = packet->ip6;
	__u32 found;

	packet->fragment = NULL;
	packet->more_fragments = false;
	if ((void *)(ip + 1) > packet->end || *(__u8 *)ip >> 4 != 6)
		return PARSED_TRUNCATED;
	packet->protocol = ip->nexthdr;
	packet->transport = ip + 1;
	if (packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP)
		return PARSED;

	found = hook == IN_XDP ? search_transport(ctx, ethernet_length(packet)) :
				 search_transport_tc(ctx, ethernet_length(packet));
	if (found & FOUND_TRUNCATED)
		return PARSED_TRUNCATED;
	if (found & FOUND_TOO_LONG)
		return PARSED_TOO_LONG;
	packet->protocol = found >> FOUND_PROTOCOL_SHIFT;
	packet->transport = (void *)ip + (found & FOUND_TRANSPORT) * 8;
	if (found >> FOUND_FRAGMENT_SHIFT & FOUND_TRANSPORT)
		packet->fragment = (void *)ip + (found >> FOUND_FRAGMENT_SHIFT & FOUND_TRANSPORT) * 8;
	packet->more_fragments = found & FOUND_MORE_FRAGMENTS;
	return found & FOUND_LATER_FRAGMENT ? PARSED_LATER_FRAGMENT : PARSED;
}

/*
 * Finds the headers of a packet whose IP header starts at `offset`, up to its ports. `ctx`: the
 * context of the program, whose data and end these are.
 */
static __always_inline enum parsed parse(struct packet *packet, void *ctx, const enum hook hook, void *data, void *end,
					 const int family, __u32 offset)
{
	enum parsed parsed;

	packet->eth = data;
	packet->end = end;
	packet->ip = data + offset;
	if ((void *)(packet->eth + 1) > end)
		return PARSED_TRUNCATED;
	parsed = family == AF_INET ? parse_ipv4(packet) : parse_ipv6(packet, ctx, hook);
	if (parsed != PARSED)
		return parsed;
	if (packet->protocol == IPPROTO_TCP)
		return (void *)(packet->tcp + 1) > end ? PARSED_TRUNCATED : PARSED;
	if (packet->protocol == IPPROTO_UDP)
		return (void *)(packet->udp + 1) > end ? PARSED_TRUNCATED : PARSED;
	return PARSED_OTHER_PROTOCOL;
}

static __always_inline enum parsed parse_xdp(struct packet *packet, struct xdp_md *ctx, const int family, __u32 offset)
{
	return parse(packet, ctx, IN_XDP, (void *)(long)ctx->data, (void *)(long)ctx->data_end, family, offset);
}

/* Bytes of the whole packet from its IP header on, as that states them. */
static __always_inline __u32 ip_length(const struct packet *packet, const int family)
{
	return family == AF_INET ? bpf_ntohs(packet->ip->tot_len) :
				   bpf_ntohs(packet->ip6->payload_len) + sizeof(struct ipv6hdr);
}

static __always_inline __u8 hop_limit(const struct packet *packet, const int family)
{
	return family == AF_INET ? packet->ip->ttl : packet->ip6->hop_limit;
}

/* The bytes of the TCP header and its options; 0 if they do not fit the packet. */
static __always_inline __u32 tcp_header_length(const struct packet *packet, const int family)
{
	__u32 before = packet->transport - (void *)packet->ip;
	__u32 length = packet->tcp->doff * 4;
	__u32 total = ip_length(packet, family);

	if (length < sizeof(struct tcphdr) || before + length > total ||
	    (void *)packet->ip + total > packet->end)
		return 0;
	return length;
}

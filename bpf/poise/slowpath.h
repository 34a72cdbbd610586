/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What XDP cannot do alone: wait for a neighbour to be resolved, and send one packet to
 * several servers. XDP marks such a packet with a secret Ethernet source address and passes
 * it up; the program on the interface's TC ingress finishes it before the kernel's IP layer
 * sees it. Without the secret anybody could have packets sent in a VIP's name.
 */
#pragma once

#include <linux/pkt_cls.h>
#include "budget.h"
#include "frame.h"
#include "icmp_quote.h"
#include "parse.h"
#include "rewrite.h"
#include "stats.h"
#include "tables.h"

static __always_inline int to_slow_path(struct packet *packet, enum event event)
{
	const struct settings *settings = get_settings();

	if (!settings)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	set_mac(packet->eth->h_source, settings->token);
	return with_event(event, XDP_PASS);
}

static __always_inline bool has_token(const struct ethhdr *eth, const struct settings *settings)
{
	const __u16 *source = (const __u16 *)eth->h_source;
	const __u16 *token = (const __u16 *)settings->token;

	return source[0] == token[0] && source[1] == token[1] && source[2] == token[2];
}

static __always_inline enum parsed parse_skb(struct packet *packet, struct __sk_buff *skb, const int family)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;

	return parse(packet, skb, IN_TC, data, end, family, sizeof(struct ethhdr));
}

/* An ICMP error and what it quotes. */
static __always_inline bool parse_error(struct packet *error, struct packet *quote, struct __sk_buff *skb,
					const int family)
{
	return parse_skb(error, skb, family) == PARSED_OTHER_PROTOCOL && is_icmp(error, family) &&
	       error->transport + sizeof(struct icmp_header) <= error->end &&
	       parse_quote(quote, error, skb, IN_TC, family) == QUOTED;
}

/*
 * A packet to a client that is complete but for its Ethernet header: the kernel resolves the
 * neighbour. The ports are those by which it is routed.
 */
static __always_inline int send_through_neighbour(struct __sk_buff *skb, const struct packet *packet, const int family,
						  __be16 source, __be16 target)
{
	struct bpf_redir_neigh hop = { .nh_family = family };
	struct bpf_fib_lookup route = {
		.family = family,
		.l4_protocol = packet->protocol,
		.sport = source,
		.dport = target,
		.ifindex = skb->ifindex,
	};
	long result;

	if (family == AF_INET) {
		route.ipv4_src = packet->ip->saddr;
		route.ipv4_dst = packet->ip->daddr;
	} else {
		*(struct address *)route.ipv6_src = *(struct address *)&packet->ip6->saddr;
		*(struct address *)route.ipv6_dst = *(struct address *)&packet->ip6->daddr;
	}
	result = bpf_fib_lookup(skb, &route, sizeof(route), 0);
	if (result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH)
		return with_event(EVENT_DROP_NO_NEIGHBOUR, TC_ACT_SHOT);
	if (family == AF_INET)
		hop.ipv4_nh = route.ipv4_dst;
	else
		*(struct address *)hop.ipv6_nh = *(struct address *)route.ipv6_dst;
	return bpf_redirect_neigh(route.ifindex, &hop, sizeof(hop), 0);
}

/* Sends a copy of the packet, as it is now but for its Ethernet header, to a server. */
static __always_inline int clone_to(struct __sk_buff *skb, const struct packet *packet, const struct server *server)
{
	long result;

	set_macs(packet->eth, server->hop_mac);
	if (server->tags == MAX_TAGS)
		bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), bpf_ntohs(server->tag[1]));
	if (server->tags)
		bpf_skb_vlan_push(skb, server->tags == MAX_TAGS ? bpf_htons(ETH_P_8021AD) : bpf_htons(ETH_P_8021Q),
				  bpf_ntohs(server->tag[0]));
	result = bpf_clone_redirect(skb, server->ifindex, 0);
	if (server->tags)
		bpf_skb_vlan_pop(skb);
	if (server->tags == MAX_TAGS)
		bpf_skb_vlan_pop(skb);
	return result ? with_event(EVENT_DROP_INTERNAL, 0) : 0;
}

/*
 * Sends a copy of a reset to the server of that row. Reads the headers anew, since a copy undoes
 * what is known of them.
 */
static __always_inline int copy_to(struct __sk_buff *skb, const int family, __u32 row)
{
	struct server *server = bpf_map_lookup_elem(&servers, &row);
	struct packet packet;
	const void *address;

	if (!server || !server->ifindex)
		return 0;
	if (!spend(BUDGET_RESET_COPIES, RESET_COPIES_PER_SECOND))
		return with_event(EVENT_DROP_RESET_LIMIT, 0);
	address = server_address(server, row, family);
	if (!address || bpf_skb_pull_data(skb, 0) || parse_skb(&packet, skb, family) != PARSED ||
	    packet.protocol != IPPROTO_TCP)
		return with_event(EVENT_DROP_INTERNAL, 0);

	unage(&packet, family);	/* all copies have the same age */
	rewrite_end(&packet, family, IPPROTO_TCP, TARGET, address, server->port, 0);
	return clone_to(skb, &packet, server);
}

/* The same of an ICMP error. */
static __always_inline int copy_error_to(struct __sk_buff *skb, const int family, __u32 row)
{
	struct server *server = bpf_map_lookup_elem(&servers, &row);
	struct packet error, quote;
	const void *address;

	if (!server || !server->ifindex)
		return 0;
	if (!spend(BUDGET_ICMP_COPIES, ICMP_COPIES_PER_SECOND))
		return with_event(EVENT_DROP_ICMP_LIMIT, 0);
	address = server_address(server, row, family);
	if (!address || bpf_skb_pull_data(skb, 0) || !parse_error(&error, &quote, skb, family))
		return with_event(EVENT_DROP_INTERNAL, 0);

	unage(&error, family);
	rewrite_error(&error, &quote, family, SOURCE, true, address, server->port);
	return clone_to(skb, &error, server);
}

/* Functions of their own, so that the verifier follows each once. */
__attribute__((noinline)) int send_copy(struct __sk_buff *skb, __u32 row)
{
	return copy_to(skb, AF_INET, row);
}

__attribute__((noinline)) int send_copy6(struct __sk_buff *skb, __u32 row)
{
	return copy_to(skb, AF_INET6, row);
}

__attribute__((noinline)) int send_error_copy(struct __sk_buff *skb, __u32 row)
{
	return copy_error_to(skb, AF_INET, row);
}

__attribute__((noinline)) int send_error_copy6(struct __sk_buff *skb, __u32 row)
{
	return copy_error_to(skb, AF_INET6, row);
}

/*
 * A reset without timestamp, of a connection that the handshake table has forgotten, goes to
 * every server of the VIP; those that do not know the connection ignore it.
 */
static __always_inline int send_to_all(struct __sk_buff *skb, const struct packet *packet, const struct vip *vip,
				       const int family)
{
	__u32 first = server_row(vip->index, 0);
	__u64 change = age(packet, family);

	if (family == AF_INET)
		csum_apply(&packet->ip->check, change);
	for (__u32 id = 0; id < SERVER_IDS; id++) {
		if (family == AF_INET)
			send_copy(skb, first + id);
		else
			send_copy6(skb, first + id);
	}
	return TC_ACT_SHOT;
}

/*
 * An ICMP error of which it is not known which server of the VIP sent the packet that it quotes;
 * servers that did not ignore it.
 */
static __always_inline int send_error_to_all(struct __sk_buff *skb, const struct packet *error, const struct vip *vip,
					     const int family)
{
	__u32 first = server_row(vip->index, 0);
	__u64 change = age(error, family);

	if (family == AF_INET)
		csum_apply(&error->ip->check, change);
	for (__u32 id = 0; id < SERVER_IDS; id++) {
		if (family == AF_INET)
			send_error_copy(skb, first + id);
		else
			send_error_copy6(skb, first + id);
	}
	return TC_ACT_SHOT;
}

static __always_inline int finish_error(struct __sk_buff *skb, const int family)
{
	struct packet error, quote;
	struct vip *vip;

	if (!parse_error(&error, &quote, skb, family))
		return TC_ACT_UNSPEC;
	vip = is_for_sender(&error, &quote, family) ? find_quoted_vip(&quote, family) : NULL;
	if (vip)
		return send_error_to_all(skb, &error, vip, family);
	return send_through_neighbour(skb, &error, family, quote.udp->dest, quote.udp->source);
}

__attribute__((noinline)) int finish_error4(struct __sk_buff *skb)
{
	return finish_error(skb, AF_INET);
}

__attribute__((noinline)) int finish_error6(struct __sk_buff *skb)
{
	return finish_error(skb, AF_INET6);
}

static __always_inline int finish(struct __sk_buff *skb, const int family)
{
	struct packet packet;
	struct vip *vip;

	switch (parse_skb(&packet, skb, family)) {
	case PARSED:
		break;
	case PARSED_LATER_FRAGMENT:
		return send_through_neighbour(skb, &packet, family, 0, 0);
	case PARSED_OTHER_PROTOCOL:
		return family == AF_INET ? finish_error4(skb) : finish_error6(skb);
	default:
		return TC_ACT_UNSPEC;
	}
	vip = find_vip(&packet, family);
	if (vip && packet.protocol == IPPROTO_TCP)
		return send_to_all(skb, &packet, vip, family);
	return send_through_neighbour(skb, &packet, family, packet.udp->source, packet.udp->dest);
}

__attribute__((noinline)) int finish6(struct __sk_buff *skb)
{
	return finish(skb, AF_INET6);
}

static __always_inline int finish_in_slow_path(struct __sk_buff *skb)
{
	const struct settings *settings = get_settings();
	struct ethhdr *eth = (void *)(long)skb->data;

	if (!settings || (void *)(eth + 1) > (void *)(long)skb->data_end || !has_token(eth, settings))
		return TC_ACT_UNSPEC;
	/* Tags that the frame came with; the interface that it leaves by adds its own. */
	for (int i = 0; i < MAX_TAGS; i++)
		bpf_skb_vlan_pop(skb);

	eth = (void *)(long)skb->data;
	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return TC_ACT_UNSPEC;
	if (ether_type(eth) == bpf_htons(ETH_P_IP))
		return finish(skb, AF_INET);
	if (ether_type(eth) == bpf_htons(ETH_P_IPV6))
		return finish6(skb);
	return TC_ACT_UNSPEC;
}

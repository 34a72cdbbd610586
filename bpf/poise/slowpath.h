/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What XDP cannot do alone: wait for a neighbour to be resolved, and send one packet to
 * several servers. XDP marks such a packet with a secret Ethernet source address and passes
 * it up; the program on the interface's TC ingress finishes it before the kernel's IP layer
 * sees it. Without the secret anybody could have packets sent in a VIP's name.
 */
#pragma once

#include <linux/pkt_cls.h>
#include "forward.h"
#include "parse.h"
#include "stats.h"
#include "tables.h"

#define NANOSECONDS 1000000000ULL
#define AF_INET 2

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct reset_budget);
} reset_budgets SEC(".maps");

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

/* A packet to a client that is complete but for its Ethernet header: the kernel resolves the neighbour. */
static __always_inline int send_through_neighbour(struct __sk_buff *skb, const struct packet *packet)
{
	struct bpf_redir_neigh hop = { .nh_family = AF_INET };
	struct bpf_fib_lookup route = {
		.family = AF_INET,
		.l4_protocol = IPPROTO_TCP,
		.sport = packet->tcp->source,
		.dport = packet->tcp->dest,
		.ipv4_src = packet->ip->saddr,
		.ipv4_dst = packet->ip->daddr,
		.ifindex = skb->ifindex,
	};
	long result = bpf_fib_lookup(skb, &route, sizeof(route), 0);

	if (result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH)
		return with_event(EVENT_DROP_NO_NEIGHBOUR, TC_ACT_SHOT);
	hop.ipv4_nh = route.ipv4_dst;
	return bpf_redirect_neigh(route.ifindex, &hop, sizeof(hop), 0);
}

static __always_inline bool may_copy_reset(void)
{
	__u64 second = bpf_ktime_get_ns() / NANOSECONDS;
	__u32 only = 0;
	struct reset_budget *budget = bpf_map_lookup_elem(&reset_budgets, &only);

	if (!budget)
		return false;
	if (budget->second != second) {
		budget->second = second;
		budget->used = 0;
	}
	return budget->used++ < RESET_COPIES_PER_SECOND;
}

/*
 * Sends a copy of the packet to the server of that row. Reads the headers anew, since a copy
 * undoes what is known of them. A function of its own, so that the verifier follows it once.
 */
__attribute__((noinline)) int send_copy(struct __sk_buff *skb, __u32 row)
{
	struct server *server = bpf_map_lookup_elem(&servers, &row);
	struct packet packet;

	if (!server || !server->ifindex)
		return 0;
	if (!may_copy_reset())
		return with_event(EVENT_DROP_RESET_LIMIT, 0);
	if (bpf_skb_pull_data(skb, 0) ||
	    parse(&packet, (void *)(long)skb->data, (void *)(long)skb->data_end) != PARSED)
		return with_event(EVENT_DROP_INTERNAL, 0);

	rewrite_end(&packet, &packet.ip->daddr, &packet.tcp->dest, server->address, server->port, 0, 0);
	set_macs(packet.eth, server);
	bpf_clone_redirect(skb, server->ifindex, 0);
	return 0;
}

/*
 * A reset without timestamp, of a connection that the handshake table has forgotten, goes to
 * every server of the VIP; those that do not know the connection ignore it.
 */
static __always_inline int send_to_all(struct __sk_buff *skb, const struct packet *packet, const struct vip *vip)
{
	__u32 first = server_row(vip->index, 0);

	csum_apply(&packet->ip->check, age(packet->ip));
	for (__u32 id = 0; id < SERVER_IDS; id++)
		send_copy(skb, first + id);
	return TC_ACT_SHOT;
}

static __always_inline int finish_in_slow_path(struct __sk_buff *skb)
{
	const struct settings *settings = get_settings();
	struct packet packet;
	struct vip *vip;

	if (!settings || parse(&packet, (void *)(long)skb->data, (void *)(long)skb->data_end) != PARSED ||
	    !has_token(packet.eth, settings))
		return TC_ACT_UNSPEC;

	vip = find_vip(packet.ip->daddr, packet.tcp->dest);
	if (vip)
		return send_to_all(skb, &packet, vip);
	return send_through_neighbour(skb, &packet);
}

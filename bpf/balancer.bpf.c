// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The load balancer: one XDP program on every interface towards clients or servers, and its
 * slow path on their TC ingress. Both directions pass here (two-way mode), so clients and
 * servers need no change.
 *
 * Each kind of packet has a function of its own, which the verifier follows once, and whose stack
 * is not that of the others.
 */
#include "poise/connections.h"
#include "poise/contract.h"
#include "poise/fragments.h"
#include "poise/icmp.h"
#include "poise/parse.h"
#include "poise/slowpath.h"
#include "poise/stats.h"
#include "poise/tables.h"
#include "poise/tcp.h"
#include "poise/udp.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* In place of a verdict: the packet is not of the kind that the function is for. */
#define OTHER (-1)

static __always_inline int balance_tcp(struct xdp_md *ctx, const int family, __u32 offset)
{
	struct origin *origin;
	struct packet packet;
	struct vip *vip;

	if (parse_xdp(&packet, ctx, family, offset) != PARSED || packet.protocol != IPPROTO_TCP)
		return OTHER;
	vip = find_vip(&packet, family);
	if (vip)
		return tcp_to_server(ctx, &packet, family, vip);
	origin = find_origin(&packet, family);
	if (!origin)
		return with_event(EVENT_PASS_UNRELATED, XDP_PASS);
	vip = vip_of(origin);
	if (!vip)
		return with_event(EVENT_DROP_REPLY_WITHOUT_VIP, XDP_DROP);
	return tcp_to_client(ctx, &packet, family, vip, origin);
}

__attribute__((noinline)) int tcp_over_ipv4(struct xdp_md *ctx, __u32 offset)
{
	return balance_tcp(ctx, AF_INET, offset & 31);
}

__attribute__((noinline)) int tcp_over_ipv6(struct xdp_md *ctx, __u32 offset)
{
	return balance_tcp(ctx, AF_INET6, offset & 31);
}

static __always_inline int balance_udp(struct xdp_md *ctx, struct packet *packet, const int family)
{
	struct vip *vip = find_vip(packet, family);
	struct origin *origin;

	if (vip)
		return udp_to_server(ctx, packet, family, vip);
	origin = find_origin(packet, family);
	if (!origin)
		return with_event(EVENT_PASS_UNRELATED, XDP_PASS);
	vip = vip_of(origin);
	if (!vip)
		return with_event(EVENT_DROP_REPLY_WITHOUT_VIP, XDP_DROP);
	return udp_to_client(ctx, packet, family, vip, origin);
}

/* Everything but TCP with its ports. */
static __always_inline int balance_rest(struct xdp_md *ctx, const int family, __u32 offset)
{
	struct packet packet;

	switch (parse_xdp(&packet, ctx, family, offset)) {
	case PARSED:
		return balance_udp(ctx, &packet, family);
	case PARSED_LATER_FRAGMENT:
		return forward_later_fragment(ctx, &packet, family);
	case PARSED_TRUNCATED:
		return with_event(EVENT_PASS_TRUNCATED, XDP_PASS);
	case PARSED_TOO_LONG:
		return with_event(EVENT_PASS_LONG_HEADERS, XDP_PASS);
	case PARSED_OTHER_PROTOCOL:
		if (is_icmp(&packet, family))
			return family == AF_INET ? icmp_over_ipv4(ctx, offset) : icmp_over_ipv6(ctx, offset);
		break;
	}
	return with_event(EVENT_PASS_OTHER_PROTOCOL, XDP_PASS);
}

__attribute__((noinline)) int rest_of_ipv4(struct xdp_md *ctx, __u32 offset)
{
	return balance_rest(ctx, AF_INET, offset & 31);
}

__attribute__((noinline)) int rest_of_ipv6(struct xdp_md *ctx, __u32 offset)
{
	return balance_rest(ctx, AF_INET6, offset & 31);
}

static __always_inline int balance_ipv4(struct xdp_md *ctx, __u32 offset)
{
	int verdict = tcp_over_ipv4(ctx, offset);

	return verdict == OTHER ? rest_of_ipv4(ctx, offset) : verdict;
}

static __always_inline int balance_ipv6(struct xdp_md *ctx, __u32 offset)
{
	int verdict = tcp_over_ipv6(ctx, offset);

	return verdict == OTHER ? rest_of_ipv6(ctx, offset) : verdict;
}

/* Frames with VLAN tags, at most MAX_TAGS. */
__attribute__((noinline)) int balance_tagged(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__be16 *type = data + 2 * ETH_ALEN;
	__u32 offset = sizeof(struct ethhdr);

	for (int i = 0; i < MAX_TAGS; i++) {
		if ((void *)(type + 3) > end)
			return with_event(EVENT_PASS_TRUNCATED, XDP_PASS);
		if (!is_vlan(*type))
			break;
		type += VLAN_TAG / sizeof(*type);
		offset += VLAN_TAG;
	}
	if (*type == bpf_htons(ETH_P_IP))
		return balance_ipv4(ctx, offset);
	if (*type == bpf_htons(ETH_P_IPV6))
		return balance_ipv6(ctx, offset);
	return with_event(EVENT_PASS_NOT_IP, XDP_PASS);
}

SEC("xdp")
int balancer(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return with_event(EVENT_PASS_TRUNCATED, XDP_PASS);
	if (!is_unicast(eth))
		return with_event(EVENT_PASS_NOT_UNICAST, XDP_PASS);
	if (ether_type(eth) == bpf_htons(ETH_P_IP))
		return balance_ipv4(ctx, sizeof(struct ethhdr));
	if (ether_type(eth) == bpf_htons(ETH_P_IPV6))
		return balance_ipv6(ctx, sizeof(struct ethhdr));
	if (is_vlan(ether_type(eth)))
		return balance_tagged(ctx);
	return with_event(EVENT_PASS_NOT_IP, XDP_PASS);
}

SEC("tc")
int slow_path(struct __sk_buff *skb)
{
	return finish_in_slow_path(skb);
}

/* Run by the daemon, never attached. */
SEC("tc")
int sweep(struct __sk_buff *skb)
{
	return sweep_rows(skb);
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Fragments without ports follow the first one of their datagram, in both directions. */
#pragma once

#include "flows.h"
#include "frame.h"
#include "reply.h"
#include "rewrite.h"

/* In units of coarse_time(), after which an identification is another datagram's: ipfrag_time of Linux. */
#define FRAGMENT_LIFE 30

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FRAGMENT_ROWS);
	__type(key, struct fragment);
	__type(value, struct fragment_way);
} fragments SEC(".maps");

static __always_inline bool fragment_of(const struct packet *packet, const int family, struct fragment *fragment)
{
	if (family == AF_INET) {
		fragment->source = any_address(&packet->ip->saddr, family);
		fragment->target = any_address(&packet->ip->daddr, family);
		fragment->identification = packet->ip->id;
		fragment->protocol = packet->ip->protocol;
		return true;
	}
	if (!packet->fragment || (void *)(packet->fragment + 1) > packet->end)
		return false;
	fragment->source = any_address(&packet->ip6->saddr, family);
	fragment->target = any_address(&packet->ip6->daddr, family);
	fragment->identification = packet->fragment->identification;
	fragment->protocol = 0;
	return true;
}

static __always_inline void remember(const struct packet *packet, const int family, const struct fragment_way *way)
{
	struct fragment_way from_now;
	struct fragment fragment;

	if (!way || !fragment_of(packet, family, &fragment))
		return;
	from_now = *way;
	from_now.since = coarse_time();
	bpf_map_update_elem(&fragments, &fragment, &from_now, BPF_ANY);
}

/*
 * Where those that follow the first fragment whose IP header is at `offset` go; to be called before
 * it is rewritten. A function of its own, because it is rarely needed and its stack should not be
 * the callers'.
 */
__attribute__((noinline)) int remember_ipv4(struct xdp_md *ctx, __u32 offset, const struct fragment_way *way)
{
	struct packet packet;

	if (parse_xdp(&packet, ctx, AF_INET, offset & 31) == PARSED)
		remember(&packet, AF_INET, way);
	return 0;
}

__attribute__((noinline)) int remember_ipv6(struct xdp_md *ctx, __u32 offset, const struct fragment_way *way)
{
	struct packet packet;

	if (parse_xdp(&packet, ctx, AF_INET6, offset & 31) == PARSED)
		remember(&packet, AF_INET6, way);
	return 0;
}

static __always_inline void remember_fragment(struct xdp_md *ctx, const struct packet *packet, const int family,
					      const struct fragment_way *way)
{
	if (family == AF_INET)
		remember_ipv4(ctx, ethernet_length(packet), way);
	else
		remember_ipv6(ctx, ethernet_length(packet), way);
}

static __always_inline void replace_end_address(const struct packet *packet, const int family, const enum side side,
						const void *address)
{
	__u64 of_age = age(packet, family);

	if (family == AF_INET) {
		__be32 *word = side == SOURCE ? &packet->ip->saddr : &packet->ip->daddr;

		csum_apply(&packet->ip->check, of_age + replace_address(word, address, family));
	} else {
		replace_address(side == SOURCE ? &packet->ip6->saddr : &packet->ip6->daddr, address, family);
	}
}

static __always_inline int later_to_server(struct xdp_md *ctx, const struct packet *packet, const int family,
					   __u32 server_at)
{
	struct server *server = bpf_map_lookup_elem(&servers, &server_at);
	const void *address = server ? server_address(server, server_at, family) : NULL;

	if (!server || !address || !server->ifindex)
		return with_event(EVENT_DROP_SERVER_UNREACHABLE, XDP_DROP);
	if (hop_limit(packet, family) <= 1)
		return with_event(EVENT_DROP_TTL_EXPIRED, XDP_DROP);
	if (ip_length(packet, family) > server->mtu)
		return with_event(EVENT_DROP_TOO_BIG, XDP_DROP);
	replace_end_address(packet, family, TARGET, address);
	return send_to_server(ctx, packet, server);
}

static __always_inline int later_to_client(struct xdp_md *ctx, struct packet *packet, const int family, __u32 vip_row)
{
	struct vip *vip = bpf_map_lookup_elem(&vips, &vip_row);
	const void *address = vip ? vip_address(vip, family) : NULL;
	struct bpf_fib_lookup route;
	long result;
	int verdict;

	if (!vip || !vip->protocol || !address)
		return with_event(EVENT_DROP_REPLY_WITHOUT_VIP, XDP_DROP);
	result = find_route(ctx, packet, family, vip, 0, 0, &route);
	verdict = check_reply(packet, family, result);
	if (verdict != FORWARD)
		return verdict;
	replace_end_address(packet, family, SOURCE, address);
	return send_reply(ctx, packet, vip, &route, result);
}

/* A fragment that is not the first one. */
static __always_inline int forward_later_fragment(struct xdp_md *ctx, struct packet *packet, const int family)
{
	struct fragment fragment;
	struct fragment_way *way;

	if (!fragment_of(packet, family, &fragment))
		return with_event(EVENT_PASS_TRUNCATED, XDP_PASS);
	way = bpf_map_lookup_elem(&fragments, &fragment);
	if (!way || coarse_time() - way->since > FRAGMENT_LIFE)
		return with_event(EVENT_PASS_FRAGMENT_UNKNOWN, XDP_PASS);
	if (way->to_client)
		return later_to_client(ctx, packet, family, way->vip_row);
	return later_to_server(ctx, packet, family, way->server_row);
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What all packets from servers to clients have in common: the route, and the way out. */
#pragma once

#include "frame.h"
#include "slowpath.h"

#define FORWARD (-1)	/* in place of a verdict: nothing stands against it */

static __always_inline const void *vip_address(const struct vip *vip, const int family)
{
	if (family == AF_INET)
		return &vip->address;
	return bpf_map_lookup_elem(&vip_addresses, &vip->index);
}

/* The way to the client, as the kernel would route a packet of the VIP; a result of bpf_fib_lookup(). */
static __always_inline long find_route(struct xdp_md *ctx, const struct packet *packet, const int family,
				       const struct vip *vip, __be16 source, __be16 target,
				       struct bpf_fib_lookup *route)
{
	__builtin_memset(route, 0, sizeof(*route));
	route->family = family;
	route->l4_protocol = vip->protocol;
	route->sport = source;
	route->dport = target;
	route->tot_len = ip_length(packet, family);
	route->ifindex = ctx->ingress_ifindex;
	if (family == AF_INET) {
		route->ipv4_src = vip->address;
		route->ipv4_dst = packet->ip->daddr;
	} else {
		struct address *of_vip = bpf_map_lookup_elem(&vip_addresses, &vip->index);

		if (of_vip)
			*(struct address *)route->ipv6_src = *of_vip;
		*(struct address *)route->ipv6_dst = *(struct address *)&packet->ip6->daddr;
	}
	return bpf_fib_lookup(ctx, route, sizeof(*route), 0);
}

/* What becomes of a reply whose route was looked up; FORWARD if it goes to the client. */
static __always_inline int check_reply(const struct packet *packet, const int family, long result)
{
	if (hop_limit(packet, family) <= 1)
		return with_event(EVENT_PASS_REPLY_TTL_EXPIRED, XDP_PASS);
	if (result == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		if (family == AF_INET6 || packet->ip->frag_off & bpf_htons(IP_DONT_FRAGMENT))
			return with_event(EVENT_PASS_REPLY_TOO_BIG, XDP_PASS);
		return with_event(EVENT_DROP_REPLY_TOO_BIG, XDP_DROP);
	}
	if (result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH)
		return with_event(EVENT_PASS_NO_ROUTE, XDP_PASS);
	return FORWARD;
}

/* Sends a reply that is rewritten. */
static __always_inline int send_reply(struct xdp_md *ctx, struct packet *packet, const struct vip *vip,
				      const struct bpf_fib_lookup *route, long result)
{
	if (result == BPF_FIB_LKUP_RET_NO_NEIGH)
		return to_slow_path(packet, EVENT_NEIGHBOUR_UNRESOLVED);
	return send_by_route(ctx, packet, vip, route);
}

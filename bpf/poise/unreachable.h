/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Turning a client's segment into the ICMP error that answers it: port unreachable, on which a
 * client gives up at once (RFC 1122, section 4.2.3.9). It is for those who do not believe a reset.
 */
#pragma once

#include "icmp_answer.h"
#include "parse.h"
#include "stats.h"

/*
 * Quotes the IP and TCP headers whole, and no payload; that is a multiple of 4 bytes. A reset is
 * never answered.
 */
static __always_inline int turn_into_unreachable(struct xdp_md *ctx, const struct packet *packet, const int family,
						 enum event event)
{
	__u32 quoted = packet->transport - (void *)packet->ip + packet->tcp->doff * 4;
	struct icmp_header icmp = {};

	if (packet->tcp->rst)
		return with_event(event, XDP_DROP);
	icmp.type = family == AF_INET ? ICMP_UNREACHABLE : ICMPV6_UNREACHABLE;
	icmp.code = family == AF_INET ? ICMP_PORT : ICMPV6_PORT;
	return turn_into_error(ctx, packet, family, icmp, quoted, event);
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

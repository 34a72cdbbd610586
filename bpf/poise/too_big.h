/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Telling a client that its packet is too big for the way to the server, in the VIP's name. */
#pragma once

#include "budget.h"
#include "icmp_answer.h"
#include "parse.h"
#include "stats.h"

/* RFC 1191, section 4, and RFC 4443, section 3.2: quotes as much as fits. */
static __always_inline int turn_into_too_big(struct xdp_md *ctx, const struct packet *packet, const int family,
					     __u32 mtu)
{
	struct icmp_header icmp = { .word = bpf_htonl(mtu) };	/* of ICMP in its lower half */

	if (!spend(BUDGET_TOO_BIG, TOO_BIG_PER_SECOND))
		return with_event(EVENT_DROP_TOO_BIG_LIMIT, XDP_DROP);
	icmp.type = family == AF_INET ? ICMP_UNREACHABLE : ICMPV6_TOO_BIG;
	icmp.code = family == AF_INET ? ICMP_FRAGMENTATION_NEEDED : 0;
	return turn_into_error(ctx, packet, family, icmp, family == AF_INET ? QUOTE_MAX4 : QUOTE_MAX6,
			       EVENT_TOO_BIG_ANSWERED);
}

/* Functions of their own, because this is rare and their stack should not be the callers'. */
__attribute__((noinline)) int too_big_ipv4(struct xdp_md *ctx, __u32 offset, __u32 mtu)
{
	struct packet packet;

	if (parse_xdp(&packet, ctx, AF_INET, offset & 31) != PARSED)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	if (!(packet.ip->frag_off & bpf_htons(IP_DONT_FRAGMENT)))
		return with_event(EVENT_DROP_TOO_BIG, XDP_DROP);
	return turn_into_too_big(ctx, &packet, AF_INET, mtu);
}

__attribute__((noinline)) int too_big_ipv6(struct xdp_md *ctx, __u32 offset, __u32 mtu)
{
	struct packet packet;

	if (parse_xdp(&packet, ctx, AF_INET6, offset & 31) != PARSED)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	return turn_into_too_big(ctx, &packet, AF_INET6, mtu);
}

/* What becomes of a client's packet, still as it came, that is too big for the way to its server. */
static __always_inline int reply_too_big(struct xdp_md *ctx, const struct packet *packet, const int family, __u32 mtu)
{
	if (family == AF_INET)
		return too_big_ipv4(ctx, ethernet_length(packet), mtu);
	return too_big_ipv6(ctx, ethernet_length(packet), mtu);
}

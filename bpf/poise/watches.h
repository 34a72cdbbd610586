/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Flows of which somebody asked where their next packet goes. */
#pragma once

#include "contract.h"
#include "flows.h"
#include "frame.h"
#include "parse.h"
#include "tables.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_WATCHES);
	__type(key, struct flow);
	__type(value, struct watch);
} watches SEC(".maps");

static __always_inline void note(const struct packet *packet, const int family, __u32 vip, int id, enum reason reason)
{
	const void *client = family == AF_INET ? (void *)&packet->ip->saddr : (void *)&packet->ip6->saddr;
	struct flow flow = { any_address(client, family), packet->udp->source, vip };
	struct watch *watch = bpf_map_lookup_elem(&watches, &flow);

	if (!watch)
		return;
	if (watch->reason == REASON_NONE) {
		watch->at = bpf_ktime_get_ns();
		watch->server = id < 0 ? WATCH_NO_SERVER : id;
		watch->reason = id < 0 ? REASON_UNKNOWN : reason;
	}
	watch->packets++;
}

/* Functions of their own, because few flows are watched and their stack should not be the callers'. */
__attribute__((noinline)) int note_ipv4(struct xdp_md *ctx, __u32 offset, __u32 vip, int id, enum reason reason)
{
	struct packet packet;

	if (parse_xdp(&packet, ctx, AF_INET, offset & 31) == PARSED)
		note(&packet, AF_INET, vip, id, reason);
	return 0;
}

__attribute__((noinline)) int note_ipv6(struct xdp_md *ctx, __u32 offset, __u32 vip, int id, enum reason reason)
{
	struct packet packet;

	if (parse_xdp(&packet, ctx, AF_INET6, offset & 31) == PARSED)
		note(&packet, AF_INET6, vip, id, reason);
	return 0;
}

/* Tells who watches the flow where its packet goes; to be called before that is rewritten. `id`: below 0, nowhere. */
static __always_inline void tell_watch(struct xdp_md *ctx, const struct packet *packet, const int family,
				       const struct vip *vip, int id, enum reason reason)
{
	if (likely(!(vip->flags & VIP_IS_WATCHED)))
		return;
	if (family == AF_INET)
		note_ipv4(ctx, ethernet_length(packet), vip->index, id, reason);
	else
		note_ipv6(ctx, ethernet_length(packet), vip->index, id, reason);
}

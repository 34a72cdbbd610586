/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flows whose packets carry no cookie: their server is chosen by hash, and remembered in a bounded
 * table, so that a change of the servers breaks only what has fallen out of it. A TCP connection
 * comes here when its SYN is answered and not before, so that SYNs alone push nothing out; and of
 * all new flows only so many a second are let in.
 */
#pragma once

#include "budget.h"
#include "stats.h"
#include "tables.h"

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, DEFAULT_FLOW_ROWS);
	__type(key, struct flow);
	__type(value, __u32);
} flows SEC(".maps");

/* ::ffff:0:0/96, RFC 4291, section 2.5.5.2. */
static __always_inline struct address any_address(const void *address, const int family)
{
	struct address mapped = { { 0, 0, bpf_htonl(0xffff), *(const __be32 *)address } };

	return family == AF_INET ? mapped : *(const struct address *)address;
}

/* The flow of a packet from a client. */
static __always_inline struct flow flow_from(const struct vip *vip, const struct packet *packet, const int family)
{
	const void *client = family == AF_INET ? (void *)&packet->ip->saddr : (void *)&packet->ip6->saddr;
	struct flow flow = { any_address(client, family), packet->udp->source, vip->index };

	return flow;
}

static __always_inline bool may_begin_flow(void)
{
	const struct settings *settings = get_settings();

	if (settings && spend(BUDGET_FLOWS, settings->flow_rate))
		return true;
	count(EVENT_FLOW_LIMIT);
	return false;
}

static __always_inline void remember_flow(const struct flow *flow, __u32 server)
{
	bpf_map_update_elem(&flows, flow, &server, BPF_ANY);
	count(EVENT_FLOW_REMEMBERED);
}

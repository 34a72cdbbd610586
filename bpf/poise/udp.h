/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* UDP through the balancer, in both directions. */
#pragma once

#include "cookie.h"
#include "flows.h"
#include "fragments.h"
#include "quic.h"
#include "reply.h"
#include "rewrite.h"
#include "samples.h"
#include "select.h"
#include "too_big.h"
#include "watches.h"

/* Whether packets of this server's old flows are still sent to it. */
static __always_inline bool keeps_flows(const struct vip *vip, __u32 id)
{
	__u32 row = server_row(vip->index, id);
	struct server *server = bpf_map_lookup_elem(&servers, &row);

	return server && (server->state == SERVER_READY || server->state == SERVER_DRAIN);
}

/* The server of a datagram that names none: as remembered, else by hash and remembered from then on. */
static __always_inline int follow_flow(const struct packet *packet, const int family, const struct vip *vip, __u64 hash,
				       enum reason *reason)
{
	struct flow flow = flow_from(vip, packet, family);
	__u32 *server;
	int id;

	*reason = REASON_HASH;
	if (vip->mode == MODE_COOKIELESS)
		return select_by_hash(vip, hash);
	server = bpf_map_lookup_elem(&flows, &flow);
	if (server && keeps_flows(vip, *server)) {
		*reason = REASON_FLOW;
		return *server;
	}
	id = select_by_hash(vip, hash);
	if (id == NO_SERVER || !may_begin_flow())
		return id;
	if (looks_at_load(vip))
		id = select_server(vip, hash, 0);
	if (id == NO_SERVER)
		return NO_SERVER;
	*reason = REASON_POLICY;	/* only if remembered: otherwise its next packet would count again */
	remember_flow(&flow, id);
	return id;
}

/* The server that a QUIC packet names, if it still gets packets; a new one names any or none. */
static __always_inline int follow_connection_id(const struct packet *packet, const struct vip *vip)
{
	int id;

	if (!(vip->flags & VIP_IS_QUIC))
		return NO_SERVER;
	id = quic_server(packet->udp + 1, packet->end, vip->index);
	return id != NO_SERVER && keeps_flows(vip, id) ? id : NO_SERVER;
}

static __always_inline bool udp_fits(const struct packet *packet, const int family)
{
	__u32 before = packet->transport - (void *)packet->ip;

	return before + sizeof(struct udphdr) <= ip_length(packet, family) &&
	       (void *)packet->ip + ip_length(packet, family) <= packet->end;
}

static __always_inline int udp_to_server(struct xdp_md *ctx, struct packet *packet, const int family,
					 const struct vip *vip)
{
	struct server *server;
	const void *address;
	enum reason reason = REASON_QUIC_ID;
	__u32 server_at;
	__u64 hash;
	int id;

	if (!udp_fits(packet, family))
		return with_event(EVENT_DROP_MALFORMED, XDP_DROP);
	if (hop_limit(packet, family) <= 1)
		return with_event(EVENT_DROP_TTL_EXPIRED, XDP_DROP);

	hash = hash_from(vip, packet, family);
	id = follow_connection_id(packet, vip);
	if (id == NO_SERVER)
		id = follow_flow(packet, family, vip, hash, &reason);
	tell_watch(ctx, packet, family, vip, id, reason);
	if (id == NO_SERVER)
		return with_event(EVENT_DROP_NO_SERVER, XDP_DROP);
	server_at = server_row(vip->index, id);
	server = bpf_map_lookup_elem(&servers, &server_at);
	if (!server || !server->ifindex)
		return with_event(EVENT_DROP_SERVER_UNREACHABLE, XDP_DROP);
	address = server_address(server, server_at, family);
	if (!address)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	if (ip_length(packet, family) > server->mtu)
		return reply_too_big(ctx, packet, family, server->mtu);
	if (packet->more_fragments) {
		struct fragment_way way = { .server_row = server_at };

		remember_fragment(ctx, packet, family, &way);
	}

	if (is_sampled(hash, server))
		sample_flow(hash, server_at, reason == REASON_POLICY ? SAMPLE_BEGUN : 0);
	count_traffic(server_at, ip_length(packet, family), reason);
	rewrite_end(packet, family, IPPROTO_UDP, TARGET, address, server->port, 0);
	return send_to_server(ctx, packet, server);
}

static __always_inline int udp_to_client(struct xdp_md *ctx, struct packet *packet, const int family,
					 const struct vip *vip, const struct origin *origin)
{
	const void *address = vip_address(vip, family);
	struct bpf_fib_lookup route;
	long result;
	int verdict;

	if (is_direct(vip, packet, family))
		return with_event(EVENT_PASS_DIRECT, XDP_PASS);
	result = find_route(ctx, packet, family, vip, vip->port, packet->udp->dest, &route);
	if (result == BPF_FIB_LKUP_RET_NOT_FWDED)
		return with_event(EVENT_PASS_OWN_ADDRESS, XDP_PASS);
	if (!udp_fits(packet, family))
		return with_event(EVENT_DROP_MALFORMED, XDP_DROP);
	if (origin->cut)
		return with_event(EVENT_DROP_REPLY_OF_CUT_SERVER, XDP_DROP);
	verdict = check_reply(packet, family, result);
	if (verdict != FORWARD)
		return verdict;
	if (!address)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	if (packet->more_fragments) {
		struct fragment_way way = { .vip_row = origin->vip_row, .to_client = true };

		remember_fragment(ctx, packet, family, &way);
	}

	rewrite_end(packet, family, IPPROTO_UDP, SOURCE, address, vip->port, 0);
	return send_reply(ctx, packet, vip, &route, result);
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors through the balancer: to the server whose packet they quote, or to the client. All
 * other ICMP is the kernel's.
 */
#pragma once

#include "connections.h"
#include "cookie.h"
#include "flows.h"
#include "handshake.h"
#include "icmp_quote.h"
#include "layouts.h"
#include "reply.h"
#include "select.h"
#include "slowpath.h"
#include "timestamp.h"

/*
 * The timestamps of a quoted segment, or NULL. Routers may quote its first eight bytes only; Linux
 * quotes up to 576 bytes (icmp_send()).
 */
static __always_inline struct timestamp *quoted_timestamp(struct xdp_md *ctx, const struct packet *error,
							  const struct packet *quote, const int family)
{
	__u32 bytes = quoted_bytes(error, quote, family), header_length;

	if (bytes < sizeof(struct tcphdr) || (void *)(quote->tcp + 1) > quote->end)
		return NULL;
	header_length = quote->tcp->doff * 4;
	return find_timestamp(ctx, quote, header_length < bytes ? header_length : bytes);
}

/*
 * The server that sent the quoted packet: as its timestamp tells, which was stamped here, or as is
 * remembered of the connection or flow.
 */
static __always_inline int quoted_server(struct xdp_md *ctx, const struct packet *error, const struct packet *quote,
					 const int family, const struct vip *vip)
{
	const void *client = family == AF_INET ? (void *)&quote->ip->daddr : (void *)&quote->ip6->daddr;
	struct flow flow = { any_address(client, family), quote->udp->dest, vip->index };
	__u64 hash = hash_to(vip, quote, family);
	struct timestamp *timestamp;
	struct handshake seen;
	__u32 *server;

	if (vip->mode == MODE_STATEFUL) {
		int id = find_server_of_connection(hash);

		return id == NO_SERVER ? ALL_SERVERS : id;
	}
	if (vip->mode == MODE_COOKIELESS)
		return select_by_hash(vip, hash);
	if (quote->protocol == IPPROTO_TCP) {
		timestamp = quoted_timestamp(ctx, error, quote, family);
		if (timestamp && vip->layout == LAYOUT_LOW)
			return cookie_server(bpf_ntohl(timestamp->tsval), hash);
		if (timestamp)
			return server_in_layout(vip->layout, bpf_ntohl(timestamp->tsval), hash);
		if (handshake_find(handshake_row(hash), hash, &seen))
			return seen.server;
	}
	server = bpf_map_lookup_elem(&flows, &flow);
	return server ? *server : ALL_SERVERS;
}

static __always_inline int error_to_server(struct xdp_md *ctx, struct packet *error, const struct packet *quote,
					   const int family, const struct vip *vip)
{
	struct server *server;
	const void *address;
	__u32 server_at;
	int id;

	if (hop_limit(error, family) <= 1)
		return with_event(EVENT_DROP_TTL_EXPIRED, XDP_DROP);
	id = quoted_server(ctx, error, quote, family, vip);
	if (id == ALL_SERVERS)
		return to_slow_path(error, EVENT_ICMP_TO_ALL);
	if (id == NO_SERVER)
		return with_event(EVENT_DROP_NO_SERVER, XDP_DROP);

	server_at = server_row(vip->index, id);
	server = bpf_map_lookup_elem(&servers, &server_at);
	if (!server || server->state == SERVER_NONE)
		return with_event(EVENT_DROP_UNKNOWN_SERVER, XDP_DROP);
	if (!server->ifindex)
		return with_event(EVENT_DROP_SERVER_UNREACHABLE, XDP_DROP);
	address = server_address(server, server_at, family);
	if (!address)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	/* Of an error no error is sent: RFC 1122, section 3.2.2. */
	if (ip_length(error, family) > server->mtu)
		return with_event(EVENT_DROP_TOO_BIG, XDP_DROP);

	rewrite_error(error, quote, family, SOURCE, true, address, server->port);
	count(EVENT_ICMP_TO_SERVER);
	return send_to_server(ctx, error, server);
}

/* Whether the server itself sends the error, not a router on the way to it. */
static __always_inline bool is_from_server(const struct packet *error, const struct packet *quote, const int family)
{
	if (family == AF_INET)
		return error->ip->saddr == quote->ip->daddr;
	return same_address((struct address *)&error->ip6->saddr, (struct address *)&quote->ip6->daddr);
}

static __always_inline int error_to_client(struct xdp_md *ctx, struct packet *error, const struct packet *quote,
					   const int family, const struct vip *vip, const struct origin *origin)
{
	const void *address = vip_address(vip, family);
	struct bpf_fib_lookup route;
	long result;
	int verdict;

	if (is_direct(vip, error, family))
		return with_event(EVENT_PASS_DIRECT, XDP_PASS);
	/* As the replies of that flow. */
	result = find_route(ctx, error, family, vip, vip->port, quote->udp->source, &route);
	if (result == BPF_FIB_LKUP_RET_NOT_FWDED)
		return with_event(EVENT_PASS_OWN_ADDRESS, XDP_PASS);
	if (origin->cut)
		return with_event(EVENT_DROP_REPLY_OF_CUT_SERVER, XDP_DROP);
	verdict = check_reply(error, family, result);
	if (verdict != FORWARD)
		return verdict;
	if (!address)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);

	if (is_from_server(error, quote, family))
		rewrite_error(error, quote, family, TARGET, true, address, vip->port);
	else
		rewrite_error(error, quote, family, TARGET, false, address, vip->port);
	count(EVENT_ICMP_TO_CLIENT);
	return send_reply(ctx, error, vip, &route, result);
}

static __always_inline int balance_icmp(struct xdp_md *ctx, const int family, __u32 offset)
{
	struct packet error, quote;
	struct origin *origin;
	struct vip *vip;

	if (parse_xdp(&error, ctx, family, offset) != PARSED_OTHER_PROTOCOL)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	if (error.transport + sizeof(struct icmp_header) > error.end)
		return with_event(EVENT_PASS_TRUNCATED, XDP_PASS);
	if (!is_error(((struct icmp_header *)error.transport)->type, family))
		return with_event(EVENT_PASS_OTHER_PROTOCOL, XDP_PASS);
	if (error.more_fragments)
		return with_event(EVENT_PASS_ICMP_FRAGMENT, XDP_PASS);
	switch (parse_quote(&quote, &error, ctx, IN_XDP, family)) {
	case QUOTED_MALFORMED:
		return with_event(EVENT_PASS_ICMP_MALFORMED, XDP_PASS);
	case QUOTED_UNRELATED:
		return with_event(EVENT_PASS_ICMP_UNRELATED, XDP_PASS);
	case QUOTED:
		break;
	}
	if (!is_for_sender(&error, &quote, family))
		return with_event(EVENT_PASS_ICMP_UNRELATED, XDP_PASS);
	vip = find_quoted_vip(&quote, family);
	if (vip)
		return error_to_server(ctx, &error, &quote, family, vip);
	origin = find_quoted_server(&quote, family);
	if (!origin)
		return with_event(EVENT_PASS_ICMP_UNRELATED, XDP_PASS);
	vip = vip_of(origin);
	if (!vip)
		return with_event(EVENT_DROP_REPLY_WITHOUT_VIP, XDP_DROP);
	return error_to_client(ctx, &error, &quote, family, vip, origin);
}

/* Functions of their own, because errors are rare and their stack should not be the callers'. */
__attribute__((noinline)) int icmp_over_ipv4(struct xdp_md *ctx, __u32 offset)
{
	return balance_icmp(ctx, AF_INET, offset & 31);
}

__attribute__((noinline)) int icmp_over_ipv6(struct xdp_md *ctx, __u32 offset)
{
	return balance_icmp(ctx, AF_INET6, offset & 31);
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP through the balancer, in both directions. */
#pragma once

#include <stdbool.h>
#include "cookie.h"
#include "flows.h"
#include "fragments.h"
#include "handshake.h"
#include "layouts.h"
#include "reply.h"
#include "reset.h"
#include "rewrite.h"
#include "samples.h"
#include "select.h"
#include "stateful.h"
#include "timestamp.h"
#include "too_big.h"
#include "unreachable.h"
#include "watches.h"

/*
 * The server of a SYN without timestamp: the one that its hash stands for, remembered from now on if
 * so many flows may begin. Nothing that an earlier connection of the same ends left among the flows
 * may outlive it.
 */
static __always_inline int place_plain(const struct packet *packet, const int family, const struct vip *vip,
				       __u64 hash, __u32 isn, bool *remembered)
{
	struct flow flow = flow_from(vip, packet, family);

	bpf_map_delete_elem(&flows, &flow);
	*remembered = may_begin_flow();
	return *remembered && looks_at_load(vip) ? select_server(vip, hash, isn) : select_by_hash(vip, hash);
}

/* The server of a SYN: any will do, unless it repeats one that has been placed. */
static __always_inline int place(const struct packet *packet, const int family, const struct vip *vip, __u64 hash,
				 bool has_timestamp, enum reason *reason)
{
	struct handshake_row *row = handshake_row(hash);
	__u32 isn = bpf_ntohl(packet->tcp->seq);
	__u32 flags = HANDSHAKE_USED;
	struct handshake seen;
	bool known = handshake_find(row, hash, &seen), remembered = true;
	int id;

	if (known && row->isn[seen.way] == isn && may_connect(vip, seen.server)) {
		count(EVENT_SYN_RETRANSMITTED);
		*reason = REASON_REPEATED_SYN;
		return seen.server;
	}
	if (!has_timestamp)
		count(EVENT_SYN_WITHOUT_TIMESTAMP);
	if (vip->mode == MODE_COOKIELESS)
		id = select_by_hash(vip, hash);
	else if (has_timestamp)
		id = select_by_policy(vip, hash, isn);
	else
		id = place_plain(packet, family, vip, hash, isn, &remembered);
	if (id == NO_SERVER)
		return NO_SERVER;
	*reason = REASON_POLICY;
	if (!has_timestamp && vip->mode != MODE_COOKIELESS)
		flags |= HANDSHAKE_PLAIN;
	if (remembered)
		handshake_put(row, known ? &seen : NULL, hash, isn, id, 0, flags);
	else if (known)
		row->who[seen.way] = 0;	/* an earlier connection of the same ends, maybe on another server */
	return id;
}

/*
 * The server of a segment without a usable echo: as remembered of its handshake, or from then on
 * among the flows; else by hash; of a reset, all.
 */
static __always_inline int follow_without_echo(const struct packet *packet, const int family, const struct vip *vip,
					       __u64 hash, enum reason *reason)
{
	struct flow flow = flow_from(vip, packet, family);
	struct handshake seen;
	__u32 *server;

	server = bpf_map_lookup_elem(&flows, &flow);
	if (handshake_find(handshake_row(hash), hash, &seen)) {
		count(EVENT_NO_TIMESTAMP_REMEMBERED);
		if (seen.flags & HANDSHAKE_PLAIN && !packet->tcp->rst && (!server || *server != seen.server))
			remember_flow(&flow, seen.server);
		*reason = REASON_HANDSHAKE;
		return seen.server;
	}
	if (server) {
		count(EVENT_NO_TIMESTAMP_REMEMBERED);
		*reason = REASON_FLOW;
		return *server;
	}
	if (packet->tcp->rst)
		return ALL_SERVERS;
	*reason = REASON_HASH;
	count(EVENT_NO_TIMESTAMP_HASHED);
	return select_by_hash(vip, hash);
}

/* What the server is to see in place of the echo. */
static __always_inline __u32 restore_echo(__u64 hash, __u32 tsecr)
{
	struct handshake seen;

	if (tsecr & COOKIE_MARK)
		return cookie_strip(tsecr);
	if (handshake_find(handshake_row(hash), hash, &seen) && (seen.flags & HANDSHAKE_ANSWERED))
		return handshake_restore(&seen, tsecr);
	count(EVENT_HANDSHAKE_UNKNOWN);
	return cookie_strip(tsecr);
}

/* What a client's segment means for the sample of its flow. */
static __always_inline enum sample_flags meaning_of(const struct packet *packet, enum reason reason)
{
	if (packet->tcp->rst)
		return SAMPLE_RESET;
	if (packet->tcp->fin)
		return SAMPLE_CLIENT_FIN;
	return reason == REASON_POLICY ? SAMPLE_BEGUN : 0;
}

/* What becomes of a client's segment that no single server gets. */
static __always_inline int without_server(struct xdp_md *ctx, struct packet *packet, const int family, int why)
{
	switch (why) {
	case ALL_SERVERS:
		return to_slow_path(packet, EVENT_RESET_TO_ALL);
	case NO_ROOM:
		return with_event(EVENT_DROP_ROW_FULL, XDP_DROP);
	case NO_CONNECTION:
		if (is_renewing())
			return with_event(EVENT_DROP_CONNECTION_NOT_YET_KNOWN, XDP_DROP);
		return reply_reset(ctx, packet, family, EVENT_RESET_CONNECTION_UNKNOWN);
	}
	return reply_reset(ctx, packet, family, EVENT_RESET_NO_SERVER);
}

/* The server that an echo names, and in place of the echo what the server is to see. */
static __always_inline int follow_echo(const struct vip *vip, __u64 hash, __u32 tsecr, __u32 *restored)
{
	if (vip->layout != LAYOUT_LOW) {
		int id = server_in_layout(vip->layout, tsecr, hash);

		*restored = restore_in_layout(vip->layout, server_row(vip->index, id), tsecr);
		return id;
	}
	*restored = restore_echo(hash, tsecr);
	return cookie_server(tsecr, hash);
}

static __always_inline int tcp_to_server(struct xdp_md *ctx, struct packet *packet, const int family,
					 const struct vip *vip)
{
	__u32 header_length = tcp_header_length(packet, family);
	struct timestamp *timestamp;
	struct server *server;
	const void *address;
	__be32 *echo = NULL, tsecr = 0;
	enum reason reason = REASON_COOKIE;
	__u64 hash, change = 0;
	__u32 server_at;
	int id;

	if (!header_length)
		return with_event(EVENT_DROP_MALFORMED, XDP_DROP);
	if (hop_limit(packet, family) <= 1)
		return with_event(EVENT_DROP_TTL_EXPIRED, XDP_DROP);

	hash = hash_from(vip, packet, family);
	timestamp = find_timestamp(ctx, packet, header_length);

	if (packet->tcp->syn && !packet->tcp->ack) {
		/*
		 * The signature covers addresses and ports, so that no server would accept it. A client
		 * takes no reset without a signature (RFC 2385, section 4.1), but an ICMP error.
		 */
		if (is_signed(ctx, packet, header_length))
			return reply_unreachable(ctx, packet, family, EVENT_REFUSED_SIGNED_SYN);
		if (vip->mode == MODE_STATEFUL)
			id = place_connection(packet, family, vip, hash, timestamp, &reason);
		else
			id = place(packet, family, vip, hash, timestamp, &reason);
	} else if (vip->mode == MODE_STATEFUL) {
		if (timestamp && packet->tcp->ack) {
			echo = &timestamp->tsecr;
			tsecr = *echo;
		}
		reason = REASON_CONNECTION;
		id = follow_segment(packet, family, hash, timestamp, &change);
	} else if (vip->mode == MODE_COOKIELESS) {
		reason = REASON_HASH;
		id = select_by_hash(vip, hash);
	} else if (timestamp && packet->tcp->ack) {
		__u32 restored;

		echo = &timestamp->tsecr;
		tsecr = *echo;
		id = follow_echo(vip, hash, bpf_ntohl(tsecr), &restored);
		change = rewrite_timestamp(packet, echo, restored);
	} else {
		/* RFC 7323, section 3.2: TSecr counts only where ACK is set. */
		id = follow_without_echo(packet, family, vip, hash, &reason);
	}
	tell_watch(ctx, packet, family, vip, id, reason);
	if (id < 0)
		return without_server(ctx, packet, family, id);

	server_at = server_row(vip->index, id);
	server = bpf_map_lookup_elem(&servers, &server_at);
	if (!server || server->state == SERVER_NONE)
		return with_event(EVENT_DROP_UNKNOWN_SERVER, XDP_DROP);
	if (!server->ifindex) {
		if (server->state == SERVER_CUT && vip->mode == MODE_STATEFUL)
			close_connection(hash, id);
		if (server->state == SERVER_CUT)
			return reply_reset(ctx, packet, family, EVENT_RESET_OF_CUT_SERVER);
		return with_event(EVENT_DROP_SERVER_UNREACHABLE, XDP_DROP);
	}
	address = server_address(server, server_at, family);
	if (!address)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	if (ip_length(packet, family) > server->mtu) {
		if (echo)
			*echo = tsecr;	/* what is quoted is what the client sent */
		return reply_too_big(ctx, packet, family, server->mtu);
	}
	if (packet->more_fragments) {
		struct fragment_way way = { .server_row = server_at };

		remember_fragment(ctx, packet, family, &way);
	}

	if (vip->mode != MODE_STATEFUL && is_sampled(hash, server))
		sample_flow(hash, server_at, meaning_of(packet, reason));
	count_traffic(server_at, ip_length(packet, family), reason);
	rewrite_end(packet, family, IPPROTO_TCP, TARGET, address, server->port, change);
	return send_to_server(ctx, packet, server);
}

/* Marks the server's timestamp with the cookie; returns what the TCP checksum owes for it. */
static __always_inline __u64 stamp(const struct packet *packet, const struct vip *vip, __u64 hash, __u32 server,
				   struct timestamp *timestamp)
{
	bool is_synack = packet->tcp->syn;
	__u32 tsval = bpf_ntohl(timestamp->tsval), stamped;

	if (is_synack) {
		__u32 isn = bpf_ntohl(packet->tcp->ack_seq) - 1;

		if (!handshake_answer(handshake_row(hash), hash, isn, server, tsval))
			count(EVENT_SYNACK_UNEXPECTED);
	}
	if (vip->layout != LAYOUT_LOW)
		stamped = stamp_in_layout(vip->layout, server_row(vip->index, server), tsval, hash);
	else
		stamped = cookie_stamp(tsval, hash, server, is_synack);
	return rewrite_timestamp(packet, &timestamp->tsval, stamped);
}

/* Counts a server's answer to a SYN, and notes if it ends a connection. `flags`: of TCP. */
__attribute__((noinline)) int note_answer(__u64 hash, __u32 server_at, __u32 mode, __u32 flags, __u32 ack)
{
	struct traffic *sum = bpf_map_lookup_elem(&traffic, &server_at);
	struct server *server = bpf_map_lookup_elem(&servers, &server_at);
	__u32 id = server_at % SERVER_IDS;

	if (!sum || !server)
		return 0;
	if (flags & TCP_SYN)
		sum->answers++;
	if (flags & TCP_RST && flags & TCP_ACK &&
	    (mode == MODE_STATEFUL ? connection_refused(hash, id, ack) : handshake_refused(hash, id, ack)))
		sum->resets++;
	if (flags & (TCP_FIN | TCP_RST) && mode != MODE_STATEFUL && is_sampled(hash, server))
		sample_flow(hash, server_at, flags & TCP_RST ? SAMPLE_RESET : SAMPLE_SERVER_FIN);
	return 0;
}

static __always_inline int tcp_to_client(struct xdp_md *ctx, struct packet *packet, const int family,
					 const struct vip *vip, const struct origin *origin)
{
	__u32 header_length = tcp_header_length(packet, family);
	const void *address = vip_address(vip, family);
	struct bpf_fib_lookup route;
	struct timestamp *timestamp;
	__u64 change = 0;
	__u64 hash;
	long result;
	int verdict;

	if (packet->tcp->syn && !packet->tcp->ack)
		return with_event(EVENT_PASS_SERVER_CONNECTS, XDP_PASS);
	if (is_direct(vip, packet, family))
		return with_event(EVENT_PASS_DIRECT, XDP_PASS);
	result = find_route(ctx, packet, family, vip, vip->port, packet->tcp->dest, &route);
	if (result == BPF_FIB_LKUP_RET_NOT_FWDED)
		return with_event(EVENT_PASS_OWN_ADDRESS, XDP_PASS);
	if (!header_length)
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

	hash = hash_to(vip, packet, family);
	if (packet->tcp->syn || packet->tcp->fin || packet->tcp->rst)
		note_answer(hash, server_row(vip->index, origin->server), vip->mode, tcp_flags(packet),
			    bpf_ntohl(packet->tcp->ack_seq));
	if (vip->mode == MODE_STATEFUL) {
		timestamp = find_timestamp(ctx, packet, header_length);
		change = answer_segment(packet, family, vip, hash, origin->server, timestamp);
	} else if (vip->mode != MODE_COOKIELESS) {
		timestamp = find_timestamp(ctx, packet, header_length);
		if (timestamp)
			change = stamp(packet, vip, hash, origin->server, timestamp);
		else if (packet->tcp->syn)
			/* The client will not send any timestamps either. */
			handshake_plain(handshake_row(hash), hash, origin->server);
	}
	rewrite_end(packet, family, IPPROTO_TCP, SOURCE, address, vip->port, change);
	return send_reply(ctx, packet, vip, &route, result);
}

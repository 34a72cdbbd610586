// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The load balancer: one XDP program on every interface towards clients or servers, and its
 * slow path on their TC ingress. Both directions pass here (two-way mode), so clients and
 * servers need no change.
 */
#include <stdbool.h>
#include "poise/contract.h"
#include "poise/cookie.h"
#include "poise/forward.h"
#include "poise/handshake.h"
#include "poise/parse.h"
#include "poise/reset.h"
#include "poise/select.h"
#include "poise/slowpath.h"
#include "poise/stats.h"
#include "poise/tables.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* In place of a server id: a reset that goes to every server. */
#define ALL_SERVERS (-2)

static __always_inline bool may_connect(const struct vip *vip, __u32 id)
{
	__u32 row = server_row(vip->index, id);
	struct server *server = bpf_map_lookup_elem(&servers, &row);

	return server && server->state == SERVER_READY;
}

/* The server of a SYN: any will do, unless it repeats one that has been placed. */
static __always_inline int place(const struct packet *packet, const struct vip *vip, __u64 hash,
				 bool has_timestamp, bool *connects)
{
	struct handshake_row *row = handshake_row(hash);
	__u32 isn = bpf_ntohl(packet->tcp->seq);
	struct handshake seen;
	bool known = handshake_find(row, hash, &seen);
	int id;

	if (known && row->isn[seen.way] == isn && may_connect(vip, seen.server)) {
		count(EVENT_SYN_RETRANSMITTED);
		return seen.server;
	}
	if (vip->policy != POLICY_HASH && has_timestamp) {
		id = select_by_turn(vip);
	} else {
		if (!has_timestamp)
			count(EVENT_SYN_WITHOUT_TIMESTAMP);
		id = select_by_hash(vip, hash);
	}
	if (id == NO_SERVER)
		return NO_SERVER;
	*connects = true;
	handshake_put(row, known ? &seen : NULL, hash, isn, id, 0, HANDSHAKE_USED);
	return id;
}

/* The server of a segment without a usable echo: as remembered, else by hash; of a reset, all. */
static __always_inline int follow_without_echo(const struct packet *packet, const struct vip *vip, __u64 hash)
{
	struct handshake seen;

	if (handshake_find(handshake_row(hash), hash, &seen)) {
		count(EVENT_NO_TIMESTAMP_REMEMBERED);
		return seen.server;
	}
	if (packet->tcp->rst)
		return ALL_SERVERS;
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

static __always_inline int to_server(struct xdp_md *ctx, struct packet *packet, const struct vip *vip)
{
	__u32 header_length = tcp_header_length(packet);
	struct timestamp *timestamp;
	struct server *server;
	bool connects = false;
	__u64 hash, change = 0;
	__u32 server_at;
	int id;

	if (packet->ip->frag_off & bpf_htons(IP_MORE_FRAGMENTS))
		return with_event(EVENT_DROP_FRAGMENT, XDP_DROP);
	if (!header_length)
		return with_event(EVENT_DROP_MALFORMED, XDP_DROP);
	if (packet->ip->ttl <= 1)
		return with_event(EVENT_DROP_TTL_EXPIRED, XDP_DROP);

	hash = flow_hash(vip, packet->ip->saddr, packet->tcp->source);
	timestamp = find_timestamp(ctx, packet, header_length);

	if (packet->tcp->syn && !packet->tcp->ack) {
		id = place(packet, vip, hash, timestamp, &connects);
	} else if (vip->policy == POLICY_HASH) {
		id = select_by_hash(vip, hash);
	} else if (timestamp && packet->tcp->ack) {
		__u32 tsecr = bpf_ntohl(timestamp->tsecr);

		id = cookie_server(tsecr, hash);
		change = rewrite_timestamp(packet, &timestamp->tsecr, restore_echo(hash, tsecr));
	} else {
		/* RFC 7323, section 3.2: TSecr counts only where ACK is set. */
		id = follow_without_echo(packet, vip, hash);
	}
	if (id == ALL_SERVERS)
		return to_slow_path(packet, EVENT_RESET_TO_ALL);
	if (id == NO_SERVER)
		return reply_reset(ctx, packet, EVENT_RESET_NO_SERVER);

	server_at = server_row(vip->index, id);
	server = bpf_map_lookup_elem(&servers, &server_at);
	if (!server || server->state == SERVER_NONE)
		return with_event(EVENT_DROP_UNKNOWN_SERVER, XDP_DROP);
	if (!server->ifindex) {
		if (server->state == SERVER_CUT)
			return reply_reset(ctx, packet, EVENT_RESET_OF_CUT_SERVER);
		return with_event(EVENT_DROP_SERVER_UNREACHABLE, XDP_DROP);
	}

	count_traffic(server_at, bpf_ntohs(packet->ip->tot_len), connects);
	rewrite_end(packet, &packet->ip->daddr, &packet->tcp->dest, server->address, server->port, age(packet->ip),
		    change);
	set_macs(packet->eth, server);
	return send(ctx, server->ifindex);
}

/* Marks the server's timestamp with the cookie; returns what the TCP checksum owes for it. */
static __always_inline __u64 stamp(const struct packet *packet, const struct vip *vip, __u32 server,
				   struct timestamp *timestamp)
{
	bool is_synack = packet->tcp->syn;
	__u32 tsval = bpf_ntohl(timestamp->tsval);
	__u64 hash = flow_hash(vip, packet->ip->daddr, packet->tcp->dest);

	if (is_synack) {
		__u32 isn = bpf_ntohl(packet->tcp->ack_seq) - 1;

		if (!handshake_answer(handshake_row(hash), hash, isn, server, tsval))
			count(EVENT_SYNACK_UNEXPECTED);
	}
	return rewrite_timestamp(packet, &timestamp->tsval, cookie_stamp(tsval, hash, server, is_synack));
}

static __always_inline bool is_direct(const struct vip *vip, __be32 address)
{
	struct prefix prefix = { 32, address };

	return vip->asks_direct && bpf_map_lookup_elem(&direct, &prefix);
}

static __always_inline int to_client(struct xdp_md *ctx, struct packet *packet, const struct vip *vip,
				     const struct origin *origin)
{
	__u32 header_length = tcp_header_length(packet);
	struct bpf_fib_lookup route = {
		.family = AF_INET,
		.l4_protocol = IPPROTO_TCP,
		.sport = vip->end.port,
		.dport = packet->tcp->dest,
		.tot_len = bpf_ntohs(packet->ip->tot_len),
		.ipv4_src = vip->end.address,
		.ipv4_dst = packet->ip->daddr,
		.ifindex = ctx->ingress_ifindex,
	};
	struct timestamp *timestamp;
	__u64 change = 0;
	long result;

	if (packet->tcp->syn && !packet->tcp->ack)
		return with_event(EVENT_PASS_SERVER_CONNECTS, XDP_PASS);
	if (is_direct(vip, packet->ip->daddr))
		return with_event(EVENT_PASS_DIRECT, XDP_PASS);
	result = bpf_fib_lookup(ctx, &route, sizeof(route), 0);
	if (result == BPF_FIB_LKUP_RET_NOT_FWDED)
		return with_event(EVENT_PASS_OWN_ADDRESS, XDP_PASS);
	if (packet->ip->frag_off & bpf_htons(IP_MORE_FRAGMENTS))
		return with_event(EVENT_DROP_FRAGMENT, XDP_DROP);
	if (!header_length)
		return with_event(EVENT_DROP_MALFORMED, XDP_DROP);
	if (origin->cut)
		return with_event(EVENT_DROP_REPLY_OF_CUT_SERVER, XDP_DROP);
	if (packet->ip->ttl <= 1)
		return with_event(EVENT_PASS_REPLY_TTL_EXPIRED, XDP_PASS);
	if (result == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		if (packet->ip->frag_off & bpf_htons(IP_DONT_FRAGMENT))
			return with_event(EVENT_PASS_REPLY_TOO_BIG, XDP_PASS);
		return with_event(EVENT_DROP_REPLY_TOO_BIG, XDP_DROP);
	}
	if (result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH)
		return with_event(EVENT_PASS_NO_ROUTE, XDP_PASS);

	if (vip->policy != POLICY_HASH) {
		timestamp = find_timestamp(ctx, packet, header_length);
		if (timestamp)
			change = stamp(packet, vip, origin->server, timestamp);
	}
	rewrite_end(packet, &packet->ip->saddr, &packet->tcp->source, vip->end.address, vip->end.port,
		    age(packet->ip), change);
	if (result == BPF_FIB_LKUP_RET_NO_NEIGH)
		return to_slow_path(packet, EVENT_NEIGHBOUR_UNRESOLVED);
	set_mac(packet->eth->h_dest, route.dmac);
	set_mac(packet->eth->h_source, route.smac);
	return send(ctx, route.ifindex);
}

SEC("xdp")
int balancer(struct xdp_md *ctx)
{
	struct packet packet;
	struct origin *origin;
	struct vip *vip;
	__u32 row;

	switch (parse(&packet, (void *)(long)ctx->data, (void *)(long)ctx->data_end)) {
	case PARSED:
		break;
	case PARSED_NOT_IPV4:
		return with_event(EVENT_PASS_NOT_IPV4, XDP_PASS);
	case PARSED_NOT_TCP:
		return with_event(EVENT_PASS_NOT_TCP, XDP_PASS);
	case PARSED_LATER_FRAGMENT:
		return with_event(EVENT_PASS_LATER_FRAGMENT, XDP_PASS);
	case PARSED_TRUNCATED:
		return with_event(EVENT_PASS_TRUNCATED, XDP_PASS);
	}
	vip = find_vip(packet.ip->daddr, packet.tcp->dest);
	if (vip)
		return to_server(ctx, &packet, vip);

	origin = find_origin(packet.ip->saddr, packet.tcp->source);
	if (origin) {
		row = origin->vip_row;
		vip = bpf_map_lookup_elem(&vips, &row);
		if (vip && vip->end.protocol == IPPROTO_TCP)
			return to_client(ctx, &packet, vip, origin);
		return with_event(EVENT_DROP_REPLY_WITHOUT_VIP, XDP_DROP);
	}
	return with_event(EVENT_PASS_UNRELATED, XDP_PASS);
}

SEC("tc")
int slow_path(struct __sk_buff *skb)
{
	return finish_in_slow_path(skb);
}

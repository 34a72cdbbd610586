/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Ethernet: the header with its VLAN tags, and where a frame leaves. */
#pragma once

#include "parse.h"
#include "stats.h"
#include "tables.h"

/* How a frame leaves: the two addresses as they stand in the Ethernet header. */
struct way {
	__u32 ifindex;
	__u32 tags;
	__u8 macs[2 * ETH_ALEN];
	__be16 tag[MAX_TAGS];
};

/* In half words, because memcpy() of a packed member becomes a move for each byte. */
static __always_inline void set_mac(__u8 *to, const __u8 *from)
{
	*(__u16 *)to = *(const __u16 *)from;
	*(__u16 *)(to + 2) = *(const __u16 *)(from + 2);
	*(__u16 *)(to + 4) = *(const __u16 *)(from + 4);
}

/* Both addresses at once. */
static __always_inline void set_macs(struct ethhdr *eth, const void *macs)
{
	const __u32 *from = macs;
	__u32 *to = (__u32 *)eth;

	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
}

static __always_inline int leave_by(struct xdp_md *ctx, __u32 ifindex)
{
	return ifindex == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(ifindex, 0);
}

/*
 * Gives the frame the tags of its way in place of those with which it came, its IP header being at
 * `offset`. The outer of two tags gets the type of IEEE 802.1ad. A function of its own, because
 * frames with tags are few, and the others shall not pay.
 */
__attribute__((noinline)) int send_tagged(struct xdp_md *ctx, __u32 offset, const struct way *way)
{
	__be16 *tag;
	void *data, *end;
	__u32 tags;

	if (!way || way->tags > MAX_TAGS || offset > ETHERNET_MAX || offset < sizeof(struct ethhdr))
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	tags = way->tags;
	if (bpf_xdp_adjust_head(ctx, (int)offset - (int)(sizeof(struct ethhdr) + tags * VLAN_TAG)))
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);

	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + ETHERNET_MAX > end)
		return with_event(EVENT_DROP_INTERNAL, XDP_DROP);
	set_macs(data, way->macs);
	tag = data + 2 * ETH_ALEN;
	if (tags) {
		tag[0] = tags == MAX_TAGS ? bpf_htons(ETH_P_8021AD) : bpf_htons(ETH_P_8021Q);
		tag[1] = way->tag[0];
	}
	if (tags == MAX_TAGS) {
		tag[2] = bpf_htons(ETH_P_8021Q);
		tag[3] = way->tag[1];
	}
	/* The type of what follows stands right before it, as it did. */
	return leave_by(ctx, way->ifindex);
}

static __always_inline int send_to_server(struct xdp_md *ctx, const struct packet *packet, const struct server *server)
{
	struct way way;

	if (!server->tags && ethernet_length(packet) == sizeof(struct ethhdr)) {
		set_macs(packet->eth, server->hop_mac);
		return leave_by(ctx, server->ifindex);
	}
	way.ifindex = server->ifindex;
	way.tags = server->tags;
	set_macs((struct ethhdr *)way.macs, server->hop_mac);
	way.tag[0] = server->tag[0];
	way.tag[1] = server->tag[1];
	return send_tagged(ctx, ethernet_length(packet), &way);
}

/* To where a route leads, which the caller has looked up. */
static __always_inline int send_by_route(struct xdp_md *ctx, const struct packet *packet, const struct vip *vip,
					 const struct bpf_fib_lookup *route)
{
	struct link *link = NULL;
	struct way way = {};

	if (vip->flags & VIP_ASKS_LINKS)
		link = bpf_map_lookup_elem(&links, &route->ifindex);
	if (!link && ethernet_length(packet) == sizeof(struct ethhdr)) {
		set_mac(packet->eth->h_dest, route->dmac);
		set_mac(packet->eth->h_source, route->smac);
		return leave_by(ctx, route->ifindex);
	}
	way.ifindex = route->ifindex;
	set_mac(way.macs, route->dmac);
	set_mac(way.macs + ETH_ALEN, route->smac);
	if (link) {
		way.ifindex = link->ifindex;
		way.tags = link->tags;
		way.tag[0] = link->tag[0];
		way.tag[1] = link->tag[1];
	}
	return send_tagged(ctx, ethernet_length(packet), &way);
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The harness of `poise bench decision`: a generator turns one packet into the next packet of
 * a randomly drawn flow and tail-calls the program under test. `maglev` and `lru` are there
 * for comparison: what a decision by hash table costs, and by connection table.
 */
#include <stdbool.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include "poise/contract.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define CLIENTS 0x0b000000	/* 11.0.0.0, in nobody's use here */
#define CLIENTS6 0x20010db8	/* 2001:db8::/32, for documentation (RFC 3849) */
#define FIRST_PORT 1024
#define PORTS_PER_CLIENT 32	/* flows of one client address */
#define TTL 64
#define MAGLEV_TABLE_ROWS 65537
#define QUIC_SHORT_HEADER 0x40
#define QUIC_ID_LENGTH 8	/* after its first byte, in which this and the codepoint 0 stand */
#define ESTABLISHED_MARK 0x200	/* COOKIE_MARK */

enum traffic_kind {
	KIND_ESTABLISHED,
	KIND_SYN,
	KIND_RETURN,
	KIND_ESTABLISHED_IPV6,
	KIND_NO_TIMESTAMP,
	KIND_UDP,
	KIND_QUIC,
};

struct draw {
	__u32 flows;
	enum traffic_kind kind;
	__be32 vip;
	__be32 first_server;
	__be16 vip_port;
	__be16 server_port;
	struct address vip6;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct draw);
} draws SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} under_test SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAGLEV_TABLE_ROWS);
	__type(key, __u32);
	__type(value, __u32);
} maglev_table SEC(".maps");

struct connection {
	__be32 client;
	__be32 vip;
	__be16 client_port;
	__be16 vip_port;
	__u32 protocol;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);		/* twice the flows, set before loading */
	__type(key, struct connection);
	__type(value, __u32);
} connections SEC(".maps");

struct headers {
	struct iphdr ip;
	struct tcphdr tcp;
	__be32 options[3];		/* NOP, NOP, timestamp */
};

struct headers6 {
	struct ipv6hdr ip;
	struct tcphdr tcp;
	__be32 options[3];
};

/*
 * The packet behind its Ethernet header. Members are written and read whole: a load that spans
 * several narrower stores has to wait for them, which no packet from a network makes it do.
 */
static __always_inline struct headers *headers_of(struct xdp_md *ctx)
{
	struct headers *headers = (void *)(long)ctx->data + sizeof(struct ethhdr);

	return (void *)(headers + 1) <= (void *)(long)ctx->data_end ? headers : NULL;
}

/* Source and target stand there already; only the client's end changes from packet to packet. */
static __always_inline bool next_ipv6(struct xdp_md *ctx, const struct draw *draw, __u32 flow, __u32 random)
{
	struct headers6 *headers = (void *)(long)ctx->data + sizeof(struct ethhdr);

	if ((void *)(headers + 1) > (void *)(long)ctx->data_end)
		return false;
	*(__be16 *)&headers->ip.nexthdr = bpf_htons(IPPROTO_TCP << 8 | TTL);
	headers->ip.saddr.s6_addr32[0] = bpf_htonl(CLIENTS6);
	headers->ip.saddr.s6_addr32[3] = bpf_htonl(flow / PORTS_PER_CLIENT);
	*(struct address *)&headers->ip.daddr = draw->vip6;
	headers->tcp.source = bpf_htons(FIRST_PORT + flow % PORTS_PER_CLIENT);
	headers->tcp.dest = draw->vip_port;
	headers->options[2] = random | bpf_htonl(ESTABLISHED_MARK);
	return true;
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	struct headers *headers = headers_of(ctx);
	__u32 only = 0, random = bpf_get_prandom_u32();
	struct draw *draw = bpf_map_lookup_elem(&draws, &only);
	__be32 client;
	__be16 client_port;
	__u32 flow, protocol;

	if (!headers || !draw)
		return XDP_ABORTED;
	flow = (__u64)random * draw->flows >> 32;
	if (draw->kind == KIND_ESTABLISHED_IPV6) {
		if (next_ipv6(ctx, draw, flow, random))
			bpf_tail_call(ctx, &under_test, 0);
		return XDP_ABORTED;
	}
	client = bpf_htonl(CLIENTS + flow / PORTS_PER_CLIENT);
	client_port = bpf_htons(FIRST_PORT + flow % PORTS_PER_CLIENT);
	protocol = draw->kind == KIND_UDP || draw->kind == KIND_QUIC ? IPPROTO_UDP : IPPROTO_TCP;
	*(__be16 *)&headers->ip.ttl = bpf_htons(TTL << 8 | protocol);
	if (draw->kind == KIND_RETURN) {
		headers->ip.saddr = bpf_htonl(bpf_ntohl(draw->first_server) + flow % SERVER_IDS);
		headers->tcp.source = draw->server_port;
		headers->ip.daddr = client;
		headers->tcp.dest = client_port;
	} else {
		headers->ip.saddr = client;
		headers->tcp.source = client_port;
		headers->ip.daddr = draw->vip;
		headers->tcp.dest = draw->vip_port;
		/* A new connection each: SYNs of one flow would be retransmissions. */
		if (draw->kind == KIND_SYN)
			headers->tcp.seq = random;
		/* Any cookie names a server, all ids being in use. */
		if (draw->kind == KIND_ESTABLISHED || draw->kind == KIND_SYN)
			headers->options[2] = random | bpf_htonl(ESTABLISHED_MARK);
		/* A short header, then the connection id: length, server id of two bytes, nonce. */
		if (draw->kind == KIND_QUIC)
			headers->tcp.ack_seq = bpf_htonl(QUIC_SHORT_HEADER << 24 | QUIC_ID_LENGTH << 16 | random % SERVER_IDS);
	}
	bpf_tail_call(ctx, &under_test, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int harness(struct xdp_md *ctx)
{
	return XDP_TX;
}

static __always_inline __u32 mix(__u32 a, __u32 b, __u32 c)
{
	a = (a ^ b) * 0x9e3779b1;
	a = (a ^ a >> 15 ^ c) * 0x85ebca77;
	return a ^ a >> 13;
}

SEC("xdp")
int maglev(struct xdp_md *ctx)
{
	struct headers *headers = headers_of(ctx);
	__u32 row, *server;

	if (!headers)
		return XDP_ABORTED;
	row = mix(headers->ip.saddr, headers->ip.daddr,
		  (__u32)headers->tcp.source << 16 | headers->tcp.dest) % MAGLEV_TABLE_ROWS;
	server = bpf_map_lookup_elem(&maglev_table, &row);
	if (!server)
		return XDP_ABORTED;
	headers->ip.daddr = *server;
	return XDP_TX;
}

SEC("xdp")
int lru(struct xdp_md *ctx)
{
	struct headers *headers = headers_of(ctx);
	struct connection key = {};
	__u32 *server, chosen;

	if (!headers)
		return XDP_ABORTED;
	key.client = headers->ip.saddr;
	key.vip = headers->ip.daddr;
	key.client_port = headers->tcp.source;
	key.vip_port = headers->tcp.dest;
	key.protocol = IPPROTO_TCP;
	server = bpf_map_lookup_elem(&connections, &key);
	if (server) {
		headers->ip.daddr = *server;
		return XDP_TX;
	}
	chosen = mix(key.client, key.vip, key.client_port);
	bpf_map_update_elem(&connections, &key, &chosen, BPF_ANY);
	headers->ip.daddr = chosen;
	return XDP_TX;
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The one contract between the packet side and Python: what the maps hold.
 * Python reads these layouts from the BTF of the compiled object, by the names
 * of the types, members and enumerators; nothing here is written down twice.
 *
 * Members named __be16 and __be32 are in network byte order.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

enum limits {
	/*
	 * Tables are sized before loading, by the limit of VIPs: a power of two up to MAX_VIPS, of which
	 * tables.h holds the logarithm. They are compiled for the default.
	 */
	MAX_VIPS = 512,
	DEFAULT_VIPS = 64,
	VIP_ROWS_SHIFT = 3,	/* rows of the tables of ends for a VIP, as powers of two: its own end, */
	ORIGIN_ROWS_SHIFT = 11,	/* and those of its servers */
	PROBES = 16,		/* rows of these two in which an end may stand, see tables.h */
	SERVER_IDS = 512,	/* per VIP: the cookie has nine bits */
	MAX_SCHEDULE = 4096,	/* turns in which a pool's servers take connections */
	MAGLEV_ROWS = 16381,	/* a prime */
	SAMPLE_ROWS = 65536,
	MAX_WATCHES = 64,
	MAX_TAGS = 2,
	MAX_LINKS = 256,
	MAX_DIRECT_PREFIXES = 1024,
	DEFAULT_HANDSHAKE_ROWS = 16384,
	HANDSHAKE_WAYS = 3,
	DEFAULT_FLOW_ROWS = 131072,
	FRAGMENT_ROWS = 4096,
	DEFAULT_CONNECTION_ROWS = 64,
	ROW_SLOTS = 512,	/* connections of a row: their slots take the cookie's nine bits */
	INDEX_LINES = 32,	/* in the index of a row, each a cache line with this many places: */
	LINE_PLACES = 32,
	/* Units of struct connection after which a slot may be reused: 3 h, keepalive taking 2 h; 2 min. */
	MAX_IDLE = 10058,
	MAX_IDLE_AFTER_FIN = 112,
	MAX_SWEPT = 16,		/* rows at once */
	QUIC_CODEPOINTS = 8,	/* rows of quic_configs and quic_ciphers per VIP */
	/* Copies of resets without timestamp that each CPU may send per second, see slowpath.h. */
	RESET_COPIES_PER_SECOND = 20000,
	ICMP_COPIES_PER_SECOND = 20000,		/* likewise of ICMP errors */
	/* Messages that each CPU may send per second to say that a packet is too big: RFC 4443, section 2.4 (f). */
	TOO_BIG_PER_SECOND = 10000,
};

#define likely(x) __builtin_expect(!!(x), 1)

#define NO_SERVER (-1)		/* in place of a server id */
#define ALL_SERVERS (-2)	/* likewise */

/* An IPv6 address; where both kinds share a table, an IPv4 address is ::ffff:a.b.c.d (RFC 4291). */
struct address {
	__be32 word[4];
};

/* Who takes a new connection, see select.h. */
enum policy {
	POLICY_TURN = 0,	/* the schedule in turn: round robin, weighted or not, and AWRR */
	POLICY_HASH = 1,	/* the flow's hash modulo the schedule */
	POLICY_MAGLEV = 2,
	POLICY_TWO = 3,		/* of two at random the one with less load */
	POLICY_LEAST = 4,	/* the one with the least load */
	POLICY_PREQUAL = 5,	/* of two at random the one that is not hot; by latency if both are not, else by load */
};

/* What keeps a TCP connection on its server. */
enum mode {
	MODE_STATELESS = 0,	/* the cookie in its packets */
	MODE_STATEFUL = 1,	/* an entry in a table */
	MODE_COOKIELESS = 2,	/* nothing: every packet goes by the hash of its flow, of UDP too */
};

enum layout {
	LAYOUT_LOW = 0,
	LAYOUT_MSB = 1,		/* the two of the paper */
	LAYOUT_LSB = 2,
};

enum vip_flags {
	VIP_ASKS_DIRECT = 1,	/* there are `direct:` prefixes to ask for */
	VIP_ASKS_LINKS = 2,	/* there are links with VLAN tags */
	VIP_IS_QUIC = 4,
	VIP_IS_WATCHED = 8,	/* there are flows of it in `watches` */
};

/* One cache line. `end`: the number of address, port and protocol, see tables.h. */
struct vip {
	__u64 end;
	__u64 hash_state[4];	/* of SipHash, once it has taken in address, port and protocol, see siphash.h */
	__be32 address;		/* of IPv4; that of IPv6 is in vip_addresses */
	__be16 port;
	__u8 protocol;
	__u8 policy;
	__u32 index;		/* row of servers, traffic and turns */
	__u32 pool;		/* where new connections go; two per VIP, so that one can be replaced whole */
	__u8 mode;
	__u8 layout;
	__u16 flags;
	__u32 hot_above;	/* load above which a server is hot, of Prequal */
};

enum server_state {
	SERVER_NONE = 0,
	SERVER_READY = 1,
	SERVER_DRAIN = 2,	/* old connections only; a removed server drains too */
	SERVER_CUT = 3,		/* its connections are reset */
};

/*
 * How a packet reaches a server: its address, and the Ethernet hop towards it. Without an
 * interface nothing is sent there: the hop is not known, or the server is cut.
 */
struct server {
	__be32 address;		/* of IPv4; that of IPv6 is in server_addresses */
	__be16 port;
	__u8 state;
	__u8 tags;		/* VLAN tags of its frames: */
	__u32 ifindex;
	__u8 hop_mac[6];	/* these two as they stand in the Ethernet header */
	__u8 interface_mac[6];
	__be16 tag[MAX_TAGS];	/* VLAN ids, the outer one first */
	__u16 mtu;		/* of the way there, 65535 if it is larger or unknown */
	__u16 zero;
};

/* What a server's clock was last seen at, for the layouts of the paper: see layouts.h. */
struct server_clock {
	__u32 tsval[2];		/* with MSB, that which began each version; with LSB, only the first is in use */
	__u32 version;
};

/* Where frames for an interface of the routing table leave: the device under it, and their VLAN ids. */
struct link {
	__u32 ifindex;
	__u32 tags;
	__be16 tag[MAX_TAGS];
};

/* Whose packet comes from this end: a server of which VIP. */
struct origin {
	__u64 end;
	__u16 vip_row;		/* of the VIP table */
	__u16 vip;		/* its index */
	__u16 server;		/* id within the VIP */
	__u16 cut;		/* its connections are reset */
};

/*
 * The servers that take new connections of a VIP. The schedule has each as often as its share: it is
 * taken in turn, by hash, or at random.
 */
struct pool {
	__u32 size;
	__u32 turns;		/* of the schedule; at least one if there are servers */
	__u16 ids[SERVER_IDS];
	__u8 weights[SERVER_IDS];	/* from which Python made the Maglev table */
	__u16 schedule[MAX_SCHEDULE];
};

/* Server ids by the hash of a flow; of the pool with the same number. */
struct maglev {
	__u16 ids[MAGLEV_ROWS];
	__u16 zero[3];
};

/*
 * How busy a server is, by its row. `load` is whatever Python measures, per weight, so that rows
 * compare; as it is always late, each connection since counts at once: load + placed * step.
 */
struct live {
	__u32 load;
	__u32 step;		/* what one more connection adds to it */
	__u32 placed;		/* connections since `load` was written, of policies that look at it; Python zeroes it */
	__u32 latency;		/* microseconds per weight; 0: unknown */
};

/* Connections of stateful VIPs, by server row, that are entered and neither over nor pushed out. */
struct counted {
	__u32 open;
};

/* A flow whose packets carry no cookie: UDP, and TCP without timestamps. */
struct flow {
	struct address client;
	__be16 port;
	__u16 vip;		/* its index */
};

/* The fragments of one datagram: RFC 791, section 3.2, and RFC 8200, section 4.5. */
struct fragment {
	struct address source;
	struct address target;
	__be32 identification;
	__u32 protocol;
};

struct fragment_way {
	__u32 vip_row;		/* of a reply; otherwise the fragments go */
	__u32 server_row;	/* to this server */
	__u32 to_client;
	__u32 since;		/* coarse_time() of the first one */
};

/*
 * What is remembered of connections from their SYN on, until newer ones push it out: one cache
 * line, with three of them side by side. Written without a lock: whose connection it is and on
 * which server stand in one word, so that a race can never lead to a wrong server.
 */
struct handshake_row {
	__u64 who[HANDSHAKE_WAYS];		/* fingerprint << 32 | server << 16 | enum handshake_flags */
	__u32 isn[HANDSHAKE_WAYS];		/* the client's initial sequence number */
	__u32 first_tsval[HANDSHAKE_WAYS];	/* of the server's first SYN-ACK, */
	__u32 last_tsval[HANDSHAKE_WAYS];	/* and of its last */
	__u32 next;				/* the way to be overwritten next */
};

enum handshake_flags {
	HANDSHAKE_USED = 1,
	HANDSHAKE_ANSWERED = 2,	/* first_tsval and last_tsval are set */
	HANDSHAKE_PLAIN = 4,	/* without timestamps: to be remembered as a flow */
	HANDSHAKE_ACCEPTED = 8,	/* answered by a SYN-ACK without timestamps */
};

/*
 * A connection of a stateful VIP: one cache line. Whose it is, on which server and in what state is
 * one word, which is written under the lock of the row and read at once without it. Times are in
 * units of 2^30 ns of the monotonic clock, a little over a second.
 */
struct connection {
	__u64 who;		/* fingerprint << 32 | server << 16 | enum connection_flags */
	__u32 isn;		/* the client's initial sequence number */
	__u32 first_tsval;	/* of the server's first SYN-ACK; if PLAIN, the sequence number after it */
	__u32 last_tsval;	/* of its last */
	__u32 awaited;		/* from the client next, as the server's last acknowledgement said */
	__u64 packets_to_server;
	__u64 bytes_to_server;	/* IP headers included, as in all counts */
	__u64 packets_to_client;
	__u64 bytes_to_client;
	__u32 seen;		/* when a packet came last */
	__u16 taken;		/* not in the row's queue */
	__u16 zero;
};

enum connection_flags {
	CONNECTION_USED = 1,
	CONNECTION_ANSWERED = 2,	/* by a SYN-ACK */
	CONNECTION_ESTABLISHED = 4,	/* the client has proven that it got an answer: the slot is its own */
	CONNECTION_PLAIN = 8,		/* without timestamps: found by the index alone */
	CONNECTION_CLIENT_FIN = 16,
	CONNECTION_SERVER_FIN = 32,
	CONNECTION_CLOSED = 64,		/* reset, or idle for too long */
};

/* The rest of a connection, which is written once. */
struct connection_origin {
	struct flow flow;
	__u32 created;
};

/*
 * Connections with the same bits of their flows' hash, see connections.h. All of it but `connections`
 * is used under the lock, except that the index is searched without it.
 */
struct connection_row {
	struct connection connections[ROW_SLOTS];
	__u16 index[INDEX_LINES * LINE_PLACES];	/* tag << 9 | slot; 0: never used, 1: no more */
	__u16 queue[ROW_SLOTS];		/* slots in the order in which they are reused, each XOR its place */
	struct connection_origin origins[ROW_SLOTS];
	struct bpf_spin_lock lock;
	__u16 head;		/* of the queue */
	__u16 taken;		/* slots that are not in it */
	__u8 zero[56];
};

/* How a server id stands in a QUIC connection id: draft-ietf-quic-load-balancers, section 5. */
enum quic_algorithm {
	QUIC_UNROUTABLE = 0,	/* no configuration under this codepoint */
	QUIC_PLAINTEXT = 1,
	QUIC_SINGLE_PASS = 2,	/* one AES block: the two lengths sum to 16 */
	QUIC_FOUR_PASS = 3,	/* a Feistel network of four rounds of AES */
};

/* What a codepoint of the three config-rotation bits means at a VIP; lengths in bytes. */
struct quic_config {
	enum quic_algorithm algorithm;
	__u8 server_id_length;
	__u8 nonce_length;
	__u16 zero;
};

/* What the program quic_set_key takes: the AES-128 key for a row of quic_configs. */
struct quic_key {
	__u32 row;
	__u32 remove;		/* whether to forget the row's key instead */
	__u8 key[16];
};

struct traffic {
	__u64 connections;	/* SYNs placed on the server, retransmissions not counted */
	__u64 packets;		/* from clients to the server */
	__u64 bytes;		/* of these, IP header included */
	__u64 repeats;		/* SYNs that were sent again */
	__u64 answers;		/* SYN-ACKs of the server, repeated ones too */
	__u64 resets;		/* of the server that answer a SYN: it refuses the connection */
};

/*
 * What was seen of some flows of VIPs without a table of connections: of every so many, and of all whose
 * server is being drained. Times are in units of 2^20 ns of the monotonic clock, about a millisecond.
 */
struct sample {
	__u32 fingerprint;	/* upper half of the flow's hash */
	__u16 vip;		/* its index */
	__u16 server;		/* id */
	__u32 begun;		/* when its SYN came, or else its first packet that was looked at */
	__u32 seen;		/* when the client's last packet came, or one that ends it */
	__u32 flags;		/* enum sample_flags */
};

enum sample_flags {
	SAMPLE_USED = 1,
	SAMPLE_BEGUN = 2,	/* its SYN was seen */
	SAMPLE_CLIENT_FIN = 4,
	SAMPLE_SERVER_FIN = 8,
	SAMPLE_RESET = 16,
};

/* Why a packet of a client goes where it goes. */
enum reason {
	REASON_NONE,
	REASON_POLICY,		/* a new connection */
	REASON_REPEATED_SYN,	/* where the first one went */
	REASON_COOKIE,
	REASON_HANDSHAKE,	/* as remembered from its SYN on, without a cookie */
	REASON_FLOW,		/* as remembered of its flow, without a cookie */
	REASON_HASH,
	REASON_CONNECTION,	/* as the table of a stateful VIP has it */
	REASON_QUIC_ID,
	REASON_UNKNOWN,		/* to no single server */
};

/* What became of the first packet of a flow since it is watched. */
struct watch {
	__u64 at;		/* ns of the monotonic clock */
	__u16 server;		/* id; WATCH_NO_SERVER if there is none */
	__u16 reason;		/* enum reason; REASON_NONE until the packet comes */
	__u32 packets;		/* of the flow, since then */
};

#define WATCH_NO_SERVER 0xffff

struct prefix {
	__u32 length;
	__be32 address;
};

struct prefix6 {
	__u32 length;
	struct address address;
};

struct settings {
	__u32 handshake_mask;	/* rows of the handshake table, less one */
	__u8 token[6];		/* Ethernet source by which XDP hands a packet to the slow path */
	__u8 renewing;		/* connections are still being carried here from a former table */
	__u8 zero;
	__u32 flow_rate;	/* flows that each CPU may begin to remember per second */
	__u32 connection_mask;	/* rows of the table of connections, less one */
	__u32 sample_mask;	/* flows with all of these bits of their hash clear are sampled */
};

/* What a CPU has used of something that is limited per second. */
struct budget {
	__u64 second;
	__u64 used;
};

enum budgets {
	BUDGET_RESET_COPIES,
	BUDGET_FLOWS,
	BUDGET_ICMP_COPIES,
	BUDGET_TOO_BIG,
	BUDGETS,
};

/*
 * What happened to a packet, other than the usual. The names, in lower case and without
 * EVENT_, are the names of the counters. PASS: left to the kernel, unchanged. DROP: discarded.
 */
enum event {
	EVENT_PASS_NOT_IP,
	EVENT_PASS_NOT_UNICAST,		/* to or from a group address of Ethernet */
	EVENT_PASS_OTHER_PROTOCOL,	/* neither TCP nor UDP, nor an ICMP error */
	EVENT_PASS_FRAGMENT_UNKNOWN,	/* later fragment of which no first one was seen here */
	EVENT_PASS_TRUNCATED,		/* ends before its ports */
	EVENT_PASS_LONG_HEADERS,	/* more IPv6 extension headers than are looked through */
	EVENT_PASS_UNRELATED,		/* neither for a VIP nor from a server */
	EVENT_PASS_ICMP_UNRELATED,	/* error that quotes a packet neither from a VIP nor to a server */
	EVENT_PASS_ICMP_MALFORMED,	/* error whose quote is no IP header and eight bytes */
	EVENT_PASS_ICMP_FRAGMENT,	/* first fragment of an error */
	EVENT_PASS_OWN_ADDRESS,		/* from a server to this machine */
	EVENT_PASS_DIRECT,		/* from a server to a `direct:` prefix */
	EVENT_PASS_SERVER_CONNECTS,	/* a server opens a connection from its service port */
	EVENT_PASS_NO_ROUTE,		/* to the client: the kernel answers the server */
	EVENT_PASS_REPLY_TTL_EXPIRED,	/* likewise */
	EVENT_PASS_REPLY_TOO_BIG,	/* likewise */
	EVENT_DROP_MALFORMED,		/* TCP or UDP header impossible or beyond the packet */
	EVENT_DROP_TTL_EXPIRED,
	EVENT_DROP_UNKNOWN_SERVER,	/* the cookie names no server */
	EVENT_DROP_NO_SERVER,		/* UDP: no server takes new flows */
	EVENT_DROP_SERVER_UNREACHABLE,	/* the hop to the server is not known */
	EVENT_DROP_TOO_BIG,		/* for the way to the server, and may be fragmented */
	EVENT_DROP_REPLY_TOO_BIG,	/* for the link to the client, and may be fragmented */
	EVENT_DROP_REPLY_OF_CUT_SERVER,
	EVENT_DROP_REPLY_WITHOUT_VIP,	/* its VIP is being added or removed */
	EVENT_DROP_RESET_LIMIT,		/* reset without timestamp, over RESET_COPIES_PER_SECOND */
	EVENT_DROP_ROW_FULL,		/* SYN to a stateful VIP: established connections take all slots of its row */
	EVENT_DROP_CONNECTION_NOT_YET_KNOWN,	/* while connections are carried into a new table */
	EVENT_DROP_ICMP_LIMIT,		/* ICMP error, over ICMP_COPIES_PER_SECOND */
	EVENT_DROP_TOO_BIG_LIMIT,	/* not told to the client: over TOO_BIG_PER_SECOND */
	EVENT_DROP_NO_NEIGHBOUR,	/* slow path: no way to the client after all */
	EVENT_DROP_INTERNAL,		/* a table that must be there is not */
	EVENT_RESET_NO_SERVER,		/* client's packet answered with a reset: no server takes connections */
	EVENT_RESET_OF_CUT_SERVER,	/* client's packet answered with a reset: its server is cut */
	EVENT_RESET_CONNECTION_UNKNOWN,	/* likewise: not in the table of a stateful VIP; a reset is dropped */
	EVENT_CONNECTION_RELEARNED,	/* entered anew by a packet of its server, other than a SYN-ACK */
	EVENT_TOO_BIG_ANSWERED,		/* client's packet answered: too big for the way to the server */
	EVENT_REFUSED_SIGNED_SYN,	/* answered with an ICMP error: what is signed cannot be rewritten */
	EVENT_SYN_RETRANSMITTED,	/* went where the first one went */
	EVENT_SYN_WITHOUT_TIMESTAMP,	/* placed by hash, or by load */
	EVENT_HANDSHAKE_UNKNOWN,	/* echo of a SYN-ACK that the table has forgotten */
	EVENT_SYNACK_UNEXPECTED,	/* SYN-ACK of a SYN that the table has forgotten */
	EVENT_NO_TIMESTAMP_REMEMBERED,	/* server found in the handshake table or among the flows */
	EVENT_NO_TIMESTAMP_HASHED,
	EVENT_FLOW_REMEMBERED,		/* a new one, of UDP or without timestamps */
	EVENT_FLOW_LIMIT,		/* new flow left to the hash alone: over `flow_rate` */
	EVENT_RESET_TO_ALL,		/* reset without timestamp of a forgotten connection */
	EVENT_ICMP_TO_SERVER,		/* error that quotes a packet of a server */
	EVENT_ICMP_TO_ALL,		/* likewise, of which server is not known */
	EVENT_ICMP_TO_CLIENT,		/* error that quotes a packet of a client */
	EVENT_NEIGHBOUR_UNRESOLVED,	/* first packet to a client or gateway: sent by the kernel */
	EVENTS,
};

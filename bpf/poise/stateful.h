/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * TCP of stateful VIPs: every connection is in the table, with timestamps or without. The cookie is
 * that of cookie.h, with the slot in place of the server id.
 */
#pragma once

#include "connections.h"
#include "flows.h"
#include "handshake.h"
#include "select.h"
#include "timestamp.h"

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

/* Of a segment, in one word: its length, from bit 16 on its TCP flags, and whether it has timestamps. */
#define ABOUT_FLAGS 16
#define ABOUT_TIMESTAMP (1 << 24)

/* In place of a server. */
#define UNKNOWN_CONNECTION 0xffffffff
#define NO_CONNECTION (-3)
#define NO_ROOM (-4)

/*
 * How far from what the server awaits a segment without an echo may be to end its connection: of a
 * reset, which answers a segment of the server, little (RFC 5961, section 3); of other segments
 * without timestamps, any usual window.
 */
#define NEAR_FOR_RESET (1 << 16)
#define NEAR_FOR_SEGMENT (1 << 24)
#define NEAR_FOR_PROOF (1 << 20)

static __always_inline bool is_near(__u32 number, __u32 expected, __u32 distance)
{
	return number - expected + distance < 2 * distance;
}

static __always_inline __u32 tcp_flags(const struct packet *packet)
{
	return ((const __u8 *)packet->tcp)[13];
}

static __always_inline __u32 about(const struct packet *packet, const int family, const struct timestamp *timestamp)
{
	__u32 flags = tcp_flags(packet);

	return (ip_length(packet, family) & 0xffff) | flags << ABOUT_FLAGS | (timestamp ? ABOUT_TIMESTAMP : 0);
}

/* As handshake_restore(), which does it for stateless VIPs. */
static __always_inline __u32 restore_answer(const struct connection *connection, __u32 tsecr)
{
	__u32 first = connection->first_tsval;
	__u32 last = connection->last_tsval;

	if (((tsecr ^ first) & ~COOKIE_BITS) == 0)
		return first;
	if (((tsecr ^ last) & ~COOKIE_BITS) == 0)
		return last;
	return ((tsecr | COOKIE_BITS) & ~SYN_COOKIE_OPTION_BITS) | (first & SYN_COOKIE_OPTION_BITS);
}

/* What a client's segment does to the state of its connection. `proven`: nobody else can have sent it. */
static __always_inline void follow_client(__u64 hash, __u32 slot, const struct connection *connection, __u64 who,
					  __u32 flags, __u32 seq, __u32 ack, bool proven)
{
	bool plain = who & CONNECTION_PLAIN;

	if (flags & TCP_RST) {
		if (proven || is_near(seq, connection->awaited, NEAR_FOR_RESET))
			change_connection(hash, slot, CONNECTION_CLOSED, 0);
		return;
	}
	if (flags & TCP_FIN && (proven || (plain && is_near(seq, connection->awaited, NEAR_FOR_SEGMENT))))
		change_connection(hash, slot, CONNECTION_CLIENT_FIN, 0);
	if (who & CONNECTION_ESTABLISHED || (who & CONNECTION_FINS) == CONNECTION_FINS)
		return;
	if (proven || (plain && flags & TCP_ACK && is_near(ack, connection->first_tsval, NEAR_FOR_PROOF)))
		change_connection(hash, slot, CONNECTION_ESTABLISHED, CONNECTION_CLOSED);
}

/*
 * The server of a client's segment that is no SYN, and what its echo becomes: in the lower and upper
 * half of the result. A segment without echo, or with one from before its connection was relearned,
 * is found by the index. UNKNOWN_CONNECTION if it is not in the table.
 */
__attribute__((noinline)) __u64 follow_connection(__u64 hash, __u32 tsecr, __u32 about, __u32 seq, __u32 ack)
{
	struct connection_row *row = connection_row(hash);
	__u32 slot = cookie_server(tsecr, hash);
	__u32 flags = about >> ABOUT_FLAGS & 0xff;
	bool proven = about & ABOUT_TIMESTAMP && flags & TCP_ACK;
	struct connection *connection;
	__u64 who;

	if (!row)
		return UNKNOWN_CONNECTION;
	connection = &row->connections[slot];
	who = *(volatile __u64 *)&connection->who;
	if (!proven || !belongs_to(who, hash >> 32)) {
		int found = find_slot(hash, FIND_OPEN, 0);

		if (found < 0)
			found = find_slot(hash, FIND_ANY, 0);
		if (found < 0)
			return UNKNOWN_CONNECTION;
		slot = found % ROW_SLOTS;
		connection = &row->connections[slot];
		who = *(volatile __u64 *)&connection->who;
		proven = false;
	}
	connection->packets_to_server++;
	connection->bytes_to_server += about & 0xffff;
	connection->seen = coarse_time();
	if (flags & (TCP_FIN | TCP_RST) || !(who & CONNECTION_ESTABLISHED))
		follow_client(hash, slot, connection, who, flags, seq, ack, proven);
	if (tsecr & COOKIE_MARK || !(who & CONNECTION_ANSWERED))
		tsecr = cookie_strip(tsecr);
	else
		tsecr = restore_answer(connection, tsecr);
	return (__u64)tsecr << 32 | server_of_connection(who);
}

/* What a server's segment does to the state of its connection. `stamp`: its TSval, or if it has none, its seq + 1. */
static __always_inline void follow_server(__u64 hash, __u32 slot, struct connection *connection, __u64 who, __u32 flags,
					  __u32 ack, __u32 stamp, bool plain)
{
	if (flags & TCP_RST) {
		change_connection(hash, slot, CONNECTION_CLOSED, 0);
	} else if (flags & TCP_SYN) {
		/* The acknowledgement may cover data that came with the SYN, see handshake_answer(). */
		if (!(who & CONNECTION_ANSWERED) || ack - 1 - connection->isn > SYN_DATA_MAX) {
			connection->isn = ack - 1;
			connection->first_tsval = stamp;
			change_connection(hash, slot, CONNECTION_ANSWERED | (plain ? CONNECTION_PLAIN : 0), 0);
		}
		connection->last_tsval = stamp;
	} else if (flags & TCP_FIN) {
		change_connection(hash, slot, CONNECTION_SERVER_FIN, 0);
	} else if (plain && !(who & CONNECTION_ANSWERED)) {
		connection->first_tsval = stamp;
	}
}

/*
 * What the TSval of a server's segment becomes; UNKNOWN_CONNECTION in the upper half of the result if
 * its connection is not in the table. `server`: its id.
 */
__attribute__((noinline)) __u64 answer_connection(__u64 hash, __u32 server, __u32 stamp, __u32 about, __u32 ack)
{
	struct connection_row *row = connection_row(hash);
	int slot = find_slot(hash, FIND_SERVER, server);
	__u32 flags = about >> ABOUT_FLAGS & 0xff;
	struct connection *connection;
	__u64 who;

	if (!row || slot < 0)
		return (__u64)UNKNOWN_CONNECTION << 32;
	connection = &row->connections[slot % ROW_SLOTS];
	who = *(volatile __u64 *)&connection->who;
	connection->packets_to_client++;
	connection->bytes_to_client += about & 0xffff;
	connection->seen = coarse_time();
	if (flags & TCP_ACK && !(flags & TCP_RST))
		connection->awaited = ack;
	if (flags & (TCP_FIN | TCP_SYN | TCP_RST) || !(who & CONNECTION_ESTABLISHED))
		follow_server(hash, slot % ROW_SLOTS, connection, who, flags, ack, stamp, !(about & ABOUT_TIMESTAMP));
	return cookie_stamp(stamp, hash, slot, flags & TCP_SYN);
}

/* Whether the server's reset with this acknowledgement answers a SYN: it refuses the connection. */
static __always_inline bool connection_refused(__u64 hash, __u32 server, __u32 ack)
{
	struct connection_row *row = connection_row(hash);
	int slot = find_slot(hash, FIND_SERVER, server);
	struct connection *connection;

	if (!row || slot < 0)
		return false;
	connection = &row->connections[slot % ROW_SLOTS];
	return !(connection->who & (CONNECTION_ANSWERED | CONNECTION_ESTABLISHED)) &&
	       ack - 1 - connection->isn <= SYN_DATA_MAX;
}

/*
 * The server of a SYN. One that is repeated goes to the same server while that takes connections; any
 * other SYN is a new connection, and nothing is forgotten for it but what is over.
 */
static __always_inline int place_connection(const struct packet *packet, const int family, const struct vip *vip,
					    __u64 hash, bool has_timestamp, enum reason *reason)
{
	struct connection_row *row = connection_row(hash);
	__u32 isn = bpf_ntohl(packet->tcp->seq);
	int id, slot = find_slot(hash, FIND_ISN, isn);
	struct flow flow;

	if (!row)
		return NO_ROOM;
	if (slot >= 0) {
		struct connection *connection = &row->connections[slot % ROW_SLOTS];

		id = server_of_connection(connection->who);
		if (may_connect(vip, id)) {
			count(EVENT_SYN_RETRANSMITTED);
			*reason = REASON_REPEATED_SYN;
			connection->packets_to_server++;
			connection->bytes_to_server += ip_length(packet, family);
			return id;
		}
		change_connection(hash, slot, CONNECTION_CLOSED, 0);
	}
	if (!has_timestamp)
		count(EVENT_SYN_WITHOUT_TIMESTAMP);
	id = select_server(vip, hash, isn);
	if (id == NO_SERVER)
		return NO_SERVER;
	flow = flow_from(vip, packet, family);
	slot = open_connection(&flow, hash, isn, id, has_timestamp ? 0 : CONNECTION_PLAIN);
	if (slot < 0)
		return NO_ROOM;
	row->connections[slot % ROW_SLOTS].packets_to_server = 1;
	row->connections[slot % ROW_SLOTS].bytes_to_server = ip_length(packet, family);
	*reason = REASON_POLICY;
	return id;
}

/* The server of any other segment of a client; `change`: what the TCP checksum owes for its echo. */
static __always_inline int follow_segment(const struct packet *packet, const int family, __u64 hash,
					  struct timestamp *timestamp, __u64 *change)
{
	__u32 tsecr = timestamp ? bpf_ntohl(timestamp->tsecr) : 0;
	__u64 found = follow_connection(hash, tsecr, about(packet, family, timestamp), bpf_ntohl(packet->tcp->seq),
					bpf_ntohl(packet->tcp->ack_seq));

	if ((__u32)found == UNKNOWN_CONNECTION)
		return NO_CONNECTION;
	if (timestamp && packet->tcp->ack)
		*change = rewrite_timestamp(packet, &timestamp->tsecr, found >> 32);
	return (__u32)found;
}

/*
 * Marks a server's segment with the slot of its connection, which is entered if it is not in the table;
 * returns what the TCP checksum owes for it.
 */
static __always_inline __u64 answer_segment(const struct packet *packet, const int family, const struct vip *vip,
					    __u64 hash, __u32 server, struct timestamp *timestamp)
{
	__u32 ack = bpf_ntohl(packet->tcp->ack_seq), seq = bpf_ntohl(packet->tcp->seq);
	__u32 stamp = timestamp ? bpf_ntohl(timestamp->tsval) : seq + 1;
	__u32 of_packet = about(packet, family, timestamp);
	__u64 answer = answer_connection(hash, server, stamp, of_packet, ack);

	if (answer >> 32 == UNKNOWN_CONNECTION) {
		struct flow flow = flow_to(vip, packet, family);

		if (packet->tcp->rst)
			return 0;
		count(packet->tcp->syn ? EVENT_SYNACK_UNEXPECTED : EVENT_CONNECTION_RELEARNED);
		open_connection(&flow, hash, ack - 1, server, timestamp ? 0 : CONNECTION_PLAIN);
		answer = answer_connection(hash, server, stamp, of_packet, ack);
	}
	return timestamp && answer >> 32 == 0 ? rewrite_timestamp(packet, &timestamp->tsval, answer) : 0;
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Finding the timestamp, or a signature, among the options of a TCP segment. */
#pragma once

#include "parse.h"

#define TCP_OPTION_END 0
#define TCP_OPTION_NOP 1
#define TCP_OPTION_TIMESTAMP 8
#define TCP_TIMESTAMP_LENGTH 10
#define TCP_OPTION_MD5 19		/* RFC 2385 */
#define TCP_OPTION_AUTHENTICATION 29	/* RFC 5925 */
#define TCP_HEADER_MAX 60

/* RFC 7323, section 3.2: kind, length, TSval, TSecr; it may stand at any byte. */
struct timestamp {
	__be32 tsval;
	__be32 tsecr;
};

#define TCP_OPTIONS_MAX 40
#define OPTION_BIT(kind) (1ULL << (kind))
#define TIMESTAMP OPTION_BIT(TCP_OPTION_TIMESTAMP)
#define SIGNATURE (OPTION_BIT(TCP_OPTION_MD5) | OPTION_BIT(TCP_OPTION_AUTHENTICATION))

/*
 * Where in the TCP header the data of the first option of a wanted kind stand, or 0. Reading stops at
 * the first option that cannot be, as tcp_parse_options() of Linux does, so that both ends see the
 * options as we do.
 *
 * One function for all kinds, not inlined: the verifier then follows the loop once, instead of once
 * for each of them and for everything that comes after it.
 */
__attribute__((noinline)) __u32 search_option(struct xdp_md *ctx, __u32 tcp_offset, __u32 header_length, __u64 wanted)
{
	void *end = (void *)(long)ctx->data_end;
	__u32 at = sizeof(struct tcphdr);

	if (tcp_offset > TRANSPORT_MAX || header_length > TCP_HEADER_MAX)
		return 0;
	for (int i = 0; i < TCP_OPTIONS_MAX; i++) {
		__u8 *option = (void *)(long)ctx->data + tcp_offset + at;

		if (at + 2 > header_length || (void *)(option + 2) > end || option[0] == TCP_OPTION_END)
			return 0;
		if (option[0] == TCP_OPTION_NOP) {
			at++;
			continue;
		}
		if (option[1] < 2 || at + option[1] > header_length)
			return 0;
		if (option[0] < 64 && wanted >> option[0] & 1 &&
		    (option[0] != TCP_OPTION_TIMESTAMP || option[1] == TCP_TIMESTAMP_LENGTH))
			return at + 2;
		at += option[1];
	}
	return 0;
}

/* Whether a segment is signed, or is meant to be. */
static __always_inline bool is_signed(struct xdp_md *ctx, const struct packet *packet, __u32 header_length)
{
	__u32 *options = (__u32 *)(packet->tcp + 1);

	/* Nothing but NOP, NOP, timestamp: spares the search. */
	if (header_length == sizeof(struct tcphdr) + 12 && (void *)(options + 1) <= packet->end &&
	    *options == bpf_htonl(0x0101080a))
		return false;
	return search_option(ctx, transport_offset(packet), header_length, SIGNATURE);
}

/* The timestamps of a segment, or NULL. */
static __always_inline struct timestamp *find_timestamp(struct xdp_md *ctx, const struct packet *packet,
							__u32 header_length)
{
	__u32 *options = (__u32 *)(packet->tcp + 1);
	__u32 at = sizeof(struct tcphdr) + sizeof(*options);
	struct timestamp *found;

	/* What every stack sends once a connection is established: NOP, NOP, timestamp. */
	if (header_length < sizeof(struct tcphdr) + 12 || (void *)(options + 1) > packet->end ||
	    *options != bpf_htonl(0x0101080a))
		at = search_option(ctx, transport_offset(packet), header_length, TIMESTAMP);
	if (!at)
		return NULL;
	found = (void *)packet->tcp + (at & 63);	/* the mask tells the verifier the bound */
	return (void *)(found + 1) <= packet->end ? found : NULL;
}

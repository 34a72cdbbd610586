/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From a UDP datagram to the server that its QUIC connection id names, after
 * draft-ietf-quic-load-balancers. Only what RFC 8999 promises of every version is read: whether
 * the header is long, and where the destination connection id stands.
 */
#pragma once

#include <stdbool.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "contract.h"
#include "quic_crypto.h"
#include "quic_id.h"

#define QUIC_LONG_HEADER 0x80
#define QUIC_VERSION 1		/* of a long header, where the version stands; 0: version negotiation */
#define QUIC_LONG_ID 6		/* behind the first byte, the version and the id's length */
#define QUIC_SHORT_ID 1
/*
 * As many bytes as a connection id can have in QUIC 1 and 2. A packet of these never ends sooner, even
 * if its id is shorter: behind the id, a short header's packet has 20 bytes or more (RFC 9001, section
 * 5.4.2), and a long header's 21.
 */
#define QUIC_ID_WINDOW 20

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DEFAULT_VIPS * QUIC_CODEPOINTS);
	__type(key, __u32);
	__type(value, struct quic_config);
} quic_configs SEC(".maps");

/*
 * The id, below SERVER_IDS, of the server that the destination connection id of a datagram names, or
 * NO_SERVER if it names none: its codepoint is not configured, it is too short, its number too
 * large, its key not set, or this is no packet from a QUIC client. `datagram` is what follows the
 * UDP header. Whether the VIP has that server is for the caller to see: a client chooses its first
 * connection id at random, which may look like any.
 */
static __always_inline int quic_server(const void *datagram, const void *end, __u32 vip)
{
	const __u8 *first = datagram, *id = first + QUIC_SHORT_ID;
	__u32 length = QUIC_ID_WINDOW, row, used;
	const struct quic_config *config;
	__u64 high, low;

	if ((const void *)(first + QUIC_LONG_ID) > end)
		return NO_SERVER;
	if (*first & QUIC_LONG_HEADER) {
		if (!*(const __u32 *)(first + QUIC_VERSION))
			return NO_SERVER;
		length = first[QUIC_LONG_ID - 1];
		id = first + QUIC_LONG_ID;
	}
	if ((const void *)(id + QUIC_ID_WINDOW) > end)
		return NO_SERVER;
	row = vip * QUIC_CODEPOINTS + (*id >> 5);
	config = bpf_map_lookup_elem(&quic_configs, &row);
	if (!config || config->algorithm == QUIC_UNROUTABLE)
		return NO_SERVER;
	used = config->server_id_length + config->nonce_length;
	if (length < 1 + used)
		return NO_SERVER;

	id++;
	high = *(const __u64 *)id;
	low = *(const __u64 *)(id + 8);
	if (config->algorithm == QUIC_PLAINTEXT)
		return quic_id_number(high, low, config->server_id_length);
	return quic_decrypt(high, low, *(const __u16 *)(id + 16) | (__u32)id[18] << 16,
			    config->server_id_length | used << 8, row);
}

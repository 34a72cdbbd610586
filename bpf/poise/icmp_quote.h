/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors, and the packet that each of them quotes: RFC 792 and RFC 4443, section 3. What a
 * client sees of a packet differs from what its server sees in one end, so that end is replaced in
 * the quote; otherwise neither would recognise its packet (RFC 5508, section 4.2).
 */
#pragma once

#include "csum.h"
#include "icmp_header.h"
#include "parse.h"
#include "rewrite.h"
#include "tables.h"

/* RFC 792: of what follows the IP header at least eight bytes are quoted, among them the ports. */
#define QUOTED_BYTES 8

enum quoted {
	QUOTED,
	QUOTED_UNRELATED,	/* not a first or only fragment of TCP or UDP */
	QUOTED_MALFORMED,
};

/* How many bytes of a quoted packet there are from its transport header on. */
static __always_inline __u32 quoted_bytes(const struct packet *error, const struct packet *quote, const int family)
{
	__u32 before = quote->transport - (void *)error->ip, length = ip_length(error, family);

	return before < length ? length - before : 0;
}

/* Finds the headers of what an error quotes; the caller has made sure of the ICMP header. */
static __always_inline enum quoted parse_quote(struct packet *quote, const struct packet *error, void *ctx,
					       const enum hook hook, const int family)
{
	enum parsed parsed;

	quote->eth = error->eth;
	quote->end = error->end;
	quote->ip = error->transport + sizeof(struct icmp_header);
	if ((void *)error->ip + ip_length(error, family) > error->end)
		return QUOTED_MALFORMED;
	parsed = family == AF_INET ? parse_ipv4(quote) : parse_ipv6(quote, ctx, hook);
	if (parsed == PARSED_TRUNCATED)
		return QUOTED_MALFORMED;
	if (parsed != PARSED || (quote->protocol != IPPROTO_TCP && quote->protocol != IPPROTO_UDP))
		return QUOTED_UNRELATED;
	if (quote->transport + QUOTED_BYTES > quote->end || quoted_bytes(error, quote, family) < QUOTED_BYTES)
		return QUOTED_MALFORMED;
	return QUOTED;
}

/* An error goes to whoever sent the packet that it quotes. */
static __always_inline bool is_for_sender(const struct packet *error, const struct packet *quote, const int family)
{
	if (family == AF_INET)
		return error->ip->daddr == quote->ip->saddr;
	return same_address((struct address *)&error->ip6->daddr, (struct address *)&quote->ip6->saddr);
}

/* The VIP from which a quoted packet went to a client. */
static __always_inline struct vip *find_quoted_vip(const struct packet *quote, const int family)
{
	__be16 port = quote->udp->source;

	if (family == AF_INET)
		return find_vip4(quote->ip->saddr, port, quote->protocol);
	return find_vip6((struct address *)&quote->ip6->saddr, port, quote->protocol);
}

/* The server to which a quoted packet went. */
static __always_inline struct origin *find_quoted_server(const struct packet *quote, const int family)
{
	__be16 port = quote->udp->dest;

	if (family == AF_INET)
		return find_origin4(quote->ip->daddr, port, quote->protocol);
	return find_origin6((struct address *)&quote->ip6->daddr, port, quote->protocol);
}

/*
 * Replaces one end of the quoted packet, and with `outer` the address of the error itself that
 * stands for the same end: on the way to a server its target, on the way to a client its source.
 *
 * The checksum of the quoted TCP or UDP is left as it is: a quote may end before what it covers, or
 * before the checksum itself, so that nobody can verify it. Nor does anybody look at the quoted
 * timestamps, of which the server's own low bits are not known any more.
 */
static __always_inline void rewrite_error(const struct packet *error, const struct packet *quote, const int family,
					  const enum side quoted_side, const bool outer, const void *address,
					  __be16 port)
{
	__be16 *old_port = quoted_side == SOURCE ? &quote->udp->source : &quote->udp->dest;
	struct icmp_header *icmp = error->transport;
	__u64 of_outer = 0, of_quote, of_age = age(error, family);
	__sum16 before;

	if (family == AF_INET) {
		if (outer)
			of_outer = replace_address(quoted_side == SOURCE ? &error->ip->daddr : &error->ip->saddr,
						   address, family);
		csum_apply(&error->ip->check, of_age + of_outer);
		of_quote = replace_address(quoted_side == SOURCE ? &quote->ip->saddr : &quote->ip->daddr, address,
					   family);
		before = quote->ip->check;
		csum_apply(&quote->ip->check, of_quote);
		of_quote += csum_change(before, quote->ip->check);
	} else {
		if (outer)
			of_outer = replace_address(quoted_side == SOURCE ? &error->ip6->daddr : &error->ip6->saddr,
						   address, family);
		csum_apply(&icmp->checksum, of_outer);	/* of the pseudo header: RFC 4443, section 2.3 */
		of_quote = replace_address(quoted_side == SOURCE ? &quote->ip6->saddr : &quote->ip6->daddr, address,
					   family);
	}
	csum_apply(&icmp->checksum, of_quote + csum_change(*old_port, port));
	*old_port = port;
}

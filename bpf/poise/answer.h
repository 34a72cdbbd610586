/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IP headers of what a VIP itself answers to a client. */
#pragma once

#include "contract.h"
#include "csum.h"
#include "parse.h"

#define ANSWER_HOPS 64

/* Both return the sum of the addresses, for the pseudo header. `length`: bytes after the header. */
static __always_inline __u64 write_ipv4(struct iphdr *ip, __be32 source, __be32 target, __u8 protocol, __u32 length)
{
	struct iphdr answer = {
		.version = 4,
		.ihl = sizeof(*ip) / 4,
		.tot_len = bpf_htons(sizeof(*ip) + length),
		.frag_off = bpf_htons(IP_DONT_FRAGMENT),
		.ttl = ANSWER_HOPS,
		.protocol = protocol,
		.saddr = source,
		.daddr = target,
	};

	answer.check = ~csum_fold(csum_words(&answer, sizeof(answer) / 4));
	*ip = answer;
	return (__u64)source + target;
}

static __always_inline __u64 write_ipv6(struct ipv6hdr *ip, const struct address *source, const struct address *target,
					__u8 protocol, __u32 length)
{
	struct ipv6hdr answer = {
		.version = 6,
		.payload_len = bpf_htons(length),
		.nexthdr = protocol,
		.hop_limit = ANSWER_HOPS,
	};

	*(struct address *)&answer.saddr = *source;
	*(struct address *)&answer.daddr = *target;
	*ip = answer;
	return csum_words(source, 4) + csum_words(target, 4);
}

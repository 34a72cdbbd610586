/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The header of ICMP and ICMPv6; linux/icmp.h needs headers of a C library, which BPF has not. */
#pragma once

#include <stdbool.h>
#include "parse.h"

/* RFC 792 */
#define ICMP_UNREACHABLE 3
#define ICMP_PORT 3			/* codes of it */
#define ICMP_FRAGMENTATION_NEEDED 4
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12

/* RFC 4443 */
#define ICMPV6_UNREACHABLE 1
#define ICMPV6_PORT 4			/* a code of it */
#define ICMPV6_TOO_BIG 2
#define ICMPV6_PARAMETER_PROBLEM 4

struct icmp_header {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 word;	/* what it means depends on the type */
};

static __always_inline bool is_icmp(const struct packet *packet, const int family)
{
	return packet->protocol == (family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

/* Source quenches are no errors any more: RFC 6633. */
static __always_inline bool is_error(__u8 type, const int family)
{
	if (family == AF_INET)
		return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM;
	return type >= ICMPV6_UNREACHABLE && type <= ICMPV6_PARAMETER_PROBLEM;
}

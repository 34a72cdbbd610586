/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counters: what happened, and how much each server got. */
#pragma once

#include "contract.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EVENTS);
	__type(key, __u32);
	__type(value, __u64);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DEFAULT_VIPS * SERVER_IDS);
	__type(key, __u32);
	__type(value, struct traffic);
} traffic SEC(".maps");

/*
 * Counts the event and returns the verdict, so that every odd way out is one line. A function
 * of its own: the usual packet does not come here, and it keeps the program small.
 */
__attribute__((noinline)) int with_event(enum event event, int verdict)
{
	__u32 key = event;
	__u64 *count = bpf_map_lookup_elem(&events, &key);

	if (count)
		(*count)++;
	return verdict;
}

static __always_inline void count(enum event event)
{
	with_event(event, 0);
}

static __always_inline void count_traffic(__u32 server, __u32 bytes, enum reason reason)
{
	struct traffic *sum = bpf_map_lookup_elem(&traffic, &server);

	if (!sum)
		return;
	sum->packets++;
	sum->bytes += bytes;
	if (reason == REASON_POLICY)
		sum->connections++;
	else if (reason == REASON_REPEATED_SYN)
		sum->repeats++;
}

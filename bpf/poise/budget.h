/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Time, and what may happen so and so often per second, counted on each CPU. */
#pragma once

#include <stdbool.h>
#include "contract.h"

#define NANOSECONDS 1000000000ULL
#define TIME_SHIFT 30

/* In units of 2^30 ns: a shift is cheaper than a division, and these are seconds enough. */
static __always_inline __u32 coarse_time(void)
{
	return bpf_ktime_get_coarse_ns() >> TIME_SHIFT;
}

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BUDGETS);
	__type(key, __u32);
	__type(value, struct budget);
} budgets SEC(".maps");

/* Takes one out of this second's budget; false if it is spent. */
static __always_inline bool spend(enum budgets which, __u64 per_second)
{
	__u64 second = bpf_ktime_get_ns() / NANOSECONDS;
	__u32 row = which;
	struct budget *budget = bpf_map_lookup_elem(&budgets, &row);

	if (!budget)
		return false;
	if (budget->second != second) {
		budget->second = second;
		budget->used = 0;
	}
	return budget->used++ < per_second;
}

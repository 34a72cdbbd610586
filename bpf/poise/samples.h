/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A sample of the flows of which there is no table: who is still there, and which connections end. */
#pragma once

#include "contract.h"
#include "tables.h"

/* Direct-mapped by the hash of the flow. Written without a lock: a race spoils one row of many. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SAMPLE_ROWS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct sample);
} samples SEC(".maps");

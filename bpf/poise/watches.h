/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Flows of which somebody asked where their next packet goes. */
#pragma once

#include "contract.h"
#include "tables.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_WATCHES);
	__type(key, struct flow);
	__type(value, struct watch);
} watches SEC(".maps");

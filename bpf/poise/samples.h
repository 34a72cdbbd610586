/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A sample of the flows of which there is no table: who is still there, and which connections end.
 * Estimates of what is open come from it, and what remains of a server that is drained.
 */
#pragma once

#include <stdbool.h>
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

#define SAMPLE_TIME_SHIFT 20
#define SAMPLE_ROW_SHIFT 9	/* of the hash's bits, those above the cookie's pick the row, */
#define SAMPLE_SHIFT 26		/* and the next ones whether the flow is sampled */
#define SAMPLE_KEPT (1 << 16)	/* units of time that a silent flow keeps its row; over a minute */

#define SAMPLE_FINS (SAMPLE_CLIENT_FIN | SAMPLE_SERVER_FIN)
#define SAMPLE_ENDS (SAMPLE_FINS | SAMPLE_RESET)

static __always_inline bool is_draining(__u32 server_at)
{
	struct server *server = bpf_map_lookup_elem(&servers, &server_at);

	return server && server->state == SERVER_DRAIN;
}

/* Whether a flow goes on that has this row, so that another one may not take it. */
static __always_inline bool is_kept(const struct sample *sample, __u32 now)
{
	return sample->flags & SAMPLE_USED && !(sample->flags & SAMPLE_RESET) &&
	       (sample->flags & SAMPLE_FINS) != SAMPLE_FINS && (__s32)(now - sample->seen) <= SAMPLE_KEPT;
}

/* Notes a packet of a flow and what it means: it begins or ends the flow, or neither. */
__attribute__((noinline)) int sample_flow(__u64 hash, __u32 server_at, enum sample_flags meaning)
{
	__u32 row = hash >> SAMPLE_ROW_SHIFT & (SAMPLE_ROWS - 1);
	__u32 now = bpf_ktime_get_coarse_ns() >> SAMPLE_TIME_SHIFT;
	struct sample *sample = bpf_map_lookup_elem(&samples, &row);
	bool known;

	if (!sample)
		return 0;
	known = sample->flags & SAMPLE_USED && sample->fingerprint == hash >> 32 &&
		server_row(sample->vip, sample->server) == server_at;
	if (known && !(meaning & SAMPLE_BEGUN)) {
		sample->seen = now;
		sample->flags |= meaning;
		return 0;
	}
	if (meaning & SAMPLE_ENDS)
		return 0;
	/* All flows of a server that is drained are to be seen, so that they go first. */
	if (sample->fingerprint != hash >> 32 && is_kept(sample, now) &&
	    (!is_draining(server_at) || is_draining(server_row(sample->vip, sample->server))))
		return 0;
	sample->fingerprint = hash >> 32;
	sample->vip = server_at / SERVER_IDS;
	sample->server = server_at % SERVER_IDS;
	sample->begun = now;
	sample->seen = now;
	sample->flags = SAMPLE_USED | meaning;
	return 0;
}

/* Whether a flow that goes to this server is one of those that are sampled. */
static __always_inline bool is_sampled(__u64 hash, const struct server *server)
{
	const struct settings *settings = get_settings();

	return server->state == SERVER_DRAIN || (settings && !(hash >> SAMPLE_SHIFT & settings->sample_mask));
}

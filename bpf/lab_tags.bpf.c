/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The lab's VLANs, for kernels without 8021q: an interface whose frames all carry the same
 * tags. What the kernel sends gets them on TC egress; on TC ingress, frames with just these
 * lose them, and all others are of another VLAN.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define MOST_TAGS 2
#define VLAN_ID_MASK 0xfff

/* VLAN ids, the outer one first */
struct carried {
	__u32 count;
	__u32 ids[MOST_TAGS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct carried);
} carried_tags SEC(".maps");

static __always_inline bool has_tags(const struct __sk_buff *skb)
{
	return skb->vlan_present || skb->protocol == bpf_htons(ETH_P_8021Q) || skb->protocol == bpf_htons(ETH_P_8021AD);
}

/* Whoever sends a frame with tags means these: a program that knows them, or a copy of what was sent. */
SEC("tc")
int push_tags(struct __sk_buff *skb)
{
	__u32 only = 0;
	const struct carried *tags = bpf_map_lookup_elem(&carried_tags, &only);

	if (!tags)
		return TC_ACT_SHOT;
	if (has_tags(skb))
		return TC_ACT_UNSPEC;
	if (tags->count == 2) {
		/* IEEE 802.1ad: the outer tag is a service tag. */
		if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), tags->ids[1]) ||
		    bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021AD), tags->ids[0]))
			return TC_ACT_SHOT;
	} else if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), tags->ids[0])) {
		return TC_ACT_SHOT;
	}
	return TC_ACT_UNSPEC;
}

static __always_inline bool pop_tag(struct __sk_buff *skb, __u32 id)
{
	return skb->vlan_present && (skb->vlan_tci & VLAN_ID_MASK) == id && !bpf_skb_vlan_pop(skb);
}

/* The kernel has put the outer tag beside the frame by now, and does so with the next at each pop. */
SEC("tc")
int pop_tags(struct __sk_buff *skb)
{
	__u32 only = 0;
	const struct carried *tags = bpf_map_lookup_elem(&carried_tags, &only);

	if (!tags || !pop_tag(skb, tags->ids[0]) || (tags->count == 2 && !pop_tag(skb, tags->ids[1])))
		return TC_ACT_SHOT;
	return skb->vlan_present ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The encrypted algorithms of draft-ietf-quic-load-balancers, section 5.4, by the kernel's AES:
 * kfuncs of kernel/bpf/crypto.c, in Linux since 6.10 if built with CONFIG_CRYPTO. Where they are
 * missing, the same programs load: no key can be set, and connection ids under one name no server.
 */
#pragma once

#include <stdbool.h>
#include <linux/errno.h>
#include <linux/types.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include "contract.h"
#include "quic_id.h"

#define AES_BLOCK 16

/* The kernel's own types; this first one is only ever pointed to. */
struct bpf_crypto_ctx {
	void *tfm;
} __attribute__((preserve_access_index));

struct bpf_crypto_params {
	char type[14];
	__u8 reserved[2];
	char algo[128];
	__u8 key[256];
	__u32 key_len;
	__u32 authsize;
};

extern struct bpf_crypto_ctx *bpf_crypto_ctx_create(const struct bpf_crypto_params *params, __u32 params__sz,
						    int *err) __weak __ksym;
extern void bpf_crypto_ctx_release(struct bpf_crypto_ctx *ctx) __weak __ksym;
extern int bpf_crypto_encrypt(struct bpf_crypto_ctx *ctx, const struct bpf_dynptr *src,
			      const struct bpf_dynptr *dst, const struct bpf_dynptr *siv) __weak __ksym;
extern int bpf_crypto_decrypt(struct bpf_crypto_ctx *ctx, const struct bpf_dynptr *src,
			      const struct bpf_dynptr *dst, const struct bpf_dynptr *siv) __weak __ksym;

/* The kernel's pointer to a cipher. Clang 14 keeps the tag only if it stands at a typedef. */
typedef struct bpf_crypto_ctx crypto_context;

struct quic_cipher {
	crypto_context __kptr *context;
};

/* Rows as in quic_configs. Written only by quic_set_key: user space cannot make the contexts. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DEFAULT_VIPS * QUIC_CODEPOINTS);
	__type(key, __u32);
	__type(value, struct quic_cipher);
} quic_ciphers SEC(".maps");

/* Room for AES blocks: dynptrs cannot point to the stack. */
struct quic_blocks {
	__u64 plain[2];
	__u64 coded[2];
	__u64 bytes[4];		/* a connection id */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct quic_blocks);
} quic_scratch SEC(".maps");

/* A half of the plaintext: at most 10 bytes, then zeros; as two words as they lie in memory. */
struct quic_half {
	__u64 front;
	__u64 back;
};

/* Resolved when the program is loaded, so that the verifier sees no call of what is not there. */
static __always_inline bool kernel_has_crypto(void)
{
	return bpf_core_type_exists(struct bpf_crypto_ctx);
}

/* Takes struct quic_key; returns 0 or a negative errno. */
SEC("syscall")
int quic_set_key(struct quic_key *given)
{
	struct bpf_crypto_params params = {
		.type = "skcipher",
		.algo = "ecb(aes)",
		.key_len = sizeof(given->key),
	};
	struct bpf_crypto_ctx *context = NULL;
	struct quic_cipher *cipher;
	__u32 row = given->row;
	int error = 0;

	if (!kernel_has_crypto())
		return -EOPNOTSUPP;
	cipher = bpf_map_lookup_elem(&quic_ciphers, &row);
	if (!cipher)
		return -EINVAL;
	if (!given->remove) {
		__builtin_memcpy(params.key, given->key, sizeof(given->key));
		context = bpf_crypto_ctx_create(&params, sizeof(params), &error);
		if (!context)
			return error;
	}
	context = bpf_kptr_xchg(&cipher->context, context);
	if (context)
		bpf_crypto_ctx_release(context);
	return 0;
}

/*
 * One round of the Feistel network: the other half, changed by the encrypted `half`. The block is
 * the half, zeros, the length of the plaintext and the round's number.
 */
#define QUIC_ROUND(other, half, mask, number)							\
	do {											\
		blocks->plain[0] = (half).front;						\
		blocks->plain[1] = (half).back | (__u64)plain_length << 48 | (__u64)(number) << 56;	\
		if (bpf_crypto_encrypt(context, &plain, &coded, &none))				\
			return NO_SERVER;							\
		(other).front = ((other).front ^ blocks->coded[0]) & (mask).front;		\
		(other).back = ((other).back ^ blocks->coded[1]) & (mask).back;			\
	} while (0)

/* The bytes of a half that are its own, of which an odd plaintext leaves one nibble to each half. */
static __always_inline struct quic_half quic_mask(__u32 half_length)
{
	struct quic_half mask = { ~0ULL, 0 };

	if (half_length < 8)
		mask.front = ~(~0ULL << (half_length * 8 & 63));
	else
		mask.back = ~(~0ULL << ((half_length - 8) * 8 & 63));
	return mask;
}

/*
 * What quic_id_number() returns for a connection id under a key. The id without its first byte, of
 * `lengths` >> 8 bytes, is in three words as they lie in memory; the server id has `lengths` & 255.
 *
 * A function of its own, not inlined: the verifier then sees it once, and packet pointers of its
 * callers stay valid.
 */
__attribute__((noinline)) int quic_decrypt(__u64 first, __u64 second, __u32 third, __u32 lengths, __u32 row)
{
	__u32 server_id_length = lengths & 0xff, plain_length = lengths >> 8 & 0x1f, only = 0;
	__u32 half_length = (plain_length + 1) / 2, right_at = plain_length / 2;
	bool odd = plain_length & 1;
	struct quic_half left, right, left_mask, right_mask;
	struct bpf_dynptr plain, coded, none;
	struct bpf_crypto_ctx *context;
	struct quic_blocks *blocks;
	struct quic_cipher *cipher;
	__u8 *bytes;

	if (!kernel_has_crypto())
		return NO_SERVER;
	cipher = bpf_map_lookup_elem(&quic_ciphers, &row);
	blocks = bpf_map_lookup_elem(&quic_scratch, &only);
	if (!cipher || !blocks || right_at > 9)
		return NO_SERVER;
	context = cipher->context;
	if (!context)
		return NO_SERVER;
	bpf_dynptr_from_mem(blocks->plain, AES_BLOCK, 0, &plain);
	bpf_dynptr_from_mem(blocks->coded, AES_BLOCK, 0, &coded);
	/* ECB has no state; Linux 6.10 wants an empty one, later versions take NULL too. */
	bpf_dynptr_from_mem(blocks->bytes, 0, 0, &none);

	if (plain_length == AES_BLOCK) {
		blocks->coded[0] = first;
		blocks->coded[1] = second;
		if (bpf_crypto_decrypt(context, &coded, &plain, &none))
			return NO_SERVER;
		return quic_id_number(blocks->plain[0], blocks->plain[1], server_id_length);
	}

	left_mask = right_mask = quic_mask(half_length);
	blocks->bytes[0] = first;
	blocks->bytes[1] = second;
	blocks->bytes[2] = third;
	bytes = (__u8 *)blocks->bytes + right_at;
	if (odd) {
		if (half_length <= 8)
			left_mask.front &= ~(0x0fULL << ((half_length - 1) * 8 & 63));
		else
			left_mask.back &= ~(0x0fULL << ((half_length - 9) * 8 & 63));
		right_mask.front &= ~0xf0ULL;
	}
	left.front = first & left_mask.front;
	left.back = second & left_mask.back;
	right.front = *(__u64 *)bytes & right_mask.front;
	right.back = *(__u64 *)(bytes + 8) & right_mask.back;

	QUIC_ROUND(left, right, left_mask, 4);
	QUIC_ROUND(right, left, right_mask, 3);
	QUIC_ROUND(left, right, left_mask, 2);
	if (server_id_length <= right_at)
		return quic_id_number(left.front, left.back, server_id_length);

	QUIC_ROUND(right, left, right_mask, 1);
	blocks->bytes[0] = left.front;
	blocks->bytes[1] = left.back;
	right.front |= *bytes;		/* the left half's nibble of an odd plaintext, else zero */
	*(__u64 *)bytes = right.front;
	*(__u64 *)(bytes + 8) = right.back;
	return quic_id_number(blocks->bytes[0], blocks->bytes[1], server_id_length);
}

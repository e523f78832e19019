/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the benchmarks call. Follows Linux's functions in the same file, as their users do there. */
#include <stdlib.h>

unsigned long page_offset_base;

static unsigned long next_page, last_page;

unsigned long kho_bench_zeroed_page(void)
{
	if (next_page >= last_page)
		return 0;
	next_page += PAGE_SIZE;
	__builtin_memset((void *)(next_page - PAGE_SIZE), 0, PAGE_SIZE);
	return next_page - PAGE_SIZE;
}

/* Pages come from `size` bytes at `base` from now on, which is mapped at `distance`. */
void kho_peer_memory(unsigned long base, unsigned long size, unsigned long distance)
{
	next_page = base;
	last_page = base + size;
	page_offset_base = distance;
}

int kho_peer_init(struct kho_radix_tree *tree)
{
	return kho_radix_init_tree(tree, NULL);
}

u64 kho_peer_root(struct kho_radix_tree *tree)
{
	return virt_to_phys(tree->root);
}

int kho_peer_preserve(struct kho_radix_tree *tree, u64 phys, unsigned int order)
{
	return kho_radix_add_key(tree, kho_encode_radix_key(phys, order));
}

void kho_peer_unpreserve(struct kho_radix_tree *tree, u64 phys, unsigned int order)
{
	kho_radix_del_key(tree, kho_encode_radix_key(phys, order));
}

/* Adds up what it is told, so that the decoding cannot be left out. */
static int sum_folio(unsigned long key, void *data)
{
	u64 *sum = data;
	unsigned int order;

	*sum += kho_decode_radix_key(key, &order);
	*sum += order;
	return 0;
}

u64 kho_peer_walk(struct kho_radix_tree *tree)
{
	const struct kho_radix_walk_cb cb = { .leaf = sum_folio };
	u64 sum = 0;

	kho_radix_walk_tree(tree, &cb, &sum);
	return sum;
}

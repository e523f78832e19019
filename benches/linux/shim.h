/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What Linux's radix tree needs of a kernel, in user space. Where there is a choice, the cheaper
 * one, so that the peer is not slower than in a kernel: no checks, no might_sleep(), bits set by
 * plain C. The mutex costs what Linux's costs when nobody else wants it: one compare-and-swap to
 * take it, one to give it back.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t u64;
typedef uint64_t phys_addr_t;

#define PAGE_SHIFT 12
#define PAGE_SIZE (1UL << PAGE_SHIFT)
#define BITS_PER_BYTE 8
#define BITS_PER_LONG 64
#define DIV_ROUND_UP(n, d) (((n) + (d) - 1) / (d))
#define const_ilog2(n) (63 - __builtin_clzll(n))
#define DECLARE_BITMAP(name, bits) unsigned long name[(bits) / BITS_PER_LONG]

#define EINVAL 22
#define ENOMEM 12
#define ERANGE 34

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define min(a, b) ((a) < (b) ? (a) : (b))
#define EXPORT_SYMBOL_GPL(symbol)
#define __ref
#define might_sleep() do { } while (0)
#define WARN_ON(x) unlikely(x)
#define WARN_ON_ONCE(x) unlikely(x)

#define __ffs(word) ((unsigned long)__builtin_ctzl(word))
#define BITMAP_FIRST_WORD_MASK(start) (~0UL << ((start) % BITS_PER_LONG))

static inline int fls64(u64 word)
{
	return word ? 64 - __builtin_clzll(word) : 0;
}

static inline void __set_bit(unsigned long nr, unsigned long *bitmap)
{
	bitmap[nr / BITS_PER_LONG] |= 1UL << (nr % BITS_PER_LONG);
}

static inline void __clear_bit(unsigned long nr, unsigned long *bitmap)
{
	bitmap[nr / BITS_PER_LONG] &= ~(1UL << (nr % BITS_PER_LONG));
}

/* Of a file of its own in Linux, so never inlined there. */
__attribute__((noinline))
unsigned long _find_next_bit(const unsigned long *bitmap, unsigned long bits, unsigned long start);
#define find_next_bit _find_next_bit

struct mutex {
	unsigned long owner;
};

static inline void mutex_init(struct mutex *mutex)
{
	mutex->owner = 0;
}

static inline struct mutex *mutex_lock(struct mutex *mutex)
{
	unsigned long nobody = 0;

	while (!__atomic_compare_exchange_n(&mutex->owner, &nobody, 1, false,
					    __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		nobody = 0;
	return mutex;
}

static inline void mutex_unlock(struct mutex **mutex)
{
	unsigned long me = 1;

	__atomic_compare_exchange_n(&(*mutex)->owner, &me, 0, false,
				    __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

#define guard(kind) \
	struct kind *guard __attribute__((cleanup(kind##_unlock), unused)) = guard_##kind
#define guard_mutex(mutex) mutex_lock(mutex)

/* The direct map, at a distance that is only known at run time, as Linux's is. */
extern unsigned long page_offset_base;

static inline void *phys_to_virt(phys_addr_t phys)
{
	return (void *)(phys + page_offset_base);
}

static inline phys_addr_t virt_to_phys(const void *virt)
{
	return (phys_addr_t)virt - page_offset_base;
}

#define GFP_KERNEL 0
#define slab_is_available() true
#define get_zeroed_page(flags) kho_bench_zeroed_page()
#define free_page(page) kho_bench_free_page(page)
#define memblock_alloc(size, align) NULL
#define memblock_free(page, size) do { } while (0)

/* The pages come from the same kind of memory that our tree's come from. */
unsigned long kho_bench_zeroed_page(void);
static inline void kho_bench_free_page(unsigned long page)
{
}

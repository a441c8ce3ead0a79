/*
 * The kernels of core-wasm once more in C, as the peer of bench/kernels.ts.
 *
 * Same algorithms, same data, same 128-bit vectors (built with -O3 -march=x86-64-v2, the instruction set that WebAssembly
 * SIMD stands on). Usage: kernels CASE SECONDS; prints the processor time of one
 * call of the case's kernel in nanoseconds, and the checksum of the data.
 */
#include <smmintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PAGE_BYTES = 4096, PAGE_WORDS = 512, DATA_BYTES = 65536, GRANULE_BYTES = 8192 };

/* Pages A and B, and from page 16 on the data X and Y. */
static uint8_t *area;
static volatile uint64_t sink;

static inline __m128i at(const uint8_t *p, size_t i) { return _mm_loadu_si128((const __m128i *)(p + i)); }
static inline int any(__m128i x) { return !_mm_testz_si128(x, x); }
static inline __m128i or4(const uint8_t *p) {
  return _mm_or_si128(_mm_or_si128(at(p, 0), at(p, 16)), _mm_or_si128(at(p, 32), at(p, 48)));
}
static inline __m128i difference4(const uint8_t *a, const uint8_t *b) {
  return _mm_or_si128(
      _mm_or_si128(_mm_xor_si128(at(a, 0), at(b, 0)), _mm_xor_si128(at(a, 16), at(b, 16))),
      _mm_or_si128(_mm_xor_si128(at(a, 32), at(b, 32)), _mm_xor_si128(at(a, 48), at(b, 48))));
}

static __attribute__((noinline)) int bytes_zero(const uint8_t *p, size_t length) {
  const uint8_t *end = p + length;
  for (; p + 256 <= end; p += 256)
    if (any(_mm_or_si128(_mm_or_si128(or4(p), or4(p + 64)), _mm_or_si128(or4(p + 128), or4(p + 192))))) return 0;
  for (; p < end; p++)
    if (*p) return 0;
  return 1;
}

static __attribute__((noinline)) int bytes_equal(const uint8_t *a, const uint8_t *b, size_t length) {
  const uint8_t *end = a + length;
  for (; a + 128 <= end; a += 128, b += 128)
    if (any(_mm_or_si128(difference4(a, b), difference4(a + 64, b + 64)))) return 0;
  for (; a < end; a++, b++)
    if (*a != *b) return 0;
  return 1;
}

static __attribute__((noinline)) uint32_t diff_blocks(const uint8_t *a, const uint8_t *b, size_t size, uint32_t count,
                                                      uint8_t *mask) {
  uint32_t found = 0;
  memset(mask, 0, (count + 7) / 8);
  for (uint32_t i = 0; i < count; i++, a += size, b += size)
    if (!bytes_equal(a, b, size)) mask[i >> 3] |= 1 << (i & 7), found++;
  return found;
}

static __attribute__((noinline)) uint32_t page_count(const uint64_t *p) {
  uint64_t a = 0, b = 0;
  for (int i = 0; i < PAGE_WORDS; i += 2) {
    a += __builtin_popcountll(p[i]);
    b += __builtin_popcountll(p[i + 1]);
  }
  return a + b;
}

static inline uint64_t or_pair(uint64_t *into, __m128i bits) {
  __m128i old = _mm_loadu_si128((const __m128i *)into), fresh = _mm_andnot_si128(old, bits);
  _mm_storeu_si128((__m128i *)into, _mm_or_si128(old, bits));
  return __builtin_popcountll(_mm_cvtsi128_si64(fresh)) + __builtin_popcountll(_mm_extract_epi64(fresh, 1));
}
static __attribute__((noinline)) uint32_t page_or(uint64_t *into, const uint64_t *from) {
  uint64_t changed = 0;
#pragma GCC unroll 4
  for (int i = 0; i < PAGE_WORDS; i += 2) changed += or_pair(into + i, at((const uint8_t *)(from + i), 0));
  return changed;
}

/* Bits [shift, 32768) of `from` to bits [0, 32768 - shift) of `into`, 0 < shift < 64. */
static __attribute__((noinline)) uint32_t page_or_shifted(uint64_t *into, const uint64_t *from, unsigned shift) {
  const __m128i right = _mm_cvtsi32_si128(shift), left = _mm_cvtsi32_si128(64 - shift);
  uint64_t changed = 0;
#pragma GCC unroll 2
  for (int i = 0; i < PAGE_WORDS - 2; i += 2) {
    const uint8_t *p = (const uint8_t *)(from + i);
    changed += or_pair(into + i, _mm_or_si128(_mm_srl_epi64(at(p, 0), right), _mm_sll_epi64(at(p, 8), left)));
  }
  uint64_t a = from[PAGE_WORDS - 2], b = from[PAGE_WORDS - 1];
  return changed + or_pair(into + PAGE_WORDS - 2, _mm_set_epi64x(b >> shift, (a >> shift) | (b << (64 - shift))));
}

static __attribute__((noinline)) uint32_t page_next_set(const uint8_t *p, uint32_t limit) {
  const uint8_t *q = p, *end = p + ((limit + 63) >> 6) * 8;
  for (; q + 256 <= end; q += 256)
    if (any(_mm_or_si128(_mm_or_si128(or4(q), or4(q + 64)), _mm_or_si128(or4(q + 128), or4(q + 192))))) break;
  while (q + 64 <= end && !any(or4(q))) q += 64;
  for (; q < end; q += 8) {
    uint64_t word;
    memcpy(&word, q, 8);
    if (word) {
      uint32_t bit = (uint32_t)(q - p) * 8 + __builtin_ctzll(word);
      return bit < limit ? bit : limit;
    }
  }
  return limit;
}

static __attribute__((noinline)) uint32_t page_set_range(uint64_t *p, uint32_t first, uint32_t count) {
  uint32_t last = first + count - 1, w = first >> 6, end = last >> 6;
  uint64_t head = ~0ull << (first & 63), tail = ~0ull >> (63 - (last & 63)), old = p[w];
  if (w == end) {
    p[w] = old | (head & tail);
    return __builtin_popcountll(head & tail & ~old);
  }
  uint32_t changed = __builtin_popcountll(head & ~old);
  p[w] = old | head;
  for (w++; w < end; w++) changed += __builtin_popcountll(~p[w]), p[w] = ~0ull;
  changed += __builtin_popcountll(tail & ~p[end]);
  p[end] |= tail;
  return changed;
}

/* CRC-32C as in core-wasm/assembly/crc32c.ts, where the method is explained. */
enum { HISTORY_BYTES = 432, ROW_BYTES = 16384 };
static uint32_t tables[16][256];
static uint8_t row[HISTORY_BYTES + ROW_BYTES] __attribute__((aligned(16)));
static uint8_t rest_units[HISTORY_BYTES] __attribute__((aligned(16)));

static void crc_init(void) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;
    for (int k = 0; k < 8; k++) c = c & 1 ? (c >> 1) ^ 0x82f63b78u : c >> 1;
    tables[0][i] = c;
  }
  for (int t = 1; t < 16; t++)
    for (int i = 0; i < 256; i++) tables[t][i] = tables[0][tables[t - 1][i] & 0xff] ^ (tables[t - 1][i] >> 8);
}

static inline uint32_t look_up(uint32_t x, int place) {
  return tables[place][x >> 24] ^ tables[place + 1][(x >> 16) & 0xff] ^ tables[place + 2][(x >> 8) & 0xff] ^
         tables[place + 3][x & 0xff];
}
static uint32_t divide(uint32_t c, const uint8_t *p, size_t length) {
  for (; length >= 16; length -= 16, p += 16) {
    uint32_t x[4];
    memcpy(x, p, 16);
    c = look_up(x[1], 8) ^ look_up(x[2], 4) ^ look_up(x[3], 0) ^ look_up(x[0] ^ c, 12);
  }
  for (; length; length--, p++) c = tables[0][(c ^ *p) & 0xff] ^ (c >> 8);
  return c;
}
static __attribute__((noinline)) uint32_t crc_tables(const uint8_t *p, size_t length) { return ~divide(~0u, p, length); }

static inline void put(uint8_t *p, __m128i x) { _mm_storeu_si128((__m128i *)p, x); }
static inline __m128i sum(const uint8_t *units, const uint8_t *h) {
  __m128i far = _mm_xor_si128(at(h, 432 - 2 * 209), at(h, 432 - 2 * 195));
  __m128i middle = _mm_xor_si128(at(h, 432 - 2 * 170), at(h, 432 - 2 * 155));
  return _mm_xor_si128(_mm_xor_si128(far, middle), _mm_xor_si128(at(units, 0), at(h, 432 - 2 * 65)));
}
static void reduce(const uint8_t *p, size_t length, uint32_t c) {
  size_t rest = length - HISTORY_BYTES - 16;
  uint8_t *h = row + 16;
  memset(row, 0, HISTORY_BYTES);
  put(row + HISTORY_BYTES, _mm_xor_si128(at(p, 0), _mm_cvtsi32_si128(c)));
  p += 16;
  for (;;) {
    size_t n = rest < (size_t)(row + ROW_BYTES - h) ? rest : (size_t)(row + ROW_BYTES - h);
    const uint8_t *end = h + n;
    rest -= n;
#pragma GCC unroll 4
    for (; h < end; h += 16, p += 16) put(h + HISTORY_BYTES, sum(p, h));
    memmove(row, h, HISTORY_BYTES);
    h = row;
    if (!rest) break;
  }
  memset(row + HISTORY_BYTES, 0, HISTORY_BYTES);
  for (int i = 0; i < HISTORY_BYTES; i += 16) put(rest_units + i, sum(p + i, row + i));
}
static __attribute__((noinline)) uint32_t crc_reduced(const uint8_t *p, size_t length) {
  uint32_t c = ~0u;
  if (length >= 2 * HISTORY_BYTES) {
    size_t whole = length & ~(size_t)15;
    reduce(p, whole, c);
    c = divide(0, rest_units, HISTORY_BYTES), p += whole, length -= whole;
  }
  return ~divide(c, p, length);
}

#define X (area + 16 * PAGE_BYTES)
#define Y (X + DATA_BYTES)
#define A ((uint64_t *)area)
#define B ((uint64_t *)(area + PAGE_BYTES))
#define KERNEL(name, call) \
  static uint64_t name(uint32_t i) { \
    (void)i; \
    return call; \
  }
KERNEL(run_copy, (memcpy(Y, X, DATA_BYTES), Y[i & 0xffff]))
KERNEL(run_zero, bytes_zero(X, DATA_BYTES))
KERNEL(run_equal, bytes_equal(X, Y, DATA_BYTES))
KERNEL(run_diff, diff_blocks(X, Y, GRANULE_BYTES, DATA_BYTES / GRANULE_BYTES, (uint8_t *)B))
KERNEL(run_crc, crc_reduced(Y, DATA_BYTES))
KERNEL(run_crc_page, crc_reduced(Y, PAGE_BYTES))
KERNEL(run_crc_tables, crc_tables(Y, DATA_BYTES))
KERNEL(run_count, page_count(A))
KERNEL(run_or, page_or(B, A))
KERNEL(run_or_shifted, page_or_shifted(B, A, 13))
KERNEL(run_next_set, page_next_set((uint8_t *)B, PAGE_BYTES * 8))
KERNEL(run_set_range, page_set_range(B, (i * 61) & 0x7f00, 200))

static const struct {
  const char *name;
  uint64_t (*run)(uint32_t);
} cases[] = {
    {"copy", run_copy},         {"zero", run_zero},         {"equal", run_equal},
    {"diff", run_diff},         {"crc", run_crc},           {"crc-page", run_crc_page},
    {"crc-tables", run_crc_tables}, {"count", run_count},   {"or", run_or},
    {"or-shifted", run_or_shifted}, {"next-set", run_next_set}, {"set-range", run_set_range},
};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

/* The same content as bench/kernels.ts prepares. */
static void prepare(const char *which) {
  area = aligned_alloc(PAGE_BYTES, 16 * PAGE_BYTES + 2 * DATA_BYTES);
  memset(area, 0, 16 * PAGE_BYTES + 2 * DATA_BYTES);
  for (uint32_t i = 0; i < PAGE_BYTES; i++) area[i] = (i * 2654435761u) >> 21;
  for (uint32_t i = 0; i < DATA_BYTES; i++) Y[i] = (i * 2654435761u) >> 13;
  if (!strcmp(which, "equal") || !strcmp(which, "diff")) memcpy(X, Y, DATA_BYTES);
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  uint64_t (*run)(uint32_t) = NULL;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (!strcmp(cases[i].name, argv[1])) run = cases[i].run;
  if (!run) return 2;
  double seconds = atof(argv[2]), took;
  uint64_t calls = 1;
  crc_init();
  prepare(argv[1]);
  uint32_t checksum = crc_reduced(Y, DATA_BYTES);
  for (;;) { /* doubled until one series lasts long enough */
    double begin = now();
    for (uint64_t i = 0; i < calls; i++) sink += run((uint32_t)i);
    took = now() - begin;
    if (took >= seconds) break;
    calls *= 2;
  }
  printf("%.3f %u\n", took * 1e9 / calls, checksum);
  return 0;
}

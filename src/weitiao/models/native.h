/* What the kernels share: bf16 values, e^x, random bits, small products. For CPUs with AVX-512 BF16.
 *
 * Shapes: T tokens of all texts in one flat row, H heads of d values, D = H * d, L tokens in a text.
 * Products run over pairs of bf16 values ("words"), as the processor's dot product takes them.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;
typedef uint32_t word;
#define INLINE static inline __attribute__((always_inline))
#define UP16(n) (((n) + 15) & ~15L)

INLINE __m512 wide(const bf16 *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
INLINE void narrow(bf16 *p, __m512 x) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(x)); }

/* e^x for x <= 0, to 2 units in the last place: 2^n * polynomial on [-ln2/2, ln2/2]. */
INLINE __m512 exp16(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.0f / 720);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

/* Dropout masks come from a hash of (key, row, column), so that the backward pass draws them again instead of
 * keeping them. Two rounds of xorshift-multiply, as in MurmurHash3's finalizer. */
INLINE uint32_t row_key(uint32_t key, uint32_t row) {
    uint32_t x = key ^ (row * 0x9E3779B1u);
    x ^= x >> 16, x *= 0x85EBCA6Bu, x ^= x >> 13, x *= 0xC2B2AE35u, x ^= x >> 16;
    return x;
}
INLINE __m512i mix(__m512i x) {
    x = _mm512_xor_si512(x, _mm512_srli_epi32(x, 16));
    x = _mm512_mullo_epi32(x, _mm512_set1_epi32((int)0x85EBCA6Bu));
    x = _mm512_xor_si512(x, _mm512_srli_epi32(x, 13));
    return _mm512_mullo_epi32(x, _mm512_set1_epi32((int)0xC2B2AE35u));
}
INLINE __m512i iota(uint32_t first) {
    return _mm512_add_epi32(_mm512_set1_epi32((int)first),
                            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}
/* Which of 16 elements stay: those whose hash is not below `limit` = probability * 2^32. */
INLINE __mmask16 stays(uint32_t row, uint32_t column, uint32_t limit) {
    __m512i counter = _mm512_mullo_epi32(iota(column), _mm512_set1_epi32((int)0x9E3779B1u));
    return _mm512_cmpge_epu32_mask(mix(_mm512_xor_si512(counter, _mm512_set1_epi32((int)row))),
                                   _mm512_set1_epi32((int)limit));
}

/* C[M x 16V] = A[M x 2k] B[2k x 16V]; A's rows in words, B as words [k][n]: value pairs along the inner axis. */
INLINE void tile(const int M, const int V, long k, const word *a, long lda, const word *b, long ldb, float *c,
                 long ldc) {
    __m512 sum[8][2];
    for (int r = 0; r < M; r++)
        for (int v = 0; v < V; v++) sum[r][v] = _mm512_setzero_ps();
    for (long j = 0; j < k; j++) {
        __m512bh right[2];
        for (int v = 0; v < V; v++) right[v] = (__m512bh)_mm512_loadu_si512(b + j * ldb + 16 * v);
        for (int r = 0; r < M; r++) {
            __m512bh left = (__m512bh)_mm512_set1_epi32((int)a[r * lda + j]);
            for (int v = 0; v < V; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], left, right[v]);
        }
    }
    for (int r = 0; r < M; r++)
        for (int v = 0; v < V; v++) _mm512_storeu_ps(c + r * ldc + 16 * v, sum[r][v]);
}
#define ROWS(M)                                                                                                    \
    case M:                                                                                                        \
        for (; n + 32 <= N; n += 32) tile(M, 2, k, a, lda, b + n, ldb, c + n, ldc);                                 \
        if (n < N) tile(M, 1, k, a, lda, b + n, ldb, c + n, ldc);                                                   \
        break;
/* The same for any M <= 8 and N a multiple of 16. */
static inline void product(int M, long N, long k, const word *a, long lda, const word *b, long ldb, float *c, long ldc) {
    long n = 0;
    switch (M) { ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8) }
}

/* 16 rows of 16 words, turned. */
INLINE void turn16(const word *from, long stride, word *to, long ld, int rows) {
    __m512i r[16], t[16];
    for (int i = 0; i < 16; i++) r[i] = i < rows ? _mm512_loadu_si512(from + i * stride) : _mm512_setzero_si512();
    for (int i = 0; i < 16; i += 2)
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]), r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]), r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88), t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        _mm512_storeu_si512(to + i * ld, _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
        _mm512_storeu_si512(to + (i + 8) * ld, _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
        _mm512_storeu_si512(to + (i + 4) * ld, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88));
        _mm512_storeu_si512(to + (i + 12) * ld, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd));
    }
}
/* Rows [L][w] of words, w a multiple of 16, as [w][Lp]; zeros past L. */
static inline void turn(const word *from, long stride, long L, long w, word *to, long Lp) {
    for (long i = 0; i < Lp; i += 16)
        for (long j = 0; j < w; j += 16)
            turn16(from + i * stride + j, stride, to + j * Lp + i, Lp, (int)(L - i < 16 ? L - i : 16));
}
/* Rows [L][d] of values as words [Lp / 2][d]: each holds a value and the one below it; zeros past L. */
static inline void pair(const bf16 *from, long stride, long L, long d, word *to, long Lp) {
    for (long i = 0; i < Lp / 2; i++)
        for (long c = 0; c < d; c += 16) {
            __m512i low = _mm512_setzero_si512(), high = low;
            if (2 * i < L) low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(from + 2 * i * stride + c)));
            if (2 * i + 1 < L)
                high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(from + (2 * i + 1) * stride + c)));
            _mm512_storeu_si512(to + i * d + c, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
}
static inline void *room(size_t bytes) { return aligned_alloc(64, (bytes + 63) & ~63UL); }

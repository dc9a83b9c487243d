/* Attention and dropout + residual + LayerNorm for packed batches in bf16, on CPUs with AVX-512 BF16.
 *
 * Compiled on first use where there is a C compiler (see native.py); everything here has a counterpart in
 * kernels.py that runs without it and that the tests compare it with.
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
static void product(int M, long N, long k, const word *a, long lda, const word *b, long ldb, float *c, long ldc) {
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
static void turn(const word *from, long stride, long L, long w, word *to, long Lp) {
    for (long i = 0; i < Lp; i += 16)
        for (long j = 0; j < w; j += 16)
            turn16(from + i * stride + j, stride, to + j * Lp + i, Lp, (int)(L - i < 16 ? L - i : 16));
}
/* Rows [L][d] of values as words [Lp / 2][d]: each holds a value and the one below it; zeros past L. */
static void pair(const bf16 *from, long stride, long L, long d, word *to, long Lp) {
    for (long i = 0; i < Lp / 2; i++)
        for (long c = 0; c < d; c += 16) {
            __m512i low = _mm512_setzero_si512(), high = low;
            if (2 * i < L) low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(from + 2 * i * stride + c)));
            if (2 * i + 1 < L)
                high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(from + (2 * i + 1) * stride + c)));
            _mm512_storeu_si512(to + i * d + c, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
}
static void *room(size_t bytes) { return aligned_alloc(64, (bytes + 63) & ~63UL); }

/* softmax(q k' / sqrt(d)) v in each text and head. q, k, v: rows of `stride` values; out [T, D]; lse [T, H] takes
 * log(sum(exp(scores))) for the backward pass. limit = 0: no dropout; factor = 1 / (1 - probability). */
void attention_forward(const bf16 *q, const bf16 *k, const bf16 *v, long stride, const int64_t *starts,
                       const int64_t *lengths, long texts, long H, long d, uint32_t key, uint32_t limit, float factor,
                       bf16 *out, float *lse) {
    const long D = H * d;
    const float scale = 1.0f / sqrtf((float)d);
#pragma omp parallel for schedule(dynamic)
    for (long job = texts * H - 1; job >= 0; job--) {
        const long text = job / H, h = job % H, t0 = starts[text], L = lengths[text], Lp = UP16(L);
        const bf16 *Q = q + t0 * stride + h * d;
        word *turned = room(4 * (d / 2) * Lp), *paired = room(4 * (Lp / 2) * d);
        float *scores = room(4 * 8 * Lp), *sums = room(4 * 8 * d);
        bf16 *probs = room(2 * 8 * Lp);
        turn((const word *)(k + t0 * stride + h * d), stride / 2, L, d / 2, turned, Lp);
        pair(v + t0 * stride + h * d, stride, L, d, paired, Lp);
        for (long i = 0; i < L; i += 8) {
            const int M = (int)(L - i < 8 ? L - i : 8);
            product(M, Lp, d / 2, (const word *)(Q + i * stride), stride / 2, turned, Lp, scores, Lp);
            for (int r = 0; r < M; r++) {
                float *s = scores + r * Lp;
                for (long n = L; n < Lp; n++) s[n] = -INFINITY;
                __m512 top = _mm512_loadu_ps(s);
                for (long n = 16; n < Lp; n += 16) top = _mm512_max_ps(top, _mm512_loadu_ps(s + n));
                const float most = _mm512_reduce_max_ps(top) * scale;
                __m512 total = _mm512_setzero_ps();
                for (long n = 0; n < Lp; n += 16) {
                    __m512 e = exp16(_mm512_fmsub_ps(_mm512_loadu_ps(s + n), _mm512_set1_ps(scale), _mm512_set1_ps(most)));
                    if (n + 16 > L) e = _mm512_maskz_mov_ps((__mmask16)((1u << (L - n)) - 1), e);
                    total = _mm512_add_ps(total, e);
                    _mm512_storeu_ps(s + n, e);
                }
                const float sum = _mm512_reduce_add_ps(total);
                lse[(t0 + i + r) * H + h] = most + logf(sum);
                const __m512 share = _mm512_set1_ps(factor / sum);
                const uint32_t mine = row_key(key + (uint32_t)h * 0x632BE5ABu, (uint32_t)(t0 + i + r));
                for (long n = 0; n < Lp; n += 16) {
                    __m512 p = _mm512_mul_ps(_mm512_loadu_ps(s + n), share);
                    if (limit) p = _mm512_maskz_mov_ps(stays(mine, (uint32_t)n, limit), p);
                    narrow(probs + r * Lp + n, p);
                }
            }
            product(M, d, Lp / 2, (const word *)probs, Lp / 2, paired, d, sums, d);
            for (int r = 0; r < M; r++)
                for (long c = 0; c < d; c += 16)
                    narrow(out + (t0 + i + r) * D + h * d + c, _mm512_loadu_ps(sums + r * d + c));
        }
        free(turned), free(paired), free(scores), free(sums), free(probs);
    }
}

/* The gradients of q, k, v (rows of `stride` values, as q, k, v). Works on the scores turned, keys by queries: then
 * every product finds its left side in rows. Dao et al. 2022, algorithm 4, without the blocks. */
void attention_backward(const bf16 *q, const bf16 *k, const bf16 *v, long stride, const int64_t *starts,
                        const int64_t *lengths, long texts, long H, long d, uint32_t key, uint32_t limit, float factor,
                        const bf16 *out, const float *lse, const bf16 *grad, bf16 *gq, bf16 *gk, bf16 *gv) {
    const long D = H * d;
    const float scale = 1.0f / sqrtf((float)d);
#pragma omp parallel for schedule(dynamic)
    for (long job = texts * H - 1; job >= 0; job--) {
        const long text = job / H, h = job % H, t0 = starts[text], L = lengths[text], Lp = UP16(L);
        const long at = t0 * stride + h * d, half = Lp / 2;
        const bf16 *G = grad + t0 * D + h * d;
        word *q_turned = room(4 * (d / 2) * Lp), *g_turned = room(4 * (d / 2) * Lp), *q_paired = room(4 * half * d);
        word *g_paired = room(4 * half * d), *k_paired = room(4 * half * d), *k_turned = room(4 * d * UP16(half));
        word *s_paired = room(4 * half * Lp);
        float *scores = room(4 * 8 * Lp), *slopes = room(4 * 8 * Lp), *sums = room(4 * 8 * (d > Lp ? d : Lp));
        float *q_grad = room(4 * d * Lp), *logs = room(4 * Lp), *dots = room(4 * Lp);
        bf16 *probs = room(2 * 8 * Lp), *s_rows = room(2 * 8 * Lp);
        uint32_t *keys = room(4 * Lp);
        turn((const word *)(q + at), stride / 2, L, d / 2, q_turned, Lp);
        turn((const word *)G, D / 2, L, d / 2, g_turned, Lp);
        pair(q + at, stride, L, d, q_paired, Lp), pair(G, D, L, d, g_paired, Lp), pair(k + at, stride, L, d, k_paired, Lp);
        turn(k_paired, d, half, d, k_turned, UP16(half));
        for (long i = 0; i < Lp; i++) {
            __m512 dot = _mm512_setzero_ps();
            if (i < L)
                for (long c = 0; c < d; c += 16)
                    dot = _mm512_fmadd_ps(wide(G + i * D + c), wide(out + (t0 + i) * D + h * d + c), dot);
            dots[i] = _mm512_reduce_add_ps(dot);
            logs[i] = i < L ? lse[(t0 + i) * H + h] : INFINITY;
            keys[i] = row_key(key + (uint32_t)h * 0x632BE5ABu, (uint32_t)(t0 + i));
        }
        for (long i = 0; i < Lp; i += 8) {
            const int M = (int)(L - i < 8 ? (L > i ? L - i : 0) : 8);
            if (M) {
                product(M, Lp, d / 2, (const word *)(k + at + i * stride), stride / 2, q_turned, Lp, scores, Lp);
                product(M, Lp, d / 2, (const word *)(v + at + i * stride), stride / 2, g_turned, Lp, slopes, Lp);
            }
            memset(s_rows, 0, 2 * 8 * Lp);
            for (int r = 0; r < M; r++) {
                const __m512i column = _mm512_set1_epi32((int)((uint32_t)(i + r) * 0x9E3779B1u));
                for (long n = 0; n < Lp; n += 16) {
                    __m512 p = exp16(_mm512_fmsub_ps(_mm512_loadu_ps(scores + r * Lp + n), _mm512_set1_ps(scale),
                                                     _mm512_loadu_ps(logs + n)));
                    /* Past the last query exp16 gives its smallest value, and the gradients there are zero. */
                    __m512 kept = _mm512_set1_ps(factor);
                    if (limit) {
                        __mmask16 stay = _mm512_cmpge_epu32_mask(
                            mix(_mm512_xor_si512(column, _mm512_loadu_si512(keys + n))), _mm512_set1_epi32((int)limit));
                        kept = _mm512_maskz_mov_ps(stay, kept);
                    }
                    narrow(probs + r * Lp + n, _mm512_mul_ps(p, kept));
                    __m512 slope = _mm512_fmsub_ps(_mm512_loadu_ps(slopes + r * Lp + n), kept, _mm512_loadu_ps(dots + n));
                    narrow(s_rows + r * Lp + n, _mm512_mul_ps(_mm512_mul_ps(p, slope), _mm512_set1_ps(scale)));
                }
            }
            pair(s_rows, Lp, 8, Lp, s_paired + (i / 2) * Lp, 8);
            if (!M) continue;
            product(M, d, half, (const word *)probs, half, g_paired, d, sums, d);
            for (int r = 0; r < M; r++)
                for (long c = 0; c < d; c += 16) narrow(gv + at + (i + r) * stride + c, _mm512_loadu_ps(sums + r * d + c));
            product(M, d, half, (const word *)s_rows, half, q_paired, d, sums, d);
            for (int r = 0; r < M; r++)
                for (long c = 0; c < d; c += 16) narrow(gk + at + (i + r) * stride + c, _mm512_loadu_ps(sums + r * d + c));
        }
        for (long c = 0; c < d; c += 8)
            product(8, Lp, half, k_turned + c * UP16(half), UP16(half), s_paired, Lp, q_grad + c * Lp, Lp);
        for (long c = 0; c < d; c += 16)
            for (long i = 0; i < Lp; i += 16) {
                float back[16 * 16];
                turn16((const word *)(q_grad + c * Lp + i), Lp, (word *)back, 16, 16);
                for (long r = 0; r < 16 && i + r < L; r++) narrow(gq + at + (i + r) * stride + c, _mm512_loadu_ps(back + 16 * r));
            }
        free(q_turned), free(g_turned), free(q_paired), free(g_paired), free(k_paired), free(k_turned), free(s_paired);
        free(scores), free(slopes), free(sums), free(q_grad), free(logs), free(dots), free(probs), free(s_rows), free(keys);
    }
}

INLINE __m512 dropped(const bf16 *x, uint32_t row, long column, uint32_t limit, __m512 factor) {
    __m512 value = _mm512_mul_ps(wide(x), factor);
    return limit ? _mm512_maskz_mov_ps(stays(row, (uint32_t)column, limit), value) : value;
}

/* y = LayerNorm(residual + dropout(x)); [T, D], D a multiple of 16. mean and rstd, [T], are kept for the backward pass. */
void norm_forward(const bf16 *x, const bf16 *residual, const float *weight, const float *bias, float eps, long T, long D,
                  uint32_t key, uint32_t limit, float factor, bf16 *y, float *mean, float *rstd) {
#pragma omp parallel for schedule(static)
    for (long t = 0; t < T; t++) {
        float z[D];
        const uint32_t mine = row_key(key, (uint32_t)t);
        __m512 sum = _mm512_setzero_ps(), square = sum;
        for (long c = 0; c < D; c += 16) {
            __m512 value = _mm512_add_ps(wide(residual + t * D + c),
                                         dropped(x + t * D + c, mine, c, limit, _mm512_set1_ps(factor)));
            sum = _mm512_add_ps(sum, value);
            _mm512_storeu_ps(z + c, value);
        }
        const float middle = _mm512_reduce_add_ps(sum) / (float)D;
        for (long c = 0; c < D; c += 16) {
            __m512 away = _mm512_sub_ps(_mm512_loadu_ps(z + c), _mm512_set1_ps(middle));
            square = _mm512_fmadd_ps(away, away, square);
        }
        const float r = 1.0f / sqrtf(_mm512_reduce_add_ps(square) / (float)D + eps);
        mean[t] = middle, rstd[t] = r;
        for (long c = 0; c < D; c += 16) {
            __m512 hat = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(z + c), _mm512_set1_ps(middle)), _mm512_set1_ps(r));
            narrow(y + t * D + c, _mm512_fmadd_ps(hat, _mm512_loadu_ps(weight + c), _mm512_loadu_ps(bias + c)));
        }
    }
}

/* Gradients of norm_forward: of residual, of x (may be the same memory where limit = 0), and, summed over the tokens,
 * of weight and bias: each of `parts` workers adds up its own rows into [parts, D], so that the order never varies. */
void norm_backward(const bf16 *x, const bf16 *residual, const float *weight, const float *mean, const float *rstd, long T,
                   long D, uint32_t key, uint32_t limit, float factor, const bf16 *grad, bf16 *g_residual, bf16 *g_x,
                   long parts, float *g_weight, float *g_bias) {
#pragma omp parallel for schedule(static)
    for (long part = 0; part < parts; part++) {
        float hat[D], *gw = g_weight + part * D, *gb = g_bias + part * D;
        memset(gw, 0, 4 * D), memset(gb, 0, 4 * D);
        for (long t = part * T / parts; t < (part + 1) * T / parts; t++) {
            const uint32_t mine = row_key(key, (uint32_t)t);
            const __m512 r = _mm512_set1_ps(rstd[t]), middle = _mm512_set1_ps(mean[t]), f = _mm512_set1_ps(factor);
            __m512 sum = _mm512_setzero_ps(), along = sum;
            for (long c = 0; c < D; c += 16) {
                __m512 z = _mm512_add_ps(wide(residual + t * D + c), dropped(x + t * D + c, mine, c, limit, f));
                __m512 h = _mm512_mul_ps(_mm512_sub_ps(z, middle), r), g = wide(grad + t * D + c);
                _mm512_storeu_ps(hat + c, h);
                _mm512_storeu_ps(gw + c, _mm512_fmadd_ps(g, h, _mm512_loadu_ps(gw + c)));
                _mm512_storeu_ps(gb + c, _mm512_add_ps(g, _mm512_loadu_ps(gb + c)));
                g = _mm512_mul_ps(g, _mm512_loadu_ps(weight + c));
                sum = _mm512_add_ps(sum, g), along = _mm512_fmadd_ps(g, h, along);
            }
            const __m512 a = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)D);
            const __m512 b = _mm512_set1_ps(_mm512_reduce_add_ps(along) / (float)D);
            for (long c = 0; c < D; c += 16) {
                __m512 g = _mm512_mul_ps(wide(grad + t * D + c), _mm512_loadu_ps(weight + c));
                g = _mm512_mul_ps(_mm512_sub_ps(_mm512_sub_ps(g, a), _mm512_mul_ps(_mm512_loadu_ps(hat + c), b)), r);
                narrow(g_residual + t * D + c, g);
                if (limit) {
                    g = _mm512_maskz_mov_ps(stays(mine, (uint32_t)c, limit), _mm512_mul_ps(g, f));
                    narrow(g_x + t * D + c, g);
                }
            }
        }
    }
}

/* The sum over the rows of [T, D], in fp32, in `parts` as above. */
void column_sums(const bf16 *x, long T, long D, long parts, float *out) {
#pragma omp parallel for schedule(static)
    for (long part = 0; part < parts; part++) {
        float *sum = out + part * D;
        memset(sum, 0, 4 * D);
        for (long t = part * T / parts; t < (part + 1) * T / parts; t++)
            for (long c = 0; c < D; c += 16) _mm512_storeu_ps(sum + c, _mm512_add_ps(wide(x + t * D + c), _mm512_loadu_ps(sum + c)));
    }
}

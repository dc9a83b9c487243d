/* Attention and dropout + residual + LayerNorm for packed batches in bf16, on CPUs with AVX-512 BF16.
 *
 * Compiled on first use where there is a C compiler (see native.py); everything here has a counterpart in
 * kernels.py and causal.py that runs without it and that the tests compare it with.
 */
#include "native.h"

/* softmax(q k' / sqrt(d)) v in each text and head, with `causal` over a token's earlier ones and itself. q, k, v: rows
 * of `stride` values; out [T, D]; lse [T, H] takes log(sum(exp(scores))) for the backward pass. limit = 0: no dropout;
 * factor = 1 / (1 - probability). */
void attention_forward(const bf16 *q, const bf16 *k, const bf16 *v, long stride, const int64_t *starts,
                       const int64_t *lengths, long texts, long H, long d, long causal, uint32_t key, uint32_t limit,
                       float factor, bf16 *out, float *lse) {
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
            const long N = causal ? UP16(i + M) : Lp; /* keys that one of these queries sees */
            product(M, N, d / 2, (const word *)(Q + i * stride), stride / 2, turned, Lp, scores, Lp);
            for (int r = 0; r < M; r++) {
                float *s = scores + r * Lp;
                const long seen = causal ? i + r + 1 : L;
                for (long n = seen; n < N; n++) s[n] = -INFINITY;
                __m512 top = _mm512_loadu_ps(s);
                for (long n = 16; n < N; n += 16) top = _mm512_max_ps(top, _mm512_loadu_ps(s + n));
                const float most = _mm512_reduce_max_ps(top) * scale;
                __m512 total = _mm512_setzero_ps();
                for (long n = 0; n < N; n += 16) {
                    __m512 e = exp16(_mm512_fmsub_ps(_mm512_loadu_ps(s + n), _mm512_set1_ps(scale), _mm512_set1_ps(most)));
                    if (n + 16 > seen) e = _mm512_maskz_mov_ps((__mmask16)(n < seen ? (1u << (seen - n)) - 1 : 0), e);
                    total = _mm512_add_ps(total, e);
                    _mm512_storeu_ps(s + n, e);
                }
                const float sum = _mm512_reduce_add_ps(total);
                lse[(t0 + i + r) * H + h] = most + logf(sum);
                const __m512 share = _mm512_set1_ps(factor / sum);
                const uint32_t mine = row_key(key + (uint32_t)h * 0x632BE5ABu, (uint32_t)(t0 + i + r));
                for (long n = 0; n < N; n += 16) {
                    __m512 p = _mm512_mul_ps(_mm512_loadu_ps(s + n), share);
                    if (limit) p = _mm512_maskz_mov_ps(stays(mine, (uint32_t)n, limit), p);
                    narrow(probs + r * Lp + n, p);
                }
            }
            product(M, d, N / 2, (const word *)probs, Lp / 2, paired, d, sums, d);
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
                        const int64_t *lengths, long texts, long H, long d, long causal, uint32_t key, uint32_t limit,
                        float factor, const bf16 *out, const float *lse, const bf16 *grad, bf16 *gq, bf16 *gk, bf16 *gv) {
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
            const long first = causal ? i & ~15L : 0; /* no query before it sees these keys */
            if (M) {
                product(M, Lp - first, d / 2, (const word *)(k + at + i * stride), stride / 2, q_turned + first, Lp,
                        scores + first, Lp);
                product(M, Lp - first, d / 2, (const word *)(v + at + i * stride), stride / 2, g_turned + first, Lp,
                        slopes + first, Lp);
            }
            memset(s_rows, 0, 2 * 8 * Lp);
            for (int r = 0; r < M; r++) {
                const __m512i column = _mm512_set1_epi32((int)((uint32_t)(i + r) * 0x9E3779B1u));
                for (long n = first; n < Lp; n += 16) {
                    __m512 p = exp16(_mm512_fmsub_ps(_mm512_loadu_ps(scores + r * Lp + n), _mm512_set1_ps(scale),
                                                     _mm512_loadu_ps(logs + n)));
                    if (causal && n < i + r) /* queries before the key */
                        p = _mm512_maskz_mov_ps((__mmask16)(0xFFFFu << (i + r - n < 16 ? i + r - n : 16)), p);
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
            product(M, d, half - first / 2, (const word *)(probs + first), half, g_paired + first / 2 * d, d, sums, d);
            for (int r = 0; r < M; r++)
                for (long c = 0; c < d; c += 16) narrow(gv + at + (i + r) * stride + c, _mm512_loadu_ps(sums + r * d + c));
            product(M, d, half - first / 2, (const word *)(s_rows + first), half, q_paired + first / 2 * d, d, sums, d);
            for (int r = 0; r < M; r++)
                for (long c = 0; c < d; c += 16) narrow(gk + at + (i + r) * stride + c, _mm512_loadu_ps(sums + r * d + c));
        }
        for (long c = 0; c < d; c += 8)
            for (long n = 0; n < Lp; n += 64) {
                const long width = Lp - n < 64 ? Lp - n : 64, keys_seen = causal ? n + width : Lp;
                product(8, width, keys_seen / 2, k_turned + c * UP16(half), UP16(half), s_paired + n, Lp,
                        q_grad + c * Lp + n, Lp);
            }
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

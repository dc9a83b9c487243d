/* The rest of a decoder's layer in bf16: RMSNorm, rotary positions, SwiGLU, and the softmax over the pieces.
 *
 * Shapes: T tokens, D hidden, H heads of queries, K of keys and values, d values a head, I feed-forward, R rows of
 * logits, V pieces. D and I are multiples of 16, d of 32.
 */
#include "native.h"

/* y = z / sqrt(mean(z^2) + eps) * weight of z = x + added (added and sum may be NULL: z = x). factor [T] is kept. */
void rms_forward(const bf16 *x, const bf16 *added, const float *weight, float eps, long T, long D, bf16 *sum, bf16 *y,
                 float *factor) {
#pragma omp parallel for schedule(static)
    for (long t = 0; t < T; t++) {
        const bf16 *z = added ? sum + t * D : x + t * D;
        __m512 square = _mm512_setzero_ps();
        for (long c = 0; c < D; c += 16) {
            if (added) narrow(sum + t * D + c, _mm512_add_ps(wide(x + t * D + c), wide(added + t * D + c)));
            __m512 value = wide(z + c);
            square = _mm512_fmadd_ps(value, value, square);
        }
        const float f = factor[t] = 1.0f / sqrtf(_mm512_reduce_add_ps(square) / (float)D + eps);
        for (long c = 0; c < D; c += 16)
            narrow(y + t * D + c,
                   _mm512_mul_ps(_mm512_mul_ps(wide(z + c), _mm512_set1_ps(f)), _mm512_loadu_ps(weight + c)));
    }
}

/* Gradients of z (plus `more`, what else flows into z; may be NULL) and, in `parts` as in norm_backward, of weight. */
void rms_backward(const bf16 *z, const float *weight, const float *factor, long T, long D, const bf16 *grad,
                  const bf16 *more, bf16 *g_z, long parts, float *g_weight) {
#pragma omp parallel for schedule(static)
    for (long part = 0; part < parts; part++) {
        float *gw = g_weight + part * D;
        memset(gw, 0, 4 * D);
        for (long t = part * T / parts; t < (part + 1) * T / parts; t++) {
            const __m512 f = _mm512_set1_ps(factor[t]);
            __m512 along = _mm512_setzero_ps();
            for (long c = 0; c < D; c += 16) {
                __m512 hat = _mm512_mul_ps(wide(z + t * D + c), f), slope = _mm512_mul_ps(wide(grad + t * D + c), hat);
                _mm512_storeu_ps(gw + c, _mm512_add_ps(slope, _mm512_loadu_ps(gw + c)));
                along = _mm512_fmadd_ps(slope, _mm512_loadu_ps(weight + c), along);
            }
            const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(along) / (float)D);
            for (long c = 0; c < D; c += 16) {
                __m512 hat = _mm512_mul_ps(wide(z + t * D + c), f);
                __m512 g = _mm512_mul_ps(wide(grad + t * D + c), _mm512_loadu_ps(weight + c));
                g = _mm512_mul_ps(_mm512_fnmadd_ps(hat, mean, g), f);
                narrow(g_z + t * D + c, more ? _mm512_add_ps(g, wide(more + t * D + c)) : g);
            }
        }
    }
}

/* A head's halves turned by the angles of its token, `way` = 1; back again, -1. Su et al. 2021. */
INLINE void turned(const bf16 *x, const float *cos, const float *sin, long d, float way, float *a, float *b) {
    for (long c = 0; c < d / 2; c += 16) {
        __m512 first = wide(x + c), second = wide(x + d / 2 + c), u = _mm512_loadu_ps(cos + c);
        __m512 v = _mm512_mul_ps(_mm512_loadu_ps(sin + c), _mm512_set1_ps(way));
        _mm512_storeu_ps(a + c, _mm512_fnmadd_ps(second, v, _mm512_mul_ps(first, u)));
        _mm512_storeu_ps(b + c, _mm512_fmadd_ps(first, v, _mm512_mul_ps(second, u)));
    }
}

/* Queries, keys and values side by side, [T, (H + 2 K) d], as each head reads them, [T, 3 H d]: queries and keys turned,
 * keys and values repeated for the heads that share them. cos, sin: [T, d / 2]. */
void heads_forward(const bf16 *from, const float *cos, const float *sin, long T, long H, long K, long d, bf16 *to) {
#pragma omp parallel for schedule(static)
    for (long t = 0; t < T; t++)
        for (long slot = 0; slot < 3 * H; slot++) {
            const long kind = slot / H, h = slot % H, place = kind ? H + (kind - 1) * K + h * K / H : h;
            const bf16 *x = from + (t * (H + 2 * K) + place) * d;
            bf16 *y = to + (t * 3 * H + slot) * d;
            if (kind == 2) {
                memcpy(y, x, 2 * d);
                continue;
            }
            float halves[d];
            turned(x, cos + t * d / 2, sin + t * d / 2, d, 1, halves, halves + d / 2);
            for (long c = 0; c < d; c += 16) narrow(y + c, _mm512_loadu_ps(halves + c));
        }
}

/* Its gradient: [T, 3 H d] to [T, (H + 2 K) d]. */
void heads_backward(const bf16 *grad, const float *cos, const float *sin, long T, long H, long K, long d, bf16 *to) {
#pragma omp parallel for schedule(static)
    for (long t = 0; t < T; t++)
        for (long place = 0; place < H + 2 * K; place++) {
            const long kind = place < H ? 0 : 1 + (place - H) / K, times = kind ? H / K : 1;
            const long first = kind ? kind * H + (place - H) % K * times : place;
            float sum[d], halves[d];
            memset(sum, 0, 4 * d);
            for (long i = 0; i < times; i++) {
                const bf16 *g = grad + (t * 3 * H + first + i) * d;
                if (kind < 2) turned(g, cos + t * d / 2, sin + t * d / 2, d, -1, halves, halves + d / 2);
                for (long c = 0; c < d; c += 16) {
                    __m512 value = kind < 2 ? _mm512_loadu_ps(halves + c) : wide(g + c);
                    _mm512_storeu_ps(sum + c, _mm512_add_ps(value, _mm512_loadu_ps(sum + c)));
                }
            }
            for (long c = 0; c < d; c += 16) narrow(to + (t * (H + 2 * K) + place) * d + c, _mm512_loadu_ps(sum + c));
        }
}

INLINE __m512 sigmoid(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f), e = exp16(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(x)));
    const __mmask16 below = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_div_ps(_mm512_mask_mov_ps(one, below, e), _mm512_add_ps(one, e));
}

/* y [T, I] = silu(gate) up of gate and up side by side, [T, 2 I]. Shazeer 2020. */
void swiglu_forward(const bf16 *x, long T, long I, bf16 *y) {
#pragma omp parallel for schedule(static)
    for (long t = 0; t < T; t++)
        for (long c = 0; c < I; c += 16) {
            __m512 gate = wide(x + 2 * t * I + c), up = wide(x + (2 * t + 1) * I + c);
            narrow(y + t * I + c, _mm512_mul_ps(_mm512_mul_ps(gate, sigmoid(gate)), up));
        }
}

void swiglu_backward(const bf16 *x, const bf16 *grad, long T, long I, bf16 *g_x) {
#pragma omp parallel for schedule(static)
    for (long t = 0; t < T; t++)
        for (long c = 0; c < I; c += 16) {
            __m512 gate = wide(x + 2 * t * I + c), up = wide(x + (2 * t + 1) * I + c), g = wide(grad + t * I + c);
            __m512 s = sigmoid(gate), silu = _mm512_mul_ps(gate, s);
            /* silu' = s + silu (1 - s) */
            __m512 slope = _mm512_add_ps(s, _mm512_fnmadd_ps(silu, s, silu));
            narrow(g_x + 2 * t * I + c, _mm512_mul_ps(_mm512_mul_ps(g, up), slope));
            narrow(g_x + (2 * t + 1) * I + c, _mm512_mul_ps(g, silu));
        }
}

INLINE __mmask16 inside(long c, long V) { return (__mmask16)(V - c < 16 ? (1u << (V - c)) - 1 : 0xFFFF); }
INLINE __m512 wide_part(const bf16 *p, __mmask16 part) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(part, p)), 16));
}

/* losses [R] = -log softmax(logits)[target]; the logits become the loss' gradient, softmax - 1 at the target. */
void softmax_gradient(bf16 *logits, const int64_t *targets, long R, long V, float *losses) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < R; r++) {
        bf16 *row = logits + r * V;
        __m512 top = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
        for (long c = 0; c < V; c += 16) {
            const __mmask16 part = inside(c, V);
            top = _mm512_mask_max_ps(top, part, top, wide_part(row + c, part));
        }
        const float most = _mm512_reduce_max_ps(top);
        for (long c = 0; c < V; c += 16) {
            const __mmask16 part = inside(c, V);
            __m512 e = exp16(_mm512_sub_ps(wide_part(row + c, part), _mm512_set1_ps(most)));
            total = _mm512_mask_add_ps(total, part, total, e);
        }
        const float sum = _mm512_reduce_add_ps(total);
        union { uint32_t bits; float value; } target = {(uint32_t)row[targets[r]] << 16};
        losses[r] = most + logf(sum) - target.value;
        const float share = expf(target.value - most) / sum;
        for (long c = 0; c < V; c += 16) {
            const __mmask16 part = inside(c, V);
            __m512 p = exp16(_mm512_sub_ps(wide_part(row + c, part), _mm512_set1_ps(most)));
            p = _mm512_mul_ps(p, _mm512_set1_ps(1.0f / sum));
            _mm256_mask_storeu_epi16(row + c, part, (__m256i)_mm512_cvtneps_pbh(p));
        }
        bf16 value[16];
        narrow(value, _mm512_set1_ps(share - 1.0f));
        row[targets[r]] = value[0];
    }
}

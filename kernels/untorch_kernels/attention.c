/* Softmax attention in fp32, a head at a time: keys that nobody attends to are left out, scores stay in the cache. */
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")
#include <string.h>

#include "kernels.h"
#include "simd.h"

enum { ROWS = 6 };

static size_t whole(size_t n) { return (n + 63) / 64 * 64; }

/* scores[i][t] for `count` queries and 64 keys from `t` on. */
ALWAYS void score(const float *q, size_t stride, const float *keys, size_t span, size_t width, size_t t,
                  const size_t count, float *scores, float scale) {
    __m512 sum[ROWS][4];
#pragma GCC unroll 6
    for (size_t i = 0; i < count; i++)
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) sum[i][j] = _mm512_setzero_ps();
    for (size_t d = 0; d < width; d++) {
        __m512 k[4];
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) k[j] = _mm512_load_ps(keys + d * span + t + j * 16);
#pragma GCC unroll 6
        for (size_t i = 0; i < count; i++) {
            __m512 a = _mm512_set1_ps(q[i * stride + d]);
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++) sum[i][j] = _mm512_fmadd_ps(a, k[j], sum[i][j]);
        }
    }
    __m512 factor = _mm512_set1_ps(scale);
#pragma GCC unroll 6
    for (size_t i = 0; i < count; i++)
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) _mm512_store_ps(scores + i * span + t + j * 16, _mm512_mul_ps(sum[i][j], factor));
}

/* Turn a row of scores into weights that are not yet divided by their sum, which is returned. */
static float weigh(float *scores, size_t count) {
    __m512 high = _mm512_set1_ps(-__builtin_inff());
    for (size_t t = 0; t < count; t += 16)
        high = _mm512_mask_max_ps(high, first(count - t), high, _mm512_load_ps(scores + t));
    __m512 most = _mm512_set1_ps(_mm512_reduce_max_ps(high)), sum = _mm512_setzero_ps();
    for (size_t t = 0; t < count; t += 16) {
        __m512 e = _mm512_maskz_mov_ps(first(count - t), exponential(_mm512_sub_ps(_mm512_load_ps(scores + t), most)));
        _mm512_store_ps(scores + t, e);
        sum = _mm512_add_ps(sum, e);
    }
    return _mm512_reduce_add_ps(sum);
}

/* `count` rows of y: the weighted mean of the values; `vectors` times 16 channels. */
ALWAYS void mix(const float *scores, size_t span, const float *values, size_t width, size_t keys, const size_t count,
                const size_t vectors, const float *sums, float *y, size_t stride) {
    for (size_t c = 0; c < width; c += vectors * 16) {
        __m512 sum[ROWS][4];
#pragma GCC unroll 6
        for (size_t i = 0; i < count; i++)
#pragma GCC unroll 4
            for (size_t j = 0; j < vectors; j++) sum[i][j] = _mm512_setzero_ps();
        for (size_t t = 0; t < keys; t++) {
            __m512 v[4];
#pragma GCC unroll 4
            for (size_t j = 0; j < vectors; j++) v[j] = _mm512_load_ps(values + t * width + c + j * 16);
#pragma GCC unroll 6
            for (size_t i = 0; i < count; i++) {
                __m512 a = _mm512_set1_ps(scores[i * span + t]);
#pragma GCC unroll 4
                for (size_t j = 0; j < vectors; j++) sum[i][j] = _mm512_fmadd_ps(a, v[j], sum[i][j]);
            }
        }
#pragma GCC unroll 6
        for (size_t i = 0; i < count; i++) {
            __m512 share = _mm512_set1_ps(1.0f / sums[i]);
#pragma GCC unroll 4
            for (size_t j = 0; j < vectors; j++)
                _mm512_storeu_ps(y + i * stride + c + j * 16, _mm512_mul_ps(sum[i][j], share));
        }
    }
}

ALWAYS void rows(const AttentionRun *run, const float *q, size_t stride, const float *keys, const float *values,
                 size_t span, size_t count_keys, float *scores, float *y, size_t y_stride, const size_t count) {
    float sums[ROWS];
    for (size_t t = 0; t < whole(count_keys); t += 64)
        score(q, stride, keys, span, run->width, t, count, scores, run->scale);
    for (size_t i = 0; i < count; i++) sums[i] = weigh(scores + i * span, count_keys);
    if (run->width % 64 == 0)
        mix(scores, span, values, run->width, count_keys, count, 4, sums, y, y_stride);
    else if (run->width % 32 == 0)
        mix(scores, span, values, run->width, count_keys, count, 2, sums, y, y_stride);
    else
        mix(scores, span, values, run->width, count_keys, count, 1, sums, y, y_stride);
}

static void head_task(void *state, size_t index) {
    AttentionRun *run = state;
    size_t row = index / run->heads, head = index % run->heads, hidden = run->heads * run->width;
    size_t stride = 3 * hidden, span = whole(run->length), width = run->width;
    const float *q = run->packed + row * run->length * stride + head * width;
    const int32_t *mask = run->mask ? run->mask + row * run->length : NULL;
    /* Keys by channel, values, the scores of a few queries. */
    float *keys = scratch_of(1, span * (2 * width + ROWS) * sizeof(float));
    if (!keys) {
        run->failed = 1;
        return;
    }
    float *values = keys + span * width, *scores = values + span * width;
    size_t count = 0, seen = 0;
    for (size_t t = 0; mask && t < run->length; t++) seen += mask[t] != 0;
    for (size_t t = 0; t < run->length; t++) {
        /* A row in which every token is masked attends to all of them: its answer is not read, but must be a number. */
        if (seen && !mask[t]) continue;
        const float *k = q + t * stride + hidden;
        for (size_t d = 0; d < width; d++) keys[d * span + count] = k[d];
        memcpy(values + count * width, k + hidden, width * sizeof(float));
        count++;
    }
    for (size_t d = 0; d < width; d++)
        memset(keys + d * span + count, 0, (whole(count) - count) * sizeof(float));
    float *y = run->y + row * run->length * hidden + head * width;
    for (size_t i = 0; i < run->length;) {
        size_t left = run->length - i, blocks = (left + ROWS - 1) / ROWS, some = (left + blocks - 1) / blocks;
#define CASE(n) \
    case n: rows(run, q + i * stride, stride, keys, values, span, count, scores, y + i * hidden, hidden, n); break
        switch (some) { CASE(6); CASE(5); CASE(4); CASE(3); CASE(2); default: CASE(1); }
        i += some;
    }
}

int attention_run(AttentionRun *run, Parallel *parallel, void *pool) {
    return parallel(pool, head_task, run->batch * run->heads, run) || run->failed;
}

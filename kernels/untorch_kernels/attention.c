/* Softmax attention. One task computes one head of one text.

   Keys that the mask excludes are not copied into the task's scratch memory, so padding costs only its queries. Scores
   are computed for a few queries at a time and stay in the cache. On processors with AVX-512 BF16 the two products
   multiply in bf16 and add up in fp32; on others everything is fp32. */
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma")
#include <string.h>

#include "kernels.h"
#include "simd.h"

/* ROWS queries are computed together, so that their sums fit into registers; KEYS keys are scored in one step. */
enum { ROWS = 6, KEYS = 64 };

/* The work of one task: one head of one text, with its keys and values copied in the order that the products read. */
typedef struct {
    const float *queries; /* `length` rows of `width` floats; a row starts every `stride` floats */
    size_t stride, length, width;
    float scale;
    size_t count, span; /* the number of keys that may be attended to, and `length` rounded up to a multiple of KEYS */
    int halves;         /* keys, values, weights and queries are stored as pairs of bf16 in 32 bits */
    /* Scratch memory. A pair holds two neighbouring channels (of keys and queries) or two neighbouring keys (of values
       and weights). */
    float *keys;       /* (width, span) floats, or (width / 2, span) pairs: transposed */
    float *values;     /* (span, width) floats, or (span / 2, width) pairs */
    float *scores;     /* (ROWS, span) floats */
    uint32_t *weights; /* (ROWS, span / 2) pairs */
    uint32_t *asked;   /* (ROWS, width / 2) pairs: the queries */
    float *y;          /* `length` rows of `width` floats; a row starts every `hidden` floats */
    size_t hidden;
} Head;

static size_t whole(size_t n) { return (n + KEYS - 1) / KEYS * KEYS; }

/* Inline assembly rather than the intrinsic, for the reason given at `dot` in linear.c. */
ALWAYS void dot_pairs(__m512 *sum, __m512i a, __m512i b) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(*sum) : "v"(a), "v"(b));
}

ALWAYS __m256i rounded(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

/* ---- copy a key and its value to place `place` of the scratch memory ---- */

static void lay_out_floats(const Head *head, size_t place, const float *key, const float *value) {
    for (size_t d = 0; d < head->width; d++) head->keys[d * head->span + place] = key[d];
    memcpy(head->values + place * head->width, value, head->width * sizeof(float));
}

static void lay_out_halves(const Head *head, size_t place, const float *key, const float *value) {
    uint32_t *keys = (uint32_t *)head->keys, *values = (uint32_t *)head->values + place / 2 * head->width, two[8];
    for (size_t d = 0; d < head->width; d += 16) {
        _mm256_storeu_si256((__m256i *)two, rounded(_mm512_loadu_ps(key + d)));
        for (size_t pair = 0; pair < 8; pair++) keys[(d / 2 + pair) * head->span + place] = two[pair];
        __m512i half = _mm512_cvtepu16_epi32(rounded(_mm512_loadu_ps(value + d)));
        if (place % 2) half = _mm512_or_si512(_mm512_loadu_si512(values + d), _mm512_slli_epi32(half, 16));
        _mm512_storeu_si512(values + d, half);
    }
}

/* ---- scores ---- */

/* The scores of `count` queries with the KEYS keys from `t` on. Every caller passes constants for `count` and `halves`,
   so that the compiler unrolls the loops and drops the branches. */
ALWAYS void score(const Head *head, const float *query, size_t t, const size_t count, const int halves) {
    __m512 sum[ROWS][4];
    size_t steps = halves ? head->width / 2 : head->width;
#pragma GCC unroll 6
    for (size_t i = 0; i < count; i++)
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) sum[i][j] = _mm512_setzero_ps();
    for (size_t d = 0; d < steps; d++) {
        __m512 k[4];
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) k[j] = _mm512_load_ps(head->keys + d * head->span + t + j * 16);
#pragma GCC unroll 6
        for (size_t i = 0; i < count; i++) {
            __m512i two = _mm512_set1_epi32(halves ? (int)head->asked[i * steps + d] : 0);
            __m512 one = _mm512_set1_ps(halves ? 0 : query[i * head->stride + d]);
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++)
                if (halves)
                    dot_pairs(&sum[i][j], two, _mm512_castps_si512(k[j]));
                else
                    sum[i][j] = _mm512_fmadd_ps(one, k[j], sum[i][j]);
        }
    }
    __m512 scale = _mm512_set1_ps(head->scale);
#pragma GCC unroll 6
    for (size_t i = 0; i < count; i++)
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++)
            _mm512_store_ps(head->scores + i * head->span + t + j * 16, _mm512_mul_ps(sum[i][j], scale));
}

/* ---- weights ---- */

/* Turn a row of scores into their exponentials, in place or as bf16 in `weights`, and return the sum of these, by which
   `mix` divides. */
ALWAYS float weigh(const Head *head, size_t row, const int halves) {
    float *scores = head->scores + row * head->span;
    __m512 high = _mm512_set1_ps(-__builtin_inff()), sum = _mm512_setzero_ps();
    for (size_t t = 0; t < head->count; t += 16)
        high = _mm512_mask_max_ps(high, first(head->count - t), high, _mm512_load_ps(scores + t));
    __m512 most = _mm512_set1_ps(_mm512_reduce_max_ps(high));
    for (size_t t = 0; t < head->count; t += 16) {
        __m512 e = exponential(_mm512_sub_ps(_mm512_load_ps(scores + t), most));
        e = _mm512_maskz_mov_ps(first(head->count - t), e);
        if (halves) {
            __m256i half = rounded(e);
            _mm256_storeu_si256((__m256i *)(head->weights + (row * head->span + t) / 2), half);
            /* Sum the rounded values that `mix` multiplies with, so that the weights add up to one. */
            e = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
        } else {
            _mm512_store_ps(scores + t, e);
        }
        sum = _mm512_add_ps(sum, e);
    }
    return _mm512_reduce_add_ps(sum);
}

/* ---- weighted means of the values ---- */

/* Write `count` rows of the result, `vectors` * 16 channels at a time. */
ALWAYS void mix(const Head *head, const float *sums, float *y, const size_t count, const size_t vectors,
                const int halves) {
    size_t steps = halves ? (head->count + 1) / 2 : head->count;
    for (size_t c = 0; c < head->width; c += vectors * 16) {
        __m512 sum[ROWS][4];
#pragma GCC unroll 6
        for (size_t i = 0; i < count; i++)
#pragma GCC unroll 4
            for (size_t j = 0; j < vectors; j++) sum[i][j] = _mm512_setzero_ps();
        for (size_t t = 0; t < steps; t++) {
            __m512 v[4];
#pragma GCC unroll 4
            for (size_t j = 0; j < vectors; j++) v[j] = _mm512_load_ps(head->values + t * head->width + c + j * 16);
#pragma GCC unroll 6
            for (size_t i = 0; i < count; i++) {
                __m512i two = _mm512_set1_epi32(halves ? (int)head->weights[i * head->span / 2 + t] : 0);
                __m512 one = _mm512_set1_ps(halves ? 0 : head->scores[i * head->span + t]);
#pragma GCC unroll 4
                for (size_t j = 0; j < vectors; j++)
                    if (halves)
                        dot_pairs(&sum[i][j], two, _mm512_castps_si512(v[j]));
                    else
                        sum[i][j] = _mm512_fmadd_ps(one, v[j], sum[i][j]);
            }
        }
#pragma GCC unroll 6
        for (size_t i = 0; i < count; i++) {
            __m512 share = _mm512_set1_ps(1.0f / sums[i]);
#pragma GCC unroll 4
            for (size_t j = 0; j < vectors; j++)
                _mm512_storeu_ps(y + i * head->hidden + c + j * 16, _mm512_mul_ps(sum[i][j], share));
        }
    }
}

/* ---- one head ---- */

ALWAYS void some_rows(const Head *head, size_t row, const size_t count, const int halves) {
    const float *query = head->queries + row * head->stride;
    float *y = head->y + row * head->hidden, sums[ROWS];
    for (size_t i = 0; halves && i < count; i++)
        for (size_t d = 0; d < head->width; d += 16)
            _mm256_storeu_si256((__m256i *)(head->asked + (i * head->width + d) / 2),
                                rounded(_mm512_loadu_ps(query + i * head->stride + d)));
    for (size_t t = 0; t < head->count; t += KEYS) score(head, query, t, count, halves);
    for (size_t i = 0; i < count; i++) sums[i] = weigh(head, i, halves);
    if (head->width % 64 == 0)
        mix(head, sums, y, count, 4, halves);
    else if (head->width % 32 == 0)
        mix(head, sums, y, count, 2, halves);
    else
        mix(head, sums, y, count, 1, halves);
}

ALWAYS void all_rows(const Head *head, const int halves) {
    for (size_t row = 0; row < head->length;) {
        /* Groups of about equal size: 5 and 5 rows rather than 6 and 4. */
        size_t left = head->length - row, groups = (left + ROWS - 1) / ROWS, count = (left + groups - 1) / groups;
        switch (count) {
        case 6: some_rows(head, row, 6, halves); break;
        case 5: some_rows(head, row, 5, halves); break;
        case 4: some_rows(head, row, 4, halves); break;
        case 3: some_rows(head, row, 3, halves); break;
        case 2: some_rows(head, row, 2, halves); break;
        default: some_rows(head, row, 1, halves);
        }
        row += count;
    }
}

/* Separate functions, so that the compiler uses no bf16 instruction in the one that must run without them. */
static __attribute__((noinline)) void rows_of_halves(const Head *head) { all_rows(head, 1); }
static __attribute__((noinline)) void rows_of_floats(const Head *head) { all_rows(head, 0); }

static void head_task(void *state, size_t index) {
    AttentionRun *run = state;
    size_t text = index / run->heads, hidden = run->heads * run->width, span = whole(run->length);
    size_t place = index % run->heads * run->width, stride = 3 * hidden;
    const float *packed = run->packed + text * run->length * stride + place;
    const int32_t *mask = run->mask ? run->mask + text * run->length : NULL;
    size_t floats = 2 * span * run->width + 2 * ROWS * span + ROWS * run->width;
    float *scratch = scratch_of(FOR_ATTENTION, floats * sizeof(float));
    if (!scratch) {
        atomic_store_explicit(&run->failed, 1, memory_order_relaxed);
        return;
    }
    Head head = {
        .queries = packed, .stride = stride, .length = run->length, .width = run->width, .scale = run->scale,
        .span = span, .halves = run->halves, .keys = scratch, .values = scratch + span * run->width,
        .scores = scratch + 2 * span * run->width, .y = run->y + text * run->length * hidden + place, .hidden = hidden,
    };
    head.weights = (uint32_t *)(head.scores + ROWS * span);
    head.asked = head.weights + ROWS * span;
    size_t seen = 0;
    for (size_t t = 0; mask && t < run->length; t++) seen += mask[t] != 0;
    for (size_t t = 0; t < run->length; t++) {
        /* Where the mask excludes every token, attend to all: the result means nothing, but it is not NaN. */
        if (seen && !mask[t]) continue;
        const float *key = packed + t * stride + hidden;
        (head.halves ? lay_out_halves : lay_out_floats)(&head, head.count++, key, key + hidden);
    }
    /* Scores are computed for KEYS keys at a time, so the keys after the last one have to be finite numbers. */
    size_t lines = head.halves ? head.width / 2 : head.width;
    for (size_t d = 0; d < lines; d++)
        memset(head.keys + d * span + head.count, 0, (whole(head.count) - head.count) * sizeof(float));
    (head.halves ? rows_of_halves : rows_of_floats)(&head);
}

int attention_run(AttentionRun *run, Parallel *parallel, void *pool) {
    return parallel(pool, head_task, run->batch * run->heads, run) || atomic_load(&run->failed);
}

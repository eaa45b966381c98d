/* y = x W + bias in int8, for x in fp32.

   Three stages, each over all rows: quantise every row of x to 256 levels between its own smallest and largest value,
   multiply in int8 (outlier channels in fp32), and normalise the rows if a layer norm follows. */
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")
#include <string.h>

#include "kernels.h"
#include "simd.h"

/* ROWS rows are multiplied together, so that their sums fit into registers; the levels of BLOCK rows fit into the
   second-level cache. */
enum { ROWS = 6, BLOCK = 128 };
/* A task quantises or normalises SOME rows. Up to SMALL numbers, waking other threads costs more than it gains. */
enum { SOME = 4, SMALL = 1 << 15 };
/* The columns of a product are divided into at most TASKS tasks. */
enum { TASKS = 16 };

static size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

size_t linear_scratch(const Linear *linear, size_t rows) {
    return aligned(rows * linear->steps * DEPTH) + 2 * aligned(rows * sizeof(float)) +
           aligned(rows * linear->outliers * sizeof(float));
}

void linear_place(LinearRun *run, void *scratch) {
    char *at = scratch;
    run->levels = (uint8_t *)at;
    at += aligned(run->rows * run->linear->steps * DEPTH);
    run->steps = (float *)at;
    at += aligned(run->rows * sizeof(float));
    run->lows = (float *)at;
    at += aligned(run->rows * sizeof(float));
    run->picked = (float *)at;
}

static void quantize_row(const LinearRun *run, size_t row) {
    const Linear *linear = run->linear;
    size_t depth = linear->steps * DEPTH;
    const float *x = run->x + row * linear->inputs;
    uint8_t *levels = run->levels + row * depth;
    __m512 low = _mm512_setzero_ps(), high = low;
    for (size_t k = 0; k < linear->inputs; k += 16) {
        __mmask16 here = first(linear->inputs - k);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(here, x + k), _mm512_maskz_loadu_ps(here, linear->rest + k));
        low = _mm512_min_ps(low, v);
        high = _mm512_max_ps(high, v);
    }
    float least = _mm512_reduce_min_ps(low), most = _mm512_reduce_max_ps(high);
    float step = (most - least) / 255.0f;
    __m512 per_level = _mm512_set1_ps(step > 0 ? 1.0f / step : 0.0f), from = _mm512_set1_ps(least);
    for (size_t k = 0; k < depth; k += 16) {
        __mmask16 here = first(linear->inputs > k ? linear->inputs - k : 0);
        __m512 v = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(here, x + k), from), per_level);
        /* An outlier may saturate here; that does no harm, because its row in the int8 weights is zero. */
        _mm512_mask_cvtusepi32_storeu_epi8(levels + k, first(depth - k), _mm512_cvtps_epi32(v));
    }
    run->steps[row] = step;
    run->lows[row] = least;
    for (size_t o = 0; o < linear->outliers; o++) run->picked[row * linear->outliers + o] = x[linear->places[o]];
}

/* GELU: x * (1 + erf(x / sqrt 2)) / 2. erf is approximated by formula 7.1.25 of Abramowitz and Stegun, "Handbook of
   Mathematical Functions"; its error of 2.5e-5 is about a thousandth of the quantisation step of the next product. */
ALWAYS __m512 gelu(__m512 x) {
    __m512 size = _mm512_abs_ps(x), half = _mm512_mul_ps(size, _mm512_set1_ps(0.5f));
    __m512 t = _mm512_rcp14_ps(_mm512_fmadd_ps(size, _mm512_set1_ps(0.47047f * 0.70710678f), _mm512_set1_ps(1.0f)));
    __m512 p = _mm512_set1_ps(0.7478556f);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.0958798f));
    p = _mm512_mul_ps(_mm512_fmadd_ps(p, t, _mm512_set1_ps(0.3480242f)), t);
    /* GELU(x) = max(x, 0) - |x| / 2 * (1 - erf(|x| / sqrt 2)). `lack` is 1 - erf. */
    __m512 lack = _mm512_mul_ps(p, exponential(_mm512_fnmadd_ps(half, size, _mm512_setzero_ps())));
    return _mm512_fnmadd_ps(half, lack, _mm512_max_ps(x, _mm512_setzero_ps()));
}

/* Inline assembly, because GCC 12 copies the sums to the stack and back around its intrinsic for this instruction. */
ALWAYS void dot(__m512i *sum, __m512i levels, __m512i weights) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(levels), "v"(weights));
}

/* The product of `count` rows from `row` on with one tile of columns. Every caller passes a constant for `count`, so
   that the compiler unrolls the loops. `ahead` is memory to prefetch meanwhile. */
ALWAYS void tile_rows(const LinearRun *run, size_t row, const size_t count, size_t tile, const int8_t *ahead) {
    const Linear *linear = run->linear;
    size_t depth = linear->steps * DEPTH, outputs = linear->outputs;
    const int8_t *weight = linear->weight + tile * COLUMNS * depth;
    const uint8_t *levels = run->levels + row * depth;
    __m512i sum[ROWS][4];
#pragma GCC unroll 6
    for (size_t i = 0; i < count; i++)
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) sum[i][j] = _mm512_setzero_si512();
    for (size_t k = 0; k < linear->steps; k++) {
        __m512i w[4];
        _mm_prefetch(ahead + k * 128, _MM_HINT_T1);
        _mm_prefetch(ahead + k * 128 + 64, _MM_HINT_T1);
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) w[j] = _mm512_loadu_si512(weight + (k * COLUMNS + j * 16) * DEPTH);
#pragma GCC unroll 6
        for (size_t i = 0; i < count; i++) {
            int32_t four;
            memcpy(&four, levels + i * depth + k * DEPTH, sizeof four);
            __m512i a = _mm512_set1_epi32(four);
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++) dot(&sum[i][j], a, w[j]);
        }
    }
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        size_t n = tile * COLUMNS + j * 16;
        if (n >= outputs) return;
        __mmask16 here = first(outputs - n);
        __m512 scale = _mm512_loadu_ps(linear->scale + n), bias = _mm512_loadu_ps(linear->bias + n);
        __m512 sums = _mm512_loadu_ps(linear->sums + n), y[ROWS];
#pragma GCC unroll 6
        for (size_t i = 0; i < count; i++) {
            __m512 step = _mm512_mul_ps(scale, _mm512_set1_ps(run->steps[row + i]));
            y[i] = _mm512_fmadd_ps(sums, _mm512_set1_ps(run->lows[row + i]), bias);
            y[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][j]), step, y[i]);
        }
        for (size_t o = 0; o < linear->outliers; o++) {
            __m512 w = _mm512_loadu_ps(linear->rows + o * linear->tiles * COLUMNS + n);
#pragma GCC unroll 6
            for (size_t i = 0; i < count; i++)
                y[i] = _mm512_fmadd_ps(w, _mm512_set1_ps(run->picked[(row + i) * linear->outliers + o]), y[i]);
        }
#pragma GCC unroll 6
        for (size_t i = 0; i < count; i++) {
            size_t place = (row + i) * outputs + n;
            if (linear->gelu) y[i] = gelu(y[i]);
            if (run->residual) y[i] = _mm512_add_ps(y[i], _mm512_maskz_loadu_ps(here, run->residual + place));
            _mm512_mask_storeu_ps(run->y + place, here, y[i]);
        }
    }
}

/* The product of rows [row, end) with a tile. The first two groups of rows each prefetch half of the next tile's
   weights. Without that, a short text would alternate between waiting for memory and multiplying. */
static void tile_block(const LinearRun *run, size_t row, size_t end, size_t tile) {
    size_t bytes = run->linear->steps * DEPTH * COLUMNS;
    const int8_t *here = run->linear->weight + tile * bytes, *ahead = here + bytes;
    for (size_t group = 0; row < end; group++) {
        /* Groups of about equal size: 5 and 5 rows rather than 6 and 4. */
        size_t left = end - row, groups = (left + ROWS - 1) / ROWS, count = (left + groups - 1) / groups;
        const int8_t *asked = group < 2 ? ahead + group * bytes / 2 : here;
        switch (count) {
        case 6: tile_rows(run, row, 6, tile, asked); break;
        case 5: tile_rows(run, row, 5, tile, asked); break;
        case 4: tile_rows(run, row, 4, tile, asked); break;
        case 3: tile_rows(run, row, 3, tile, asked); break;
        case 2: tile_rows(run, row, 2, tile, asked); break;
        default: tile_rows(run, row, 1, tile, asked);
        }
        row += count;
    }
}

static void normalize_row(const LinearRun *run, size_t row) {
    const Linear *linear = run->linear;
    float *y = run->y + row * linear->outputs;
    __m512 sum = _mm512_setzero_ps(), squares = sum;
    for (size_t n = 0; n < linear->outputs; n += 16)
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(first(linear->outputs - n), y + n));
    float mean = _mm512_reduce_add_ps(sum) / (float)linear->outputs;
    __m512 middle = _mm512_set1_ps(mean);
    for (size_t n = 0; n < linear->outputs; n += 16) {
        __mmask16 here = first(linear->outputs - n);
        __m512 v = _mm512_maskz_sub_ps(here, _mm512_maskz_loadu_ps(here, y + n), middle);
        squares = _mm512_fmadd_ps(v, v, squares);
    }
    float variance = _mm512_reduce_add_ps(squares) / (float)linear->outputs;
    __m512 factor = _mm512_set1_ps(1.0f / __builtin_sqrtf(variance + linear->epsilon));
    for (size_t n = 0; n < linear->outputs; n += 16) {
        __mmask16 here = first(linear->outputs - n);
        __m512 v = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(here, y + n), middle), factor);
        v = _mm512_fmadd_ps(v, _mm512_loadu_ps(linear->norm_weight + n), _mm512_loadu_ps(linear->norm_bias + n));
        _mm512_mask_storeu_ps(y + n, here, v);
    }
}

/* ---- the three stages ---- */

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static void quantize_task(void *state, size_t index) {
    const LinearRun *run = state;
    for (size_t row = index * SOME; row < least(run->rows, (index + 1) * SOME); row++) quantize_row(run, row);
}

static void normalize_task(void *state, size_t index) {
    const LinearRun *run = state;
    for (size_t row = index * SOME; row < least(run->rows, (index + 1) * SOME); row++) normalize_row(run, row);
}

static int over_rows(LinearRun *run, Task *task, size_t width, Parallel *parallel, void *pool) {
    size_t count = (run->rows + SOME - 1) / SOME;
    if (run->rows * width > SMALL) return parallel(pool, task, count, run);
    for (size_t index = 0; index < count; index++) task(run, index);
    return 0;
}

/* The number of tiles of one task. They are neighbours, so that each can prefetch the next. */
static size_t tiles_of_task(const Linear *linear) { return (linear->tiles + TASKS - 1) / TASKS; }

static void multiply_task(void *state, size_t index) {
    const LinearRun *run = state;
    size_t tiles = run->linear->tiles, some = tiles_of_task(run->linear), parts = (tiles + some - 1) / some;
    size_t row = index / parts * BLOCK, end = least(run->rows, row + BLOCK), tile = index % parts * some;
    for (size_t last = least(tiles, tile + some); tile < last; tile++) tile_block(run, row, end, tile);
}

int linear_run(LinearRun *run, Parallel *parallel, void *pool) {
    const Linear *linear = run->linear;
    size_t some = tiles_of_task(linear), parts = (linear->tiles + some - 1) / some;
    if (over_rows(run, quantize_task, linear->inputs, parallel, pool)) return 1;
    if (parallel(pool, multiply_task, (run->rows + BLOCK - 1) / BLOCK * parts, run)) return 1;
    return linear->norm_weight ? over_rows(run, normalize_task, linear->outputs, parallel, pool) : 0;
}

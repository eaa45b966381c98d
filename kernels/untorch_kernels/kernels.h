/* The interface between the files of this library. linear.c and attention.c compute two operators and know nothing of
   ONNX Runtime; operators.c calls them on ONNX Runtime's threads; scratch.c keeps memory for them. */
#ifndef UNTORCH_KERNELS_H
#define UNTORCH_KERNELS_H

#ifndef __x86_64__
#error "untorch-kernels is written for x86-64; elsewhere untorch takes ONNX Runtime's own int8"
#endif

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* The layout of a quantised weight: COLUMNS output columns form a tile, and one instruction multiplies and adds up
   DEPTH input channels of 16 of them. */
enum { COLUMNS = 64, DEPTH = 4 };

/* A `Parallel` function calls task(state, 0) … task(state, count - 1) once each, in any order, on the threads of
   `pool`, and returns when all calls have. It returns 0, or 1 if the threads could not be used. */
typedef void Task(void *state, size_t index);
typedef int Parallel(void *pool, Task *task, size_t count, void *state);

/* At least `bytes` of memory that belong to the calling thread, aligned to 64 bytes; null if there is not enough. Each
   use has a buffer of its own. The next call for the same use on the same thread takes the buffer back. */
typedef enum { FOR_LINEAR, FOR_ATTENTION, SCRATCH_USES } ScratchUse;
void *scratch_of(ScratchUse use, size_t bytes);

/* ---- linear.c: y = x W + bias, for x in fp32 and a constant W (inputs x outputs) in int8 ---- */

/* The constants of a product. Each column of W has a scale: W[k][n] = scale[n] * weight[k][n].

   `weight` has the shape (tiles, steps, COLUMNS, DEPTH): tile t holds columns t * COLUMNS and on, step s holds
   channels s * DEPTH and on, and what lies beyond W is zero. Arrays with one value a column are tiles * COLUMNS long,
   with zeros at the end. */
typedef struct {
    size_t inputs, outputs, tiles, steps;
    size_t outliers;          /* input channels multiplied in fp32; in `weight` their rows are zero */
    const int64_t *places;    /* (outliers): the index of each of these channels */
    float *rest;              /* (inputs): 0 for an outlier, 1 for any other channel */
    const int8_t *weight;
    const float *scale, *bias; /* one value a column */
    const float *sums;        /* one value a column: the sum of W over the inputs */
    const float *rows;        /* (outliers, tiles * COLUMNS): the weights of the outliers in fp32 */
    const float *norm_weight, *norm_bias; /* one value a column: of the layer norm after the product; null without one */
    float epsilon;            /* of the layer norm */
    int gelu;                 /* apply GELU to the result, in its erf form, with an error of at most 3e-5 */
} Linear;

/* One product: its inputs and result, and the scratch memory it works in. */
typedef struct {
    const Linear *linear;
    size_t rows;
    const float *x;        /* (rows, inputs) */
    const float *residual; /* (rows, outputs), added to the result before the layer norm; or null */
    float *y;              /* (rows, outputs) */
    uint8_t *levels;       /* scratch, (rows, steps, DEPTH): x quantised, x = lows[row] + steps[row] * level */
    float *steps, *lows;   /* scratch, (rows) */
    float *picked;         /* scratch, (rows, outliers): the outliers' values of x */
} LinearRun;

/* The bytes of scratch memory that a run over `rows` rows needs; set the run's pointers into such memory; compute y.
   linear_run returns 0, or 1 if its threads could not be used. */
size_t linear_scratch(const Linear *linear, size_t rows);
void linear_place(LinearRun *run, void *scratch);
int linear_run(LinearRun *run, Parallel *parallel, void *pool);

/* ---- attention.c: softmax(q k^T * scale) v for every head ---- */

/* One call. The input holds queries, keys and values of a token side by side. */
typedef struct {
    size_t batch, length, heads, width; /* `width`, the channels of one head, is a multiple of 16 and at most 128 */
    float scale;
    const float *packed;  /* (batch, length, 3, heads, width) */
    const int32_t *mask;  /* (batch, length): 0 for a token that must not be attended to; null if there is none */
    float *y;             /* (batch, length, heads, width) */
    int halves;           /* multiply in bf16, which needs AVX-512 BF16 */
    atomic_int failed;    /* set to 1 by any task, on any thread, that found no memory */
} AttentionRun;

/* Compute y. Returns 0, or 1 if the threads could not be used or memory ran out. */
int attention_run(AttentionRun *run, Parallel *parallel, void *pool);

#endif

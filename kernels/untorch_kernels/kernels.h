/* The arithmetic of two operators, without ONNX Runtime: linear.c and attention.c have it, operators.c calls it. */
#ifndef UNTORCH_KERNELS_H
#define UNTORCH_KERNELS_H

#ifndef __x86_64__
#error "untorch-kernels is written for x86-64; elsewhere untorch takes ONNX Runtime's own int8"
#endif

#include <stddef.h>
#include <stdint.h>

/* Columns that one task computes, and channels that are multiplied in one instruction. */
enum { COLUMNS = 64, DEPTH = 4 };

/* Run `task(state, 0)` … `task(state, count - 1)` in any order, on several threads or one. */
typedef void Task(void *state, size_t index);
typedef int Parallel(void *pool, Task *task, size_t count, void *state);

/* Memory of the calling thread, for one of two uses; null if there is none. What was in it is lost. */
void *scratch_of(int use, size_t bytes);

/* A product with a constant matrix: y = x W + bias, W (inputs x outputs) in int8 with a scale a column.

   `weight` is (tiles, steps, COLUMNS, DEPTH): a tile is COLUMNS columns, a step DEPTH channels, zeros beyond the edges.
   The rows of floats are tiles * COLUMNS long, zeros beyond the edge. */
typedef struct {
    size_t inputs, outputs, tiles, steps;
    size_t outliers;          /* channels that stay in fp32; their rows of W are zeros */
    const int64_t *places;    /* (outliers): where they are */
    float *rest;              /* (inputs): 0 at an outlier, else 1 */
    const int8_t *weight;
    const float *scale, *bias;
    const float *sums;        /* of W's columns */
    const float *rows;        /* (outliers) rows: the weights of the outliers */
    const float *norm_weight, *norm_bias; /* of the layer norm at the end, or null */
    float epsilon;
    int gelu;                 /* GELU of the result, by the error function, to 3e-5 */
} Linear;

typedef struct {
    const Linear *linear;
    size_t rows;
    const float *x;        /* (rows, inputs) */
    const float *residual; /* (rows, outputs), added to the result before the layer norm; or null */
    float *y;              /* (rows, outputs) */
    uint8_t *levels;       /* scratch: (rows, steps, DEPTH) */
    float *steps, *lows;   /* scratch: (rows) */
    float *picked;         /* scratch: (rows, outliers) */
} LinearRun;

/* Scratch bytes of a run over so many rows, and the run's pointers into it. */
size_t linear_scratch(const Linear *linear, size_t rows);
void linear_place(LinearRun *run, void *scratch);
int linear_run(LinearRun *run, Parallel *parallel, void *pool);

/* Softmax attention of one packed input: queries, keys and values of a token side by side. */
typedef struct {
    size_t batch, length, heads, width; /* width of one head: a multiple of 16, at most 128 */
    float scale;
    const float *packed;  /* (batch, length, 3, heads, width) */
    const int32_t *mask;  /* (batch, length): 0 for tokens that nobody attends to; or null */
    float *y;             /* (batch, length, heads, width) */
    int halves;           /* multiply in bf16: needs AVX-512 BF16 */
    int failed;           /* set by a task that had no memory */
} AttentionRun;

int attention_run(AttentionRun *run, Parallel *parallel, void *pool);

#endif

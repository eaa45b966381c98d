/* Registers the two kernels with ONNX Runtime as the operators Linear and Attention of the domain `untorch`.

   A graph file may come from anywhere, so every size in it is checked here before a kernel sees it. */
#include <cpuid.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "ort.h"

enum { MOST_AXES = 8 };

/* ---- tensors ---- */

typedef struct {
    const void *data;
    int64_t sizes[MOST_AXES];
    size_t axes, count;
} Tensor;

static OrtStatus *wrong(const OrtApi *ort, const char *what) { return ort->CreateStatus(ORT_INVALID_ARGUMENT, what); }

static OrtStatus *read_tensor(const OrtApi *ort, const OrtValue *value, int type, const char *name, Tensor *tensor) {
    OrtShape *shape;
    OrtStatus *status = ort->GetTensorTypeAndShape(value, &shape);
    if (status) return status;
    int found = 0;
    status = ort->GetTensorElementType(shape, &found);
    if (!status) status = ort->GetDimensionsCount(shape, &tensor->axes);
    if (!status && tensor->axes <= MOST_AXES) status = ort->GetDimensions(shape, tensor->sizes, tensor->axes);
    ort->ReleaseTensorTypeAndShapeInfo(shape);
    if (status) return status;
    if (found != type || tensor->axes > MOST_AXES) {
        char message[96];
        snprintf(message, sizeof message, "%s has another type or more axes than it may", name);
        return wrong(ort, message);
    }
    tensor->count = 1;
    for (size_t axis = 0; axis < tensor->axes; axis++) tensor->count *= (size_t)tensor->sizes[axis];
    void *data;
    status = ort->GetTensorMutableData((OrtValue *)value, &data);
    tensor->data = data;
    return status;
}

/* Read an input of this run. `data` is null where the graph leaves out an optional input. */
static OrtStatus *read_input(const OrtApi *ort, const OrtContext *context, size_t index, int type, const char *name,
                             Tensor *tensor) {
    size_t count;
    OrtStatus *status = ort->KernelContext_GetInputCount(context, &count);
    const OrtValue *value = NULL;
    if (!status && index < count) status = ort->KernelContext_GetInput(context, index, &value);
    memset(tensor, 0, sizeof *tensor);
    return status || !value ? status : read_tensor(ort, value, type, name, tensor);
}

/* Read an input whose value the graph stores. `data` is null where it is left out, or is not a constant. */
static OrtStatus *read_constant(const OrtApi *ort, const OrtInfo *info, size_t index, int type, const char *name,
                                Tensor *tensor) {
    size_t count;
    memset(tensor, 0, sizeof *tensor);
    OrtStatus *status = ort->KernelInfo_GetInputCount(info, &count);
    if (status || index >= count) return status;
    int constant = 0;
    const OrtValue *value = NULL;
    status = ort->KernelInfoGetConstantInput_tensor(info, index, &constant, &value);
    return status || !constant || !value ? status : read_tensor(ort, value, type, name, tensor);
}

static OrtStatus *write_output(const OrtApi *ort, OrtContext *context, const int64_t *sizes, size_t axes,
                               float **data) {
    OrtValue *value;
    OrtStatus *status = ort->KernelContext_GetOutput(context, 0, sizes, axes, &value);
    return status ? status : ort->GetTensorMutableData(value, (void **)data);
}

typedef struct {
    const OrtApi *ort;
    OrtContext *context;
} Pool;

static int on_pool(void *pool, Task *task, size_t count, void *state) {
    const Pool *threads = pool;
    OrtStatus *status = threads->ort->KernelContext_ParallelFor(threads->context, task, count, 0, state);
    if (!status) return 0;
    threads->ort->ReleaseStatus(status);
    return 1;
}

/* ---- Linear ---- */

enum { X, WEIGHT, COLUMN_ROWS, PLACES, RESIDUAL, LINEAR_INPUTS };
/* A sum of MOST_INPUTS products of at most 255 x 127 still fits into 32 bits. */
enum { MOST_INPUTS = 1 << 16, MOST_OUTPUTS = 1 << 20, MOST_OUTLIERS = 1024 };

typedef struct {
    const OrtApi *ort;
    Linear linear;
    void *memory;
} LinearKernel;

static void destroy_linear(void *kernel) {
    free(((LinearKernel *)kernel)->memory);
    free(kernel);
}

/* Read and check the constants. Weights are used where ONNX Runtime has mapped them, since they live as long as the
   kernel. The outliers' places are copied before they are checked: the file behind the mapping may be written over
   later, and a changed place would read out of bounds. */
static OrtStatus *fill_linear(LinearKernel *kernel, const OrtApi *ort, const OrtInfo *info) {
    Linear *linear = &kernel->linear;
    Tensor weight, rows, places;
    int64_t inputs = 0, outputs = 0, gelu = 0, norm = 0;
    OrtStatus *status = read_constant(ort, info, WEIGHT, ORT_INT8, "Linear's weight", &weight);
    if (!status) status = read_constant(ort, info, COLUMN_ROWS, ORT_FLOAT, "Linear's rows of floats", &rows);
    if (!status) status = read_constant(ort, info, PLACES, ORT_INT64, "Linear's outliers", &places);
    if (!status) status = ort->KernelInfoGetAttribute_int64(info, "in_features", &inputs);
    if (!status) status = ort->KernelInfoGetAttribute_int64(info, "out_features", &outputs);
    if (!status) status = ort->KernelInfoGetAttribute_int64(info, "gelu", &gelu);
    if (!status) status = ort->KernelInfoGetAttribute_int64(info, "norm", &norm);
    if (!status) status = ort->KernelInfoGetAttribute_float(info, "epsilon", &linear->epsilon);
    if (status) return status;
    if (inputs < 1 || outputs < 1 || inputs > MOST_INPUTS || outputs > MOST_OUTPUTS)
        return wrong(ort, "Linear's matrix is empty or larger than it may be");
    linear->inputs = (size_t)inputs;
    linear->outputs = (size_t)outputs;
    linear->tiles = (linear->outputs + COLUMNS - 1) / COLUMNS;
    linear->steps = (linear->inputs + DEPTH - 1) / DEPTH;
    linear->outliers = places.count;
    linear->gelu = gelu != 0;
    size_t wide = linear->tiles * COLUMNS, lines = 3 + linear->outliers + (norm ? 2 : 0);
    if (!weight.data || !rows.data || (!places.data && places.count) || places.count > MOST_OUTLIERS ||
        weight.count != linear->steps * DEPTH * wide || rows.count != lines * wide)
        return wrong(ort, "Linear's constants do not fit each other");
    linear->weight = weight.data;
    linear->scale = rows.data;
    linear->bias = linear->scale + wide;
    linear->sums = linear->bias + wide;
    linear->rows = linear->sums + wide;
    if (norm) {
        linear->norm_weight = linear->rows + linear->outliers * wide;
        linear->norm_bias = linear->norm_weight + wide;
    }
    int64_t *copied = kernel->memory = malloc(places.count * sizeof(int64_t) + linear->inputs * sizeof(float));
    if (!copied) return ort->CreateStatus(ORT_FAIL, "no memory for Linear");
    if (places.count) memcpy(copied, places.data, places.count * sizeof(int64_t));
    linear->places = copied;
    linear->rest = (float *)(copied + places.count);
    for (size_t k = 0; k < linear->inputs; k++) linear->rest[k] = 1;
    for (size_t o = 0; o < linear->outliers; o++) {
        if (linear->places[o] < 0 || linear->places[o] >= inputs)
            return wrong(ort, "an outlier of Linear lies outside its matrix");
        linear->rest[linear->places[o]] = 0;
    }
    return NULL;
}

static OrtStatus *create_linear(const OrtCustomOp *op, const OrtApi *ort, const OrtInfo *info, void **made) {
    (void)op;
    LinearKernel *kernel = calloc(1, sizeof *kernel);
    if (!kernel) return ort->CreateStatus(ORT_FAIL, "no memory for Linear");
    kernel->ort = ort;
    OrtStatus *status = fill_linear(kernel, ort, info);
    if (status)
        destroy_linear(kernel);
    else
        *made = kernel;
    return status;
}

static OrtStatus *compute_linear(void *made, OrtContext *context) {
    const LinearKernel *kernel = made;
    const OrtApi *ort = kernel->ort;
    const Linear *linear = &kernel->linear;
    Tensor x, residual;
    OrtStatus *status = read_input(ort, context, X, ORT_FLOAT, "Linear's input", &x);
    if (!status) status = read_input(ort, context, RESIDUAL, ORT_FLOAT, "Linear's residual", &residual);
    if (status) return status;
    if (!x.axes || (size_t)x.sizes[x.axes - 1] != linear->inputs)
        return wrong(ort, "the last axis of Linear's input is not as long as its matrix");
    LinearRun run = {.linear = linear, .rows = x.count / linear->inputs, .x = x.data, .residual = residual.data};
    if (residual.data && residual.count != run.rows * linear->outputs)
        return wrong(ort, "Linear's residual has not the shape of its result");
    x.sizes[x.axes - 1] = (int64_t)linear->outputs;
    status = write_output(ort, context, x.sizes, x.axes, &run.y);
    if (status || !run.rows) return status;
    void *scratch = scratch_of(FOR_LINEAR, linear_scratch(linear, run.rows));
    if (!scratch) return ort->CreateStatus(ORT_FAIL, "no memory for Linear's input");
    linear_place(&run, scratch);
    Pool pool = {ort, context};
    return linear_run(&run, on_pool, &pool) ? ort->CreateStatus(ORT_FAIL, "Linear could not use its threads") : NULL;
}

/* ---- Attention ---- */

typedef struct {
    const OrtApi *ort;
    int64_t heads;
    float scale;
    int halves;
} AttentionKernel;

/* Whether this processor has AVX-512 BF16: CPUID leaf 7, subleaf 1, EAX bit 5. */
static int has_bf16(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}

static OrtStatus *create_attention(const OrtCustomOp *op, const OrtApi *ort, const OrtInfo *info, void **made) {
    (void)op;
    AttentionKernel *kernel = calloc(1, sizeof *kernel);
    if (!kernel) return ort->CreateStatus(ORT_FAIL, "no memory for Attention");
    kernel->ort = ort;
    kernel->halves = has_bf16();
    OrtStatus *status = ort->KernelInfoGetAttribute_int64(info, "num_heads", &kernel->heads);
    if (!status) status = ort->KernelInfoGetAttribute_float(info, "scale", &kernel->scale);
    if (!status && (kernel->heads < 1 || kernel->heads > 1024)) status = wrong(ort, "Attention has no number of heads");
    if (status)
        free(kernel);
    else
        *made = kernel;
    return status;
}

static OrtStatus *compute_attention(void *made, OrtContext *context) {
    const AttentionKernel *kernel = made;
    const OrtApi *ort = kernel->ort;
    Tensor packed, mask;
    OrtStatus *status = read_input(ort, context, 0, ORT_FLOAT, "Attention's input", &packed);
    if (!status) status = read_input(ort, context, 1, ORT_INT32, "Attention's mask", &mask);
    if (status) return status;
    if (packed.axes != 3 || packed.sizes[2] % (3 * kernel->heads))
        return wrong(ort, "Attention's input is not (batch, length, queries, keys and values of each head)");
    int64_t width = packed.sizes[2] / (3 * kernel->heads);
    if (width < 16 || width > 128 || width % 16) return wrong(ort, "Attention's heads are not 16 to 128 channels wide");
    if (mask.data && (mask.axes != 2 || mask.sizes[0] != packed.sizes[0] || mask.sizes[1] != packed.sizes[1]))
        return wrong(ort, "Attention's mask is not (batch, length)");
    AttentionRun run = {
        .batch = (size_t)packed.sizes[0], .length = (size_t)packed.sizes[1], .heads = (size_t)kernel->heads,
        .width = (size_t)width, .scale = kernel->scale > 0 ? kernel->scale : 1 / sqrtf((float)width),
        .packed = packed.data, .mask = mask.data, .halves = kernel->halves,
    };
    packed.sizes[2] /= 3;
    status = write_output(ort, context, packed.sizes, 3, &run.y);
    if (status || !run.batch || !run.length) return status;
    Pool pool = {ort, context};
    int failed = attention_run(&run, on_pool, &pool);
    return failed ? ort->CreateStatus(ORT_FAIL, "Attention could not use its threads, or had no memory") : NULL;
}

/* ---- the descriptions of the operators: their names, inputs and outputs ---- */

static const char *linear_name(const OrtCustomOp *op) { return (void)op, "Linear"; }
static const char *attention_name(const OrtCustomOp *op) { return (void)op, "Attention"; }
static const char *provider(const OrtCustomOp *op) { return (void)op, "CPUExecutionProvider"; }
static size_t one(const OrtCustomOp *op) { return (void)op, 1; }
static size_t two(const OrtCustomOp *op) { return (void)op, 2; }
static size_t linear_inputs(const OrtCustomOp *op) { return (void)op, LINEAR_INPUTS; }
static int float_output(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, ORT_FLOAT; }
static int required(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, ORT_REQUIRED; }
static int default_memory(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, 0; }
static int attention_type(const OrtCustomOp *op, size_t index) { return (void)op, index ? ORT_INT32 : ORT_FLOAT; }
static int attention_optional(const OrtCustomOp *op, size_t index) {
    return (void)op, index ? ORT_OPTIONAL : ORT_REQUIRED;
}
static int linear_optional(const OrtCustomOp *op, size_t index) {
    return (void)op, index >= RESIDUAL ? ORT_OPTIONAL : ORT_REQUIRED;
}
static int linear_type(const OrtCustomOp *op, size_t index) {
    (void)op;
    return index == WEIGHT ? ORT_INT8 : index == PLACES ? ORT_INT64 : ORT_FLOAT;
}

static const OrtCustomOp linear_operator = {
    .version = 16, .GetName = linear_name, .GetExecutionProviderType = provider, .GetInputType = linear_type,
    .GetInputTypeCount = linear_inputs, .GetOutputType = float_output, .GetOutputTypeCount = one,
    .KernelDestroy = destroy_linear, .GetInputCharacteristic = linear_optional, .GetOutputCharacteristic = required,
    .GetInputMemoryType = default_memory, .CreateKernelV2 = create_linear, .KernelComputeV2 = compute_linear,
};
static const OrtCustomOp attention_operator = {
    .version = 16, .GetName = attention_name, .GetExecutionProviderType = provider, .GetInputType = attention_type,
    .GetInputTypeCount = two, .GetOutputType = float_output, .GetOutputTypeCount = one, .KernelDestroy = free,
    .GetInputCharacteristic = attention_optional, .GetOutputCharacteristic = required,
    .GetInputMemoryType = default_memory, .CreateKernelV2 = create_attention, .KernelComputeV2 = compute_attention,
};

#define EXPORTED __attribute__((visibility("default")))

/* All sessions share one domain, which is never freed because it has to outlive them. */
static pthread_mutex_t domain_lock = PTHREAD_MUTEX_INITIALIZER;
static OrtDomain *domain;

static OrtStatus *make_domain(const OrtApi *ort) {
    OrtDomain *made;
    OrtStatus *status = ort->CreateCustomOpDomain("untorch", &made);
    if (status) return status;
    status = ort->CustomOpDomain_Add(made, &linear_operator);
    if (!status) status = ort->CustomOpDomain_Add(made, &attention_operator);
    if (status)
        ort->ReleaseCustomOpDomain(made);
    else
        domain = made;
    return status;
}

/* Add the operators to a session's options. ONNX Runtime finds this function by name and calls it when a session
   registers the library. */
EXPORTED OrtStatus *RegisterCustomOps(OrtOptions *options, const OrtApiBase *base) {
    const OrtApi *ort = base->GetApi(ORT_VERSION);
    if (!ort) return NULL; /* older than 1.17: the graph's operators will be unknown */
    pthread_mutex_lock(&domain_lock);
    OrtStatus *status = domain ? NULL : make_domain(ort);
    pthread_mutex_unlock(&domain_lock);
    return status ? status : ort->AddCustomOpDomain(options, domain);
}

/* The name of the first required instruction set that this processor lacks, or null if it has them all. */
EXPORTED const char *untorch_kernels_missing(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx512f")) return "AVX-512";
    if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ||
        !__builtin_cpu_supports("avx512dq"))
        return "AVX-512 BW, VL and DQ";
    return __builtin_cpu_supports("avx512vnni") ? NULL : "AVX-512 VNNI";
}

/* Whether this processor has AMX int8, matrix products in tile registers: CPUID leaf 7, EDX bit 25. */
EXPORTED int untorch_kernels_amx(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 25 & 1);
}

/* The part of ONNX Runtime's C interface (onnxruntime_c_api.h) that custom operators need.

   OrtApi is a table of function pointers. New versions only append to it, so the places below, taken from version 1.17,
   are right for every later version. */
#ifndef UNTORCH_ORT_H
#define UNTORCH_ORT_H

#include <stddef.h>
#include <stdint.h>

enum { ORT_VERSION = 17, ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum { ORT_FLOAT = 1, ORT_INT8 = 3, ORT_INT32 = 6, ORT_INT64 = 7 };
enum { ORT_REQUIRED = 0, ORT_OPTIONAL = 1 };

typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtShape OrtShape;
typedef struct OrtContext OrtContext;
typedef struct OrtInfo OrtInfo;
typedef struct OrtDomain OrtDomain;
typedef struct OrtOptions OrtOptions;

typedef union {
    void *places[275];
    struct {
        OrtStatus *(*CreateStatus)(int code, const char *message);
        void *unused_1[25];
        OrtStatus *(*CreateCustomOpDomain)(const char *name, OrtDomain **domain);
        OrtStatus *(*CustomOpDomain_Add)(OrtDomain *domain, const void *operator_);
        OrtStatus *(*AddCustomOpDomain)(OrtOptions *options, OrtDomain *domain);
        void *unused_29[22];
        OrtStatus *(*GetTensorMutableData)(OrtValue *value, void **data);
        void *unused_52[8];
        OrtStatus *(*GetTensorElementType)(const OrtShape *shape, int *type);
        OrtStatus *(*GetDimensionsCount)(const OrtShape *shape, size_t *count);
        OrtStatus *(*GetDimensions)(const OrtShape *shape, int64_t *sizes, size_t count);
        void *unused_63[2];
        OrtStatus *(*GetTensorTypeAndShape)(const OrtValue *value, OrtShape **shape);
        void *unused_66[19];
        OrtStatus *(*KernelInfoGetAttribute_float)(const OrtInfo *info, const char *name, float *value);
        OrtStatus *(*KernelInfoGetAttribute_int64)(const OrtInfo *info, const char *name, int64_t *value);
        void *unused_87;
        OrtStatus *(*KernelContext_GetInputCount)(const OrtContext *context, size_t *count);
        void *unused_89;
        OrtStatus *(*KernelContext_GetInput)(const OrtContext *context, size_t index, const OrtValue **value);
        OrtStatus *(*KernelContext_GetOutput)(OrtContext *context, size_t index, const int64_t *sizes, size_t count,
                                              OrtValue **value);
        void *unused_92;
        void (*ReleaseStatus)(OrtStatus *status);
        void *unused_94[5];
        void (*ReleaseTensorTypeAndShapeInfo)(OrtShape *shape);
        void *unused_100;
        void (*ReleaseCustomOpDomain)(OrtDomain *domain);
        void *unused_102[128];
        OrtStatus *(*KernelInfo_GetInputCount)(const OrtInfo *info, size_t *count);
        void *unused_231[18];
        OrtStatus *(*KernelInfoGetConstantInput_tensor)(const OrtInfo *info, size_t index, int *constant,
                                                        const OrtValue **value);
        void *unused_250[24];
        OrtStatus *(*KernelContext_ParallelFor)(const OrtContext *context, void (*task)(void *, size_t), size_t total,
                                                size_t batches, void *state);
    };
} OrtApi;

typedef struct {
    const OrtApi *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

/* The description of an operator, in its version 16, the first in which creating and running one return a status. */
typedef struct OrtCustomOp {
    uint32_t version;
    void *CreateKernel;
    const char *(*GetName)(const struct OrtCustomOp *);
    const char *(*GetExecutionProviderType)(const struct OrtCustomOp *);
    int (*GetInputType)(const struct OrtCustomOp *, size_t index);
    size_t (*GetInputTypeCount)(const struct OrtCustomOp *);
    int (*GetOutputType)(const struct OrtCustomOp *, size_t index);
    size_t (*GetOutputTypeCount)(const struct OrtCustomOp *);
    void *KernelCompute;
    void (*KernelDestroy)(void *kernel);
    int (*GetInputCharacteristic)(const struct OrtCustomOp *, size_t index);
    int (*GetOutputCharacteristic)(const struct OrtCustomOp *, size_t index);
    int (*GetInputMemoryType)(const struct OrtCustomOp *, size_t index);
    int (*GetVariadicInputMinArity)(const struct OrtCustomOp *);
    int (*GetVariadicInputHomogeneity)(const struct OrtCustomOp *);
    int (*GetVariadicOutputMinArity)(const struct OrtCustomOp *);
    int (*GetVariadicOutputHomogeneity)(const struct OrtCustomOp *);
    OrtStatus *(*CreateKernelV2)(const struct OrtCustomOp *, const OrtApi *, const OrtInfo *, void **kernel);
    OrtStatus *(*KernelComputeV2)(void *kernel, OrtContext *context);
    void *unused[8];
} OrtCustomOp;

_Static_assert(offsetof(OrtApi, KernelContext_ParallelFor) == 274 * sizeof(void *), "a place of OrtApi is wrong");

#endif

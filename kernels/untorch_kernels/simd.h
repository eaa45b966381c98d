/* AVX-512 helpers that both kernels use. */
#ifndef UNTORCH_SIMD_H
#define UNTORCH_SIMD_H

#include <immintrin.h>
#include <stddef.h>

#define ALWAYS static inline __attribute__((always_inline))

/* A mask of the first `count` of 16 lanes. */
ALWAYS __mmask16 first(size_t count) { return count >= 16 ? 0xFFFF : (__mmask16)((1u << count) - 1); }

/* e^x for x <= 0, with a relative error of at most 3e-6. With x log2(e) = n + f, n an integer and f in [-1/2, 1/2], it
   is 2^n times a polynomial fitted to 2^f. */
ALWAYS __m512 exponential(__m512 x) {
    __m512 y = _mm512_max_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _mm512_set1_ps(-127.0f));
    __m512 n = _mm512_roundscale_ps(y, 0x08), f = _mm512_sub_ps(y, n);
    __m512 p = _mm512_set1_ps(0.00958285294f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.0559064262f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.240240991f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693124175f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

#endif

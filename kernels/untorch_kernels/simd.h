/* What both kernels need of AVX-512. */
#ifndef UNTORCH_SIMD_H
#define UNTORCH_SIMD_H

#include <immintrin.h>
#include <stddef.h>

#define ALWAYS static inline __attribute__((always_inline))

ALWAYS __mmask16 first(size_t count) { return count >= 16 ? 0xFFFF : (__mmask16)((1u << count) - 1); }

/* e^x for x <= 0, to 3e-6 of itself: 2^n times a polynomial in what is left of x log2 e, fitted on [-1/2, 1/2]. */
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

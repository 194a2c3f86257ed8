/* The inner loops of quantisation (llmconv.coefficients.quantize), compiled on the machine that runs them
 * (llmconv.coefficients.native). llmconv.coefficients.loops is their definition: same arguments, same bits.
 *
 * The compiler must not contract, reorder or approximate: -ffp-contract=off, and no -ffast-math. */

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define FASTEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FASTEST
#endif
#define INLINE static inline __attribute__((always_inline))

enum { PART = 256 }; /* codes that wait to be packed */

INLINE float number(int32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Floats ordered as integers: NaNs lie beyond the infinities, so no comparison loses one. An involution. */
INLINE int32_t ordered(int32_t bits) { return bits ^ ((bits >> 31) & INT32_MAX); }

INLINE int32_t bits_of(const void *values, int half, long i) {
    return half ? (int32_t)((uint32_t)((const uint16_t *)values)[i] << 16) : ((const int32_t *)values)[i];
}

INLINE void extremes(const void *values, int half, long groups, long n, float *high, float *low) {
    for (long g = 0; g < groups; g++) {
        int32_t most = INT32_MIN, least = INT32_MAX;
        for (long i = g * n; i < (g + 1) * n; i++) {
            const int32_t key = ordered(bits_of(values, half, i));
            most = key > most ? key : most;
            least = key < least ? key : least;
        }
        high[g] = number(ordered(most));
        low[g] = number(ordered(least));
    }
}

/* step is half a scale: of w / step, truncated, the integer part holds all that rounding half away needs. */
INLINE void codes(const void *values, int half, long groups, long n, const float *step, const uint8_t *zero, int bits,
                  int least, int most, uint8_t *out) {
    const float limit = 1024; /* beyond it the code is the same */
    uint8_t part[PART];
    for (long g = 0; g < groups; g++) {
        const float half_scale = step[g];
        const int32_t middle = zero[g];
        for (long done = 0; done < n; done += PART) {
            const long first = g * n + done, count = n - done < PART ? n - done : PART;
            for (long i = 0; i < count; i++) {
                float ratio = number(bits_of(values, half, first + i)) / half_scale;
                ratio = ratio < -limit ? -limit : ratio;
                ratio = ratio > limit ? limit : ratio;
                int32_t code = (int32_t)ratio;
                code = ((code + 1 + (code >> 31)) >> 1) + middle;
                code = code < least ? least : code;
                part[i] = (uint8_t)(code > most ? most : code);
            }
            if (bits == 4) {
                for (long i = 0; i < count / 2; i++) *out++ = (uint8_t)(part[2 * i] | part[2 * i + 1] << 4);
            } else {
                memcpy(out, part, count);
                out += count;
            }
        }
    }
}

FASTEST void extremes_bf16(const void *values, long groups, long n, float *high, float *low) {
    extremes(values, 1, groups, n, high, low);
}

FASTEST void extremes_f32(const void *values, long groups, long n, float *high, float *low) {
    extremes(values, 0, groups, n, high, low);
}

FASTEST void codes_bf16(const void *values, long groups, long n, const float *step, const uint8_t *zero, int bits,
                        int least, int most, uint8_t *out) {
    codes(values, 1, groups, n, step, zero, bits, least, most, out);
}

FASTEST void codes_f32(const void *values, long groups, long n, const float *step, const uint8_t *zero, int bits,
                       int least, int most, uint8_t *out) {
    codes(values, 0, groups, n, step, zero, bits, least, most, out);
}

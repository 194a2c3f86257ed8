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

enum { SOME = 16 }; /* pairs of values at a time: a number that compilers know makes vectors of them */

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
INLINE int32_t code(int32_t bits, float step, int32_t zero, int32_t least, int32_t most) {
    const float limit = 1024; /* beyond it the code is the same */
    float ratio = number(bits) / step;
    ratio = ratio < -limit ? -limit : ratio;
    ratio = ratio > limit ? limit : ratio;
    int32_t found = (int32_t)ratio;
    found = ((found + 1 + (found >> 31)) >> 1) + zero;
    found = found < least ? least : found;
    return found > most ? most : found;
}

/* The first of a pair of values, or the second: a pair of bf16 is read as one number. */
INLINE int32_t of_pair(const void *values, int half, long pair, int second) {
    if (!half) return ((const int32_t *)values)[2 * pair + second];
    uint32_t both;
    memcpy(&both, (const uint16_t *)values + 2 * pair, sizeof both);
    return (int32_t)(second ? both & 0xFFFF0000u : both << 16);
}

/* The codes of `count` pairs of one group. */
INLINE void some(const void *values, int half, long pair, int count, float step, int32_t zero, int bits, int32_t least,
                 int32_t most, uint8_t *out) {
    uint32_t found[SOME];
    for (int i = 0; i < count; i++) {
        const int32_t first = code(of_pair(values, half, pair + i, 0), step, zero, least, most);
        const int32_t second = code(of_pair(values, half, pair + i, 1), step, zero, least, most);
        found[i] = ((uint32_t)first & 0xFF) | (uint32_t)second << bits;
    }
    for (int i = 0; i < count; i++) {
        const uint16_t both = (uint16_t)found[i];
        memcpy(out + i * bits / 4, &both, bits / 4);
    }
}

INLINE void codes(const void *values, int half, long groups, long n, const float *step, const uint8_t *zero, int bits,
                  int32_t least, int32_t most, uint8_t *out) {
    for (long g = 0; g < groups; g++) {
        const long end = (g + 1) * n / 2;
        long pair = g * n / 2;
        for (; end - pair >= SOME; pair += SOME, out += SOME * bits / 4)
            some(values, half, pair, SOME, step[g], zero[g], bits, least, most, out);
        some(values, half, pair, (int)(end - pair), step[g], zero[g], bits, least, most, out);
        out += (end - pair) * bits / 4;
    }
}

/* One for each number of bits, which is a constant in it. A group has an even number of values. */
INLINE void codes_of(const void *values, int half, long groups, long n, const float *step, const uint8_t *zero,
                     int bits, int least, int most, uint8_t *out) {
    if (bits == 4)
        codes(values, half, groups, n, step, zero, 4, least, most, out);
    else
        codes(values, half, groups, n, step, zero, 8, least, most, out);
}

FASTEST void extremes_bf16(const void *values, long groups, long n, float *high, float *low) {
    extremes(values, 1, groups, n, high, low);
}

FASTEST void extremes_f32(const void *values, long groups, long n, float *high, float *low) {
    extremes(values, 0, groups, n, high, low);
}

FASTEST void codes_bf16(const void *values, long groups, long n, const float *step, const uint8_t *zero, int bits,
                        int least, int most, uint8_t *out) {
    codes_of(values, 1, groups, n, step, zero, bits, least, most, out);
}

FASTEST void codes_f32(const void *values, long groups, long n, const float *step, const uint8_t *zero, int bits,
                       int least, int most, uint8_t *out) {
    codes_of(values, 0, groups, n, step, zero, bits, least, most, out);
}

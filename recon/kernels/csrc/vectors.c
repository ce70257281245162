/* Fused vector updates of solvers and samplers, each in one or few passes through memory. All arrays are C-contiguous.
 */
#include <math.h>
#include <string.h>

#include "crew.h"
#include "processor.h"

enum { MOST_TERMS = 4, CHUNK = 1 << 14, BLOCK = 1 << 11 };
enum { WORTH_A_THREAD = 1 << 19 }; /* numbers; below, starting one takes longer */

#define REAL float
#define ITEM float8
#define ITEMS 8
#define SUFFIX f
#include "vectors.h"
#undef REAL
#undef ITEM
#undef ITEMS
#undef SUFFIX
#define REAL double
#define ITEM double4
#define ITEMS 4
#define SUFFIX d
#include "vectors.h"
#undef REAL
#undef ITEM
#undef ITEMS
#undef SUFFIX

#ifdef WITH_AVX2
#include "avx2_begin.h"
#define REAL float
#define ITEM float8
#define ITEMS 8
#define SUFFIX f_avx2
#include "vectors.h"
#undef REAL
#undef ITEM
#undef ITEMS
#undef SUFFIX
#define REAL double
#define ITEM double4
#define ITEMS 4
#define SUFFIX d_avx2
#include "vectors.h"
#undef REAL
#undef ITEM
#undef ITEMS
#undef SUFFIX
#include "avx2_end.h"
#endif

#ifdef WITH_AVX2
#define BEST(name, letter) (has_avx2() ? name##_##letter##_avx2 : name##_##letter)
#else
#define BEST(name, letter) name##_##letter
#endif

static int workers(long numbers, int threads) { return numbers < WORTH_A_THREAD ? 1 : threads; }

static double summed(const double *parts, long count) {
    double sum = 0;
    for (long k = 0; k < count; k++) sum += parts[k];
    return sum;
}

/* <x, x> of each item. Returns 1 where memory ran out. */
#define SQUARE(letter, real) \
    EXPORT int recon_square_##letter(const real *x, double *square, long items, long size, int threads) { \
        const long chunks = (size + CHUNK - 1) / CHUNK, tasks = items * chunks; \
        double *sums = malloc(sizeof(double) * (size_t)(tasks + 2 * items + 1)); \
        if (!sums) return 1; \
        double *shift = sums + tasks, *weight = shift + items; \
        for (long b = 0; b < items; b++) shift[b] = 0, weight[b] = 1; \
        const system_##letter job = {.size = size, .chunks = chunks, .shift = shift, .weight = weight, .sums = sums, \
                                     .direction = (real *)x, .image = x}; \
        const int failed = share(BEST(curve, letter), &job, tasks, workers(items * size, threads), 0); \
        for (long b = 0; b < items; b++) square[b] = summed(sums + b * chunks, chunks); \
        free(sums); \
        return failed; \
    }

/* One iteration of conjugate gradients on shift + weight M with image = M direction, all vectors in place.
 *
 * square: <r, r> of each item, in and out.  limit: an item whose square is not above it takes the step 0. Returns 1 where
 * memory ran out. */
#define CONJUGATE(letter, real) \
    EXPORT int recon_conjugate_##letter(real *x, real *residual, real *direction, const real *image, long items, \
                                        long size, double *square, const double *limit, const double *shift, \
                                        const double *weight, int threads) { \
        const long chunks = (size + CHUNK - 1) / CHUNK, tasks = items * chunks; \
        double *sums = malloc(sizeof(double) * (size_t)(tasks + 2 * items + 1)); \
        crew *all = crew_new(); \
        if (!sums || !all) { \
            free(sums); \
            if (all) crew_close(all); \
            return 1; \
        } \
        double *step = sums + tasks, *turn = step + items; \
        const system_##letter job = {size, chunks, shift, weight, step, turn, sums, x, residual, direction, image}; \
        const int hands = workers(items * size, threads); \
        int failed = crew_share(all, BEST(curve, letter), &job, tasks, hands, 0); \
        for (long b = 0; b < items; b++) { \
            const double curvature = summed(sums + b * chunks, chunks); \
            step[b] = square[b] > limit[b] && curvature > 0 ? square[b] / curvature : 0; \
        } \
        failed = failed || crew_share(all, BEST(advance, letter), &job, tasks, hands, 0); \
        for (long b = 0; b < items; b++) { \
            const double reduced = summed(sums + b * chunks, chunks); \
            turn[b] = square[b] > limit[b] ? reduced / square[b] : 0; \
            square[b] = reduced; \
        } \
        failed = failed || crew_share(all, BEST(turn, letter), &job, tasks, hands, 0); \
        crew_close(all); \
        free(sums); \
        return failed; \
    }

/* out = sum_k weights_k terms_k with 2 to MOST_TERMS terms, weights (items, count); out may be the first term. */
#define COMBINE(letter, real) \
    EXPORT int recon_combine_##letter(real *out, const real *a, const real *b, const real *c, const real *d, long count, \
                                      const double *weights, long items, long size, int threads) { \
        const long chunks = (size + CHUNK - 1) / CHUNK; \
        const sum_##letter job = {size, chunks, (int)count, weights, {a, b, c, d}, out}; \
        return share(BEST(add, letter), &job, items * chunks, workers(items * size, threads), 0); \
    }

/* corrected = clean + change, next = corrected + keep (x - base) + fresh noise; change and noise may be NULL. */
#define GUIDE(letter, real) \
    EXPORT int recon_guide_##letter(real *corrected, real *next, const real *x, const real *clean, const real *base, \
                                    const real *change, const real *noise, double keep, double fresh, long size, \
                                    int threads) { \
        const long chunks = (size + CHUNK - 1) / CHUNK; \
        const move_##letter job = {size, chunks, keep, fresh, x, clean, base, change, noise, corrected, next}; \
        return share(BEST(guide, letter), &job, chunks, workers(size, threads), 0); \
    }

/* The split and dual of total variation across slices, of volumes (items, slices, plane). */
#define SHRINK(letter, real) \
    EXPORT int recon_shrink_##letter(real *split, real *next, const real *x, const real *dual, double threshold, \
                                     long items, long slices, long plane, long around, int threads) { \
        const long chunks = (plane + CHUNK - 1) / CHUNK; \
        const split_##letter job = {slices, plane, chunks, around != 0, (real)threshold, x, dual, split, next}; \
        return share(BEST(shrink, letter), &job, items * slices * chunks, workers(items * slices * plane, threads), 0); \
    }

#define ALL(letter, real) \
    SQUARE(letter, real) CONJUGATE(letter, real) COMBINE(letter, real) GUIDE(letter, real) SHRINK(letter, real)

ALL(f, float)
ALL(d, double)

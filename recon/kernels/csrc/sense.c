/* SENSE in C: coil maps, Fourier transforms on and off the grid, sampling and the combination of coils in one go. All
 * arrays are C-contiguous.
 */
#include <string.h>

#include "crew.h"
#include "processor.h"

enum { WORTH_A_THREAD = 1 << 16 }; /* values of all coils; below, starting one takes longer */
enum { SAMPLES = 256 };            /* in a task, off the grid */
#define STRIDE(cells) ((cells) | 1) /* of rows: odd, so that columns spread over all of a cache */

typedef float float4 __attribute__((vector_size(16)));
typedef double double2 __attribute__((vector_size(16)));


#define REAL float
#define ITEM float8
#define ITEMS 8
#define SUM_LANES(sum, item) \
    do { \
        float4 parts[2]; \
        memcpy(parts, &(item), sizeof(parts)); \
        parts[0] += parts[1]; \
        (sum) = (parts[0][0] + parts[0][2]) + (parts[0][1] + parts[0][3]); \
    } while (0)
#define SUFFIX f
#include "fourier.h"
#include "sense.h"
#include "gridding.h"
#undef CELL
#undef SUFFIX
#ifdef WITH_AVX2
#include "avx2_begin.h"
#define SUFFIX f_avx2
#include "fourier.h"
#include "sense.h"
#include "gridding.h"
#undef CELL
#undef SUFFIX
#include "avx2_end.h"
#endif
#undef REAL
#undef ITEM
#undef ITEMS
#undef SUM_LANES

#define REAL double
#define ITEM double4
#define ITEMS 4
#define SUM_LANES(sum, item) ((sum) = ((item)[0] + (item)[2]) + ((item)[1] + (item)[3]))
#define SUFFIX d
#include "fourier.h"
#include "sense.h"
#include "gridding.h"
#undef CELL
#undef SUFFIX
#ifdef WITH_AVX2
#include "avx2_begin.h"
#define SUFFIX d_avx2
#include "fourier.h"
#include "sense.h"
#include "gridding.h"
#undef CELL
#undef SUFFIX
#include "avx2_end.h"
#endif
#undef REAL
#undef ITEM
#undef ITEMS
#undef SUM_LANES

#ifdef WITH_AVX2
#define RUN(name, letter, ...) (has_avx2() ? name##_##letter##_avx2(__VA_ARGS__) : name##_##letter(__VA_ARGS__))
#else
#define RUN(name, letter, ...) name##_##letter(__VA_ARGS__)
#endif

/* kind 0: samples (batch, coils, Y, X) of images (batch, Y, X); 1: images of samples; 2: A^H A of images; 3: added. */
#define SENSE(letter, real) \
    EXPORT int recon_sense_##letter(const sense_##letter *scan, const real *given, real *found, long batch, long kind, \
                                    int threads) { \
        const int hands = scan->size * scan->rows * scan->coils < WORTH_A_THREAD ? 1 : threads; \
        return RUN(run_sense, letter, scan, given, found, batch, kind, hands); \
    }

SENSE(f, float)
SENSE(d, double)

/* kind 0: samples (batch, coils, samples) of images (batch, Y, X); 1: images of samples. */
#define GRIDDING(letter, real) \
    EXPORT int recon_gridding_##letter(const gridding_##letter *scan, const real *given, real *found, long batch, \
                                       long kind, int threads) { \
        const int hands = scan->tall * scan->wide * scan->coils < WORTH_A_THREAD ? 1 : threads; \
        return RUN(run_gridding, letter, scan, given, found, batch, kind, hands); \
    }

GRIDDING(f, float)
GRIDDING(d, double)

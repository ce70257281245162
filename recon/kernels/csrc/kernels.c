/* Projectors of tomography in C: each template compiled for every type and instruction set, chosen at run time.
 *
 * A plain shared library: no Python, NumPy or torch header. All arrays are C-contiguous and belong to the caller.
 */
#include <math.h>
#include <string.h>

#include "crew.h"
#include "processor.h"

#define ABI 3

enum { LANES = 8, BAND = 32, MARGIN = 16, TILE = 16, SLAB = 8, PATCH = 8, RUN = 16 };

static const double SMALL_TANGENT = 0.1; /* whose thirteenth power is next to nothing */

/* Neighbouring rays of one view that walk along the same axis; `rising` where positions grow with the detector. */
typedef struct {
    long view, first, last;
    int axis, rising;
} segment;

typedef struct {
    long rows, columns, views, detectors;
    const double *start, *slope, *height; /* of each ray (views, detectors) */
    const segment *segments;
    const long *first_segment; /* of each view, (views + 1) */
    const double *pitch;       /* of each view: distance along a line of its rays where they are parallel and that is
                                  at least 1 and at most 2 pixels, or 0 */
    int walks[2];              /* whether any ray walks along the rows, the columns */
    int pitched;               /* whether any view has a pitch */
} rays;

typedef struct {
    rays plane; /* of each view and detector column, within a slice */
    long slices, height; /* of the volume; detector rows */
    double centre;       /* slice of the source */
    double lowest, pitch; /* height of detector row 0 and distance of rows, in slices */
    const double *depth, *deepening, *tilt; /* of each column: distance from the source over that of the detector, at
                                               line 0 and per line; length of a slice over the detector's distance */
} cone;

/* How the pixels of an image are seen: at detector column magnification (across/along) - origin, or of the angle between
 * the two, with weight (distance/along)^2; slice z at detector row rise (z - middle)/along - lowest. */
typedef struct {
    long slices, rows, columns, height, views, detectors; /* height: 0 of images, detector rows of volumes */
    const double *across, *along; /* of each view, (views, 3): at pixel (0, 0), per row, per column */
    double magnification, origin, distance, rise, middle, lowest;
    long curved; /* the detector: the weight is then distance/(across^2 + along^2) */
} sight;

/* arctan(d) of a small tangent */
static inline double small_angle(double d) {
    const double s = d * d;
    return d * (1 - s * (1.0 / 3 - s * (1.0 / 5 - s * (1.0 / 7 - s * (1.0 / 9 - s / 11)))));
}

/* arctan(across/along) of pixels in a row, a whole number of RUNs: from that in the middle of each run, and that from
 * the one before it, by the tangents of differences where these are small, as they are away from the source */
static inline void angles_of(double across, double along, double step_across, double step_along, long count,
                             double *angles) {
    const double half = (RUN - 1) / 2.0;
    double last_a = 0, last_l = 0, middle = 0;
    for (long first = 0; first < count; first += RUN, angles += RUN) {
        const double a = across + (first + half) * step_across, l = along + (first + half) * step_along;
        const double between = a * last_l - l * last_a, together = a * last_a + l * last_l;
        const int near = together > 0 && fabs(between) <= SMALL_TANGENT * together;
        middle = near ? middle + small_angle(between / together) : atan2(a, l);
        last_a = a, last_l = l;
        const double size = a * a + l * l, dot = a * step_across + l * step_along;
        const double cross = step_across * l - a * step_along;
        if (half * fabs(cross) <= SMALL_TANGENT * (size - half * fabs(dot)))
            for (int i = 0; i < RUN; i++)
                angles[i] = middle + small_angle((i - half) * cross / (size + (i - half) * dot));
        else
            for (int i = 0; i < RUN; i++)
                angles[i] = atan2(across + (first + i) * step_across, along + (first + i) * step_along);
    }
}

static const double LARGEST_COPIES = 5e8; /* bytes of volumes and data, side by side */

enum { WORTH_A_THREAD = 1 << 19 }; /* numbers to copy; below, starting it takes longer */

static int copying_threads(double numbers, int threads) { return numbers < WORTH_A_THREAD ? 1 : threads; }

/* ---- any processor */
#define REAL float
#define ITEM float
#define ITEMS 1
#define SUFFIX f1
#include "rays.h"
#include "cone.h"
#include "pixels.h"
#undef ITEM
#undef ITEMS
#undef SUFFIX
#define ITEM float8
#define ITEMS 8
#define SUFFIX f8
#include "rays.h"
#include "cone.h"
#undef REAL
#undef ITEM
#undef ITEMS
#undef SUFFIX
#define REAL double
#define ITEM double
#define ITEMS 1
#define SUFFIX d1
#include "rays.h"
#include "cone.h"
#include "pixels.h"
#undef ITEM
#undef ITEMS
#undef SUFFIX
#define ITEM double4
#define ITEMS 4
#define SUFFIX d4
#include "rays.h"
#include "cone.h"
#undef REAL
#undef ITEM
#undef ITEMS
#undef SUFFIX

#ifdef WITH_AVX2
#include "avx2_begin.h"
#define REAL float
#define ITEM float
#define ITEMS 1
#define SUFFIX f1_avx2
#define WINDOWED
#include "rays.h"
#include "cone.h"
#include "pixels.h"
#undef WINDOWED
#undef ITEM
#undef ITEMS
#undef SUFFIX
#define ITEM float8
#define ITEMS 8
#define SUFFIX f8_avx2
#include "rays.h"
#include "cone.h"
#undef REAL
#undef ITEM
#undef ITEMS
#undef SUFFIX
#define REAL double
#define ITEM double
#define ITEMS 1
#define SUFFIX d1_avx2
#include "rays.h"
#include "cone.h"
#include "pixels.h"
#undef ITEM
#undef ITEMS
#undef SUFFIX
#define ITEM double4
#define ITEMS 4
#define SUFFIX d4_avx2
#include "rays.h"
#include "cone.h"
#undef REAL
#undef ITEM
#undef ITEMS
#undef SUFFIX
#include "avx2_end.h"
#endif

EXPORT int recon_abi(void) { return ABI; }

EXPORT const char *recon_instructions(void) { return has_avx2() ? "AVX2" : "baseline"; }

#ifdef WITH_AVX2
#define CHOOSE(name, ...) (has_avx2() ? name##_avx2(__VA_ARGS__) : name(__VA_ARGS__))
#else
#define CHOOSE(name, ...) name(__VA_ARGS__)
#endif

/* Images (batch, rows, columns) to (batch, views, detectors), or back; `most` at once from three left over. */
#define RAYS(letter, real, most) \
    EXPORT int recon_rays_##letter(const rays *scan, real *images, real *measured, long batch, int threads, \
                                   int back) { \
        int failed = 0; \
        for (long done = 0, held; done < batch && !failed; done += held) { \
            real *x = images + done * scan->rows * scan->columns; \
            real *y = measured + done * scan->views * scan->detectors; \
            held = batch - done < 3 ? 1 : batch - done < most ? batch - done : most; \
            failed = held == 1 ? CHOOSE(run_##letter##1, scan, x, y, held, threads, back) \
                               : CHOOSE(run_##letter##most, scan, x, y, held, threads, back); \
        } \
        return failed; \
    }

RAYS(f, float, 8)
RAYS(d, double, 4)

/* Volumes (batch, slices, rows, columns) to (batch, views, detector rows, detector columns), or back; `most` at once from
 * three left over, where their copies are small. */
#define CONE(letter, real, most) \
    EXPORT int recon_cone_##letter(const cone *scan, real *volumes, real *measured, long batch, int threads, int back) { \
        const long size = scan->slices * scan->plane.rows * scan->plane.columns; \
        const long rays_of_one = scan->plane.views * scan->height * scan->plane.detectors; \
        const int together = (double)(2 * size + rays_of_one) * most * sizeof(real) <= LARGEST_COPIES; \
        int failed = 0; \
        for (long done = 0, held; done < batch && !failed; done += held) { \
            real *x = volumes + done * size, *y = measured + done * rays_of_one; \
            held = batch - done < 3 || !together ? 1 : batch - done < most ? batch - done : most; \
            failed = held == 1 ? CHOOSE(run_volume_##letter##1, scan, x, y, held, threads, back) \
                               : CHOOSE(run_volume_##letter##most, scan, x, y, held, threads, back); \
        } \
        return failed; \
    }

CONE(f, float, 8)
CONE(d, double, 4)

/* Images (batch, rows, columns), or a volume (slices, rows, columns), of filtered views with zeros around. */
#define SEE(letter, real) \
    EXPORT int recon_see_##letter(const sight *scan, const real *data, real *image, long batch, int threads) { \
        return CHOOSE(see_##letter##1, scan, data, image, batch, threads); \
    }

SEE(f, float)
SEE(d, double)

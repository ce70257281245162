/* Joseph's projector of a 2-D image along any rays, and its transpose: a template over REAL, ITEM and NAME.
 *
 * ITEM is REAL for one image, or a vector of ITEMS images that share each ray's weights.
 *
 * A ray walks along the rows (axis 0) or columns (axis 1) of the image and meets line r at position start + r slope,
 * where it takes (1 - f) p[i] + f p[i + 1] with i = floor(position), f = position - i; the sum is multiplied by the
 * ray's height. Both directions take i and f from `locate`, so the transpose has the same weights. Lines are copied
 * with a margin of zeros, so that rays may leave the image; positions are split into whole and fraction in double at
 * each band's first line, so that a weight is as exact at column 2000 as at 0.
 */

typedef struct {
    const rays *scan;
    REAL *flat;     /* images (held, rows, columns) */
    REAL *measured; /* (held, views, detectors) */
    ITEM *image[2]; /* lines of each axis with margins, or NULL where no ray walks that way */
    ITEM *data;     /* (views, detectors) */
    REAL *rows;     /* (views, detectors with margins), scaled, in rising order: of views with a pitch */
    long held, views_together;
} NAME(job);

/* Eight neighbouring rays at one band: lane j is ray `first + j * step`, positions grow with j. */
typedef struct {
    int whole[LANES];
    REAL fraction[LANES], slope[LANES];
    long first, step;
    int lanes, from, to; /* lines of the band that the rays may meet */
} NAME(block);

static inline long NAME(width)(const rays *scan, int axis) { return axis ? scan->rows : scan->columns; }
static inline long NAME(lines)(const rays *scan, int axis) { return axis ? scan->columns : scan->rows; }
static inline long NAME(stride)(const rays *scan, int axis) { return NAME(width)(scan, axis) + 2 * MARGIN; }

static inline int NAME(outside)(double a, double b, double width) {
    return (a >= width && b >= width) || (a <= -1 && b <= -1);
}

static inline void NAME(describe)(NAME(block) *b, const rays *scan, const segment *s, long number, long line, int count) {
    const long begin = number * LANES, left = s->last - s->first - begin;
    const double width = NAME(width)(scan, s->axis);
    double start[LANES], slope[LANES];
    b->lanes = left < LANES ? (int)left : LANES;
    b->step = s->rising ? 1 : -1;
    b->first = s->view * scan->detectors + (s->rising ? s->first + begin : s->last - 1 - begin);
    const double *slopes = scan->slope + b->first, *starts = scan->start + b->first;
    if (b->lanes == LANES && s->rising)
        for (int j = 0; j < LANES; j++) slope[j] = slopes[j], start[j] = starts[j] + slopes[j] * (double)line;
    else if (b->lanes == LANES)
        for (int j = 0; j < LANES; j++) slope[j] = slopes[-j], start[j] = starts[-j] + slopes[-j] * (double)line;
    else
        for (int j = 0; j < LANES; j++) {
            const long i = b->step * (j < b->lanes ? j : b->lanes - 1);
            slope[j] = slopes[i];
            start[j] = starts[i] + slopes[i] * (double)line;
        }
    b->from = 0;
    b->to = count;
    const double a = start[0], c = start[LANES - 1], da = slope[0], dc = slope[LANES - 1];
    const double end = count - 1;
    if ((a >= width && c >= width && a + end * da >= width && c + end * dc >= width) ||
        (a <= -1 && c <= -1 && a + end * da <= -1 && c + end * dc <= -1)) {
        b->to = 0;
        return;
    }
    while (b->from < b->to && NAME(outside)(a + b->from * da, c + b->from * dc, width)) b->from++;
    while (b->from < b->to && NAME(outside)(a + (b->to - 1) * da, c + (b->to - 1) * dc, width)) b->to--;
    for (int j = 0; j < LANES; j++) { /* far outside is as good as just outside, and fits an int */
        const double held = start[j] < -4 * BAND ? -4 * BAND : start[j] > width + 4 * BAND ? width + 4 * BAND : start[j];
        const int whole = (int)(held + 8 * BAND) - 8 * BAND;
        b->whole[j] = whole;
        b->fraction[j] = (REAL)(held - whole);
        b->slope[j] = (REAL)slope[j];
    }
}

/* index and fraction of each lane at lines from .. to - 1; each line's indices `stride` higher than those before */
static inline void NAME(locate)(const NAME(block) *b, int width, int stride, int *restrict index,
                                REAL *restrict fraction) {
    for (long k = b->from; k < b->to; k++)
        for (int j = 0; j < LANES; j++) {
            const REAL position = b->fraction[j] + (REAL)k * b->slope[j];
            const int whole = (int)(position + 2 * BAND) - 2 * BAND;
            const int at = b->whole[j] + whole, left = at < -2 ? -2 : at;
            fraction[k * LANES + j] = position - (REAL)whole;
            index[k * LANES + j] = (left > width ? width : left) + (int)k * stride;
        }
}

#ifdef WINDOWED
/* All eight lanes at once, where they meet at most 16 neighbouring pixels of a line. */
static inline int NAME(fits)(const NAME(block) *b) {
    const REAL span = (REAL)(b->whole[LANES - 1] - b->whole[0]) + b->fraction[LANES - 1] - b->fraction[0];
    const REAL growth = b->slope[LANES - 1] - b->slope[0];
    return span + (REAL)b->from * growth < 13.99f && span + (REAL)(b->to - 1) * growth < 13.99f;
}

static inline void NAME(windowed)(const NAME(block) *b, const float *line, long stride, int width, float *sums) {
    const __m256 start = _mm256_loadu_ps(b->fraction), slope = _mm256_loadu_ps(b->slope);
    const __m256i whole = _mm256_loadu_si256((const __m256i *)b->whole);
    __m256 sum = _mm256_setzero_ps();
    line += b->from * stride;
    for (int k = b->from; k < b->to; k++, line += stride) {
        const __m256 position = _mm256_fmadd_ps(_mm256_set1_ps((float)k), slope, start);
        const __m256 below = _mm256_floor_ps(position);
        const __m256 f = _mm256_sub_ps(position, below);
        const __m256i at = _mm256_add_epi32(whole, _mm256_cvttps_epi32(below));
        const __m128i lowest = _mm256_castsi256_si128(at);
        int base = _mm_cvtsi128_si32(lowest);
        base = base < -MARGIN ? -MARGIN : base > width ? width : base; /* outside, the window is all zeros */
        const __m256i a = _mm256_sub_epi32(at, _mm256_broadcastd_epi32(lowest));
        const __m256i c = _mm256_add_epi32(a, _mm256_set1_epi32(1));
        const __m256 low = _mm256_loadu_ps(line + base), high = _mm256_loadu_ps(line + base + 8);
        const __m256 p = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, a), _mm256_permutevar8x32_ps(high, a),
                                          _mm256_castsi256_ps(_mm256_slli_epi32(a, 28)));
        const __m256 q = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, c), _mm256_permutevar8x32_ps(high, c),
                                          _mm256_castsi256_ps(_mm256_slli_epi32(c, 28)));
        sum = _mm256_add_ps(sum, _mm256_fmadd_ps(f, _mm256_sub_ps(q, p), p));
    }
    _mm256_storeu_ps(sums, sum);
}

/* The transpose seen from the pixels, for views whose rays are parallel and at least a pixel apart (pitch >= 1): pixel
 * x has weight 1 - |position - x| in the first ray beyond x - 1 and in the next, and eight pixels meet nine rays. */
static void NAME(scale)(const void *argument, long view, void *scratch) {
    const NAME(job) *job = argument;
    const rays *scan = job->scan;
    const long count = scan->detectors, first = view * count;
    float *to = job->rows + view * (count + 2 * MARGIN);
    const int rising = scan->segments[scan->first_segment[view]].rising;
    const float height = (float)scan->height[first];
    (void)scratch;
    if (scan->pitch[view] == 0) return;
    memset(to, 0, sizeof(float) * (count + 2 * MARGIN));
    for (long i = 0; i < count; i++) to[MARGIN + i] = height * job->data[first + (rising ? i : count - 1 - i)];
}

static void NAME(collect)(const NAME(job) *job, int axis, long line, int count, float *at) {
    enum { TOGETHER = 32 };
    const rays *scan = job->scan;
    const long width = NAME(width)(scan, axis), stride = NAME(stride)(scan, axis), detectors = scan->detectors;
    const __m256 one = _mm256_set1_ps(1.0f), zero = _mm256_setzero_ps(), sign = _mm256_set1_ps(-0.0f);
    const __m256 lane = _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7);
    const float *rows[TOGETHER];
    double origin[TOGETHER], advance[TOGETHER], inverse[TOGETHER], here[TOGETHER];
    float pitch[TOGETHER], step[TOGETHER], fraction[TOGETHER];
    int whole[TOGETHER];
    for (long view = 0; view < scan->views;) {
        int views = 0;
        for (; view < scan->views && views < TOGETHER; view++) {
            const segment *s = scan->segments + scan->first_segment[view];
            if (s->axis != axis || scan->pitch[view] == 0) continue;
            const long ray = view * detectors + (s->rising ? 0 : detectors - 1);
            inverse[views] = 1 / scan->pitch[view];
            origin[views] = -(scan->start[ray] + (double)line * scan->slope[ray] + 1) * inverse[views];
            advance[views] = -scan->slope[ray] * inverse[views];
            pitch[views] = (float)scan->pitch[view];
            step[views] = (float)inverse[views];
            rows[views++] = job->rows + view * (detectors + 2 * MARGIN) + MARGIN;
        }
        for (int k = 0; k < count; k++, at += stride) {
            for (int v = 0; v < views; v++) here[v] = origin[v] + k * advance[v];
            for (long x = 0; x < width; x += 8) {
                for (int v = 0; v < views; v++) { /* the ray before the first that pixel x meets, and how far beyond it */
                    double from = here[v] + (double)x * inverse[v];
                    from = from < -12 ? -12 : from > detectors ? detectors : from;
                    whole[v] = (int)(from + 16) - 16;
                    const double beyond = from - whole[v]; /* below 0 by rounding */
                    fraction[v] = (float)(beyond < 0 ? 0 : beyond);
                }
                __m256 sum = _mm256_loadu_ps(at + x);
                for (int v = 0; v < views; v++) {
                    const __m256 spread = _mm256_set1_ps(pitch[v]);
                    const __m256 from = _mm256_fmadd_ps(lane, _mm256_set1_ps(step[v]), _mm256_set1_ps(fraction[v]));
                    const __m256 below = _mm256_min_ps(_mm256_floor_ps(from), _mm256_set1_ps(7)); /* 8 by rounding */
                    const __m256i which = _mm256_cvttps_epi32(below);
                    const __m256 f = _mm256_sub_ps(from, below);
                    const __m256 gap = _mm256_fmsub_ps(spread, _mm256_sub_ps(one, f), one);
                    const __m256 first = _mm256_max_ps(zero, _mm256_sub_ps(one, _mm256_andnot_ps(sign, gap)));
                    const __m256 second = _mm256_max_ps(zero, _mm256_sub_ps(_mm256_sub_ps(one, spread), gap));
                    const float *row = rows[v] + whole[v];
                    const __m256 a = _mm256_permutevar8x32_ps(_mm256_loadu_ps(row + 1), which);
                    const __m256 c = _mm256_permutevar8x32_ps(_mm256_loadu_ps(row + 2), which);
                    sum = _mm256_fmadd_ps(first, a, sum);
                    sum = _mm256_fmadd_ps(second, c, sum);
                }
                _mm256_storeu_ps(at + x, sum);
            }
        }
        at -= count * stride;
    }
}
#endif

static inline void NAME(gather)(const NAME(block) *b, const ITEM *line, long stride, int width, ITEM *sums) {
    int index[BAND * LANES];
    REAL fraction[BAND * LANES];
    NAME(locate)(b, width, (int)stride, index, fraction);
    for (int j = 0; j < b->lanes; j++) {
        ITEM sum = {0}, other = {0}; /* two, as one would wait for itself */
        int k = b->from;
        for (; k + 1 < b->to; k += 2) {
            const ITEM *p = line + index[k * LANES + j], *q = line + index[(k + 1) * LANES + j];
            sum += p[0] + fraction[k * LANES + j] * (p[1] - p[0]);
            other += q[0] + fraction[(k + 1) * LANES + j] * (q[1] - q[0]);
        }
        if (k < b->to) {
            const ITEM *p = line + index[k * LANES + j];
            sum += p[0] + fraction[k * LANES + j] * (p[1] - p[0]);
        }
        sums[j] = sum + other;
    }
}

/* Views first .. of one task: all their rays, band by band, so that a band stays in the cache. */
static void NAME(project)(const void *argument, long task, void *scratch) {
    const NAME(job) *job = argument;
    const rays *scan = job->scan;
    const long first = task * job->views_together, rest = scan->views - first;
    const long last = first + (rest < job->views_together ? rest : job->views_together);
    (void)scratch;
    memset(job->data + first * scan->detectors, 0, sizeof(ITEM) * (last - first) * scan->detectors);
    for (int axis = 0; axis < 2; axis++) {
        const int width = (int)NAME(width)(scan, axis);
        const long stride = NAME(stride)(scan, axis), lines = NAME(lines)(scan, axis);
        for (long line = 0; line < lines; line += BAND) {
            const int count = lines - line < BAND ? (int)(lines - line) : BAND;
            for (long n = scan->first_segment[first]; n < scan->first_segment[last]; n++) {
                const segment *s = scan->segments + n;
                if (s->axis != axis) continue;
                const ITEM *at = job->image[axis] + line * stride + MARGIN;
                for (long number = 0; number * LANES < s->last - s->first; number++) {
                    NAME(block) b;
                    ITEM sums[LANES];
                    NAME(describe)(&b, scan, s, number, line, count);
                    if (b.from >= b.to) continue;
#ifdef WINDOWED
                    if (NAME(fits)(&b))
                        NAME(windowed)(&b, at, stride, width, sums);
                    else
#endif
                        NAME(gather)(&b, at, stride, width, sums);
                    for (int j = 0; j < b.lanes; j++) {
                        const long ray = b.first + b.step * j;
                        job->data[ray] += (REAL)scan->height[ray] * sums[j];
                    }
                }
            }
        }
    }
}

/* One band of lines along one axis belongs to one task, so that no two threads write to the same pixel. */
static void NAME(spread)(const void *argument, long task, void *scratch) {
    const NAME(job) *job = argument;
    const rays *scan = job->scan;
    const long bands = job->image[0] ? (scan->rows + BAND - 1) / BAND : 0;
    const int axis = task >= bands;
    const int width = (int)NAME(width)(scan, axis);
    const long stride = NAME(stride)(scan, axis), lines = NAME(lines)(scan, axis);
    const long line = (task - (axis ? bands : 0)) * BAND;
    const int count = lines - line < BAND ? (int)(lines - line) : BAND;
    ITEM *at = job->image[axis] + line * stride + MARGIN;
    int index[BAND * LANES];
    REAL fraction[BAND * LANES];
    (void)scratch;
    memset(at - MARGIN, 0, sizeof(ITEM) * count * stride);
#ifdef WINDOWED
    if (job->rows) NAME(collect)(job, axis, line, count, at);
#endif
    for (long n = 0; n < scan->first_segment[scan->views]; n++) {
        const segment *s = scan->segments + n;
        if (s->axis != axis || (job->rows && scan->pitch[s->view] > 0)) continue;
        for (long number = 0; number * LANES < s->last - s->first; number++) {
            NAME(block) b;
            NAME(describe)(&b, scan, s, number, line, count);
            if (b.from >= b.to) continue;
            NAME(locate)(&b, width, (int)stride, index, fraction);
            for (int j = 0; j < b.lanes; j++) {
                const long ray = b.first + b.step * j;
                const ITEM value = (REAL)scan->height[ray] * job->data[ray];
#ifdef WINDOWED
                const __m128 here = _mm_setr_ps(value, 0, 0, 0), moved = _mm_setr_ps(-value, value, 0, 0);
#pragma GCC unroll 4
                for (long k = b.from; k < b.to; k++) { /* both pixels at once */
                    __m64 *p = (__m64 *)(at + index[k * LANES + j]);
                    const __m128 sum = _mm_add_ps(_mm_loadl_pi(_mm_setzero_ps(), p), here);
                    _mm_storel_pi(p, _mm_fmadd_ps(_mm_set1_ps(fraction[k * LANES + j]), moved, sum));
                }
#else
                for (long k = b.from; k < b.to; k++) {
                    ITEM *p = at + index[k * LANES + j];
                    const ITEM second = fraction[k * LANES + j] * value;
                    p[0] += value - second;
                    p[1] += second;
                }
#endif
            }
        }
    }
}

/* Lines of both axes, with margins, from the images (items, rows, columns). */
static void NAME(unpack)(const void *argument, long task, void *scratch) {
    const NAME(job) *job = argument;
    const rays *scan = job->scan;
    const long tiles = job->image[0] ? (scan->rows + TILE - 1) / TILE : 0;
    const int axis = task >= tiles;
    const long width = NAME(width)(scan, axis), stride = NAME(stride)(scan, axis), lines = NAME(lines)(scan, axis);
    const long line = (task - (axis ? tiles : 0)) * TILE, end = line + TILE < lines ? line + TILE : lines;
    const long across = axis ? scan->columns : 1, along = axis ? 1 : scan->columns;
    REAL *to = (REAL *)(job->image[axis] + line * stride);
    (void)scratch;
    memset(to, 0, sizeof(ITEM) * (end - line) * stride);
    for (long b = 0; b < job->held; b++) {
        const REAL *from = job->flat + b * scan->rows * scan->columns + line * along;
        for (long i = 0; i < width; i++)
            for (long l = 0; l < end - line; l++)
                to[(l * stride + MARGIN + i) * ITEMS + b] = from[i * across + l * along];
    }
}

/* The images from the lines of both axes. */
static void NAME(pack)(const void *argument, long task, void *scratch) {
    const NAME(job) *job = argument;
    const rays *scan = job->scan;
    const long row = task * TILE, end = row + TILE < scan->rows ? row + TILE : scan->rows;
    const long across = NAME(stride)(scan, 0), down = NAME(stride)(scan, 1);
    (void)scratch;
    for (long b = 0; b < job->held; b++)
        for (long r = row; r < end; r++) {
            REAL *to = job->flat + (b * scan->rows + r) * scan->columns;
            const REAL *a = (const REAL *)(job->image[0] + r * across + MARGIN) + b;
            const REAL *c = (const REAL *)(job->image[1] + MARGIN + r) + b;
            for (long i = 0; i < scan->columns; i++)
                to[i] = (job->image[0] ? a[i * ITEMS] : 0) + (job->image[1] ? c[i * down * ITEMS] : 0);
        }
}

#if ITEMS > 1
static void NAME(interleave)(const void *argument, long view, void *scratch) {
    const NAME(job) *job = argument;
    const long count = job->scan->detectors, first = view * count;
    REAL *to = (REAL *)(job->data + first);
    (void)scratch;
    for (long i = 0; i < count; i++)
        for (long b = 0; b < ITEMS; b++)
            to[i * ITEMS + b] = b < job->held ? job->measured[b * job->scan->views * count + first + i] : 0;
}

static void NAME(separate)(const void *argument, long view, void *scratch) {
    const NAME(job) *job = argument;
    const long count = job->scan->detectors, first = view * count;
    const REAL *from = (const REAL *)(job->data + first);
    (void)scratch;
    for (long b = 0; b < job->held; b++)
        for (long i = 0; i < count; i++)
            job->measured[b * job->scan->views * count + first + i] = from[i * ITEMS + b];
}
#endif

/* Project (or, with `back`, backproject) `held` images at once; return 0, or 1 where memory ran out. */
static int NAME(run)(const rays *scan, REAL *images, REAL *measured, long held, int threads, int back) {
    const long used[2] = {scan->walks[0] ? scan->rows : 0, scan->walks[1] ? scan->columns : 0};
    const long tiles = (used[0] + TILE - 1) / TILE + (used[1] + TILE - 1) / TILE;
    const long bands = (used[0] + BAND - 1) / BAND + (used[1] + BAND - 1) / BAND;
    crew *all = crew_new();
    if (!all) return 1;
    NAME(job) job = {.scan = scan, .flat = images, .measured = measured, .held = held};
    const double numbers = (double)held * (scan->rows * scan->columns + scan->views * scan->detectors);
    const int copiers = copying_threads(numbers, threads);
    int failed = 0;
    for (int axis = 0; axis < 2; axis++)
        if (used[axis] && !(job.image[axis] = aligned(sizeof(ITEM) * used[axis] * NAME(stride)(scan, axis)))) failed = 1;
    job.views_together = scan->views / (4 * threads);
    job.views_together = job.views_together < 1 ? 1 : job.views_together > 8 ? 8 : job.views_together;
    const long groups = (scan->views + job.views_together - 1) / job.views_together;
#if ITEMS > 1
    if (!(job.data = aligned(sizeof(ITEM) * scan->views * scan->detectors))) failed = 1;
#else
    job.data = measured;
#endif
    if (!failed && !back) {
        failed = crew_share(all, NAME(unpack), &job, tiles, copiers, 0) ||
                 crew_share(all, NAME(project), &job, groups, threads, 0);
#if ITEMS > 1
        failed = failed || crew_share(all, NAME(separate), &job, scan->views, copiers, 0);
#endif
    }
    if (!failed && back) {
#if ITEMS > 1
        failed = crew_share(all, NAME(interleave), &job, scan->views, copiers, 0);
#endif
#ifdef WINDOWED
        if (scan->pitched && !(job.rows = aligned(sizeof(REAL) * scan->views * (scan->detectors + 2 * MARGIN)))) failed = 1;
        if (!failed && job.rows) failed = crew_share(all, NAME(scale), &job, scan->views, copiers, 0);
#endif
        failed = failed || crew_share(all, NAME(spread), &job, bands, threads, 0) ||
                 crew_share(all, NAME(pack), &job, (scan->rows + TILE - 1) / TILE, copiers, 0);
    }
    crew_close(all);
    free(job.image[0]);
    free(job.image[1]);
    free(job.rows);
#if ITEMS > 1
    free(job.data);
#endif
    return failed;
}

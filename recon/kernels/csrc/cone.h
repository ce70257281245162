/* Joseph's projector of a volume along the rays of a cone beam, and its transpose: a template over REAL, ITEM and NAME.
 *
 * The rays of one detector column share their path within the slices (`plane`) and fan out along z: at line r detector
 * row j is at slice first + j advance with first = centre + depth v, advance = depth pitch, depth = (distance from the
 * source)/(distance of the detector), affine in r. So each line is interpolated across once for the whole column, then
 * along z. Volumes are copied with z innermost; rows and slices outside are zero.
 */

typedef struct {
    const cone *scan;
    REAL *flat;     /* volumes (held, slices, rows, columns) */
    REAL *measured; /* (held, views, detector rows, detector columns) */
    ITEM *image[2]; /* (lines, width with margins, slices), or NULL where no ray walks that way */
    ITEM *data;     /* (views, detector columns, detector rows), of the transpose */
    long held, views_together, working; /* items of scratch before a task's views */
} NAME(volume_job);

/* Where a detector column meets the slices at one line. */
typedef struct {
    double first, advance;
    long begin, end; /* detector rows that meet the volume */
    long low, high;  /* slices that they meet */
} NAME(rise);

static inline NAME(rise) NAME(climb)(const cone *scan, long ray, long line) {
    const double depth = scan->depth[ray] + (double)line * scan->deepening[ray];
    NAME(rise) r = {.first = scan->centre + depth * scan->lowest, .advance = depth * scan->pitch};
    const double inverse = 1 / r.advance; /* what its rounding adds meets zeros */
    const double begin = ceil((-1 - r.first) * inverse), end = ceil(((double)scan->slices - r.first) * inverse);
    r.begin = begin > 0 ? (begin < scan->height ? (long)begin : scan->height) : 0;
    r.end = end < scan->height ? (end > 0 ? (long)end : 0) : scan->height;
    if (r.begin >= r.end) {
        r.begin = r.end = r.low = r.high = 0;
        return r;
    }
    r.low = (long)(r.first + r.begin * r.advance + 2) - 2;
    r.high = (long)(r.first + (r.end - 1) * r.advance + 2);
    r.low = r.low < 0 ? 0 : r.low;
    r.high = r.high > scan->slices ? scan->slices : r.high;
    return r;
}

/* sums[j] += column between slices, for the detector rows that meet it */
static inline void NAME(sample)(const NAME(rise) *r, const ITEM *column, ITEM *sums) {
    for (long j = r->begin; j < r->end; j++) {
        const double position = r->first + j * r->advance;
        const int below = (int)(position + 4) - 4;
        sums[j] += column[below] + (REAL)(position - below) * (column[below + 1] - column[below]);
    }
}

#ifdef WINDOWED
/* Where the detector rows of one column meet the slices at the lines of a slab, so that a sum over lines stays in a
 * register. Each line's column has margins of zeros. */
typedef struct {
    double first[SLAB], advance[SLAB];
    float step[SLAB];
    int low[SLAB], high[SLAB]; /* slices that the detector rows meet */
    long begin, end;           /* detector rows that meet the volume at any line */
    double steepest;
} NAME(rises);

/* The same as `climb` at lines line + number[0 .. lines - 1], in order */
static inline void NAME(climb_lines)(const cone *scan, long ray, long line, const int *number, int lines, NAME(rises) *r) {
    const NAME(rise) a = NAME(climb)(scan, ray, line + number[0]), c = NAME(climb)(scan, ray, line + number[lines - 1]);
    const double depth = scan->depth[ray] + (double)line * scan->deepening[ray], deepening = scan->deepening[ray];
    const double centre = scan->centre, lowest = scan->lowest, pitch = scan->pitch;
    const int slices = (int)scan->slices;
    r->begin = a.begin < c.begin ? a.begin : c.begin;
    r->end = a.end > c.end ? a.end : c.end;
    r->steepest = a.advance > c.advance ? a.advance : c.advance;
    const double begin = (double)r->begin, last = (double)r->end - 1;
    for (int k = 0; k < SLAB; k++) {
        const double here = depth + number[k] * deepening, first = centre + here * lowest, advance = here * pitch;
        const double from = first + begin * advance, to = first + last * advance;
        r->first[k] = first;
        r->advance[k] = advance;
        r->step[k] = (float)advance;
        r->low[k] = from > 1 ? (int)(from < slices ? from - 1 : slices) & ~7 : 0;
        r->high[k] = to < slices - 2 ? (int)(to > -2 ? to + 2 : 0) : slices;
    }
}

/* sums[j] = the columns between slices, summed over lines; eight rows at a time, up to the eight that `end` is in.
 * close: their eight positions lie within as many intervals. */
static inline __attribute__((always_inline)) void NAME(sample_lines)(const NAME(rises) *r, int lines, const float *columns,
                                                                     long length, long slices, float *sums, int close) {
    const __m256 lane = _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256d lowest = _mm256_set1_pd(-MARGIN), highest = _mm256_set1_pd((double)slices);
    int base[SLAB];
    float beyond[SLAB];
    for (long j = r->begin; j < r->end; j += 8) {
        for (int k = 0; k < lines; k += 4) {
            const __m256d at = _mm256_fmadd_pd(_mm256_set1_pd((double)j), _mm256_loadu_pd(r->advance + k),
                                               _mm256_loadu_pd(r->first + k));
            const __m256d held = _mm256_min_pd(_mm256_max_pd(at, lowest), highest), whole = _mm256_floor_pd(held);
            _mm_storeu_si128((__m128i *)(base + k), _mm256_cvttpd_epi32(whole));
            _mm_storeu_ps(beyond + k, _mm256_cvtpd_ps(_mm256_sub_pd(held, whole)));
        }
        __m256 sum = _mm256_setzero_ps();
        for (int k = 0; k < lines; k++) {
            const float *column = columns + k * length + base[k];
            const __m256 position = _mm256_fmadd_ps(lane, _mm256_set1_ps(r->step[k]), _mm256_set1_ps(beyond[k]));
            const __m256 below = _mm256_floor_ps(position);
            const __m256 f = _mm256_sub_ps(position, below);
            const __m256i a = _mm256_cvttps_epi32(below);
            __m256 p = _mm256_permutevar8x32_ps(_mm256_loadu_ps(column), a);
            __m256 q = _mm256_permutevar8x32_ps(_mm256_loadu_ps(column + 1), a);
            if (!close) {
                const __m256 far = _mm256_castsi256_ps(_mm256_slli_epi32(a, 28));
                p = _mm256_blendv_ps(p, _mm256_permutevar8x32_ps(_mm256_loadu_ps(column + 8), a), far);
                q = _mm256_blendv_ps(q, _mm256_permutevar8x32_ps(_mm256_loadu_ps(column + 9), a), far);
            }
            sum = _mm256_add_ps(sum, _mm256_fmadd_ps(f, _mm256_sub_ps(q, p), p));
        }
        _mm256_storeu_ps(sums + j, sum);
    }
}
#endif

/* column = the transpose of `sample`, on slices low .. high - 1; values have margins of zeros */
static inline void NAME(deposit)(const NAME(rise) *r, const ITEM *values, long height, ITEM *column) {
#ifdef WINDOWED
    if (r->advance >= 0.65 && r->advance < 1.99) {
        const int most = (int)ceil(2 / r->advance);
        const double inverse = 1 / r->advance;
        const __m256 lane = _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7), one = _mm256_set1_ps(1.0f);
        const __m256 zero = _mm256_setzero_ps(), sign = _mm256_set1_ps(-0.0f);
        const __m256 advance = _mm256_set1_ps((float)r->advance), step = _mm256_set1_ps((float)inverse);
        for (long z = r->low; z < r->high; z += 8) {
            double from = (z - r->first - 1) * inverse;
            from = from < -12 ? -12 : from > height ? height : from;
            const int base = (int)(from + 16) - 16;
            const double beyond = from - base > 0 ? from - base : 0; /* below 0 by rounding */
            const __m256 at = _mm256_fmadd_ps(lane, step, _mm256_set1_ps((float)beyond));
            const __m256 below = _mm256_floor_ps(at);
            __m256i which = _mm256_cvttps_epi32(below);
            __m256 gap = _mm256_fmsub_ps(advance, _mm256_sub_ps(one, _mm256_sub_ps(at, below)), one);
            const __m256 low = _mm256_loadu_ps(values + base + 1), high = _mm256_loadu_ps(values + base + 9);
            __m256 sum = zero;
            for (int k = 0; k < most; k++) {
                const __m256 weight = _mm256_max_ps(zero, _mm256_sub_ps(one, _mm256_andnot_ps(sign, gap)));
                const __m256 value =
                    _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, which), _mm256_permutevar8x32_ps(high, which),
                                     _mm256_castsi256_ps(_mm256_slli_epi32(which, 28)));
                sum = _mm256_fmadd_ps(weight, value, sum);
                gap = _mm256_add_ps(gap, advance);
                which = _mm256_add_epi32(which, _mm256_set1_epi32(1));
            }
            _mm256_storeu_ps(column + z, sum);
        }
        return;
    }
#endif
    (void)height;
    memset(column + r->low, 0, sizeof(ITEM) * (r->high - r->low));
    for (long j = r->begin; j < r->end; j++) {
        const double position = r->first + j * r->advance;
        const int below = (int)(position + 4) - 4;
        const ITEM second = (REAL)(position - below) * values[j];
        column[below] += values[j] - second;
        column[below + 1] += second;
    }
}

static inline REAL NAME(length)(const cone *scan, long ray, int j) {
    const double rise = (scan->lowest + j * scan->pitch) * scan->tilt[ray];
    return (REAL)(scan->plane.height[ray] * sqrt(1 + rise * rise));
}

/* Lines of a slab as eight rays meet them. */
typedef struct {
    const ITEM *at; /* the slab, and its first line's number */
    long line, stride;
    int width, from, to;
    const int *index; /* of each line and ray */
    const REAL *fraction;
} NAME(slab);

static inline int NAME(misses)(const NAME(slab) *b, int k, int lane) {
    return b->index[k * LANES + lane] < -1 || b->index[k * LANES + lane] >= b->width;
}

/* column = a line between the two neighbours that the ray meets there, on slices low .. high - 1 */
static inline void NAME(between)(const NAME(slab) *b, int k, int lane, long slices, long low, long high, ITEM *column) {
    const REAL f = b->fraction[k * LANES + lane];
    const ITEM *restrict p = b->at + (k * b->stride + b->index[k * LANES + lane]) * slices, *restrict q = p + slices;
    for (long z = low; z < high; z++) column[z] = p[z] + f * (q[z] - p[z]);
}

/* to[j] += what detector column `ray` meets in the slab */
static inline void NAME(walk)(const cone *scan, const NAME(slab) *b, int lane, long ray, ITEM *scratch, ITEM *to) {
    const long height = scan->height, slices = scan->slices, length = slices + 2 * MARGIN;
    ITEM *columns = scratch + MARGIN, *sums = scratch + SLAB * length;
#ifdef WINDOWED
    NAME(rises) r;
    int number[SLAB] = {0}, lines = 0;
    for (int k = b->from; k < b->to; k++)
        if (!NAME(misses)(b, k, lane)) number[lines++] = k;
    if (lines == 0) return;
    NAME(climb_lines)(scan, ray, b->line, number, lines, &r);
    if (r.steepest < 1.99) {
        for (int k = 0; k < lines; k++)
            NAME(between)(b, number[k], lane, slices, r.low[k], r.high[k], columns + k * length);
        if (r.steepest < 0.999)
            NAME(sample_lines)(&r, lines, columns, length, slices, sums, 1);
        else
            NAME(sample_lines)(&r, lines, columns, length, slices, sums, 0);
        for (long j = r.begin; j < r.end; j++) to[j] += sums[j];
        return;
    }
#endif
    memset(sums, 0, sizeof(ITEM) * height);
    for (int k = b->from; k < b->to; k++) {
        if (NAME(misses)(b, k, lane)) continue;
        const NAME(rise) c = NAME(climb)(scan, ray, b->line + k);
        NAME(between)(b, k, lane, slices, c.low, c.high, columns);
        NAME(sample)(&c, columns, sums);
    }
    for (long j = 0; j < height; j++) to[j] += sums[j];
}

static void NAME(project_volume)(const void *argument, long task, void *scratch) {
    const NAME(volume_job) *job = argument;
    const cone *scan = job->scan;
    const rays *plane = &scan->plane;
    const long first = task * job->views_together, rest = plane->views - first;
    const long last = first + (rest < job->views_together ? rest : job->views_together);
    const long height = scan->height, slices = scan->slices;
    int index[SLAB * LANES];
    REAL fraction[SLAB * LANES];
    memset(scratch, 0, sizeof(ITEM) * SLAB * (slices + 2 * MARGIN));
    ITEM *data = (ITEM *)scratch + job->working - first * plane->detectors * height;
    memset(data + first * plane->detectors * height, 0, sizeof(ITEM) * (last - first) * plane->detectors * height);
    for (int axis = 0; axis < 2; axis++) {
        const int width = (int)NAME(width)(plane, axis);
        const long stride = NAME(stride)(plane, axis), lines = NAME(lines)(plane, axis);
        for (long line = 0; line < lines; line += SLAB) {
            const int count = lines - line < SLAB ? (int)(lines - line) : SLAB;
            const ITEM *at = job->image[axis] + (line * stride + MARGIN) * slices;
            for (long n = plane->first_segment[first]; n < plane->first_segment[last]; n++) {
                const segment *s = plane->segments + n;
                if (s->axis != axis) continue;
                for (long number = 0; number * LANES < s->last - s->first; number++) {
                    NAME(block) b;
                    NAME(describe)(&b, plane, s, number, line, count);
                    if (b.from >= b.to) continue;
                    NAME(locate)(&b, width, 0, index, fraction);
                    const NAME(slab) here = {at, line, stride, width, b.from, b.to, index, fraction};
                    for (int lane = 0; lane < b.lanes; lane++) {
                        const long ray = b.first + b.step * lane;
                        NAME(walk)(scan, &here, lane, ray, scratch, data + ray * height);
                    }
                }
            }
        }
    }
    const long columns = plane->detectors, all = plane->views * height * columns, held = ITEMS > 1 ? job->held : 1;
    for (long view = first; view < last; view++)
        for (long tile = 0; tile < height; tile += TILE)
            for (long j = tile; j < tile + TILE && j < height; j++)
                for (long u = 0; u < columns; u++) {
                    const REAL length = NAME(length)(scan, view * columns + u, (int)j);
                    const REAL *from = (const REAL *)(data + (view * columns + u) * height + j);
                    for (long b = 0; b < held; b++)
                        job->measured[b * all + (view * height + j) * columns + u] = length * from[b];
                }
}

static void NAME(scale_volume)(const void *argument, long view, void *scratch) {
    const NAME(volume_job) *job = argument;
    const cone *scan = job->scan;
    const long columns = scan->plane.detectors, height = scan->height, all = scan->plane.views * height * columns;
    (void)scratch;
    for (long tile = 0; tile < height; tile += TILE)
        for (long j = tile; j < tile + TILE && j < height; j++)
            for (long u = 0; u < columns; u++) {
                const REAL length = NAME(length)(scan, view * columns + u, (int)j);
                const REAL *from = job->measured + (view * height + j) * columns + u;
                REAL *to = (REAL *)(job->data + (view * columns + u) * height + j);
                for (long b = 0; b < ITEMS; b++) to[b] = b < job->held ? length * from[b * all] : 0;
            }
}

/* A slab of lines along one axis belongs to one task, so that no two threads write to the same voxel. */
static void NAME(spread_volume)(const void *argument, long task, void *scratch) {
    const NAME(volume_job) *job = argument;
    const cone *scan = job->scan;
    const rays *plane = &scan->plane;
    const long slabs = job->image[0] ? (plane->rows + SLAB - 1) / SLAB : 0, height = scan->height, slices = scan->slices;
    const int axis = task >= slabs;
    const int width = (int)NAME(width)(plane, axis);
    const long stride = NAME(stride)(plane, axis), lines = NAME(lines)(plane, axis);
    const long line = (task - (axis ? slabs : 0)) * SLAB;
    const int count = lines - line < SLAB ? (int)(lines - line) : SLAB;
    ITEM *at = job->image[axis] + (line * stride + MARGIN) * slices;
    ITEM *column = (ITEM *)scratch + MARGIN, *values = (ITEM *)scratch + slices + 2 * MARGIN + 2 * MARGIN;
    int index[BAND * LANES];
    REAL fraction[BAND * LANES];
    memset(scratch, 0, sizeof(ITEM) * (slices + height + 6 * MARGIN));
    memset(at - MARGIN * slices, 0, sizeof(ITEM) * count * stride * slices);
    for (long n = 0; n < plane->first_segment[plane->views]; n++) {
        const segment *s = plane->segments + n;
        if (s->axis != axis) continue;
        for (long number = 0; number * LANES < s->last - s->first; number++) {
            NAME(block) b;
            NAME(describe)(&b, plane, s, number, line, count);
            if (b.from >= b.to) continue;
            NAME(locate)(&b, width, 0, index, fraction);
            for (int lane = 0; lane < b.lanes; lane++) {
                const long ray = b.first + b.step * lane;
                memcpy(values, job->data + ray * height, sizeof(ITEM) * height);
                for (int k = b.from; k < b.to; k++) {
                    const int i = index[k * LANES + lane];
                    if (i < -1 || i >= width) continue;
                    const NAME(rise) r = NAME(climb)(scan, ray, line + k);
                    const REAL f = fraction[k * LANES + lane];
                    ITEM *restrict p = at + (k * stride + i) * slices, *restrict q = p + slices;
                    NAME(deposit)(&r, values, height, column);
                    for (long z = r.low; z < r.high; z++) {
                        const ITEM second = f * column[z];
                        p[z] += column[z] - second;
                        q[z] += second;
                    }
                }
            }
        }
    }
}

/* Lines of both axes, z innermost, from the volume. */
static void NAME(unpack_volume)(const void *argument, long task, void *scratch) {
    const NAME(volume_job) *job = argument;
    const cone *scan = job->scan;
    const rays *plane = &scan->plane;
    const long rows = job->image[0] ? plane->rows : 0, slices = scan->slices;
    const int axis = task >= rows;
    const long width = NAME(width)(plane, axis), stride = NAME(stride)(plane, axis), line = task - (axis ? rows : 0);
    const long across = axis ? plane->columns : 1, along = axis ? 1 : plane->columns;
    const long volume = slices * plane->rows * plane->columns;
    REAL *to = (REAL *)(job->image[axis] + line * stride * slices);
    (void)scratch;
    memset(to, 0, sizeof(ITEM) * stride * slices);
    for (long b = 0; b < job->held; b++)
        for (long z = 0; z < slices; z++) {
            const REAL *from = job->flat + b * volume + z * plane->rows * plane->columns + line * along;
            for (long i = 0; i < width; i++) to[((MARGIN + i) * slices + z) * ITEMS + b] = from[i * across];
        }
}

/* One row of the volume from the lines of both axes. */
static void NAME(pack_volume)(const void *argument, long row, void *scratch) {
    const NAME(volume_job) *job = argument;
    const cone *scan = job->scan;
    const rays *plane = &scan->plane;
    const long slices = scan->slices, across = NAME(stride)(plane, 0), down = NAME(stride)(plane, 1);
    const long volume = slices * plane->rows * plane->columns;
    (void)scratch;
    for (long b = 0; b < job->held; b++)
        for (long i = 0; i < plane->columns; i++) {
            const REAL *a = (const REAL *)(job->image[0] + (row * across + MARGIN + i) * slices) + b;
            const REAL *c = (const REAL *)(job->image[1] + (i * down + MARGIN + row) * slices) + b;
            for (long z = 0; z < slices; z++)
                job->flat[b * volume + (z * plane->rows + row) * plane->columns + i] =
                    (job->image[0] ? a[z * ITEMS] : 0) + (job->image[1] ? c[z * ITEMS] : 0);
        }
}

/* Project (or, with `back`, backproject) `held` volumes at once; return 0, or 1 where memory ran out. */
static int NAME(run_volume)(const cone *scan, REAL *volumes, REAL *measured, long held, int threads, int back) {
    const rays *plane = &scan->plane;
    const long used[2] = {plane->walks[0] ? plane->rows : 0, plane->walks[1] ? plane->columns : 0};
    const long slabs = (used[0] + SLAB - 1) / SLAB + (used[1] + SLAB - 1) / SLAB;
    crew *all = crew_new();
    if (!all) return 1;
    NAME(volume_job) job = {.scan = scan, .flat = volumes, .measured = measured, .held = held};
    job.working = SLAB * (scan->slices + 2 * MARGIN) + scan->height + 6 * MARGIN;
    int failed = 0;
    for (int axis = 0; axis < 2; axis++) {
        const size_t bytes = sizeof(ITEM) * used[axis] * NAME(stride)(plane, axis) * scan->slices;
        if (used[axis] && !(job.image[axis] = aligned(bytes))) failed = 1;
    }
    const long view = plane->detectors * scan->height;
    if (back && !(job.data = aligned(sizeof(ITEM) * plane->views * view))) failed = 1;
    job.views_together = plane->views / (4 * threads);
    job.views_together = job.views_together < 1 ? 1 : job.views_together > 4 ? 4 : job.views_together;
    const long groups = (plane->views + job.views_together - 1) / job.views_together;
    if (!failed && back)
        failed = crew_share(all, NAME(scale_volume), &job, plane->views, threads, 0) ||
                 crew_share(all, NAME(spread_volume), &job, slabs, threads, sizeof(ITEM) * job.working) ||
                 crew_share(all, NAME(pack_volume), &job, plane->rows, threads, 0);
    else if (!failed)
        failed = crew_share(all, NAME(unpack_volume), &job, used[0] + used[1], threads, 0) ||
                 crew_share(all, NAME(project_volume), &job, groups, threads,
                            sizeof(ITEM) * (job.working + job.views_together * view));
    crew_close(all);
    free(job.image[0]);
    free(job.image[1]);
    free(job.data);
    return failed;
}

/* Backprojection that interpolates each view where a pixel or voxel is seen: a template over REAL, ITEM (one of them)
 * and NAME, after cone.h.
 *
 * Positions are computed in double precision for each pixel and view. Of a volume, all slices of a pixel share a
 * detector column: it is interpolated once, then sampled along z as the projector samples the volume.
 */

typedef struct {
    const sight *scan;
    const REAL *data; /* (batch, views, detectors + 2) of planes, (views, detectors + 2, height + 2) of volumes; the
                         outermost are zero */
    REAL *image;      /* (batch, rows, columns) or (slices, rows, columns) */
    long batch;
} NAME(sight_job);

/* A row of pixels of all images */
static void NAME(see_row)(const void *described, long row, void *scratch) {
    const NAME(sight_job) *job = described;
    const sight *scan = job->scan;
    const long columns = scan->columns, held = (columns + RUN - 1) / RUN * RUN, width = scan->detectors + 2;
    const double last = (double)scan->detectors + 1;
    double *place = scratch;
    REAL *fraction = (REAL *)(place + held), *gain = fraction + columns;
    int *left = (int *)(gain + columns);
    for (long b = 0; b < job->batch; b++)
        memset(job->image + (b * scan->rows + row) * columns, 0, sizeof(REAL) * (size_t)columns);
    for (long view = 0; view < scan->views; view++) {
        const double *u = scan->across + 3 * view, *v = scan->along + 3 * view;
        const double across = u[0] + (double)row * u[1], along = v[0] + (double)row * v[1];
        if (scan->curved) {
            angles_of(across, along, u[2], v[2], held, place);
            for (long i = 0; i < columns; i++) {
                const double a = across + (double)i * u[2], l = along + (double)i * v[2];
                place[i] *= scan->magnification;
                gain[i] = (REAL)(scan->distance / (a * a + l * l));
            }
        } else {
            for (long i = 0; i < columns; i++) {
                const double inverse = 1 / (along + (double)i * v[2]), near = scan->distance * inverse;
                place[i] = (across + (double)i * u[2]) * inverse * scan->magnification;
                gain[i] = (REAL)(near * near);
            }
        }
        for (long i = 0; i < columns; i++) {
            double at = place[i] - scan->origin + 1;
            at = at > 0 ? at : 0;
            at = at < last ? at : last;
            int low = (int)at;
            low = low < (int)scan->detectors ? low : (int)scan->detectors;
            left[i] = low;
            fraction[i] = (REAL)(at - low);
        }
        for (long b = 0; b < job->batch; b++) {
            const REAL *data = job->data + (b * scan->views + view) * width;
            REAL *out = job->image + (b * scan->rows + row) * columns;
            for (long i = 0; i < columns; i++) {
                const REAL low = data[left[i]];
                out[i] += gain[i] * (low + fraction[i] * (data[left[i] + 1] - low));
            }
        }
    }
}

/* All slices of a patch of pixels */
static void NAME(see_patch)(const void *described, long task, void *scratch) {
    const NAME(sight_job) *job = described;
    const sight *scan = job->scan;
    const long across_all = (scan->columns + PATCH - 1) / PATCH, height = scan->height;
    const long top = task / across_all * PATCH, from = task % across_all * PATCH;
    const long bottom = top + PATCH < scan->rows ? top + PATCH : scan->rows;
    const long to = from + PATCH < scan->columns ? from + PATCH : scan->columns;
    const long deep = scan->slices + MARGIN;
    REAL *sums = scratch, *column = sums + PATCH * PATCH * deep + MARGIN;
    memset(scratch, 0, sizeof(REAL) * (size_t)(PATCH * PATCH * deep + height + 3 * MARGIN));
    for (long view = 0; view < scan->views; view++) {
        const double *u = scan->across + 3 * view, *v = scan->along + 3 * view;
        const REAL *data = job->data + view * (scan->detectors + 2) * (height + 2);
        for (long y = top; y < bottom; y++)
            for (long x = from; x < to; x++) {
                const double along = v[0] + (double)y * v[1] + (double)x * v[2];
                const double inverse = 1 / along, near = scan->distance * inverse;
                const double across = u[0] + (double)y * u[1] + (double)x * u[2];
                const double at = across * inverse * scan->magnification - scan->origin;
                if (!(along > 0 && at > -1 && at < (double)scan->detectors)) continue;
                const double advance = scan->rise * inverse, first = -scan->lowest - advance * scan->middle;
                const double begin = ceil((-1 - first) / advance), end = ceil(((double)height - first) / advance);
                NAME(rise) r = {.first = first, .advance = advance};
                r.begin = begin > 0 ? (begin < (double)scan->slices ? (long)begin : scan->slices) : 0;
                r.end = end < (double)scan->slices ? (end > 0 ? (long)end : 0) : scan->slices;
                if (r.begin >= r.end) continue;
                long low = (long)(first + (double)r.begin * advance + 2) - 2;
                long high = (long)(first + (double)(r.end - 1) * advance + 2);
                low = low < -1 ? -1 : low;
                high = high > height + 1 ? height + 1 : high;
                const int left = (int)(at + 1);
                const REAL fraction = (REAL)(at + 1 - left), gain = (REAL)(near * near), more = gain * fraction;
                const REAL less = gain - more, *a = data + left * (height + 2) + 1, *b = a + height + 2;
                for (long j = low; j < high; j++) column[j] = less * a[j] + more * b[j];
                NAME(sample)(&r, column, sums + ((y - top) * PATCH + x - from) * deep);
            }
    }
    for (long z = 0; z < scan->slices; z++)
        for (long y = top; y < bottom; y++) {
            const REAL *sum = sums + (y - top) * PATCH * deep + z;
            REAL *out = job->image + (z * scan->rows + y) * scan->columns + from;
            for (long x = 0; x < to - from; x++) out[x] = sum[x * deep];
        }
}

static int NAME(see)(const sight *scan, const REAL *data, REAL *image, long batch, int threads) {
    const NAME(sight_job) job = {scan, data, image, batch};
    if (scan->height == 0) {
        const size_t each = sizeof(double) + 2 * sizeof(REAL) + sizeof(int);
        return share(NAME(see_row), &job, scan->rows, threads, each * (size_t)(scan->columns + RUN));
    }
    const long patches = ((scan->rows + PATCH - 1) / PATCH) * ((scan->columns + PATCH - 1) / PATCH);
    const long held = PATCH * PATCH * (scan->slices + MARGIN) + scan->height + 3 * MARGIN;
    return share(NAME(see_patch), &job, patches, threads, sizeof(REAL) * (size_t)held);
}

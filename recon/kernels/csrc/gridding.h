/* Fourier transforms off the grid by interpolation in an oversampled one, of all coils: a template over REAL, ITEM of
 * ITEMS coils and SUFFIX, after sense.h.
 *
 * Coils are the lanes of cells. Both directions gather, by a sparse matrix and its stored transpose, so that results do
 * not depend on the number of threads. Inverse transforms are those of cells whose real and imaginary parts are swapped.
 */

typedef struct {
    long rows, columns;        /* of the image */
    long tall, wide;           /* of the grid */
    long top, left;            /* of the image in the grid */
    long coils, samples;
    NAME(fourier) column, row; /* of `tall` and of `wide` points */
    const REAL *maps;          /* (groups, columns, rows, 2, ITEMS) */
    const int *first, *cells;  /* of each sample (samples + 1), and of each entry: its place in the grid */
    const REAL *weights;       /* of each entry */
    const int *first_back, *samples_back; /* of each cell of the grid (tall wide + 1), and of each entry: its sample */
    const REAL *weights_back;
    long complex_image;
} NAME(gridding);

#define AT(place) (*(const NAME(loose) *)(place))

typedef struct {
    const NAME(gridding) *scan;
    long group;
    const REAL *image, *measured; /* inputs of one item */
    REAL *found, *seen;           /* outputs of one item */
    CELL *work;                   /* (columns, STRIDE(tall)) */
    CELL *plane;                  /* the grid, (tall, wide) */
    CELL *points;                 /* samples of all coils */
} NAME(off_grid);

static const REAL *NAME(maps_along)(const NAME(off_grid) *call, long column) {
    const NAME(gridding) *scan = call->scan;
    return scan->maps + (call->group * scan->columns + column) * scan->rows * 2 * ITEMS;
}

/* Where to put cells so that their transform ends at `target`; the other place is `*spare`. */
static CELL *NAME(start_of)(const NAME(fourier) *plan, CELL *target, CELL *scratch, CELL **spare) {
    *spare = plan->passes % 2 ? target : scratch;
    return plan->passes % 2 ? scratch : target;
}

/* The image of each coil along a column, transformed */
static void NAME(column_there)(const void *job, long column, void *scratch) {
    const NAME(off_grid) *call = job;
    const NAME(gridding) *scan = call->scan;
    CELL *spare, *here = NAME(start_of)(&scan->column, call->work + column * STRIDE(scan->tall), scratch, &spare);
    const REAL *maps = NAME(maps_along)(call, column);
    const long step = scan->complex_image ? 2 : 1, below = scan->tall - scan->top - scan->rows;
    const REAL *pixel = call->image + step * column;
    memset(here, 0, sizeof(CELL) * (size_t)scan->top);
    memset(here + scan->top + scan->rows, 0, sizeof(CELL) * (size_t)below);
    for (long i = 0; i < scan->rows; i++, pixel += step * scan->columns, maps += 2 * ITEMS) {
        const REAL re = pixel[0], im = scan->complex_image ? pixel[1] : 0;
        const ITEM mr = AT(maps), mi = AT(maps + ITEMS);
        here[scan->top + i].re = mr * re - mi * im;
        here[scan->top + i].im = mr * im + mi * re;
    }
    NAME(transform)(&scan->column, here, spare);
}

static void NAME(row_of_grid)(const void *job, long row, void *scratch) {
    const NAME(off_grid) *call = job;
    const NAME(gridding) *scan = call->scan;
    CELL *spare, *here = NAME(start_of)(&scan->row, call->plane + row * scan->wide, scratch, &spare);
    const CELL *work = call->work + row;
    const long right = scan->wide - scan->left - scan->columns;
    memset(here, 0, sizeof(CELL) * (size_t)scan->left);
    memset(here + scan->left + scan->columns, 0, sizeof(CELL) * (size_t)right);
    for (long i = 0; i < scan->columns; i++) here[scan->left + i] = work[i * STRIDE(scan->tall)];
    NAME(transform)(&scan->row, here, spare);
}

static void NAME(interpolate)(const void *job, long block, void *scratch) {
    (void)scratch;
    const NAME(off_grid) *call = job;
    const NAME(gridding) *scan = call->scan;
    const long lane = call->group * ITEMS, held = scan->coils - lane < ITEMS ? scan->coils - lane : ITEMS;
    const long first = block * SAMPLES, last = first + SAMPLES < scan->samples ? first + SAMPLES : scan->samples;
    for (long j = first; j < last; j++) {
        CELL sum = {{0}, {0}};
        for (long k = scan->first[j]; k < scan->first[j + 1]; k++) {
            const CELL *cell = call->plane + scan->cells[k];
            sum.re += cell->re * scan->weights[k];
            sum.im += cell->im * scan->weights[k];
        }
        REAL *out = call->seen + 2 * (lane * scan->samples + j);
        for (long coil = 0; coil < held; coil++, out += 2 * scan->samples) {
            out[0] = ((const REAL *)&sum.re)[coil];
            out[1] = ((const REAL *)&sum.im)[coil];
        }
    }
}

/* Cells of samples, their parts swapped */
static void NAME(read_samples)(const void *job, long block, void *scratch) {
    (void)scratch;
    const NAME(off_grid) *call = job;
    const NAME(gridding) *scan = call->scan;
    const long lane = call->group * ITEMS, held = scan->coils - lane < ITEMS ? scan->coils - lane : ITEMS;
    const long first = block * SAMPLES, last = first + SAMPLES < scan->samples ? first + SAMPLES : scan->samples;
    for (long j = first; j < last; j++) {
        const REAL *in = call->measured + 2 * (lane * scan->samples + j);
        CELL cell = {{0}, {0}};
        for (long coil = 0; coil < held; coil++, in += 2 * scan->samples) {
            ((REAL *)&cell.im)[coil] = in[0];
            ((REAL *)&cell.re)[coil] = in[1];
        }
        call->points[j] = cell;
    }
}

static void NAME(row_from_samples)(const void *job, long row, void *scratch) {
    const NAME(off_grid) *call = job;
    const NAME(gridding) *scan = call->scan;
    CELL *here = scratch, *spare = here + scan->wide;
    const int *first = scan->first_back + row * scan->wide;
    for (long i = 0; i < scan->wide; i++) {
        CELL sum = {{0}, {0}};
        for (long k = first[i]; k < first[i + 1]; k++) {
            const CELL *point = call->points + scan->samples_back[k];
            sum.re += point->re * scan->weights_back[k];
            sum.im += point->im * scan->weights_back[k];
        }
        here[i] = sum;
    }
    const CELL *found = NAME(transform)(&scan->row, here, spare) + scan->left;
    CELL *work = call->work + row;
    for (long i = 0; i < scan->columns; i++) work[i * STRIDE(scan->tall)] = found[i];
}

/* The image along a column from those of the coils; added to what is there after the first group */
static void NAME(column_back)(const void *job, long column, void *scratch) {
    const NAME(off_grid) *call = job;
    const NAME(gridding) *scan = call->scan;
    const CELL *cell = NAME(transform)(&scan->column, call->work + column * STRIDE(scan->tall), scratch) + scan->top;
    const REAL *maps = NAME(maps_along)(call, column);
    const long step = scan->complex_image ? 2 : 1;
    REAL *pixel = call->found + step * column;
    for (long i = 0; i < scan->rows; i++, cell++, pixel += step * scan->columns, maps += 2 * ITEMS) {
        const ITEM mr = AT(maps), mi = AT(maps + ITEMS);
        const ITEM vr = mr * cell->im + mi * cell->re, vi = mr * cell->re - mi * cell->im;
        REAL re, im;
        SUM_LANES(re, vr);
        SUM_LANES(im, vi);
        pixel[0] = call->group ? pixel[0] + re : re;
        if (scan->complex_image) pixel[1] = call->group ? pixel[1] + im : im;
    }
}

/* Samples (batch, coils, samples) of images (batch, rows, columns), or back. Returns 1 where memory ran out. */
static int NAME(run_gridding)(const void *described, const REAL *given, REAL *found, long batch, long back,
                              int threads) {
    const NAME(gridding) *scan = described;
    const long groups = (scan->coils + ITEMS - 1) / ITEMS, blocks = (scan->samples + SAMPLES - 1) / SAMPLES;
    const long image = scan->rows * scan->columns * (scan->complex_image ? 2 : 1);
    const long measured = 2 * scan->coils * scan->samples;
    const size_t longest = (size_t)(scan->tall > scan->wide ? scan->tall : scan->wide);
    CELL *work = aligned(sizeof(CELL) * (size_t)(scan->columns * STRIDE(scan->tall)));
    CELL *more = aligned(sizeof(CELL) * (size_t)(back ? scan->samples : scan->tall * scan->wide));
    crew *all = crew_new();
    int failed = !work || !more || !all;
    for (long task = 0; task < batch * groups && !failed; task++) {
        const long item = task / groups;
        NAME(off_grid) call = {.scan = scan, .group = task % groups, .work = work, .plane = more, .points = more};
        if (back) {
            call.measured = given + item * measured;
            call.found = found + item * image;
            failed = crew_share(all, NAME(read_samples), &call, blocks, threads, 0) ||
                     crew_share(all, NAME(row_from_samples), &call, scan->tall, threads, 2 * sizeof(CELL) * longest) ||
                     crew_share(all, NAME(column_back), &call, scan->columns, threads, sizeof(CELL) * longest);
        } else {
            call.image = given + item * image;
            call.seen = found + item * measured;
            failed = crew_share(all, NAME(column_there), &call, scan->columns, threads, sizeof(CELL) * longest) ||
                     crew_share(all, NAME(row_of_grid), &call, scan->tall, threads, sizeof(CELL) * longest) ||
                     crew_share(all, NAME(interpolate), &call, blocks, threads, 0);
        }
    }
    if (all) crew_close(all);
    free(work);
    free(more);
    return failed;
}

#undef AT

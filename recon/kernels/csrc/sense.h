/* SENSE of one type and instruction set: REAL, ITEM of ITEMS coils, SUFFIX.
 *
 * Rows run along the axis whose lines are kept, `size` pixels each; there are `rows` of them. Coils are the lanes of
 * cells, so that between reading the image and writing the samples nothing but `kept` lines of k-space leaves the cache.
 * Inverse transforms are the transforms of cells whose real and imaginary parts are swapped.
 */

typedef struct {
    long size, rows, coils, kept;
    long along, across;       /* distances of neighbours in a row, and of rows, in an image */
    const long *lines;        /* kept ones, rising */
    NAME(fourier) row, line;  /* along rows and along lines */
    const REAL *maps;         /* (groups, rows, size, 2, ITEMS) */
    const REAL *phase;        /* (rows, size), complex: of the image before the transform; NULL for 1 */
    const REAL *sampling;     /* (kept, rows), complex: of samples after it */
    const REAL *gram;         /* (kept or 1, rows or size), real: of samples between the transforms of A^H A */
    const REAL *turn;         /* (rows), complex; NULL for none: A^H A is the sum of two, the second, with the gram that
                                 follows, of lines times this, whose conjugate multiplies what comes back */
    long flat;                /* whether the gram varies along rows alone */
    long complex_image;
} NAME(sense);

typedef ITEM NAME(loose) __attribute__((aligned(sizeof(REAL)), may_alias));
#define AT(place) (*(const NAME(loose) *)(place))

typedef struct {
    const NAME(sense) *scan;
    long group;
    int add;                      /* to the image that is there */
    const REAL *image, *measured; /* inputs of one item */
    REAL *found, *samples;        /* outputs of one item */
    CELL *work;                   /* (rows, STRIDE(kept)) */
} NAME(call);

static const REAL *NAME(maps_of)(const NAME(call) *call, long row) {
    const NAME(sense) *scan = call->scan;
    return scan->maps + (call->group * scan->rows + row) * scan->size * 2 * ITEMS;
}

/* The image of each coil along a row */
static void NAME(spread)(const NAME(call) *call, long row, CELL *cells) {
    const NAME(sense) *scan = call->scan;
    const REAL *maps = NAME(maps_of)(call, row), *phase = scan->phase ? scan->phase + 2 * row * scan->size : NULL;
    const long step = scan->complex_image ? 2 * scan->along : scan->along;
    const REAL *pixel = call->image + (scan->complex_image ? 2 : 1) * row * scan->across;
    for (long i = 0; i < scan->size; i++, pixel += step, maps += 2 * ITEMS) {
        REAL re = pixel[0], im = scan->complex_image ? pixel[1] : 0;
        if (phase) {
            const REAL was = re;
            re = was * phase[2 * i] - im * phase[2 * i + 1];
            im = was * phase[2 * i + 1] + im * phase[2 * i];
        }
        const ITEM mr = AT(maps), mi = AT(maps + ITEMS);
        cells[i].re = mr * re - mi * im;
        cells[i].im = mr * im + mi * re;
    }
}

/* The image along a row from those of the coils, whose parts are swapped; added to what is there after the first group */
static void NAME(gather)(const NAME(call) *call, long row, const CELL *cells) {
    const NAME(sense) *scan = call->scan;
    const REAL *maps = NAME(maps_of)(call, row), *phase = scan->phase ? scan->phase + 2 * row * scan->size : NULL;
    const long step = scan->complex_image ? 2 * scan->along : scan->along;
    REAL *pixel = call->found + (scan->complex_image ? 2 : 1) * row * scan->across;
    for (long i = 0; i < scan->size; i++, pixel += step, maps += 2 * ITEMS) {
        const ITEM mr = AT(maps), mi = AT(maps + ITEMS);
        const ITEM vr = mr * cells[i].im + mi * cells[i].re, vi = mr * cells[i].re - mi * cells[i].im;
        REAL re, im;
        SUM_LANES(re, vr);
        SUM_LANES(im, vi);
        if (phase) {
            const REAL was = re;
            re = was * phase[2 * i] + im * phase[2 * i + 1];
            im = im * phase[2 * i] - was * phase[2 * i + 1];
        }
        pixel[0] = call->add ? pixel[0] + re : re;
        if (scan->complex_image) pixel[1] = call->add ? pixel[1] + im : im;
    }
}

static void NAME(row_there)(const void *job, long row, void *scratch) {
    const NAME(call) *call = job;
    const NAME(sense) *scan = call->scan;
    CELL *here = scratch, *spare = here + scan->size;
    NAME(spread)(call, row, here);
    const CELL *found = NAME(transform)(&scan->row, here, spare);
    CELL *kept = call->work + row * STRIDE(scan->kept);
    for (long k = 0; k < scan->kept; k++) kept[k] = found[scan->lines[k]];
}

static void NAME(row_back)(const void *job, long row, void *scratch) {
    const NAME(call) *call = job;
    const NAME(sense) *scan = call->scan;
    CELL *here = scratch, *spare = here + scan->size;
    const CELL *kept = call->work + row * STRIDE(scan->kept);
    if (scan->kept < scan->size) memset(here, 0, sizeof(CELL) * (size_t)scan->size);
    for (long k = 0; k < scan->kept; k++) here[scan->lines[k]] = kept[k];
    NAME(gather)(call, row, NAME(transform)(&scan->row, here, spare));
}

/* A^H A along a row, where no other axis is undersampled */
static void NAME(row_normal)(const void *job, long row, void *scratch) {
    const NAME(call) *call = job;
    const NAME(sense) *scan = call->scan;
    CELL *here = scratch, *spare = here + scan->size;
    NAME(spread)(call, row, here);
    CELL *found = NAME(transform)(&scan->row, here, spare);
    for (long i = 0; i < scan->size; i++) {
        const ITEM re = found[i].re;
        found[i].re = found[i].im * scan->gram[i];
        found[i].im = re * scan->gram[i];
    }
    NAME(gather)(call, row, NAME(transform)(&scan->row, found, found == here ? spare : here));
}

static void NAME(line_there)(const void *job, long line, void *scratch) {
    const NAME(call) *call = job;
    const NAME(sense) *scan = call->scan;
    CELL *here = scratch, *spare = here + scan->rows, *work = call->work + line;
    for (long i = 0; i < scan->rows; i++) here[i] = work[i * STRIDE(scan->kept)];
    const CELL *found = NAME(transform)(&scan->line, here, spare);
    const REAL *factor = scan->sampling + 2 * line * scan->rows;
    for (long i = 0; i < scan->rows; i++, factor += 2) {
        work[i * STRIDE(scan->kept)].re = found[i].re * factor[0] - found[i].im * factor[1];
        work[i * STRIDE(scan->kept)].im = found[i].re * factor[1] + found[i].im * factor[0];
    }
}

/* from samples whose parts are swapped already */
static void NAME(line_back)(const void *job, long line, void *scratch) {
    const NAME(call) *call = job;
    const NAME(sense) *scan = call->scan;
    CELL *here = scratch, *spare = here + scan->rows, *work = call->work + line;
    const REAL *factor = scan->sampling + 2 * line * scan->rows;
    for (long i = 0; i < scan->rows; i++, factor += 2) {
        const CELL was = work[i * STRIDE(scan->kept)];
        here[i].re = was.re * factor[0] - was.im * factor[1];
        here[i].im = was.re * factor[1] + was.im * factor[0];
    }
    const CELL *found = NAME(transform)(&scan->line, here, spare);
    for (long i = 0; i < scan->rows; i++) work[i * STRIDE(scan->kept)] = found[i];
}

/* A line that lies at `here` there and back, its parts then swapped; return where it lies, here or at `spare` */
static CELL *NAME(there_and_back)(const NAME(sense) *scan, const REAL *gram, CELL *here, CELL *spare) {
    CELL *found = NAME(transform)(&scan->line, here, spare);
    for (long i = 0; i < scan->rows; i++) {
        const ITEM re = found[i].re;
        found[i].re = found[i].im * gram[i];
        found[i].im = re * gram[i];
    }
    return NAME(transform)(&scan->line, found, found == here ? spare : here);
}

static void NAME(line_normal)(const void *job, long line, void *scratch) {
    const NAME(call) *call = job;
    const NAME(sense) *scan = call->scan;
    CELL *here = scratch, *spare = here + scan->rows, *work = call->work + line;
    for (long i = 0; i < scan->rows; i++) here[i] = work[i * STRIDE(scan->kept)];
    const CELL *found = NAME(there_and_back)(scan, scan->gram + line * scan->rows, here, spare);
    for (long i = 0; i < scan->rows; i++) work[i * STRIDE(scan->kept)] = found[i];
}

static void NAME(line_turned)(const void *job, long line, void *scratch) {
    const NAME(call) *call = job;
    const NAME(sense) *scan = call->scan;
    CELL *here = scratch, *spare = here + scan->rows, *kept = spare + scan->rows, *work = call->work + line;
    const REAL *gram = scan->gram + line * scan->rows, *turn = scan->turn;
    for (long i = 0; i < scan->rows; i++) {
        const CELL was = work[i * STRIDE(scan->kept)];
        kept[i] = was;
        here[i].re = was.re * turn[2 * i] - was.im * turn[2 * i + 1];
        here[i].im = was.re * turn[2 * i + 1] + was.im * turn[2 * i];
    }
    const CELL *odd = NAME(there_and_back)(scan, gram + scan->kept * scan->rows, here, spare);
    for (long i = 0; i < scan->rows; i++) {
        work[i * STRIDE(scan->kept)].re = odd[i].re * turn[2 * i] - odd[i].im * turn[2 * i + 1];
        work[i * STRIDE(scan->kept)].im = odd[i].im * turn[2 * i] + odd[i].re * turn[2 * i + 1];
    }
    const CELL *even = NAME(there_and_back)(scan, gram, kept, spare);
    for (long i = 0; i < scan->rows; i++) {
        work[i * STRIDE(scan->kept)].re += even[i].re;
        work[i * STRIDE(scan->kept)].im += even[i].im;
    }
}

/* Samples of a row of k-space from the cells, zero where nothing is kept; rows lie as those of the image do */
static void NAME(write_row)(const void *job, long row, void *scratch) {
    (void)scratch;
    const NAME(call) *call = job;
    const NAME(sense) *scan = call->scan;
    const long first = call->group * ITEMS, held = scan->coils - first < ITEMS ? scan->coils - first : ITEMS;
    const CELL *kept = call->work + row * STRIDE(scan->kept);
    for (long coil = 0; coil < held; coil++) {
        REAL *out = call->samples + 2 * ((first + coil) * scan->rows * scan->size + row * scan->across);
        if (scan->kept < scan->size) {
            if (scan->along == 1) memset(out, 0, 2 * sizeof(REAL) * (size_t)scan->size);
            else
                for (long i = 0; i < scan->size; i++) out[2 * i * scan->along] = out[2 * i * scan->along + 1] = 0;
        }
        for (long k = 0; k < scan->kept; k++) {
            REAL *sample = out + 2 * scan->lines[k] * scan->along;
            sample[0] = ((const REAL *)&kept[k].re)[coil];
            sample[1] = ((const REAL *)&kept[k].im)[coil];
        }
    }
}

/* Cells of a row of k-space, their parts swapped, from the samples */
static void NAME(read_row)(const void *job, long row, void *scratch) {
    (void)scratch;
    const NAME(call) *call = job;
    const NAME(sense) *scan = call->scan;
    const long first = call->group * ITEMS, held = scan->coils - first < ITEMS ? scan->coils - first : ITEMS;
    CELL *kept = call->work + row * STRIDE(scan->kept);
    if (held < ITEMS) memset(kept, 0, sizeof(CELL) * (size_t)scan->kept);
    for (long coil = 0; coil < held; coil++) {
        const REAL *in = call->measured + 2 * ((first + coil) * scan->rows * scan->size + row * scan->across);
        for (long k = 0; k < scan->kept; k++) {
            const REAL *sample = in + 2 * scan->lines[k] * scan->along;
            ((REAL *)&kept[k].im)[coil] = sample[0];
            ((REAL *)&kept[k].re)[coil] = sample[1];
        }
    }
}

/* kind 0: samples of an image; 1: image of samples; 2: A^H A of an image; 3: the same, added. Returns 1 where memory ran out. */
static int NAME(run_sense)(const void *described, const REAL *given, REAL *found, long batch, long kind, int threads) {
    const NAME(sense) *scan = described;
    const long groups = (scan->coils + ITEMS - 1) / ITEMS, pixels = scan->size * scan->rows;
    const long image = pixels * (scan->complex_image ? 2 : 1), measured = 2 * scan->coils * pixels;
    const long longest = scan->size > scan->rows ? scan->size : scan->rows;
    const size_t scratch = 3 * sizeof(CELL) * (size_t)longest;
    const task_function normal = scan->turn ? NAME(line_turned) : NAME(line_normal);
    const int alone = kind >= 2 && scan->flat;
    CELL *work = alone ? NULL : aligned(sizeof(CELL) * (size_t)(scan->rows * STRIDE(scan->kept)));
    if (!alone && !work) return 1;
    crew *all = crew_new();
    int failed = !all;
    for (long item = 0; item < batch && !failed; item++)
        for (long group = 0; group < groups && !failed; group++) {
            NAME(call) call = {.scan = scan, .group = group, .add = group || kind == 3, .work = work};
            if (kind == 1) call.measured = given + item * measured;
            else call.image = given + item * image;
            if (kind == 0) call.samples = found + item * measured;
            else call.found = found + item * image;
            if (alone) {
                failed = crew_share(all, NAME(row_normal), &call, scan->rows, threads, scratch);
                continue;
            }
            failed = crew_share(all, kind == 1 ? NAME(read_row) : NAME(row_there), &call, scan->rows, threads, scratch) ||
                     crew_share(all, kind == 0 ? NAME(line_there) : kind == 1 ? NAME(line_back) : normal, &call,
                           scan->kept, threads, scratch) ||
                     crew_share(all, kind == 0 ? NAME(write_row) : NAME(row_back), &call, scan->rows, threads, scratch);
        }
    if (all) crew_close(all);
    free(work);
    return failed;
}

#undef AT

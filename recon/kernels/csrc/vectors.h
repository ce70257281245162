/* Vector updates of one type and instruction set: REAL, ITEM of ITEMS numbers, SUFFIX. Arrays are (items, size).
 *
 * A task is CHUNK neighbouring numbers of one item; sums are of blocks in a fixed order, whoever works on them, so that
 * results do not depend on the number of threads.
 */

typedef struct {
    long size, chunks; /* of each item */
    const double *shift, *weight, *step, *turn; /* of each item */
    double *sums;      /* of each task */
    REAL *x, *residual, *direction;
    const REAL *image;
} NAME(system);

typedef struct {
    long size, chunks;
    int count;              /* of terms, at most MOST_TERMS */
    const double *weights;  /* (items, count) */
    const REAL *terms[MOST_TERMS];
    REAL *out;
} NAME(sum);

typedef struct {
    long size, chunks;
    double keep, fresh;
    const REAL *x, *clean, *base, *change, *noise; /* the last two may be missing */
    REAL *corrected, *next;
} NAME(move);

typedef struct {
    long slices, plane, chunks;
    int around;
    REAL threshold;
    const REAL *x, *dual;
    REAL *split, *next;
} NAME(split);

/* numbers at any place, as an item */
typedef ITEM NAME(loose) __attribute__((aligned(sizeof(REAL)), may_alias));
#define AT(place) (*(const NAME(loose) *)(place))
#define PUT(place, item) (*(NAME(loose) *)(place) = (item))

static double NAME(total)(const ITEM *item) {
    double sum = 0;
    for (int lane = 0; lane < ITEMS; lane++) sum += (double)(*item)[lane];
    return sum;
}

/* <p, shift p + weight q> of a chunk */
static void NAME(curve)(const void *job, long task, void *scratch) {
    (void)scratch;
    const NAME(system) *all = job;
    const long item = task / all->chunks, first = task % all->chunks * CHUNK;
    const long last = first + CHUNK < all->size ? first + CHUNK : all->size;
    const REAL *p = all->direction + item * all->size, *q = all->image + item * all->size;
    const REAL shift = (REAL)all->shift[item], weight = (REAL)all->weight[item];
    double sum = 0;
    long i = first;
    while (i + ITEMS <= last) {
        ITEM part = {0};
        for (const long end = i + BLOCK < last ? i + BLOCK : last; i + ITEMS <= end; i += ITEMS) {
            const ITEM here = AT(p + i);
            part += here * (shift * here + weight * AT(q + i));
        }
        sum += NAME(total)(&part);
    }
    for (; i < last; i++) sum += (double)(p[i] * (shift * p[i] + weight * q[i]));
    all->sums[task] = sum;
}

/* x += a p, r -= a (shift p + weight q), and <r, r> of a chunk */
static void NAME(advance)(const void *job, long task, void *scratch) {
    (void)scratch;
    const NAME(system) *all = job;
    const long item = task / all->chunks, first = task % all->chunks * CHUNK;
    const long last = first + CHUNK < all->size ? first + CHUNK : all->size;
    const REAL *p = all->direction + item * all->size, *q = all->image + item * all->size;
    REAL *x = all->x + item * all->size, *r = all->residual + item * all->size;
    const REAL shift = (REAL)all->shift[item], weight = (REAL)all->weight[item], step = (REAL)all->step[item];
    double sum = 0;
    long i = first;
    while (i + ITEMS <= last) {
        ITEM part = {0};
        for (const long end = i + BLOCK < last ? i + BLOCK : last; i + ITEMS <= end; i += ITEMS) {
            const ITEM here = AT(p + i);
            PUT(x + i, AT(x + i) + step * here);
            const ITEM left = AT(r + i) - step * (shift * here + weight * AT(q + i));
            PUT(r + i, left);
            part += left * left;
        }
        sum += NAME(total)(&part);
    }
    for (; i < last; i++) {
        x[i] += step * p[i];
        r[i] -= step * (shift * p[i] + weight * q[i]);
        sum += (double)(r[i] * r[i]);
    }
    all->sums[task] = sum;
}

/* p = r + b p of a chunk */
static void NAME(turn)(const void *job, long task, void *scratch) {
    (void)scratch;
    const NAME(system) *all = job;
    const long item = task / all->chunks, first = task % all->chunks * CHUNK;
    const long last = first + CHUNK < all->size ? first + CHUNK : all->size;
    const REAL *restrict r = all->residual + item * all->size;
    REAL *restrict p = all->direction + item * all->size;
    const REAL turn = (REAL)all->turn[item];
    for (long i = first; i < last; i++) p[i] = r[i] + turn * p[i];
}

/* sum of the terms, each times its item's weight, of a chunk; the result may be the first term */
static void NAME(add)(const void *job, long task, void *scratch) {
    (void)scratch;
    const NAME(sum) *all = job;
    const long item = task / all->chunks, first = task % all->chunks * CHUNK;
    const long last = first + CHUNK < all->size ? first + CHUNK : all->size, at = item * all->size;
    REAL w[MOST_TERMS];
    for (int k = 0; k < all->count; k++) w[k] = (REAL)all->weights[item * all->count + k];
    REAL *out = all->out + at;
    const REAL *a = all->terms[0] + at, *b = all->terms[1] + at;
    if (all->count == 2) {
        for (long i = first; i < last; i++) out[i] = w[0] * a[i] + w[1] * b[i];
        return;
    }
    const REAL *c = all->terms[2] + at;
    if (all->count == 3) {
        for (long i = first; i < last; i++) out[i] = w[0] * a[i] + w[1] * b[i] + w[2] * c[i];
        return;
    }
    const REAL *d = all->terms[3] + at;
    for (long i = first; i < last; i++) out[i] = w[0] * a[i] + w[1] * b[i] + w[2] * c[i] + w[3] * d[i];
}

/* x0' = x0 + change and x0' + keep (x - base) + fresh noise of a chunk */
static void NAME(guide)(const void *job, long task, void *scratch) {
    (void)scratch;
    const NAME(move) *all = job;
    const long at = task / all->chunks * all->size, first = task % all->chunks * CHUNK;
    const long last = first + CHUNK < all->size ? first + CHUNK : all->size;
    const REAL *x = all->x + at, *clean = all->clean + at, *base = all->base + at;
    const REAL *change = all->change ? all->change + at : NULL, *noise = all->noise ? all->noise + at : NULL;
    REAL *restrict corrected = all->corrected + at, *restrict next = all->next + at;
    const REAL keep = (REAL)all->keep, fresh = (REAL)all->fresh;
    for (long i = first; i < last; i++) corrected[i] = change ? clean[i] + change[i] : clean[i];
    for (long i = first; i < last; i++) next[i] = corrected[i] + keep * (x[i] - base[i]);
    if (noise)
        for (long i = first; i < last; i++) next[i] += fresh * noise[i];
}

/* With v = x_(z+1) - x_z + u, within a chunk of a slice: split = soft(v), next = v - split */
static void NAME(shrink)(const void *job, long task, void *scratch) {
    (void)scratch;
    const NAME(split) *all = job;
    const long slice = task / all->chunks, z = slice % all->slices, first = task % all->chunks * CHUNK;
    const long last = first + CHUNK < all->plane ? first + CHUNK : all->plane, at = slice * all->plane;
    const REAL *x = all->x + at, *dual = all->dual + at;
    const REAL *ahead = z + 1 < all->slices ? x + all->plane : all->around ? x - z * all->plane : x;
    REAL *restrict split = all->split + at, *restrict next = all->next + at;
    const REAL most = all->threshold;
    for (long i = first; i < last; i++) {
        const REAL v = ahead[i] - x[i] + dual[i];
        const REAL kept = v < -most ? -most : v > most ? most : v;
        split[i] = v - kept;
        next[i] = kept;
    }
}

#undef AT
#undef PUT

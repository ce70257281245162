/* Fourier transforms of ITEMS sequences side by side, of lengths with small prime factors: Stockham's autosorting passes.
 *
 * Lane k of every cell belongs to sequence k, so that no pass moves numbers between lanes.
 */

typedef struct {
    long size, passes;
    const long *radices;
    const REAL *factors; /* of each pass, complex: exp(-2 pi i p j/n) for p < n/r, 1 <= j < r; then exp(-2 pi i j/r), j < r */
} NAME(fourier);

typedef struct {
    ITEM re, im;
} NAME(cell);

#define CELL NAME(cell)
#define TURNED(out, vr, vi, w) ((out).re = (vr) * (w)[0] - (vi) * (w)[1], (out).im = (vr) * (w)[1] + (vi) * (w)[0])
/* of group p: the factors of the first are 1 */
#define TURNED_BUT_FIRST(out, vr, vi, w) \
    do { \
        if (p) TURNED(out, vr, vi, w); \
        else (out).re = (vr), (out).im = (vi); \
    } while (0)

static inline void NAME(group2)(const CELL *x, CELL *y, long m, long s, const REAL *w, long p) {
    for (long q = 0; q < s; q++) {
        const CELL a = x[q + s * p], b = x[q + s * (p + m)];
        CELL *out = y + q + s * 2 * p;
        out[0].re = a.re + b.re, out[0].im = a.im + b.im;
        TURNED_BUT_FIRST(out[s], a.re - b.re, a.im - b.im, w);
    }
}

static void NAME(pass2)(const CELL *x, CELL *y, long m, long s, const REAL *w) {
    NAME(group2)(x, y, m, s, w, 0);
    for (long p = 1; p < m; p++) NAME(group2)(x, y, m, s, w + 2 * p, p);
}

static inline void NAME(group3)(const CELL *x, CELL *y, long m, long s, const REAL *w, long p) {
    const REAL sine = (REAL)0.86602540378443864676;
    for (long q = 0; q < s; q++) {
        const CELL a = x[q + s * p], b = x[q + s * (p + m)], c = x[q + s * (p + 2 * m)];
        const ITEM tr = b.re + c.re, ti = b.im + c.im;
        const ITEM ur = a.re - tr * (REAL)0.5, ui = a.im - ti * (REAL)0.5;
        const ITEM vr = (b.im - c.im) * sine, vi = (c.re - b.re) * sine;
        CELL *out = y + q + s * 3 * p;
        out[0].re = a.re + tr, out[0].im = a.im + ti;
        TURNED_BUT_FIRST(out[s], ur + vr, ui + vi, w);
        TURNED_BUT_FIRST(out[2 * s], ur - vr, ui - vi, w + 2);
    }
}

static void NAME(pass3)(const CELL *x, CELL *y, long m, long s, const REAL *w) {
    NAME(group3)(x, y, m, s, w, 0);
    for (long p = 1; p < m; p++) NAME(group3)(x, y, m, s, w + 4 * p, p);
}

static inline void NAME(group4)(const CELL *x, CELL *y, long m, long s, const REAL *w, long p) {
    for (long q = 0; q < s; q++) {
        const CELL *in = x + q + s * p;
        const CELL a = in[0], b = in[s * m], c = in[2 * s * m], d = in[3 * s * m];
        const ITEM er = a.re + c.re, ei = a.im + c.im, fr = a.re - c.re, fi = a.im - c.im;
        const ITEM gr = b.re + d.re, gi = b.im + d.im, hr = b.im - d.im, hi = d.re - b.re;
        CELL *out = y + q + s * 4 * p;
        out[0].re = er + gr, out[0].im = ei + gi;
        TURNED_BUT_FIRST(out[s], fr + hr, fi + hi, w);
        TURNED_BUT_FIRST(out[2 * s], er - gr, ei - gi, w + 2);
        TURNED_BUT_FIRST(out[3 * s], fr - hr, fi - hi, w + 4);
    }
}

static void NAME(pass4)(const CELL *x, CELL *y, long m, long s, const REAL *w) {
    NAME(group4)(x, y, m, s, w, 0);
    for (long p = 1; p < m; p++) NAME(group4)(x, y, m, s, w + 6 * p, p);
}

static inline void NAME(group5)(const CELL *x, CELL *y, long m, long s, const REAL *w, long p) {
    const REAL c1 = (REAL)0.30901699437494742410, c2 = (REAL)-0.80901699437494742410;
    const REAL s1 = (REAL)0.95105651629515357212, s2 = (REAL)0.58778525229247312917;
    for (long q = 0; q < s; q++) {
        const CELL *in = x + q + s * p;
        const CELL a = in[0], b = in[s * m], c = in[2 * s * m], d = in[3 * s * m], e = in[4 * s * m];
        const ITEM br = b.re + e.re, bi = b.im + e.im, cr = c.re + d.re, ci = c.im + d.im;
        const ITEM er = b.im - e.im, ei = e.re - b.re, dr = c.im - d.im, di = d.re - c.re;
        const ITEM ur = a.re + br * c1 + cr * c2, ui = a.im + bi * c1 + ci * c2;
        const ITEM vr = a.re + br * c2 + cr * c1, vi = a.im + bi * c2 + ci * c1;
        const ITEM kr = er * s1 + dr * s2, ki = ei * s1 + di * s2;
        const ITEM lr = er * s2 - dr * s1, li = ei * s2 - di * s1;
        CELL *out = y + q + s * 5 * p;
        out[0].re = a.re + br + cr, out[0].im = a.im + bi + ci;
        TURNED_BUT_FIRST(out[s], ur + kr, ui + ki, w);
        TURNED_BUT_FIRST(out[2 * s], vr + lr, vi + li, w + 2);
        TURNED_BUT_FIRST(out[3 * s], vr - lr, vi - li, w + 4);
        TURNED_BUT_FIRST(out[4 * s], ur - kr, ui - ki, w + 6);
    }
}

static void NAME(pass5)(const CELL *x, CELL *y, long m, long s, const REAL *w) {
    NAME(group5)(x, y, m, s, w, 0);
    for (long p = 1; p < m; p++) NAME(group5)(x, y, m, s, w + 8 * p, p);
}

/* Any other radix r, by its definition. */
static void NAME(pass)(const CELL *x, CELL *y, long r, long m, long s, const REAL *w, const REAL *roots) {
    for (long p = 0; p < m; p++, w += 2 * (r - 1))
        for (long q = 0; q < s; q++) {
            const CELL *in = x + q + s * p;
            for (long j = 0; j < r; j++) {
                ITEM re = in[0].re, im = in[0].im;
                for (long k = 1; k < r; k++) {
                    const REAL *root = roots + 2 * (j * k % r);
                    const CELL *each = in + k * s * m;
                    re += each->re * root[0] - each->im * root[1];
                    im += each->re * root[1] + each->im * root[0];
                }
                CELL *out = y + q + s * (r * p + j);
                if (j) TURNED(*out, re, im, w + 2 * (j - 1));
                else out->re = re, out->im = im;
            }
        }
}

/* Transform the cells at `here`, with as many at `spare`; return which of the two holds the result. */
static CELL *NAME(transform)(const NAME(fourier) *plan, CELL *here, CELL *spare) {
    const REAL *w = plan->factors;
    long s = 1, left = plan->size;
    for (long k = 0; k < plan->passes; k++) {
        const long r = plan->radices[k], m = left / r;
        const REAL *roots = w + 2 * m * (r - 1);
        if (r == 2) NAME(pass2)(here, spare, m, s, w);
        else if (r == 3) NAME(pass3)(here, spare, m, s, w);
        else if (r == 4) NAME(pass4)(here, spare, m, s, w);
        else if (r == 5) NAME(pass5)(here, spare, m, s, w);
        else NAME(pass)(here, spare, r, m, s, w, roots);
        CELL *other = here;
        here = spare;
        spare = other;
        w = roots + 2 * r;
        s *= r;
        left = m;
    }
    return here;
}

#undef TURNED
#undef TURNED_BUT_FIRST

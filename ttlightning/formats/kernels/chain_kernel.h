/* The passes over the chain, in terms of the loops of chain_blocks.h. */

typedef struct {
    int threads, sites, batch, padded, modes, rank, classes, distinct, width; /* width: row of an adjoint, padded */
    const REAL *features, *first, *interior, *last;                           /* features (batch, sites, modes) */
    REAL *x, *h, *scales, *adjoints;       /* (sites, modes, padded) (., rank, padded) (., padded) (., batch, width) */
    int32_t *exponent;
    REAL *scores;
    const REAL *dscores;
    REAL *dfeatures, *dfirst, *dinterior, *dlast;
    REAL *window, *replayed, *carry; /* (segment, rank, padded), twice, and (rank, padded): for segments */
    int keep, segment, plain;        /* which states h holds; scores as mantissa * 2^exponent, or mantissa */
    int from_site, to_site, replay;  /* sites of a pass, set here */
} NAME(chain);

static int NAME(left)(const NAME(chain) *c, int k) { return k == 0 ? 1 : c->rank; }
static int NAME(right)(const NAME(chain) *c, int k) { return k == c->sites - 1 ? c->classes : c->rank; }

static size_t NAME(core_offset)(const NAME(chain) *c, int k) {
    return c->distinct == 1 ? 0 : (size_t)(k - 1) * c->modes * c->rank * c->rank;
}

static const REAL *NAME(core)(const NAME(chain) *c, int k) {
    return k == 0 ? c->first : k == c->sites - 1 ? c->last : c->interior + NAME(core_offset)(c, k);
}

/* The state after site k. KEEP_SEGMENTS: h has the last state of every segment, the window the others of one. */
static REAL *NAME(state)(const NAME(chain) *c, int k) {
    const size_t size = (size_t)c->rank * c->padded;
    if (c->keep == KEEP_TWO) return c->h + (k & 1) * size;
    if (c->keep == KEEP_ALL) return c->h + k * size;
    return k % c->segment == c->segment - 1 ? c->h + k / c->segment * size : c->window + k % c->segment * size;
}

/* In each lane, the larger of `most` and the magnitude of `next`; NaN is never the larger one. */
static V NAME(larger)(V most, V next) {
    const NAME(index) back = next < 0, size = ((NAME(index))next & ~back) | ((NAME(index))-next & back);
    const NAME(index) more = (V)size > most;
    return (V)((size & more) | ((NAME(index))most & ~more));
}

/* The scale of each sample of a block whose largest number is below `low` or above `high`. */
static void NAME(powers)(const NAME(chain) *c, REAL low, REAL high, const REAL *largest, REAL *scale, int s) {
    for (int l = 0; l < LANES; l++) {
        int power;
        if (!(largest[l] < low || largest[l] > high) || largest[l] == 0 || largest[l] > LARGEST) continue;
        FREXP(largest[l], &power);
        power = power > RANGE ? RANGE : power < -RANGE ? -RANGE : power;
        scale[l] = LDEXP(1, -power);
        if (s + l < c->batch) c->exponent[s + l] += power;
    }
}

/* Split a power of two off the state after site k of each sample, and add it to the exponent. This is exact. It is done
   every few sites, and where the next site could leave the range. */
static void NAME(rescale)(const NAME(chain) *c, int k, REAL *restrict state, int from, int to) {
    const int regular = (k + 1) % SITES_PER_RESCALING == 0;
    const REAL high = LDEXP(1, RANGE / 4), low = 1 / high;
    for (int s = from; s < to; s += LANES) {
        REAL *scale = c->scales + (size_t)k * c->padded + s, *row = state + s;
        int some = 1;
        if (!c->replay) {
            V most[2] = {0}, one = 1 - most[0];
            for (int a = 0; a < c->rank; a++, row += c->padded)
                for (int half = 0; half < 2; half++) most[half] = NAME(larger)(most[half], LOAD(row + half * HALF));
            STORE(scale, one);
            STORE(scale + HALF, one);
            NAME(index) out = (most[0] < low) | (most[0] > high) | (most[1] < low) | (most[1] > high);
            some = regular;
            for (int l = 0; l < HALF; l++) some |= out[l] != 0;
            if (some) NAME(powers)(c, regular ? 1 : low, regular ? 0 : high, (REAL *)most, scale, s);
        }
        row = state + s;
        for (int a = 0; a < c->rank && some; a++, row += c->padded) {
            STORE(row, LOAD(row) * LOAD(scale));
            STORE(row + HALF, LOAD(row + HALF) * LOAD(scale + HALF));
        }
    }
}

/* The states of a share of the samples, and behind the last site the scores. */
static void NAME(forward_blocks)(void *argument, int part, int parts) {
    const NAME(chain) *c = argument;
    const int modes = c->modes, blocks = c->padded / LANES, d = c->sites;
    const int from = (int)((long)blocks * part / parts) * LANES, to = (int)((long)blocks * (part + 1) / parts) * LANES;
    const size_t padded = c->padded;
    if (from == to) return;
    REAL *panel = scratch(sizeof(REAL) * LANES * (c->rank > ROWS ? c->rank : ROWS));
    REAL *scores = scratch(sizeof(REAL) * c->classes * padded);
    for (int k = 0; k < d && !c->replay; k++) {
        REAL *x = c->x + (size_t)k * modes * padded;
        for (int s = from; s < to; s += LANES) {
            const int here = c->batch - s < LANES ? c->batch - s : LANES;
            NAME(gather)(c->features + ((size_t)s * d + k) * modes, (size_t)d * modes, x + s, padded, modes, here);
        }
    }
    for (int k = c->from_site; k < c->to_site; k++) {
        const int left = NAME(left)(c, k), right = NAME(right)(c, k);
        const REAL *core = NAME(core)(c, k), *x = c->x + (size_t)k * modes * padded;
        const REAL *h = k ? NAME(state)(c, k - 1) : NULL;
        REAL *out = k == d - 1 ? scores : NAME(state)(c, k);
        NAME(site)(x, h, core, out, modes, left, right, padded, from, to, panel);
        if (k < d - 1) NAME(rescale)(c, k, out, from, to);
    }
    for (int s = from; s < to && s < c->batch && c->to_site == d; s++) {
        REAL *row = c->scores + (size_t)s * c->classes;
        for (int y = 0; y < c->classes; y++) row[y] = scores[y * padded + s];
        if (c->plain) NAME(scale)(row, c->classes, c->exponent[s]);
    }
    free(scores);
    free(panel);
}

/* The adjoint states of a share of the samples, from the last site to the first, and the gradient of the features. */
static void NAME(backward_blocks)(void *argument, int part, int parts) {
    const NAME(chain) *c = argument;
    const int modes = c->modes, blocks = c->padded / LANES, d = c->sites;
    const int from = (int)((long)blocks * part / parts) * LANES, to = (int)((long)blocks * (part + 1) / parts) * LANES;
    const size_t padded = c->padded, share = to - from, widest = c->rank > c->classes ? c->rank : c->classes;
    REAL *p = scratch(sizeof(REAL) * share * (2 * widest + modes)), *back = p + share * widest, *dx = back + share * widest;
    if (c->to_site == d) NAME(start_back)(c->dscores, c->plain ? c->exponent : NULL, p, c->classes, c->batch, from, to);
    for (int s = from; s < to && c->to_site < d; s++)
        for (int b = 0; b < c->rank; b++)
            p[(s - from) / LANES * LANES * c->rank + b * LANES + (s - from) % LANES] = c->carry[b * padded + s];
    REAL *const memory = p;
    for (int k = c->to_site - 1; k >= c->from_site; k--) {
        const int left = NAME(left)(c, k), right = NAME(right)(c, k);
        NAME(scale_back)(p, k < d - 1 ? c->scales + k * padded : NULL,
                         c->adjoints + (size_t)(k - c->from_site) * c->batch * c->width, c->width, right, c->batch, from, to);
        NAME(site_back)(c->x + (size_t)k * modes * padded, k ? NAME(state)(c, k - 1) : NULL, NAME(core)(c, k), p, dx, back,
                        modes, left, right, padded, from, to);
        NAME(scatter)(dx, c->dfeatures + (size_t)k * modes, (size_t)d * modes, modes, c->batch, from, to);
        REAL *swap = p;
        p = back;
        back = swap;
    }
    for (int s = from; s < to && c->from_site > 0; s++)
        for (int b = 0; b < c->rank; b++)
            c->carry[b * padded + s] = p[(s - from) / LANES * LANES * c->rank + b * LANES + (s - from) % LANES];
    free(memory);
}

/* The gradients of a share of the rows of every core. */
static void NAME(gradient_rows)(void *argument, int part, int parts) {
    const NAME(chain) *c = argument;
    const size_t padded = c->padded;
    REAL *ones = scratch(sizeof(REAL) * (1 + TILE) * padded), *rows = ones + padded;
    for (size_t s = 0; s < padded; s++) ones[s] = 1;
    for (int k = c->from_site; k < c->to_site; k++) {
        REAL *gradient = k == 0 ? c->dfirst : k == c->sites - 1 ? c->dlast : c->dinterior + NAME(core_offset)(c, k);
        NAME(site_gradient)(c->x + (size_t)k * c->modes * padded, k ? NAME(state)(c, k - 1) : ones,
                            c->adjoints + (size_t)(k - c->from_site) * c->batch * c->width, gradient, c->modes,
                            NAME(left)(c, k), NAME(right)(c, k), c->batch, padded, c->width, 1, part, parts, rows);
    }
    free(ones);
}

static void NAME(pass)(share work, NAME(chain) *c, int from_site, int to_site, int replay) {
    c->from_site = from_site;
    c->to_site = to_site;
    c->replay = replay;
    in_parallel(work, c, c->threads);
}

void NAME(chain_forward)(NAME(chain) *c) {
    memset(c->exponent, 0, sizeof(int32_t) * c->batch);
    NAME(pass)(NAME(forward_blocks), c, 0, c->sites, 0);
}

/* Site k wants the state behind site k - 1: a segment's states belong to the sites one further on. The window holds those
   of the last segment; those of the others are computed again, beside it: what the way there has left is only read. */
void NAME(chain_backward)(NAME(chain) *c) {
    const int segment = c->keep == KEEP_ALL ? c->sites : c->segment, last = (c->sites - 2) / segment;
    const size_t slices = (size_t)c->modes * c->rank;
    memset(c->dfirst, 0, sizeof(REAL) * slices);
    memset(c->dinterior, 0, sizeof(REAL) * slices * c->rank * c->distinct);
    memset(c->dlast, 0, sizeof(REAL) * slices * c->classes);
    for (int part = last; part >= 0; part--) {
        const int first_state = part * segment, beyond = part == last ? c->sites : first_state + segment + 1;
        const int to = part == last ? c->sites - 1 : first_state + segment - 1;
        if (part != last) {
            c->window = c->replayed;
            NAME(pass)(NAME(forward_blocks), c, first_state, to, 1);
        }
        NAME(pass)(NAME(backward_blocks), c, part ? first_state + 1 : 0, beyond, 1);
        in_parallel(NAME(gradient_rows), c, c->threads);
    }
}

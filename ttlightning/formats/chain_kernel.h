/* One floating-point type of chain_kernel.c: REAL and NAME(x) are defined by the includer.

   A site maps a state of length left to one of length right,
       out[b] = sum over i, a of  x[i] h[a] core[i, a, b],
   for LANES samples side by side: a row of x, h or out holds one number of each of `padded` samples. */

#define LANES ((int)(64 / sizeof(REAL))) /* samples of a block: two vectors */
#define V NAME(vector)
typedef REAL V __attribute__((vector_size(32), aligned(sizeof(REAL)), may_alias));
#define HALF (LANES / 2)
#define LOAD(p) (*(const V *)(p))
#define STORE(p, v) (*(V *)(p) = (v))

typedef struct {
    int threads, sites, batch, padded, modes, rank, classes, distinct, width; /* width: row of an adjoint, padded */
    const REAL *features, *first, *interior, *last;                           /* features (batch, sites, modes) */
    REAL *x, *h, *scales, *adjoints;       /* (sites, modes, padded) (., rank, padded) (., padded) (., batch, width) */
    int32_t *exponent;
    REAL *scores;
    const REAL *dscores;
    REAL *dfeatures, *dfirst, *dinterior, *dlast;
    REAL *window, *carry;      /* (segment, rank, padded), (rank, padded): for segments */
    int keep, segment, plain;  /* which states h holds; scores as mantissa * 2^exponent, or mantissa */
    int from_site, to_site, replay, in_window; /* what a pass is about, set here */
} NAME(chain);

static int NAME(left)(const NAME(chain) *c, int k) { return k == 0 ? 1 : c->rank; }
static int NAME(right)(const NAME(chain) *c, int k) { return k == c->sites - 1 ? c->classes : c->rank; }

static size_t NAME(core_offset)(const NAME(chain) *c, int k) {
    return c->distinct == 1 ? 0 : (size_t)(k - 1) * c->modes * c->rank * c->rank;
}

static const REAL *NAME(core)(const NAME(chain) *c, int k) {
    return k == 0 ? c->first : k == c->sites - 1 ? c->last : c->interior + NAME(core_offset)(c, k);
}

/* The state behind site k. KEEP_SEGMENTS: h has the last of every segment, the window the others of one segment. */
static REAL *NAME(state)(const NAME(chain) *c, int k) {
    const size_t size = (size_t)c->rank * c->padded;
    if (c->keep == KEEP_TWO) return c->h + (k & 1) * size;
    if (c->keep == KEEP_ALL) return c->h + k * size;
    return k % c->segment == c->segment - 1 ? c->h + k / c->segment * size : c->window + k % c->segment * size;
}

/* Columns j .. j + T - 1 of a site, for one block. `row` is the distance of two rows of `core`. */
#define FORWARD(T)                                                                                             \
    static void NAME(forward_##T)(const REAL *x, const REAL *h, const REAL *core, REAL *out, int modes, int left, \
                                  size_t row, size_t padded) {                                                 \
        V sum[T][2] = {0};                                                                                     \
        for (int i = 0; i < modes; i++) {                                                                      \
            V x0 = LOAD(x + i * padded), x1 = LOAD(x + i * padded + HALF);                                     \
            for (int a = 0; a < left; a++, core += row) {                                                      \
                V t0 = x0 * LOAD(h + a * padded), t1 = x1 * LOAD(h + a * padded + HALF);                       \
                for (int j = 0; j < T; j++) {                                                                  \
                    sum[j][0] += t0 * core[j];                                                                 \
                    sum[j][1] += t1 * core[j];                                                                 \
                }                                                                                              \
            }                                                                                                  \
        }                                                                                                      \
        for (int j = 0; j < T; j++) {                                                                          \
            STORE(out + j * padded, sum[j][0]);                                                                \
            STORE(out + j * padded + HALF, sum[j][1]);                                                         \
        }                                                                                                      \
    }

/* Rows a .. a + T - 1 of Q_i = core_i p for one block, and what follows from them: h . Q_i, and x_i Q_i. */
#define BACKWARD(T)                                                                                            \
    static void NAME(backward_##T)(const REAL *h, const REAL *p, const REAL *core, V x0, V x1, V *dx, REAL *back, \
                                   int right, size_t padded) {                                                 \
        V q[T][2] = {0};                                                                                       \
        for (int b = 0; b < right; b++) {                                                                      \
            V p0 = LOAD(p + b * LANES), p1 = LOAD(p + b * LANES + HALF);                                       \
            for (int a = 0; a < T; a++) {                                                                      \
                q[a][0] += p0 * core[a * (size_t)right + b];                                                   \
                q[a][1] += p1 * core[a * (size_t)right + b];                                                   \
            }                                                                                                  \
        }                                                                                                      \
        for (int a = 0; a < T; a++) {                                                                          \
            dx[0] += q[a][0] * LOAD(h + a * padded);                                                           \
            dx[1] += q[a][1] * LOAD(h + a * padded + HALF);                                                    \
            STORE(back + a * LANES, LOAD(back + a * LANES) + x0 * q[a][0]);                                    \
            STORE(back + a * LANES + HALF, LOAD(back + a * LANES + HALF) + x1 * q[a][1]);                      \
        }                                                                                                      \
    }

/* T rows and 2 HALF columns of the gradient of a core: sum over samples of t_a p_b, where t_a = x_i h_a. */
#define GRADIENT(T)                                                                                            \
    static void NAME(gradient_##T)(const REAL *t, const REAL *adjoint, REAL *gradient, int batch, int right,   \
                                   int columns, size_t padded, size_t width) {                                 \
        V sum[T][2] = {0};                                                                                     \
        for (int s = 0; s < batch; s++) {                                                                      \
            V p0 = LOAD(adjoint + s * width), p1 = LOAD(adjoint + s * width + HALF);                           \
            for (int a = 0; a < T; a++) {                                                                      \
                sum[a][0] += p0 * t[a * padded + s];                                                           \
                sum[a][1] += p1 * t[a * padded + s];                                                           \
            }                                                                                                  \
        }                                                                                                      \
        for (int a = 0; a < T; a++, gradient += right)                                                         \
            for (int half = 0, b = 0; half < 2; half++) {                                                      \
                if (columns - b >= HALF) STORE(gradient + b, LOAD(gradient + b) + sum[a][half]), b += HALF;    \
                else for (int l = 0; b < columns; l++, b++) gradient[b] += sum[a][half][l];                    \
            }                                                                                                  \
    }

FORWARD(1) FORWARD(2) FORWARD(3) FORWARD(4) FORWARD(5) FORWARD(6)
BACKWARD(1) BACKWARD(2) BACKWARD(3) BACKWARD(4) BACKWARD(5) BACKWARD(6)
GRADIENT(1) GRADIENT(2) GRADIENT(3) GRADIENT(4) GRADIENT(5) GRADIENT(6)
#define BY_TILE(name, tile, ...)                                      \
    switch (tile) {                                                   \
        case 1: NAME(name##_1)(__VA_ARGS__); break;                   \
        case 2: NAME(name##_2)(__VA_ARGS__); break;                   \
        case 3: NAME(name##_3)(__VA_ARGS__); break;                   \
        case 4: NAME(name##_4)(__VA_ARGS__); break;                   \
        case 5: NAME(name##_5)(__VA_ARGS__); break;                   \
        default: NAME(name##_6)(__VA_ARGS__);                         \
    }

/* Split a power of two off each sample's state: exact, and counted in its exponent. */
static void NAME(rescale)(const NAME(chain) *c, REAL *state, REAL *scale, int from, int to) {
    for (int s = from; s < to; s++) {
        REAL largest = 0;
        for (int a = 0; a < c->rank; a++) {
            REAL size = state[(size_t)a * c->padded + s];
            size = size < 0 ? -size : size;
            largest = size > largest ? size : largest;
        }
        int power = 0;
        if (largest > 0 && largest <= LARGEST) {
            FREXP(largest, &power);
            power = power > RANGE ? RANGE : power < -RANGE ? -RANGE : power;
        }
        scale[s] = LDEXP(1, -power);
        for (int a = 0; a < c->rank; a++) state[(size_t)a * c->padded + s] *= scale[s];
        if (s < c->batch && !c->replay) c->exponent[s] += power;
    }
}

/* The states of a share of the samples, and behind the last site the scores. */
static void NAME(forward_blocks)(void *argument, int part, int parts) {
    const NAME(chain) *c = argument;
    const int modes = c->modes, blocks = c->padded / LANES, d = c->sites;
    const int from = (int)((long)blocks * part / parts) * LANES, to = (int)((long)blocks * (part + 1) / parts) * LANES;
    const size_t padded = c->padded;
    if (from == to) return;
    REAL ones[LANES], *panel = scratch(sizeof(REAL) * TILE * (size_t)modes * c->rank);
    REAL *scores = scratch(sizeof(REAL) * c->classes * padded);
    for (int s = 0; s < LANES; s++) ones[s] = 1;
    for (int k = 0; k < d && !c->replay; k++)
        for (int s = from; s < to; s++)
            for (int i = 0; i < modes; i++)
                c->x[((size_t)k * modes + i) * padded + s] =
                    s < c->batch ? c->features[((size_t)s * d + k) * modes + i] : 0;
    for (int k = c->from_site; k < c->to_site; k++) {
        const int left = NAME(left)(c, k), right = NAME(right)(c, k);
        const REAL *core = NAME(core)(c, k), *x = c->x + (size_t)k * modes * padded;
        const REAL *h = k ? NAME(state)(c, k - 1) : NULL;
        REAL *out = k == d - 1 ? scores : NAME(state)(c, k);
        const int pack = (size_t)modes * left * right * sizeof(REAL) > PACK_FROM;
        const int tiles = tiles_of(right);
        for (int u = 0; u < tiles; u++) {
            const int j = tile_start(right, u), tile = tile_start(right, u + 1) - j;
            if (pack)
                for (int q = 0; q < modes * left; q++)
                    for (int t = 0; t < tile; t++) panel[q * (size_t)tile + t] = core[(size_t)q * right + j + t];
            for (int s = from; s < to; s += LANES)
                BY_TILE(forward, tile, x + s, h ? h + s : ones, pack ? panel : core + j, out + j * padded + s, modes,
                        left, pack ? (size_t)tile : (size_t)right, padded)
        }
        if ((k + 1) % SITES_PER_RESCALING == 0 && k < d - 1)
            NAME(rescale)(c, out, c->scales + (k + 1) / SITES_PER_RESCALING * padded - padded, from, to);
    }
    for (int s = from; s < to && s < c->batch && c->to_site == d; s++)
        for (int y = 0; y < c->classes; y++)
            c->scores[(size_t)s * c->classes + y] = LDEXP(scores[y * padded + s], c->plain ? c->exponent[s] : 0);
    free(scores);
    free(panel);
}

/* The adjoint states of a share of the samples, from the last site to the first, and the gradient of the features. */
static void NAME(backward_blocks)(void *argument, int part, int parts) {
    const NAME(chain) *c = argument;
    const int modes = c->modes, blocks = c->padded / LANES, d = c->sites;
    const int from = (int)((long)blocks * part / parts) * LANES, to = (int)((long)blocks * (part + 1) / parts) * LANES;
    const size_t padded = c->padded, widest = c->rank > c->classes ? c->rank : c->classes;
    REAL ones[LANES], *buffers = scratch(sizeof(REAL) * 2 * widest * LANES), *dx = scratch(sizeof(REAL) * modes * LANES);
    for (int s = 0; s < LANES; s++) ones[s] = 1;
    for (int s = from; s < to; s += LANES) {
        REAL *p = buffers, *back = buffers + widest * LANES;
        const int here = c->batch - s < LANES ? c->batch - s : LANES;
        for (int b = 0; b < c->rank && c->to_site < d; b++)
            for (int l = 0; l < LANES; l++) p[b * LANES + l] = c->carry[b * padded + s + l];
        for (int y = 0; y < c->classes && c->to_site == d; y++)
            for (int l = 0; l < LANES; l++)
                p[y * LANES + l] =
                    l < here ? LDEXP(c->dscores[(size_t)(s + l) * c->classes + y], c->plain ? c->exponent[s + l] : 0) : 0;
        for (int k = c->to_site - 1; k >= c->from_site; k--) {
            const int left = NAME(left)(c, k), right = NAME(right)(c, k);
            const REAL *core = NAME(core)(c, k), *x = c->x + (size_t)k * modes * padded + s;
            const REAL *h = k ? NAME(state)(c, k - 1) + s : ones;
            if ((k + 1) % SITES_PER_RESCALING == 0 && k < d - 1) {
                const REAL *scale = c->scales + (k + 1) / SITES_PER_RESCALING * padded - padded + s;
                for (int b = 0; b < right; b++)
                    for (int l = 0; l < LANES; l++) p[b * LANES + l] *= scale[l];
            }
            REAL *adjoint = c->adjoints + ((size_t)(k - c->from_site) * c->batch + s) * c->width;
            for (int l = 0; l < here; l++) {
                for (int b = 0; b < right; b++) adjoint[l * (size_t)c->width + b] = p[b * LANES + l];
                for (int b = right; b < c->width; b++) adjoint[l * (size_t)c->width + b] = 0;
            }
            memset(back, 0, sizeof(REAL) * left * LANES);
            for (int i = 0; i < modes; i++) {
                V x0 = LOAD(x + i * padded), x1 = LOAD(x + i * padded + HALF), sum[2] = {0};
                for (int u = 0; u < tiles_of(left); u++) {
                    const int a = tile_start(left, u), tile = tile_start(left, u + 1) - a;
                    BY_TILE(backward, tile, h + (k ? a * padded : 0), p, core + ((size_t)i * left + a) * right, x0, x1,
                            sum, back + a * LANES, right, padded)
                }
                STORE(dx + i * LANES, sum[0]);
                STORE(dx + i * LANES + HALF, sum[1]);
            }
            for (int l = 0; l < here; l++)
                for (int i = 0; i < modes; i++)
                    c->dfeatures[((size_t)(s + l) * d + k) * modes + i] = dx[i * LANES + l];
            REAL *swap = p;
            p = back;
            back = swap;
        }
        for (int b = 0; b < c->rank && c->from_site > 0; b++)
            for (int l = 0; l < LANES; l++) c->carry[b * padded + s + l] = p[b * LANES + l];
    }
    free(dx);
    free(buffers);
}

/* The gradients of a share of the rows of every core. The order of the sums does not depend on the number of shares. */
static void NAME(gradient_rows)(void *argument, int part, int parts) {
    const NAME(chain) *c = argument;
    const int modes = c->modes, d = c->sites;
    const size_t padded = c->padded, width = c->width;
    REAL *ones = scratch(sizeof(REAL) * padded), *t = scratch(sizeof(REAL) * TILE * padded);
    for (size_t s = 0; s < padded; s++) ones[s] = 1;
    for (int k = c->from_site; k < c->to_site; k++) {
        const int left = NAME(left)(c, k), right = NAME(right)(c, k), tiles = tiles_of(left);
        const REAL *x = c->x + (size_t)k * modes * padded, *h = k ? NAME(state)(c, k - 1) : ones;
        const REAL *adjoint = c->adjoints + (size_t)(k - c->from_site) * c->batch * width;
        REAL *gradient = k == 0 ? c->dfirst : k == d - 1 ? c->dlast : c->dinterior + NAME(core_offset)(c, k);
        const int from = (int)((long)modes * tiles * part / parts), to = (int)((long)modes * tiles * (part + 1) / parts);
        for (int unit = from; unit < to; unit++) {
            const int i = unit / tiles, a = tile_start(left, unit % tiles), tile = tile_start(left, unit % tiles + 1) - a;
            for (int row = 0; row < tile; row++)
                for (size_t s = 0; s < padded; s++) t[row * padded + s] = x[i * padded + s] * h[(a + row) * padded + s];
            for (int b = 0; b < right; b += LANES) {
                const int columns = right - b < LANES ? right - b : LANES;
                BY_TILE(gradient, tile, t, adjoint + b, gradient + ((size_t)i * left + a) * right + b, c->batch, right,
                        columns, padded, width)
            }
        }
    }
    free(t);
    free(ones);
}

static void NAME(pass)(share work, NAME(chain) *c, int from_site, int to_site, int replay) {
    c->from_site = from_site;
    c->to_site = to_site;
    c->replay = replay;
    in_parallel(work, c, c->threads);
}

void NAME(chain_forward)(NAME(chain) *c) {
    NAME(pass)(NAME(forward_blocks), c, 0, c->sites, 0);
    c->in_window = c->keep == KEEP_SEGMENTS ? (c->sites - 2) / c->segment : 0;
}

/* Site k wants the state behind site k - 1: a segment's states belong to the sites one further on. */
void NAME(chain_backward)(NAME(chain) *c) {
    const int segment = c->keep == KEEP_ALL ? c->sites : c->segment, last = (c->sites - 2) / segment;
    for (int part = last; part >= 0; part--) {
        const int first_state = part * segment, beyond = part == last ? c->sites : first_state + segment + 1;
        const int to = part == last ? c->sites - 1 : first_state + segment - 1;
        if (part != c->in_window) NAME(pass)(NAME(forward_blocks), c, first_state, to, 1);
        c->in_window = part;
        NAME(pass)(NAME(backward_blocks), c, part ? first_state + 1 : 0, beyond, 1);
        in_parallel(NAME(gradient_rows), c, c->threads);
    }
}

#undef LANES
#undef HALF
#undef V
#undef LOAD
#undef STORE
#undef FORWARD
#undef BACKWARD
#undef GRADIENT
#undef BY_TILE

/* The innermost loops, on a block: LANES samples side by side, a row of numbers for each.

   A site maps a state of length left to one of length right,
       out[b] = sum over i, a of  x[i] h[a] core[i, a, b];
   a row of x, h or out holds one number of each of `padded` samples. REAL, INTEGER, NAME(x) and the EXCHANGES of a
   square are defined by chain_kernel.c, which includes this and chain_kernel.h for each floating-point type. */

#define LANES ((int)(64 / sizeof(REAL))) /* samples of a block: two vectors */
#define V NAME(vector)
typedef REAL V __attribute__((vector_size(32), aligned(sizeof(REAL)), may_alias));
typedef INTEGER NAME(index) __attribute__((vector_size(32)));
#define HALF (LANES / 2)
#define LOAD(p) (*(const V *)(p))
#define STORE(p, v) (*(V *)(p) = (v))

/* Columns j .. j + T - 1 of a site, for one block: out[j] += sum over q of  t[q] core[q, j],  t = x (x) h.
   `row` is the distance of two rows of `core`. */
#define FORWARD(T)                                                                                              \
    static void NAME(forward_##T)(const REAL *restrict t, const REAL *restrict core, REAL *restrict out, int rows,\
                                  size_t row, size_t padded, int first) {                                       \
        V sum[T][2] = {0};                                                                                      \
        for (int j = 0; j < T && !first; j++) {                                                                 \
            sum[j][0] = LOAD(out + j * padded);                                                                 \
            sum[j][1] = LOAD(out + j * padded + HALF);                                                          \
        }                                                                                                       \
        _Pragma("GCC unroll 4")                                                                                 \
        for (int q = 0; q < rows; q++, core += row, t += LANES) {                                               \
            V t0 = LOAD(t), t1 = LOAD(t + HALF);                                                                \
            for (int j = 0; j < T; j++) {                                                                       \
                sum[j][0] += t0 * core[j];                                                                      \
                sum[j][1] += t1 * core[j];                                                                      \
            }                                                                                                   \
        }                                                                                                       \
        for (int j = 0; j < T; j++) {                                                                           \
            STORE(out + j * padded, sum[j][0]);                                                                 \
            STORE(out + j * padded + HALF, sum[j][1]);                                                          \
        }                                                                                                       \
    }

/* Rows a .. a + T - 1 of Q_i = core_i p for one block, and what follows from them: h . Q_i, and x_i Q_i. */
#define BACKWARD(T)                                                                                             \
    static void NAME(backward_##T)(const REAL *restrict h, const REAL *restrict p, const REAL *restrict core,   \
                                   V x0, V x1, V *restrict dx, REAL *restrict back, int right, size_t padded) { \
        V q[T][2] = {0};                                                                                        \
        for (int b = 0; b < right; b++) {                                                                       \
            V p0 = LOAD(p + b * LANES), p1 = LOAD(p + b * LANES + HALF);                                        \
            for (int a = 0; a < T; a++) {                                                                       \
                q[a][0] += p0 * core[a * (size_t)right + b];                                                    \
                q[a][1] += p1 * core[a * (size_t)right + b];                                                    \
            }                                                                                                   \
        }                                                                                                       \
        V dx0 = dx[0], dx1 = dx[1];                                                                             \
        for (int a = 0; a < T; a++) {                                                                           \
            dx0 += q[a][0] * LOAD(h + a * padded);                                                              \
            dx1 += q[a][1] * LOAD(h + a * padded + HALF);                                                       \
            STORE(back + a * LANES, LOAD(back + a * LANES) + x0 * q[a][0]);                                     \
            STORE(back + a * LANES + HALF, LOAD(back + a * LANES + HALF) + x1 * q[a][1]);                       \
        }                                                                                                       \
        dx[0] = dx0, dx[1] = dx1;                                                                               \
    }

/* T rows and 2 HALF columns of the gradient of a core: sum over samples of t_a p_b, where t_a = x_i h_a; `add`: to what
   is there already. */
#define GRADIENT(T)                                                                                             \
    static void NAME(gradient_##T)(const REAL *t, const REAL *adjoint, REAL *gradient, int batch, int right,    \
                                   int columns, size_t padded, size_t width, int add) {                         \
        V sum[T][2] = {0}, none = {0};                                                                          \
        _Pragma("GCC unroll 4")                                                                                 \
        for (int s = 0; s < batch; s++) {                                                                       \
            V p0 = LOAD(adjoint + s * width), p1 = LOAD(adjoint + s * width + HALF);                            \
            for (int a = 0; a < T; a++) {                                                                       \
                sum[a][0] += p0 * t[a * padded + s];                                                            \
                sum[a][1] += p1 * t[a * padded + s];                                                            \
            }                                                                                                   \
        }                                                                                                       \
        for (int a = 0; a < T; a++, gradient += right)                                                          \
            for (int half = 0, b = 0; half < 2; half++) {                                                       \
                if (columns - b >= HALF)                                                                        \
                    STORE(gradient + b, (add ? LOAD(gradient + b) : none) + sum[a][half]), b += HALF;           \
                else for (int l = 0; b < columns; l++, b++)                                                     \
                    gradient[b] = (add ? gradient[b] : 0) + sum[a][half][l];                                    \
            }                                                                                                   \
    }

FORWARD(1) FORWARD(2) FORWARD(3) FORWARD(4) FORWARD(5) FORWARD(6)
BACKWARD(1) BACKWARD(2) BACKWARD(3) BACKWARD(4) BACKWARD(5) BACKWARD(6)
GRADIENT(1) GRADIENT(2) GRADIENT(3) GRADIENT(4) GRADIENT(5) GRADIENT(6)
#define BY_TILE(name, tile, ...)                                                                                \
    switch (tile) {                                                                                             \
        case 1: NAME(name##_1)(__VA_ARGS__); break;                                                             \
        case 2: NAME(name##_2)(__VA_ARGS__); break;                                                             \
        case 3: NAME(name##_3)(__VA_ARGS__); break;                                                             \
        case 4: NAME(name##_4)(__VA_ARGS__); break;                                                             \
        case 5: NAME(name##_5)(__VA_ARGS__); break;                                                             \
        default: NAME(name##_6)(__VA_ARGS__);                                                                   \
    }

/* The rows x_i h_a of one block, one behind the other. */
static void NAME(joint)(const REAL *restrict x, const REAL *restrict h, REAL *restrict t, int modes, int left,
                        size_t padded) {
    for (int i = 0; i < modes; i++) {
        V x0 = LOAD(x + i * padded), x1 = LOAD(x + i * padded + HALF);
        for (int a = 0; a < left; a++, t += LANES) {
            STORE(t, x0 * LOAD(h + a * padded));
            STORE(t + HALF, x1 * LOAD(h + a * padded + HALF));
        }
    }
}

/* out[j, i] = in[i, j], in squares of a vector's width where they fit. In a square (Eklundh 1972), blocks of m x m on
   either side of the diagonal change places, for m = 1, 2, ... */
#define EXCHANGE(m, upper, lower)                                                                               \
    for (int k = 0; k < HALF; k++)                                                                              \
        if (!(k & m)) {                                                                                         \
            const V a = square[k], b = square[k + m];                                                           \
            square[k] = PICK(a, b, NAME(index), upper);                                                         \
            square[k + m] = PICK(a, b, NAME(index), lower);                                                     \
        }
static void NAME(transpose)(const REAL *restrict in, size_t in_row, REAL *restrict out, size_t out_row, int rows,
                            int columns) {
    const int squares = rows - rows % HALF;
    for (int j = 0; j + HALF <= columns; j += HALF)
        for (int i = 0; i < squares; i += HALF) {
            V square[HALF];
            for (int k = 0; k < HALF; k++) square[k] = LOAD(in + (i + k) * in_row + j);
            EXCHANGES
            for (int k = 0; k < HALF; k++) STORE(out + (j + k) * out_row + i, square[k]);
        }
    for (int j = 0; j < columns; j++)
        for (int i = j < columns - columns % HALF ? squares : 0; i < rows; i++) out[j * out_row + i] = in[i * in_row + j];
}

/* The samples `from` .. `to` through a site: out = sum over i, a of  x[i] h[a] core[i, a, :].  No h: one row of ones.
   `panel` has room for ROWS rows of a block, or for `left` if that is more. */
static void NAME(site)(const REAL *x, const REAL *h, const REAL *core, REAL *out, int modes, int left, int right,
                       size_t padded, int from, int to, REAL *panel) {
    const int tiles = tiles_of(right), at_once = left < ROWS ? ROWS / left : 1;
    REAL ones[LANES];
    for (int s = 0; s < LANES; s++) ones[s] = 1;
    for (int i = 0; i < modes; i += at_once)
        for (int s = from; s < to; s += LANES) {
            const int here = modes - i < at_once ? modes - i : at_once;
            NAME(joint)(x + i * padded + s, h ? h + s : ones, panel, here, left, padded);
            for (int u = 0; u < tiles; u++) {
                const int j = tile_start(right, u), tile = tile_start(right, u + 1) - j;
                BY_TILE(forward, tile, panel, core + (size_t)i * left * right + j, out + j * padded + s, here * left,
                        right, padded, i == 0)
            }
        }
}

/* The features of a site for one block, a row for each feature; 0 beyond the last sample. */
static void NAME(gather)(const REAL *features, size_t row, REAL *x, size_t padded, int modes, int here) {
    NAME(transpose)(features, row, x, padded, here, modes);
    for (int i = 0; i < modes; i++)
        for (int l = here; l < LANES; l++) x[i * padded + l] = 0;
}

/* The other way: dx, block by block, to the features of the samples `from` .. `to`. */
static void NAME(scatter)(const REAL *dx, REAL *dfeatures, size_t row, int modes, int batch, int from, int to) {
    for (int s = from; s < to; s += LANES, dx += (size_t)modes * LANES)
        NAME(transpose)(dx, LANES, dfeatures + s * row, row, modes, batch - s < LANES ? batch - s : LANES);
}

/* size numbers times 2^power, each rounded once. */
static void NAME(scale)(REAL *restrict numbers, int size, int power) {
    if (power == 0) return;
    if (power >= -RANGE && power <= RANGE) {
        const REAL scale = LDEXP(1, power);
        for (int i = 0; i < size; i++) numbers[i] *= scale;
    } else
        for (int i = 0; i < size; i++) numbers[i] = LDEXP(numbers[i], power);
}

/* The way back through a site for the samples `from` .. `to`, from p, the adjoint of `out`:
       dx[i] = sum over a, b of  h[a] core[i, a, b] p[b],     back[a] = sum over i, b of  x[i] core[i, a, b] p[b].
   p, dx and back have the rows of one block behind the other. No x, no h: one row of ones. The slices of the core that
   fit the cache serve all blocks, one after the other. */
static void NAME(site_back)(const REAL *x, const REAL *h, const REAL *core, const REAL *p, REAL *dx, REAL *back,
                            int modes, int left, int right, size_t padded, int from, int to) {
    const int slice = left * right, at_once = slice < NUMBERS_AT_ONCE ? NUMBERS_AT_ONCE / slice : 1;
    REAL ones[LANES];
    for (int s = 0; s < LANES; s++) ones[s] = 1;
    memset(back, 0, sizeof(REAL) * left * (to - from));
    for (int first = 0; first < modes; first += at_once)
        for (int s = from; s < to; s += LANES) {
            const size_t block = s - from;
            for (int i = first; i < first + at_once && i < modes; i++) {
                const REAL *row = x ? x + i * padded + s : ones;
                V x0 = LOAD(row), x1 = LOAD(row + HALF), sum[2] = {0};
                for (int u = 0; u < tiles_of(left); u++) {
                    const int a = tile_start(left, u), tile = tile_start(left, u + 1) - a;
                    BY_TILE(backward, tile, h ? h + a * padded + s : ones, p + block * right,
                            core + ((size_t)i * left + a) * right, x0, x1, sum, back + block * left + a * LANES, right,
                            padded)
                }
                STORE(dx + block * modes + i * LANES, sum[0]);
                STORE(dx + block * modes + i * LANES + HALF, sum[1]);
            }
        }
}

/* The adjoint p of `out` times the scale of each sample, if there is one; beside it transposed, a row for each sample. */
static void NAME(scale_back)(REAL *p, const REAL *scale, REAL *adjoint, size_t width, int right, int batch, int from,
                             int to) {
    for (int s = from; s < to; s += LANES, p += (size_t)right * LANES) {
        for (int b = 0; b < right && scale; b++)
            for (int l = 0; l < LANES; l++) p[b * LANES + l] *= scale[s + l];
        NAME(transpose)(p, LANES, adjoint + s * width, width, right, batch - s < LANES ? batch - s : LANES);
    }
}

/* The adjoint of the scores of the samples `from` .. `to`, block by block, times 2^exponent if there is one. */
static void NAME(start_back)(const REAL *dscores, const int32_t *exponent, REAL *p, int classes, int batch, int from,
                             int to) {
    REAL *row = scratch(sizeof(REAL) * classes);
    for (int s = from; s < to; s++) {
        memset(row, 0, sizeof(REAL) * classes);
        if (s < batch) memcpy(row, dscores + (size_t)s * classes, sizeof(REAL) * classes);
        if (s < batch && exponent) NAME(scale)(row, classes, exponent[s]);
        const size_t block = (s - from) / LANES * LANES, lane = (s - from) % LANES;
        for (int y = 0; y < classes; y++) p[block * classes + y * LANES + lane] = row[y];
    }
    free(row);
}

/* The gradient of a share of the rows of a core, from the transposed adjoints; `rows` has room for TILE rows. The order
   of the sums does not depend on the number of shares. */
static void NAME(site_gradient)(const REAL *x, const REAL *h, const REAL *adjoint, REAL *gradient, int modes, int left,
                                int right, int batch, size_t padded, size_t width, int add, int part, int parts,
                                REAL *rows) {
    const int tiles = tiles_of(left);
    const int from = (int)((long)modes * tiles * part / parts), to = (int)((long)modes * tiles * (part + 1) / parts);
    for (int unit = from; unit < to; unit++) {
        const int i = unit / tiles, a = tile_start(left, unit % tiles), tile = tile_start(left, unit % tiles + 1) - a;
        for (int row = 0; row < tile; row++)
            for (size_t s = 0; s < padded; s++) rows[row * padded + s] = x[i * padded + s] * h[(a + row) * padded + s];
        for (int b = 0; b < right; b += LANES) {
            const int columns = right - b < LANES ? right - b : LANES;
            BY_TILE(gradient, tile, rows, adjoint + b, gradient + ((size_t)i * left + a) * right + b, batch, right,
                    columns, padded, width, add)
        }
    }
}

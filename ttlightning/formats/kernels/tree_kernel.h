/* The contraction of a binary tree (hierarchical Tucker), in terms of the loops of chain_blocks.h.

   A node is a site whose x and h are the states of its two children,
       out[c] = sum over a, b of  left[a] right[b] node[a, b, c],
   a leaf is one with x = 1 and h = the features. Level 0 has the leaves, the last one the root; level l has
   sites >> l positions. A position follows its children as soon as they are there, so that their states are still in the
   cache: behind leaf p come the positions p >> l of the levels l = 1, ..., as long as p >> (l - 1) is odd. */

typedef struct {
    int threads, sites, batch, padded, modes, rank, classes, width; /* width: row of an adjoint, padded */
    int levels, shared, keep, plain; /* keep: all states; shared: one core for all positions of a level */
    const REAL *features, *cores[MOST_LEVELS];
    REAL *x, *h, *scales, *adjoints; /* (sites, modes, padded) (., rank, padded) (., padded) (., batch, width) */
    int32_t *exponent;
    REAL *scores;
    const REAL *dscores;
    REAL *dfeatures, *dcores[MOST_LEVELS];
} NAME(tree);

/* One position as a site of a chain. */
typedef struct { int modes, left, right, index; size_t core; } NAME(position);

static NAME(position) NAME(at)(const NAME(tree) *t, int level, int place) {
    NAME(position) p = {level ? t->rank : 1, level ? t->rank : t->modes, t->rank, 0, 0};
    if (level == t->levels - 1) p.right = t->classes;
    p.index = 2 * (t->sites - (t->sites >> level)) + place; /* positions of the levels below, and those before it */
    p.core = t->shared ? 0 : (size_t)place * p.modes * p.left * p.right;
    return p;
}

/* The highest level whose position follows leaf `leaf`. */
static int NAME(top)(int leaf) {
    int level = 0;
    while (leaf >> level & 1) level++;
    return level;
}

/* Split a power of two off the state of each sample of a block: its largest magnitude comes into [1/2, 1), as far as a
   power of two in range brings it there. The exponents are read from the bits, and added to `total`. */
static void NAME(split_off)(REAL *state, int rows, size_t padded, REAL *scale, INTEGER *total) {
    for (int half = 0; half < LANES; half += HALF) {
        V most = {0};
        for (int a = 0; a < rows; a++) most = NAME(larger)(most, LOAD(state + a * padded + half));
        NAME(index) power = (NAME(index))most >> FRACTION;
        const NAME(index) small = power < 1, large = power > 2 * RANGE;
        power = (power & ~(small | large)) | (small & 1) | (large & (2 * RANGE));
        const V factor = (V)((2 * RANGE + 1 - power) << FRACTION);
        STORE(scale + half, factor);
        for (int l = 0; l < HALF; l++) total[half + l] += power[l] - RANGE;
        for (int a = 0; a < rows; a++) STORE(state + a * padded + half, LOAD(state + a * padded + half) * factor);
    }
}

/* The states and scores of a share of the samples. Without `keep`, in groups of samples, with two states a level. */
static void NAME(tree_up)(void *argument, int part, int parts) {
    const NAME(tree) *t = argument;
    const int blocks = t->padded / LANES, last = t->levels - 1, most = t->rank > t->modes ? t->rank : t->modes;
    const int from = (int)((long)blocks * part / parts) * LANES, to = (int)((long)blocks * (part + 1) / parts) * LANES;
    const int share = to - from, group = t->keep || share < SAMPLES_AT_ONCE ? share : SAMPLES_AT_ONCE;
    if (!share) return;
    const size_t padded = t->keep ? (size_t)t->padded : (size_t)group, size = t->rank * padded;
    REAL *panel = scratch(sizeof(REAL) * LANES * (most > ROWS ? most : ROWS));
    REAL *ones = scratch(sizeof(REAL) * (padded + t->classes * padded)), *scores = ones + padded;
    REAL *own = t->keep ? NULL : scratch(sizeof(REAL) * (t->modes * padded + 2 * last * size + padded));
    INTEGER *total = scratch(sizeof(INTEGER) * padded);
    for (size_t s = 0; s < padded; s++) ones[s] = 1;
    for (int start = from; start < to; start += group) {
        const int end = to - start < group ? to : start + group, origin = t->keep ? 0 : start;
        memset(total, 0, sizeof(INTEGER) * padded);
        for (int leaf = 0; leaf < t->sites; leaf++)
            for (int level = 0; level <= NAME(top)(leaf); level++) {
                const int place = leaf >> level;
                const NAME(position) p = NAME(at)(t, level, place);
                REAL *x = t->keep ? t->x + leaf * t->modes * padded : own, *states = own + t->modes * padded;
                REAL *children[2] = {ones, x}, *out = scores;
                for (int side = 0; side < 2 && level; side++)
                    children[side] = t->keep ? t->h + (NAME(at)(t, level - 1, 2 * place + side).index) * size
                                             : states + (2 * (level - 1) + side) * size;
                if (level < last) out = t->keep ? t->h + p.index * size : states + (2 * level + (place & 1)) * size;
                for (int s = start; s < end && !level; s += LANES)
                    NAME(gather)(t->features + ((size_t)s * t->sites + leaf) * t->modes, (size_t)t->sites * t->modes,
                                 x + s - origin, padded, t->modes, t->batch - s < LANES ? t->batch - s : LANES);
                NAME(site)(children[0], children[1], t->cores[level] + p.core, out, p.modes, p.left, p.right, padded,
                           start - origin, end - origin, panel);
                REAL *scale = t->keep ? t->scales + p.index * padded : states + 2 * last * size;
                for (int s = start - origin; s < end - origin && level < last; s += LANES)
                    NAME(split_off)(out + s, p.right, padded, scale + s, total + s);
            }
        for (int s = start; s < end && s < t->batch; s++) {
            REAL *row = t->scores + (size_t)s * t->classes;
            t->exponent[s] = (int32_t)total[s - origin];
            for (int y = 0; y < t->classes; y++) row[y] = scores[y * padded + s - origin];
            if (t->plain) NAME(scale)(row, t->classes, t->exponent[s]);
        }
    }
    free(total);
    free(own);
    free(ones);
    free(panel);
}

/* The adjoint states of a share of the samples, from the root to the leaves, and the gradient of the features. A level
   has room for those of a left and of a right child, block by block. */
static void NAME(tree_down)(void *argument, int part, int parts) {
    const NAME(tree) *t = argument;
    const int blocks = t->padded / LANES, last = t->levels - 1;
    const int from = (int)((long)blocks * part / parts) * LANES, to = (int)((long)blocks * (part + 1) / parts) * LANES;
    const size_t padded = t->padded, size = t->rank * padded, share = to - from, slot = share * t->rank;
    if (!share) return;
    REAL *packed = scratch(sizeof(REAL) * (2 * last * slot + t->classes * share)), *root = packed + 2 * last * slot;
    REAL *back = scratch(sizeof(REAL) * t->modes * LANES), *row = scratch(sizeof(REAL) * t->classes);
    for (int s = from; s < to; s++) {
        memset(row, 0, sizeof(REAL) * t->classes);
        if (s < t->batch) memcpy(row, t->dscores + (size_t)s * t->classes, sizeof(REAL) * t->classes);
        if (s < t->batch && t->plain) NAME(scale)(row, t->classes, t->exponent[s]);
        const size_t block = (s - from) / LANES * LANES, lane = (s - from) % LANES;
        for (int y = 0; y < t->classes; y++) root[block * t->classes + y * LANES + lane] = row[y];
    }
    for (int leaf = t->sites - 1; leaf >= 0; leaf--)
        for (int level = NAME(top)(leaf); level >= 0; level--) {
            const int place = leaf >> level;
            const NAME(position) p = NAME(at)(t, level, place);
            const REAL *core = t->cores[level] + p.core, *scale = t->scales + p.index * padded;
            REAL *adjoint = level == last ? root : packed + (2 * level + (place & 1)) * slot;
            for (int s = from; s < to; s += LANES) {
                REAL *own = adjoint + (size_t)(s - from) * p.right;
                for (int c = 0; c < p.right && level < last; c++)
                    for (int l = 0; l < LANES; l++) own[c * LANES + l] *= scale[s + l];
                NAME(transpose)(own, LANES, t->adjoints + (p.index * (size_t)t->batch + s) * t->width, t->width, p.right,
                                t->batch - s < LANES ? t->batch - s : LANES);
            }
            const REAL *left = level ? t->h + NAME(at)(t, level - 1, 2 * place).index * size : NULL;
            const REAL *right = level ? left + size : t->x + (size_t)leaf * t->modes * padded;
            REAL *below = level ? packed + 2 * (level - 1) * slot : NULL;
            if (level) memset(below + slot, 0, sizeof(REAL) * slot);
            const int slice = p.left * p.right, at_once = slice < NUMBERS_AT_ONCE ? NUMBERS_AT_ONCE / slice : 1;
            for (int i = 0; i < p.modes; i += at_once)
                for (int s = from; s < to; s += LANES) {
                    const REAL *own = adjoint + (size_t)(s - from) * p.right;
                    REAL *other = level ? below + slot + (size_t)(s - from) * t->rank : back;
                    if (!level) memset(back, 0, sizeof(REAL) * t->modes * LANES);
                    for (int j = i; j < i + at_once && j < p.modes; j++) {
                        V zero = {0}, x0 = zero + 1, x1 = zero + 1, sum[2] = {0};
                        if (level) x0 = LOAD(left + j * padded + s), x1 = LOAD(left + j * padded + s + HALF);
                        for (int u = 0; u < tiles_of(p.left); u++) {
                            const int a = tile_start(p.left, u), tile = tile_start(p.left, u + 1) - a;
                            BY_TILE(backward, tile, right + a * padded + s, own, core + ((size_t)j * p.left + a) * p.right,
                                    x0, x1, sum, other + a * LANES, p.right, padded)
                        }
                        if (!level) continue;
                        REAL *dleft = below + (size_t)(s - from) * t->rank + j * LANES;
                        STORE(dleft, sum[0]);
                        STORE(dleft + HALF, sum[1]);
                    }
                    if (!level)
                        NAME(transpose)(back, LANES, t->dfeatures + ((size_t)s * t->sites + leaf) * t->modes,
                                        (size_t)t->sites * t->modes, t->modes, t->batch - s < LANES ? t->batch - s : LANES);
                }
        }
    free(row);
    free(back);
    free(packed);
}

/* The gradients of a share of the rows of every core. The order of the sums does not depend on the number of shares. */
static void NAME(tree_gradients)(void *argument, int part, int parts) {
    const NAME(tree) *t = argument;
    const size_t padded = t->padded, size = t->rank * padded;
    REAL *ones = scratch(sizeof(REAL) * padded), *rows = scratch(sizeof(REAL) * TILE * padded);
    for (size_t s = 0; s < padded; s++) ones[s] = 1;
    for (int level = 0; level < t->levels; level++)
        for (int place = 0; place < t->sites >> level; place++) {
            const NAME(position) p = NAME(at)(t, level, place);
            const int tiles = tiles_of(p.left);
            const REAL *x = level ? t->h + NAME(at)(t, level - 1, 2 * place).index * size : ones;
            const REAL *h = level ? x + size : t->x + (size_t)place * t->modes * padded;
            const REAL *adjoint = t->adjoints + p.index * (size_t)t->batch * t->width;
            const int from = (int)((long)p.modes * tiles * part / parts);
            const int to = (int)((long)p.modes * tiles * (part + 1) / parts);
            for (int unit = from; unit < to; unit++) {
                const int i = unit / tiles, a = tile_start(p.left, unit % tiles);
                const int tile = tile_start(p.left, unit % tiles + 1) - a;
                REAL *gradient = t->dcores[level] + p.core + ((size_t)i * p.left + a) * p.right;
                for (int r = 0; r < tile; r++)
                    for (size_t s = 0; s < padded; s++) rows[r * padded + s] = x[i * padded + s] * h[(a + r) * padded + s];
                for (int b = 0; b < p.right; b += LANES) {
                    const int columns = p.right - b < LANES ? p.right - b : LANES;
                    BY_TILE(gradient, tile, rows, adjoint + b, gradient + b, t->batch, p.right, columns, padded, t->width,
                            t->shared && place)
                }
            }
        }
    free(rows);
    free(ones);
}

void NAME(tree_forward)(NAME(tree) *t) { in_parallel(NAME(tree_up), t, t->threads); }

void NAME(tree_backward)(NAME(tree) *t) {
    in_parallel(NAME(tree_down), t, t->threads);
    in_parallel(NAME(tree_gradients), t, t->threads);
}

#undef LANES
#undef HALF
#undef V
#undef LOAD
#undef STORE
#undef FORWARD
#undef BACKWARD
#undef GRADIENT
#undef EXCHANGE
#undef BY_TILE

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
    const int widest = t->rank > t->modes ? t->rank : t->modes;
    REAL *packed = scratch(sizeof(REAL) * (2 * last * slot + share * (t->classes + 1 + widest)));
    REAL *root = packed + 2 * last * slot, *single = root + share * t->classes, *back = single + share;
    NAME(start_back)(t->dscores, t->plain ? t->exponent : NULL, root, t->classes, t->batch, from, to);
    for (int leaf = t->sites - 1; leaf >= 0; leaf--)
        for (int level = NAME(top)(leaf); level >= 0; level--) {
            const int place = leaf >> level;
            const NAME(position) p = NAME(at)(t, level, place);
            REAL *adjoint = level == last ? root : packed + (2 * level + (place & 1)) * slot;
            NAME(scale_back)(adjoint, level == last ? NULL : t->scales + p.index * padded,
                             t->adjoints + p.index * (size_t)t->batch * t->width, t->width, p.right, t->batch, from, to);
            const REAL *left = level ? t->h + NAME(at)(t, level - 1, 2 * place).index * size : NULL;
            const REAL *right = level ? left + size : t->x + (size_t)leaf * t->modes * padded;
            REAL *below = packed + 2 * (level - 1) * slot;
            NAME(site_back)(left, right, t->cores[level] + p.core, adjoint, level ? below : single,
                            level ? below + slot : back, p.modes, p.left, p.right, padded, from, to);
            if (!level)
                NAME(scatter)(back, t->dfeatures + (size_t)leaf * t->modes, (size_t)t->sites * t->modes, t->modes, t->batch,
                              from, to);
        }
    free(packed);
}

/* The gradients of a share of the rows of every core. */
static void NAME(tree_gradients)(void *argument, int part, int parts) {
    const NAME(tree) *t = argument;
    const size_t padded = t->padded, size = t->rank * padded;
    REAL *ones = scratch(sizeof(REAL) * (1 + TILE) * padded), *rows = ones + padded;
    for (size_t s = 0; s < padded; s++) ones[s] = 1;
    for (int level = 0; level < t->levels; level++)
        for (int place = 0; place < t->sites >> level; place++) {
            const NAME(position) p = NAME(at)(t, level, place);
            const REAL *left = level ? t->h + NAME(at)(t, level - 1, 2 * place).index * size : ones;
            const REAL *right = level ? left + size : t->x + (size_t)place * t->modes * padded;
            NAME(site_gradient)(left, right, t->adjoints + p.index * (size_t)t->batch * t->width, t->dcores[level] + p.core,
                                p.modes, p.left, p.right, t->batch, padded, t->width, t->shared && place, part, parts, rows);
        }
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

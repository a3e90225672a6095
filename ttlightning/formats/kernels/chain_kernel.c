/* The chain of a tensor train and the binary tree of hierarchical Tucker, forwards and backwards, on the vector units of
   a CPU. See dispatch.py and tree.py.

   Compiled on first use (native.py). Plain C with the vector types of GCC and Clang, POSIX threads, nothing else. */

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || __FINITE_MATH_ONLY__ + 0
#error this compiler breaks the rules of floating-point arithmetic (-ffast-math): sums, NaN and inf would be wrong
#endif

enum { TILE = 6, ROWS = 64, SITES_PER_RESCALING = 8, MOST_THREADS = 64 };
enum { MOST_LEVELS = 32, SAMPLES_AT_ONCE = 256, NUMBERS_AT_ONCE = 4096 };
enum { KEEP_TWO, KEEP_ALL, KEEP_SEGMENTS };

/* Rows or columns are processed in tiles of nearly equal size, at most TILE. */
static int tiles_of(int size) { return (size + TILE - 1) / TILE; }
static int tile_start(int size, int tile) { return (int)((long)size * tile / tiles_of(size)); }

/* Temporary memory of a thread's share; the process ends if there is none. */
static void *scratch(size_t bytes) {
    void *found = malloc(bytes ? bytes : 1);
    if (!found) {
        fputs("ttlightning: out of memory in the chain kernel\n", stderr);
        abort();
    }
    return found;
}

typedef void (*share)(void *argument, int part, int parts);
#ifdef _OPENMP
const int chain_has_openmp = 1;

/* Run work(argument, 0 .. parts - 1, parts) in parallel, on the threads that torch has already. */
static void in_parallel(share work, void *argument, int parts) {
    if (parts == 1) {
        work(argument, 0, 1);
        return;
    }
#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int part = 0; part < parts; part++) work(argument, part, parts);
}

#else
const int chain_has_openmp = 0;

typedef struct { share work; void *argument; int part, parts; } errand;

static void *run(void *given) {
    errand *e = given;
    e->work(e->argument, e->part, e->parts);
    return NULL;
}

/* The same without OpenMP; a part whose thread cannot be started runs here. */
static void in_parallel(share work, void *argument, int parts) {
    pthread_t threads[MOST_THREADS];
    errand errands[MOST_THREADS];
    int started[MOST_THREADS];
    if (parts > MOST_THREADS) parts = MOST_THREADS;
    for (int part = 1; part < parts; part++) {
        errands[part] = (errand){work, argument, part, parts};
        started[part] = pthread_create(&threads[part], NULL, run, &errands[part]) == 0;
    }
    work(argument, 0, parts);
    for (int part = 1; part < parts; part++) {
        if (started[part]) pthread_join(threads[part], NULL);
        else work(argument, part, parts);
    }
}

#endif

/* Lanes of two vectors, chosen by numbers that are known here. */
#define LIST(...) __VA_ARGS__
#ifdef __clang__
#define PICK(a, b, index, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, index, ...) __builtin_shuffle(a, b, (index){__VA_ARGS__})
#endif

#define REAL float
#define INTEGER int32_t
#define EXCHANGES                                                                        \
    EXCHANGE(1, LIST(0, 8, 2, 10, 4, 12, 6, 14), LIST(1, 9, 3, 11, 5, 13, 7, 15))        \
    EXCHANGE(2, LIST(0, 1, 8, 9, 4, 5, 12, 13), LIST(2, 3, 10, 11, 6, 7, 14, 15))        \
    EXCHANGE(4, LIST(0, 1, 2, 3, 8, 9, 10, 11), LIST(4, 5, 6, 7, 12, 13, 14, 15))
#define NAME(x) x##_float32
#define FRACTION 23
#define FREXP frexpf
#define LDEXP ldexpf
#define LARGEST FLT_MAX
#define RANGE 126
#include "chain_blocks.h"
#include "chain_kernel.h"
#include "tree_kernel.h"
#undef REAL
#undef INTEGER
#undef EXCHANGES
#undef NAME
#undef FRACTION
#undef FREXP
#undef LDEXP
#undef LARGEST
#undef RANGE

#define REAL double
#define INTEGER int64_t
#define EXCHANGES                                        \
    EXCHANGE(1, LIST(0, 4, 2, 6), LIST(1, 5, 3, 7))      \
    EXCHANGE(2, LIST(0, 1, 4, 5), LIST(2, 3, 6, 7))
#define NAME(x) x##_float64
#define FRACTION 52
#define FREXP frexp
#define LDEXP ldexp
#define LARGEST DBL_MAX
#define RANGE 1022
#include "chain_blocks.h"
#include "chain_kernel.h"
#include "tree_kernel.h"

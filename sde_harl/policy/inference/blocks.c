/* The parts of a net beside its large matrix products: the Python module sde_harl.policy.inference._blocks.
 *
 *     activate    y = norm(relu(x + bias)), with norm(r) = (r - mean r) / sqrt(var r + eps) over a row, or norm(r) = r
 *     gradients   the gradients of that
 *     relu_gradients    the gradients of relu alone, of some of the rows
 *     outputs     the last layer of a net with few outputs, y = x w + bias, and output_gradients its gradients
 *     normalise   the normalisation of observations, at the beginning of a net
 *     choose      the sampling of actions, at its end
 *     flush_denormals    for acting without torch, which does it at rank 0
 *
 * Each is one pass over memory, where numpy and torch make a pass for every operation. x has (n, B, W) numbers: n
 * agents, B rows, W width. bias has (k, 1, W), with k = n, or k = 1 where all agents share it.
 *
 * x, y and their gradients are float32, or bfloat16 in 16-bit integers: the upper half of a float32. All is computed in
 * float32, and rounded where it is stored.
 *
 * A sum over a row is LANES partial sums, which are added up in a fixed order, and the compiler may not contract a
 * product and a sum into one fused operation. So every machine computes the same bits, whatever its vector
 * instructions are. The exceptions are expf and logf in `choose`, which are the C library's.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16, STATS = 2, TOGETHER = 4 /* outputs whose products share a pass over a row */ };
#define EXPONENT 0x7f800000u
#define SIGN 0x80000000u
#define NEVER -1e30f /* the logit of an unavailable choice; finite, so that nothing becomes NaN */

typedef struct {
    Py_ssize_t sets, rows, width; /* sets of parameters in bias; rows of x for each set; W */
} Shape;

/* Number i of an array of bfloat16 where `half`, of float32 else. */
INLINE float get_one(const void *values, Py_ssize_t i, int half) {
    if (!half)
        return ((const float *)values)[i];
    const uint32_t word = (uint32_t)((const uint16_t *)values)[i] << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

/* Rounds to the nearest bfloat16, of two to the even one. A NaN stays NaN: rounding could make it infinite. A denormal
 * number becomes 0, as in the processors' own instruction. */
INLINE void set_one(void *values, Py_ssize_t i, float value, int half) {
    if (!half) {
        ((float *)values)[i] = value;
        return;
    }
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    if (!(word & EXPONENT))
        word &= SIGN;
    word = value == value ? word + 0x7fff + (word >> 16 & 1) : word | 1 << 22;
    ((uint16_t *)values)[i] = (uint16_t)(word >> 16);
}

INLINE float rounded(float value) {
    uint16_t stored;
    set_one(&stored, 0, value, 1);
    return get_one(&stored, 0, 1);
}

/* The passes over rows, with vectors of one size; block_rows.h describes them. */
typedef struct {
    void (*forward)(Shape shape, void *x, const float *bias, int norm, float eps, float *stats, int half);
    void (*backward)(Shape shape, void *dy, const void *y, const float *stats, float *db, int half);
    void (*relu_gradients)(Shape shape, void *dx, const void *y, const int32_t *rows, int half);
    void (*outputs)(Shape shape, Py_ssize_t outputs, const void *x, const float *w, const float *bias, float *y,
                    int half);
    void (*output_gradients)(Shape shape, Py_ssize_t outputs, const float *dy, const void *x, const float *w, void *dx,
                             float *dw, float *db, int half);
    void (*normalise)(Shape shape, const float *x, const int32_t *sizes, float eps, float *y);
} Passes;

#define PASTED(name, floats) name##_##floats
#define NAMED(name, floats) PASTED(name, floats)
#define NAME(name) NAMED(name, FLOATS)

/* Every processor has vectors of 4 numbers. Most of the passes wait for memory in float32, and wider ones gain little. In
 * bfloat16 they compute. Those of 16 numbers are for processors that round to bfloat16 in one instruction. */
#define FLOATS 4
#include "block_rows.h"
#undef FLOATS
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
#define WIDER
#pragma GCC push_options
#pragma GCC target("avx2")
#define FLOATS 8
#include "block_rows.h"
#undef FLOATS
#pragma GCC pop_options
#if __GNUC__ >= 10
#define WIDEST
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bf16")
#define FLOATS 16
#include "block_rows.h"
#undef FLOATS
#pragma GCC pop_options
#endif
#endif

static const Passes *passes = &passes_4;

/* Has the passes use vectors of so many numbers; returns 0 where the processor has none. */
static int use_vectors(long floats) {
    const Passes *found = floats == 4 ? &passes_4 : NULL;
#ifdef WIDER
    __builtin_cpu_init();
    if (floats == 8 && __builtin_cpu_supports("avx2"))
        found = &passes_8;
#endif
#ifdef WIDEST
    if (floats == 16 && __builtin_cpu_supports("avx512bf16"))
        found = &passes_16;
#endif
    if (found)
        passes = found;
    return found != NULL;
}

/* Chooses for each row of outputs (rows, A) in each of the branches between `edges`: the action's index in its branch,
 * and its log-probability. `race` holds an X ~ Exp(1) for each output: the largest p / X is that of a with probability
 * p_a. Where race is NULL, the most likely one is chosen. The largest logit is subtracted before expf, which would
 * overflow. */
static void choose_rows(Py_ssize_t rows, Py_ssize_t branches, const int32_t *edges, const float *outputs,
                        const uint8_t *available, const float *race, int32_t *actions, float *log_probs) {
    const Py_ssize_t width = edges[branches];
    for (Py_ssize_t row = 0; row < rows; row++) {
        for (Py_ssize_t k = 0; k < branches; k++) {
            float most = NEVER, sum = 0, leading = -1;
            Py_ssize_t best = edges[k];
            for (Py_ssize_t a = edges[k]; a < edges[k + 1]; a++)
                if (available[a] && outputs[a] > most)
                    most = outputs[a];
            for (Py_ssize_t a = edges[k]; a < edges[k + 1]; a++) {
                const float weight = expf((available[a] ? outputs[a] : NEVER) - most);
                const float lead = race ? weight / fmaxf(race[a], FLT_MIN) : weight;
                sum += weight;
                if (lead > leading)
                    leading = lead, best = a;
            }
            *actions++ = (int32_t)(best - edges[k]);
            *log_probs++ = (available[best] ? outputs[best] : NEVER) - most - logf(sum);
        }
        outputs += width, available += width, race = race ? race + width : NULL;
    }
}

/* ---- functions of the Python module ---- */

/* An argument that is an array of one of the `formats` ("" for another argument), or None where it is optional. */
typedef struct {
    const char *name, *formats;
    int writable, optional;
} Argument;

#define SINGLE "f"
#define NUMBERS "fh" /* float32, or bfloat16 in int16 */
#define INTS "il"
#define BOOLS "?"

static void release(Py_buffer *each, int all) {
    for (int k = 0; k < all; k++)
        if (each[k].obj)
            PyBuffer_Release(&each[k]);
}

/* Returns 1 with a view of each array, or 0 with an exception set and no view. */
static int take(const Argument *arguments, int all, PyObject *const *args, Py_ssize_t count, Py_buffer *each) {
    memset(each, 0, (size_t)all * sizeof *each);
    if (count != all) {
        PyErr_Format(PyExc_TypeError, "%zd arguments, expected %d", count, all);
        return 0;
    }
    for (int k = 0; k < all; k++) {
        const Argument *argument = &arguments[k];
        if (!argument->formats[0] || (argument->optional && args[k] == Py_None))
            continue;
        const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (argument->writable ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(args[k], &each[k], flags) < 0)
            break;
        const char *format = each[k].format ? each[k].format : "B";
        if (!format[0] || format[1] || !strchr(argument->formats, format[0]) || each[k].itemsize > 4) {
            PyErr_Format(PyExc_ValueError, "%s: an array of '%s' of %zd bytes, expected one of '%s' of at most 4",
                         argument->name, format, each[k].itemsize, argument->formats);
            break;
        }
    }
    if (!PyErr_Occurred())
        return 1;
    release(each, all);
    return 0;
}

static PyObject *done(Py_buffer *each, int all, int succeeded) {
    release(each, all);
    if (!succeeded)
        return NULL;
    Py_RETURN_NONE;
}

/* Returns 1 if the array, where it is there, has so many numbers; else 0 with an exception set. */
static int sized(const Argument *argument, const Py_buffer *array, Py_ssize_t numbers) {
    if (!array->obj || array->len == numbers * array->itemsize)
        return 1;
    PyErr_Format(PyExc_ValueError, "%s: %zd numbers, expected %zd", argument->name, array->len / array->itemsize,
                 numbers);
    return 0;
}

/* Returns 1, or 0 with an exception set. */
static int same_type(const Py_buffer *one, const Py_buffer *other) {
    if (one->itemsize == other->itemsize)
        return 1;
    PyErr_SetString(PyExc_ValueError, "an array and its gradient are of two types");
    return 0;
}

static int is_half(const Py_buffer *buffer) { return buffer->itemsize == 2; }

/* Returns 1 with the shape of x (n, B, W) and bias (n or 1, 1, W), or 0 with an exception set. */
static int measure(const Py_buffer *x, const Py_buffer *bias, Shape *shape) {
    const Py_ssize_t size = x->len / x->itemsize, biases = bias->len / bias->itemsize;
    shape->width = bias->ndim ? bias->shape[bias->ndim - 1] : 0;
    if (!shape->width || !biases || x->ndim < 1 || x->shape[x->ndim - 1] != shape->width || size % biases) {
        PyErr_SetString(PyExc_ValueError, "x (n, B, W) and bias (n or 1, 1, W) don't fit");
        return 0;
    }
    shape->sets = biases / shape->width;
    shape->rows = size / biases;
    return 1;
}

static PyObject *activate(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    enum { X, BIAS, EPS, STATISTICS, ALL };
    static const Argument arguments[ALL] = {
        {"x", NUMBERS, .writable = 1}, {"bias", SINGLE}, {"eps", ""}, {"stats", SINGLE, .writable = 1, .optional = 1}};
    Py_buffer each[ALL];
    Shape shape;
    if (!take(arguments, ALL, args, count, each))
        return NULL;
    const int norm = args[EPS] != Py_None;
    const float eps = norm ? (float)PyFloat_AsDouble(args[EPS]) : 0;
    const int fits = !PyErr_Occurred() && measure(&each[X], &each[BIAS], &shape) &&
                     sized(&arguments[STATISTICS], &each[STATISTICS], STATS * shape.sets * shape.rows);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS;
        passes->forward(shape, each[X].buf, each[BIAS].buf, norm, eps, each[STATISTICS].buf, is_half(&each[X]));
        Py_END_ALLOW_THREADS;
    }
    return done(each, ALL, fits);
}

static PyObject *gradients(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    enum { DY, Y, STATISTICS, DB, ALL };
    static const Argument arguments[ALL] = {{"dy", NUMBERS, .writable = 1},
                                            {"y", NUMBERS},
                                            {"stats", SINGLE, .optional = 1},
                                            {"db", SINGLE, .writable = 1}};
    Py_buffer each[ALL];
    Shape shape;
    if (!take(arguments, ALL, args, count, each))
        return NULL;
    const int fits = same_type(&each[DY], &each[Y]) && measure(&each[Y], &each[DB], &shape) &&
                     sized(&arguments[DY], &each[DY], shape.sets * shape.rows * shape.width) &&
                     sized(&arguments[STATISTICS], &each[STATISTICS], STATS * shape.sets * shape.rows);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS;
        passes->backward(shape, each[DY].buf, each[Y].buf, each[STATISTICS].buf, each[DB].buf, is_half(&each[Y]));
        Py_END_ALLOW_THREADS;
    }
    return done(each, ALL, fits);
}

/* Returns 1 if every one of the `rows` is one of y (`count`, W); else 0 with an exception set. */
static int rows_fit(const Py_buffer *rows, Py_ssize_t count) {
    int fits = 1;
    for (Py_ssize_t k = 0; fits && k < rows->len / 4; k++)
        fits = ((int32_t *)rows->buf)[k] >= 0 && ((int32_t *)rows->buf)[k] < count;
    if (!fits)
        PyErr_Format(PyExc_ValueError, "rows: each must be one of the %zd rows of y", count);
    return fits;
}

static PyObject *relu_gradients(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    enum { DX, Y, ROWS, ALL };
    static const Argument arguments[ALL] = {{"dx", NUMBERS, .writable = 1}, {"y", NUMBERS}, {"rows", INTS}};
    Py_buffer each[ALL];
    if (!take(arguments, ALL, args, count, each))
        return NULL;
    int fits = each[Y].ndim == 2 && each[DX].ndim == 2 && each[Y].shape[1] == each[DX].shape[1];
    if (!fits)
        PyErr_SetString(PyExc_ValueError, "dx (R, W) and y (B, W) don't fit");
    fits = fits && same_type(&each[DX], &each[Y]) && sized(&arguments[ROWS], &each[ROWS], each[DX].shape[0]) &&
           rows_fit(&each[ROWS], each[Y].shape[0]);
    if (fits) {
        const Shape shape = {1, each[DX].shape[0], each[DX].shape[1]};
        Py_BEGIN_ALLOW_THREADS;
        passes->relu_gradients(shape, each[DX].buf, each[Y].buf, each[ROWS].buf, is_half(&each[DX]));
        Py_END_ALLOW_THREADS;
    }
    return done(each, ALL, fits);
}

/* Returns the number of outputs A with the shape of x (n, B, W) for w (n or 1, A, W), or 0 with an exception set. */
static Py_ssize_t measure_outputs(const Py_buffer *x, const Py_buffer *w, Shape *shape) {
    if (w->ndim != 3 || !w->shape[0] || !w->shape[1] || !w->shape[2] || x->ndim < 1 ||
        x->shape[x->ndim - 1] != w->shape[2] || x->len / x->itemsize % (w->shape[0] * w->shape[2])) {
        PyErr_SetString(PyExc_ValueError, "x (n, B, W) and w (n or 1, A, W) don't fit");
        return 0;
    }
    *shape = (Shape){w->shape[0], x->len / x->itemsize / (w->shape[0] * w->shape[2]), w->shape[2]};
    Py_ssize_t bytes; /* of the outputs: `sized` counts on a number that is none too large */
    if (__builtin_mul_overflow(4 * shape->sets * shape->rows, w->shape[1], &bytes)) {
        PyErr_SetString(PyExc_ValueError, "w: too many outputs for so many rows");
        return 0;
    }
    return w->shape[1];
}

static PyObject *outputs(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    enum { X, W, BIAS, Y, ALL };
    static const Argument arguments[ALL] = {
        {"x", NUMBERS}, {"w", SINGLE}, {"bias", SINGLE}, {"y", SINGLE, .writable = 1}};
    Py_buffer each[ALL];
    Shape shape;
    if (!take(arguments, ALL, args, count, each))
        return NULL;
    const Py_ssize_t size = measure_outputs(&each[X], &each[W], &shape);
    const int fits = size && sized(&arguments[BIAS], &each[BIAS], shape.sets * size) &&
                     sized(&arguments[Y], &each[Y], shape.sets * shape.rows * size);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS;
        passes->outputs(shape, size, each[X].buf, each[W].buf, each[BIAS].buf, each[Y].buf, is_half(&each[X]));
        Py_END_ALLOW_THREADS;
    }
    return done(each, ALL, fits);
}

static PyObject *output_gradients(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    enum { DY, X, W, DX, DW, DB, ALL };
    static const Argument arguments[ALL] = {{"dy", SINGLE},
                                            {"x", NUMBERS, .optional = 1},
                                            {"w", SINGLE},
                                            {"dx", NUMBERS, .writable = 1},
                                            {"dw", SINGLE, .writable = 1, .optional = 1},
                                            {"db", SINGLE, .writable = 1, .optional = 1}};
    Py_buffer each[ALL];
    Shape shape;
    if (!take(arguments, ALL, args, count, each))
        return NULL;
    const Py_ssize_t size = measure_outputs(&each[DX], &each[W], &shape);
    int fits = size && sized(&arguments[DY], &each[DY], shape.sets * shape.rows * size) &&
               sized(&arguments[X], &each[X], shape.sets * shape.rows * shape.width) &&
               sized(&arguments[DW], &each[DW], shape.sets * size * shape.width) &&
               sized(&arguments[DB], &each[DB], shape.sets * size);
    if (fits && each[X].obj)
        fits = same_type(&each[DX], &each[X]);
    if (fits && (!each[DW].obj != !each[DB].obj || (each[DW].obj && !each[X].obj))) {
        PyErr_SetString(PyExc_ValueError, "dw and db are computed together, and need x");
        fits = 0;
    }
    if (fits) {
        Py_BEGIN_ALLOW_THREADS;
        passes->output_gradients(shape, size, each[DY].buf, each[X].buf, each[W].buf, each[DX].buf, each[DW].buf,
                                 each[DB].buf, is_half(&each[DX]));
        Py_END_ALLOW_THREADS;
    }
    return done(each, ALL, fits);
}

/* Returns 1 if there is a size of 1 to O for each agent of x (n, E, O); else 0 with an exception set. */
static int sizes_fit(const Py_buffer *x, const Py_buffer *sizes) {
    int fits = x->ndim == 3 && sizes->len == 4 * x->shape[0];
    for (Py_ssize_t k = 0; fits && k < x->shape[0]; k++)
        fits = ((int32_t *)sizes->buf)[k] >= 1 && ((int32_t *)sizes->buf)[k] <= x->shape[2];
    if (!fits)
        PyErr_SetString(PyExc_ValueError, "sizes: int32 (n,), 1 to O, expected for x (n, E, O)");
    return fits;
}

static PyObject *normalise(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    enum { X, SIZES, EPS, Y, ALL };
    static const Argument arguments[ALL] = {
        {"x", SINGLE}, {"sizes", INTS}, {"eps", ""}, {"y", SINGLE, .writable = 1}};
    Py_buffer each[ALL];
    if (!take(arguments, ALL, args, count, each))
        return NULL;
    const float eps = (float)PyFloat_AsDouble(args[EPS]);
    const int fits = !PyErr_Occurred() && sizes_fit(&each[X], &each[SIZES]) &&
                     sized(&arguments[Y], &each[Y], each[X].len / each[X].itemsize);
    if (fits) {
        const Shape shape = {each[X].shape[0], each[X].shape[1], each[X].shape[2]};
        Py_BEGIN_ALLOW_THREADS;
        passes->normalise(shape, each[X].buf, each[SIZES].buf, eps, each[Y].buf);
        Py_END_ALLOW_THREADS;
    }
    return done(each, ALL, fits);
}

/* Returns the number of branches, or 0 with an exception set if their edges don't rise from 0. */
static Py_ssize_t count_branches(const Py_buffer *array) {
    const int32_t *edges = array->buf;
    const Py_ssize_t branches = array->len / 4 - 1;
    int fits = branches >= 1 && !edges[0];
    for (Py_ssize_t b = 0; fits && b < branches; b++)
        fits = edges[b + 1] > edges[b];
    if (!fits)
        PyErr_SetString(PyExc_ValueError, "edges: 0 and where each branch ends, rising");
    return fits ? branches : 0;
}

static PyObject *choose(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    enum { OUTPUTS, AVAILABLE, RACE, EDGES, ACTIONS, LOG_PROBS, ALL };
    static const Argument arguments[ALL] = {{"outputs", SINGLE},
                                            {"available", BOOLS},
                                            {"race", SINGLE, .optional = 1},
                                            {"edges", INTS},
                                            {"actions", INTS, .writable = 1},
                                            {"log_probs", SINGLE, .writable = 1}};
    Py_buffer each[ALL];
    if (!take(arguments, ALL, args, count, each))
        return NULL;
    const Py_ssize_t branches = count_branches(&each[EDGES]);
    int fits = branches > 0;
    if (fits) {
        const int32_t *edges = each[EDGES].buf;
        const Py_ssize_t rows = each[OUTPUTS].len / 4 / edges[branches];
        for (int k = 0; fits && k < ALL; k++)
            if (k != EDGES)
                fits = sized(&arguments[k], &each[k], rows * (k < EDGES ? edges[branches] : branches));
        if (fits)
            choose_rows(rows, branches, edges, each[OUTPUTS].buf, each[AVAILABLE].buf, each[RACE].buf,
                        each[ACTIONS].buf, each[LOG_PROBS].buf);
    }
    return done(each, ALL, fits);
}

#define FAST(name) (PyCFunction)(void (*)(void))name, METH_FASTCALL

/* Has this thread compute with 0 in place of denormal numbers, which are slow; as torch.set_flush_denormal does. */
static PyObject *flush_denormals(PyObject *self, PyObject *unused) {
#if defined(__x86_64__)
    enum { FLUSH_TO_ZERO = 1 << 15, DENORMALS_ARE_ZERO = 1 << 6 };
    _mm_setcsr(_mm_getcsr() | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO);
#elif defined(__aarch64__)
    uint64_t control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    __asm__ volatile("msr fpcr, %0" : : "r"(control | 1 << 24));
#endif
    Py_RETURN_NONE;
}

static PyObject *vectors(PyObject *self, PyObject *floats) {
    const long count = PyLong_AsLong(floats);
    if (PyErr_Occurred())
        return NULL;
    return PyBool_FromLong(use_vectors(count));
}

static PyMethodDef methods[] = {
    {"vectors", vectors, METH_O, "vectors(4, 8 or 16): use vectors of so many numbers; False where there are none."},
    {"flush_denormals", flush_denormals, METH_NOARGS, "flush_denormals(): denormal numbers become 0 in this thread."},
    {"activate", FAST(activate), "activate(x, bias, eps, stats): x becomes y; eps None: nothing is normalised."},
    {"normalise", FAST(normalise), "normalise(x, sizes, eps, y): y becomes x, each agent's own features normalised."},
    {"choose", FAST(choose), "choose(outputs, available, race, edges, actions, log_probs): fills the last two."},
    {"outputs", FAST(outputs), "outputs(x, w, bias, y): fills y with the products of x's rows with w, plus bias."},
    {"output_gradients", FAST(output_gradients),
     "output_gradients(dy, x, w, dx, dw, db): fills dx; dw and db, or both None, grow."},
    {"gradients", FAST(gradients), "gradients(dy, y, stats, db): dy becomes dx, and db grows."},
    {"relu_gradients", FAST(relu_gradients), "relu_gradients(dx, y, rows): dx becomes 0 where y's rows are."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_blocks", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__blocks(void) {
    const int wide = use_vectors(16) || use_vectors(8);
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "FEW_OUTPUTS", wide ? 8 : 4) < 0)
        Py_CLEAR(made);
    return made;
}

/* The parts of a net beside its matrix products: the Python module sde_harl.policy.inference._blocks.
 *
 *     activate    y = norm(relu(x + bias)), with norm(r) = (r - mean r) / sqrt(var r + eps) over a row, or norm(r) = r
 *     gradients   the gradients of that
 *     values      the last layer of a net with one output, v = sum x w of each row, and value_gradients its gradients
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
#include <emmintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16, STATS = 2 };
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

INLINE void set_one(void *values, Py_ssize_t i, float value, int half) {
    if (!half) {
        ((float *)values)[i] = value;
        return;
    }
    uint32_t word;
    memcpy(&word, &value, sizeof word);
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
    void (*values)(Shape shape, const void *x, const float *w, float *values, int half);
    void (*value_gradients)(Shape shape, const float *dvalues, const void *x, const float *w, void *dx, float *dw,
                            int half);
    void (*normalise)(Shape shape, const float *x, const int32_t *sizes, float eps, float *y);
} Passes;

#define PASTED(name, floats) name##_##floats
#define NAMED(name, floats) PASTED(name, floats)
#define NAME(name) NAMED(name, FLOATS)

/* Every processor has vectors of 4. With float32 the passes wait for memory, and wider ones gain nothing. With bfloat16,
 * which is for processors with AVX-512, they compute. */
#define FLOATS 4
#include "block_rows.h"
#undef FLOATS
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
#define WIDER
#pragma GCC push_options
#pragma GCC target("avx512f")
#define FLOATS 16
#include "block_rows.h"
#undef FLOATS
#pragma GCC pop_options
#endif

static const Passes *passes = &passes_4;

static void choose_passes(void) {
#ifdef WIDER
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        passes = &passes_16;
#endif
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

/* Takes a view of a float32 array of `size` numbers, or of any number where `size` is 0. Returns 0, or -1 with an
 * exception set. */
static int take(PyObject *object, Py_buffer *buffer, int writable, const char *name, Py_ssize_t size) {
    if (PyObject_GetBuffer(object, buffer, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0)) < 0)
        return -1;
    if (buffer->format && buffer->format[0] == 'f' && !buffer->format[1] && (!size || buffer->len == size * 4))
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: %zd bytes of '%s', expected float32 of the others' shape", name, buffer->len,
                 buffer->format ? buffer->format : "B");
    PyBuffer_Release(buffer);
    return -1;
}

/* The same of an array of float32, or of bfloat16 in int16. */
static int take_numbers(PyObject *object, Py_buffer *buffer, int writable, const char *name, Py_ssize_t size) {
    if (PyObject_GetBuffer(object, buffer, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0)) < 0)
        return -1;
    const char kind = buffer->format && !buffer->format[1] ? buffer->format[0] : 0;
    if ((kind == 'f' || kind == 'h') && (!size || buffer->len == size * buffer->itemsize))
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: %zd bytes of '%s', expected float32, or bfloat16 as int16, of the others' shape",
                 name, buffer->len, buffer->format ? buffer->format : "B");
    PyBuffer_Release(buffer);
    return -1;
}

/* Returns 1, or 0 with an exception set. */
static int same_type(const Py_buffer *one, const Py_buffer *other) {
    if (one->itemsize == other->itemsize)
        return 1;
    PyErr_SetString(PyExc_ValueError, "an array and its gradient are of two types");
    return 0;
}

static int is_half(const Py_buffer *buffer) { return buffer->itemsize == 2; }

static int measure(const Py_buffer *x, const Py_buffer *bias, Shape *shape) {
    const Py_ssize_t size = x->len / x->itemsize, biases = bias->len / 4;
    shape->width = bias->ndim ? bias->shape[bias->ndim - 1] : 0;
    if (!shape->width || !biases || x->ndim < 1 || x->shape[x->ndim - 1] != shape->width || size % biases) {
        PyErr_SetString(PyExc_ValueError, "x (n, B, W) and bias (n or 1, 1, W) don't fit");
        return -1;
    }
    shape->sets = biases / shape->width;
    shape->rows = size / biases;
    return 0;
}

static PyObject *activate(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    Py_buffer x, bias, stats = {0};
    Shape shape;
    int failed = -1;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "activate takes x, bias, eps and stats");
        return NULL;
    }
    const int norm = args[2] != Py_None;
    const double eps = norm ? PyFloat_AsDouble(args[2]) : 0.0;
    if (PyErr_Occurred() || take_numbers(args[0], &x, 1, "x", 0) < 0)
        return NULL;
    if (take(args[1], &bias, 0, "bias", 0) == 0) {
        if (measure(&x, &bias, &shape) == 0 &&
            (args[3] == Py_None || take(args[3], &stats, 1, "stats", STATS * shape.sets * shape.rows) == 0)) {
            Py_BEGIN_ALLOW_THREADS;
            passes->forward(shape, x.buf, bias.buf, norm, (float)eps, stats.buf, is_half(&x));
            Py_END_ALLOW_THREADS;
            failed = 0;
        }
        PyBuffer_Release(&bias);
    }
    PyBuffer_Release(&x);
    if (stats.obj)
        PyBuffer_Release(&stats);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *gradients(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    enum { DY, Y, STAT, DB, ALL };
    static const char *const names[ALL] = {"dy", "y", "stats", "db"};
    Py_buffer each[ALL];
    Shape shape = {0};
    int k = 0, failed = -1;
    memset(each, 0, sizeof each);
    if (count != ALL) {
        PyErr_SetString(PyExc_TypeError, "gradients takes dy, y, stats and db");
        return NULL;
    }
    if (take(args[DB], &each[DB], 1, names[DB], 0) == 0 && take_numbers(args[Y], &each[Y], 0, names[Y], 0) == 0 &&
        measure(&each[Y], &each[DB], &shape) == 0) {
        const Py_ssize_t rows = shape.sets * shape.rows, size = rows * shape.width;
        if (take_numbers(args[DY], &each[DY], 1, names[DY], size) == 0 && same_type(&each[DY], &each[Y]) &&
            (args[STAT] == Py_None || take(args[STAT], &each[STAT], 0, names[STAT], STATS * rows) == 0)) {
            Py_BEGIN_ALLOW_THREADS;
            passes->backward(shape, each[DY].buf, each[Y].buf, each[STAT].buf, each[DB].buf, is_half(&each[Y]));
            Py_END_ALLOW_THREADS;
            failed = 0;
        }
    }
    for (k = 0; k < ALL; k++)
        if (each[k].obj)
            PyBuffer_Release(&each[k]);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *values(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    Py_buffer x, w, out;
    Shape shape;
    int failed = -1;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "values takes x, w and values");
        return NULL;
    }
    if (take_numbers(args[0], &x, 0, "x", 0) < 0)
        return NULL;
    if (take(args[1], &w, 0, "w", 0) == 0) {
        if (measure(&x, &w, &shape) == 0 && take(args[2], &out, 1, "values", shape.sets * shape.rows) == 0) {
            Py_BEGIN_ALLOW_THREADS;
            passes->values(shape, x.buf, w.buf, out.buf, is_half(&x));
            Py_END_ALLOW_THREADS;
            failed = 0;
            PyBuffer_Release(&out);
        }
        PyBuffer_Release(&w);
    }
    PyBuffer_Release(&x);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *value_gradients(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    enum { DV, X, W, DX, DW, ALL };
    static const char *const names[ALL] = {"dvalues", "x", "w", "dx", "dw"};
    Py_buffer each[ALL];
    Shape shape = {0};
    int failed = -1;
    memset(each, 0, sizeof each);
    if (count != ALL) {
        PyErr_SetString(PyExc_TypeError, "value_gradients takes dvalues, x, w, dx and dw");
        return NULL;
    }
    if (take(args[W], &each[W], 0, names[W], 0) == 0 && take_numbers(args[X], &each[X], 0, names[X], 0) == 0 &&
        measure(&each[X], &each[W], &shape) == 0) {
        const Py_ssize_t rows = shape.sets * shape.rows, width = shape.width;
        if (take(args[DV], &each[DV], 0, names[DV], rows) == 0 &&
            take_numbers(args[DX], &each[DX], 1, names[DX], rows * width) == 0 && same_type(&each[DX], &each[X]) &&
            (args[DW] == Py_None || take(args[DW], &each[DW], 1, names[DW], shape.sets * width) == 0)) {
            Py_BEGIN_ALLOW_THREADS;
            passes->value_gradients(shape, each[DV].buf, each[X].buf, each[W].buf, each[DX].buf, each[DW].buf,
                                    is_half(&each[X]));
            Py_END_ALLOW_THREADS;
            failed = 0;
        }
    }
    for (int k = 0; k < ALL; k++)
        if (each[k].obj)
            PyBuffer_Release(&each[k]);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *normalise(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    Py_buffer x, y, sizes;
    int failed = -1;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "normalise takes x, sizes, eps and y");
        return NULL;
    }
    const double eps = PyFloat_AsDouble(args[2]);
    if (PyErr_Occurred() || take(args[0], &x, 0, "x", 0) < 0)
        return NULL;
    if (take(args[3], &y, 1, "y", x.len / 4) == 0) {
        if (PyObject_GetBuffer(args[1], &sizes, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) == 0) {
            failed = !(x.ndim == 3 && sizes.itemsize == 4 && sizes.format && sizes.format[0] == 'i' &&
                       sizes.len == 4 * x.shape[0]);
            for (Py_ssize_t k = 0; !failed && k < x.shape[0]; k++)
                failed = ((int32_t *)sizes.buf)[k] < 1 || ((int32_t *)sizes.buf)[k] > x.shape[2];
            if (failed)
                PyErr_SetString(PyExc_ValueError, "sizes: int32 (n,), 1 to O, expected for x (n, E, O)");
            else {
                const Shape shape = {x.shape[0], x.shape[1], x.shape[2]};
                Py_BEGIN_ALLOW_THREADS;
                passes->normalise(shape, x.buf, sizes.buf, (float)eps, y.buf);
                Py_END_ALLOW_THREADS;
            }
            PyBuffer_Release(&sizes);
        }
        PyBuffer_Release(&y);
    }
    PyBuffer_Release(&x);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

/* Returns 1 if the buffer holds `size` numbers of one of the `formats`, each of `width` bytes; else 0 with an
 * exception set. */
static int has(const Py_buffer *buffer, const char *formats, Py_ssize_t width, Py_ssize_t size, const char *name) {
    if (buffer->itemsize == width && buffer->len == size * width && buffer->format && strchr(formats, buffer->format[0]))
        return 1;
    PyErr_Format(PyExc_ValueError, "%s: not %zd numbers of the right type", name, size);
    return 0;
}

static PyObject *choose(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    enum { OUTPUTS, AVAILABLE, RACE, EDGES, ACTIONS, LOG_PROBS, ALL };
    Py_buffer each[ALL];
    int failed = 1;
    if (count != ALL) {
        PyErr_SetString(PyExc_TypeError, "choose takes outputs, available, race, edges, actions and log_probs");
        return NULL;
    }
    memset(each, 0, sizeof each);
    for (int k = 0; k < ALL; k++)
        if (args[k] != Py_None || k != RACE) {
            const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (k >= ACTIONS ? PyBUF_WRITABLE : 0);
            if (PyObject_GetBuffer(args[k], &each[k], flags) < 0)
                goto done;
        }
    const int32_t *edges = each[EDGES].buf;
    const Py_ssize_t branches = each[EDGES].len / 4 - 1;
    if (branches < 1 || !has(&each[EDGES], "il", 4, branches + 1, "edges") || edges[0])
        goto wrong;
    for (Py_ssize_t b = 0; b < branches; b++)
        if (edges[b + 1] <= edges[b])
            goto wrong;
    const Py_ssize_t rows = each[OUTPUTS].len / 4 / edges[branches], size = rows * edges[branches];
    if (!has(&each[OUTPUTS], "f", 4, size, "outputs") || !has(&each[AVAILABLE], "?", 1, size, "available") ||
        (each[RACE].obj && !has(&each[RACE], "f", 4, size, "race")) ||
        !has(&each[ACTIONS], "il", 4, rows * branches, "actions") ||
        !has(&each[LOG_PROBS], "f", 4, rows * branches, "log_probs"))
        goto done;
    choose_rows(rows, branches, edges, each[OUTPUTS].buf, each[AVAILABLE].buf, each[RACE].buf, each[ACTIONS].buf,
                each[LOG_PROBS].buf);
    failed = 0;
    goto done;
wrong:
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "edges: 0 and where each branch ends, rising");
done:
    for (int j = 0; j < ALL; j++)
        if (each[j].obj)
            PyBuffer_Release(&each[j]);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
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

static PyMethodDef methods[] = {
    {"flush_denormals", flush_denormals, METH_NOARGS, "flush_denormals(): denormal numbers become 0 in this thread."},
    {"activate", FAST(activate), "activate(x, bias, eps, stats): x becomes y; eps None: nothing is normalised."},
    {"normalise", FAST(normalise), "normalise(x, sizes, eps, y): y becomes x, each agent's own features normalised."},
    {"choose", FAST(choose), "choose(outputs, available, race, edges, actions, log_probs): fills the last two."},
    {"values", FAST(values), "values(x, w, values): fills values with the products of x's rows with w."},
    {"value_gradients", FAST(value_gradients), "value_gradients(dvalues, x, w, dx, dw): fills dx; dw grows, or is None."},
    {"gradients", FAST(gradients), "gradients(dy, y, stats, db): dy becomes dx, and db grows."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_blocks", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__blocks(void) {
    choose_passes();
    return PyModule_Create(&module);
}

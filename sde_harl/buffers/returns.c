/* What a sample reads of a replay: the Python module sde_harl.buffers._returns.
 *
 *     gather    the n-step returns of random rows
 *     take      copies of random entries
 *
 * A sample's rows are far apart in memory, and each place costs a wait. Here entries and both ends of a return are asked
 * for some rows ahead (the processor itself follows what lies between), and nothing of a return is read behind the end
 * of an episode. numpy would read the whole windows, array by array, and wait for each entry.
 *
 * B rows, R entries of the replay in rings of L, n steps.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { AHEAD = 8, LINE = 64 };

typedef struct {
    const int64_t *starts, *most; /* (B,) */
    const uint8_t *ended;         /* (R,) */
    const float *rewards;         /* (R,) */
    const float *powers;          /* (n + 1,) of gamma */
    int64_t *counts;              /* (B,) */
    float *returns;               /* (B,) */
    Py_ssize_t batch, ring;       /* B, L */
} Request;

static void ask_for(const Request *request, Py_ssize_t b) {
    const int64_t row = request->starts[b];
    __builtin_prefetch(request->ended + row);
    __builtin_prefetch(request->rewards + row);
    /* Behind the end of a ring this is another's: asked for in vain, never read. */
    __builtin_prefetch(request->rewards + row + request->most[b] - 1);
}

static void gather(const Request *request) {
    for (Py_ssize_t b = 0; b < request->batch; b++) {
        if (b + AHEAD < request->batch)
            ask_for(request, b + AHEAD);
        const int64_t end_of_ring = (request->starts[b] / request->ring + 1) * request->ring;
        int64_t row = request->starts[b];
        float sum = request->rewards[row];
        int64_t k = 1;
        for (; k < request->most[b] && !request->ended[row]; k++) {
            if (++row == end_of_ring)
                row -= request->ring;
            sum += request->powers[k] * request->rewards[row];
        }
        request->counts[b] = k;
        request->returns[b] = sum;
    }
}

/* Copies entries of `size` bytes, those of `rows` (B,). */
static void take(const char *entries, const int64_t *rows, Py_ssize_t batch, Py_ssize_t size, char *copies) {
    for (Py_ssize_t b = 0; b < batch; b++) {
        if (b + AHEAD < batch)
            for (Py_ssize_t at = 0; at < size; at += LINE)
                __builtin_prefetch(entries + rows[b + AHEAD] * size + at);
        memcpy(copies + b * size, entries + rows[b] * size, (size_t)size);
    }
}

/* Returns 1 if all rows lie in the replay and no return is longer than n, or shorter than one step. */
static int all_inside(const Request *request, Py_ssize_t entries, Py_ssize_t steps) {
    for (Py_ssize_t b = 0; b < request->batch; b++)
        if (request->starts[b] < 0 || request->starts[b] >= entries || request->most[b] < 1 ||
            request->most[b] > steps)
            return 0;
    return 1;
}

static int has(const Py_buffer *buffer, const char *formats, Py_ssize_t width, Py_ssize_t size) {
    return buffer->itemsize == width && buffer->len == size * width && buffer->format &&
           strchr(formats, buffer->format[0]);
}

static PyObject *done(Py_buffer *each, int arrays, int succeeded) {
    for (int k = 0; k < arrays; k++)
        if (each[k].obj)
            PyBuffer_Release(&each[k]);
    if (!succeeded)
        return NULL;
    Py_RETURN_NONE;
}

/* Returns 1 with a view of each array, those from `filled` on writable; or 0 with an exception set and no view. */
static int view(PyObject *const *args, int arrays, int filled, Py_buffer *each) {
    memset(each, 0, (size_t)arrays * sizeof *each);
    for (int k = 0; k < arrays; k++) {
        const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (k >= filled ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(args[k], &each[k], flags)) {
            done(each, arrays, 0);
            return 0;
        }
    }
    return 1;
}

static PyObject *gather_py(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    enum { STARTS, MOST, ENDED, REWARDS, POWERS, COUNTS, RETURNS, ARRAYS, RING = ARRAYS, ALL };
    Py_buffer each[ARRAYS];
    if (count != ALL) {
        PyErr_SetString(PyExc_TypeError, "gather takes seven arrays and the length of a ring");
        return NULL;
    }
    const Py_ssize_t ring = PyLong_AsSsize_t(args[RING]);
    if (ring == -1 && PyErr_Occurred())
        return NULL;
    if (!view(args, ARRAYS, COUNTS, each))
        return NULL;
    const Py_ssize_t batch = each[STARTS].len / 8, entries = each[ENDED].len;
    const Request request = {.starts = each[STARTS].buf,
                             .most = each[MOST].buf,
                             .ended = each[ENDED].buf,
                             .rewards = each[REWARDS].buf,
                             .powers = each[POWERS].buf,
                             .counts = each[COUNTS].buf,
                             .returns = each[RETURNS].buf,
                             .batch = batch,
                             .ring = ring};
    const int fits = ring > 0 && entries % ring == 0 && has(&each[STARTS], "lq", 8, batch) &&
                     has(&each[MOST], "lq", 8, batch) && has(&each[ENDED], "?", 1, entries) &&
                     has(&each[REWARDS], "f", 4, entries) &&
                     has(&each[POWERS], "f", 4, each[POWERS].len / 4) && has(&each[COUNTS], "lq", 8, batch) &&
                     has(&each[RETURNS], "f", 4, batch) &&
                     all_inside(&request, entries, each[POWERS].len / 4 - 1);
    if (fits)
        gather(&request);
    else
        PyErr_SetString(PyExc_ValueError, "gather: arrays that don't fit together, or rows outside the replay");
    return done(each, ARRAYS, fits);
}

static PyObject *take_py(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    enum { ENTRIES, ROWS, COPIES, ALL };
    Py_buffer each[ALL];
    if (count != ALL) {
        PyErr_SetString(PyExc_TypeError, "take takes entries, rows and copies");
        return NULL;
    }
    if (!view(args, ALL, COPIES, each))
        return NULL;
    const int64_t *rows = each[ROWS].buf;
    const Py_ssize_t batch = each[ROWS].len / 8, size = each[ENTRIES].ndim == 2 ? each[ENTRIES].shape[1] : 0;
    int fits = size > 0 && has(&each[ENTRIES], "B", 1, each[ENTRIES].len) && has(&each[ROWS], "lq", 8, batch) &&
               has(&each[COPIES], "B", 1, batch * size);
    for (Py_ssize_t b = 0; fits && b < batch; b++)
        fits = rows[b] >= 0 && rows[b] < each[ENTRIES].shape[0];
    if (fits) {
        /* A replay in a file may wait for the disk. */
        Py_BEGIN_ALLOW_THREADS;
        take(each[ENTRIES].buf, rows, batch, size, each[COPIES].buf);
        Py_END_ALLOW_THREADS;
    } else
        PyErr_SetString(PyExc_ValueError, "take: arrays that don't fit together, or rows outside the replay");
    return done(each, ALL, fits);
}

static PyMethodDef methods[] = {
    {"take", (PyCFunction)(void (*)(void))take_py, METH_FASTCALL,
     "take(entries, rows, copies): fills copies (B, S) with rows of entries (R, S), bytes."},
    {"gather", (PyCFunction)(void (*)(void))gather_py, METH_FASTCALL,
     "gather(starts, most, ended, rewards, powers, counts, returns, ring): fills the last two arrays."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_returns", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__returns(void) { return PyModule_Create(&module); }

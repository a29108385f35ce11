/* Frames to bytes and back: the Python module sde_harl.link._frames. wire.py hands it its types and re-exports it.
 *
 * In C, because a device codes a payload in microseconds, and in Python the 32 bytes around it would take longer than
 * the payload itself. Every frame is checked, whoever sent it. Layout, all little-endian:
 *
 *     magic "SDEH", u8 protocol, u8 kind, u16 agent, u32 run, u32 step, u16 slot, u16 environments, u32 version,
 *     u32 length of the payload, the payload, u32 CRC-32 of all before it
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { HEAD = 28, TAIL = 4, FIELDS = 7, RUN_FIELD = 2, HELLO = 1 };
static const uint8_t START[5] = {'S', 'D', 'E', 'H', 7};
static const uint32_t WHOLE = 0x2144DF1C; /* the CRC-32 of any data that ends with its own CRC-32 */
static const int AT[FIELDS] = {5, 6, 8, 12, 16, 18, 20};
static const int WIDTH[FIELDS] = {1, 2, 4, 4, 2, 2, 4};
enum { LENGTH_AT = 24 };

static PyTypeObject *header_type;  /* a named tuple of the FIELDS numbers, in this order */
static PyTypeObject *message_type; /* a named tuple: source, header, payload */
static PyObject *kinds;           /* a tuple: the kind of each number, None where there is none */
static PyObject *wire_error;      /* the exception type, called with a reason */
static PyObject *crc32;           /* zlib's */

static uint32_t load(const uint8_t *at, int width) {
    uint32_t value = 0;
    for (int k = width; k-- > 0;)
        value = value << 8 | at[k];
    return value;
}

static void store(uint8_t *at, int width, uint32_t value) {
    for (int k = 0; k < width; k++, value >>= 8)
        at[k] = (uint8_t)value;
}

static PyObject *refuse(const char *reason) {
    PyObject *error = PyObject_CallFunction(wire_error, "s", reason);
    if (error) {
        PyErr_SetObject(wire_error, error);
        Py_DECREF(error);
    }
    return NULL;
}

/* ---- the CRC ---- */

/* Computes zlib's CRC-32 of `size` bytes, with the CRC's register at `state` before them. Returns 0, or -1 with an
 * exception set. zlib takes and returns the register inverted. */
static int sum_after(uint32_t state, const uint8_t *data, Py_ssize_t size, uint32_t *sum) {
    PyObject *bytes = PyMemoryView_FromMemory((char *)data, size, PyBUF_READ);
    PyObject *before = bytes ? PyLong_FromUnsignedLong(~state & UINT32_MAX) : NULL;
    PyObject *value = before ? PyObject_CallFunctionObjArgs(crc32, bytes, before, NULL) : NULL;
    Py_XDECREF(before);
    Py_XDECREF(bytes);
    if (!value)
        return -1;
    *sum = (uint32_t)PyLong_AsUnsignedLong(value);
    Py_DECREF(value);
    return PyErr_Occurred() ? -1 : 0;
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

enum { BLOCK = 16, LANES = 4, WORTH_FOLDING = 1024 };

__attribute__((target("pclmul"))) static __m128i fold(__m128i lane, __m128i by, __m128i next) {
    __m128i low = _mm_clmulepi64_si128(lane, by, 0x00), high = _mm_clmulepi64_si128(lane, by, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

/* Folds all complete blocks of the data into one block. With the register at 0 before it, that block leaves the register as
 * the data would with all ones before it: Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ",
 * Intel 2009. `far` and `near` are x^n mod P for the distances of four blocks and of one. Returns the bytes folded. */
__attribute__((target("pclmul"))) static Py_ssize_t fold_blocks(const uint8_t *data, Py_ssize_t size, uint8_t *block) {
    const __m128i far = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4), near = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    const __m128i *at = (const __m128i *)data, *end = (const __m128i *)(data + size / BLOCK * BLOCK);
    __m128i lanes[LANES];
    for (int k = 0; k < LANES; k++)
        lanes[k] = _mm_loadu_si128(at++);
    lanes[0] = _mm_xor_si128(lanes[0], _mm_cvtsi32_si128(-1));
    for (; end - at >= LANES; at += LANES)
        for (int k = 0; k < LANES; k++)
            lanes[k] = fold(lanes[k], far, _mm_loadu_si128(at + k));
    for (int k = 1; k < LANES; k++)
        lanes[k] = fold(lanes[k - 1], near, lanes[k]);
    __m128i last = lanes[LANES - 1];
    for (; at < end; at++)
        last = fold(last, near, _mm_loadu_si128(at));
    _mm_storeu_si128((__m128i *)block, last);
    return (const uint8_t *)end - data;
}

/* Computes the CRC-32 of the data. Returns 0, or -1 with an exception set. Long frames (observations) are folded, because
 * zlib's CRC takes a tenth of the time that they are on their way. */
static int sum_of(const uint8_t *data, Py_ssize_t size, uint32_t *sum) {
    if (size < WORTH_FOLDING || !__builtin_cpu_supports("pclmul"))
        return sum_after(UINT32_MAX, data, size, sum);
    uint8_t rest[2 * BLOCK];
    Py_ssize_t folded = fold_blocks(data, size, rest);
    memcpy(rest + BLOCK, data + folded, (size_t)(size - folded));
    return sum_after(0, rest, BLOCK + size - folded, sum);
}
#else
static int sum_of(const uint8_t *data, Py_ssize_t size, uint32_t *sum) {
    return sum_after(UINT32_MAX, data, size, sum);
}
#endif

/* ---- reading ---- */

/* Returns the reason to refuse a frame, as far as it shows before the CRC; NULL if there is none. */
static const char *fault_of(const uint8_t *data, Py_ssize_t size) {
    if (size < HEAD + TAIL)
        return "short";
    if (memcmp(data, START, 4))
        return "magic";
    if (data[4] != START[4])
        return "protocol";
    if (load(data + LENGTH_AT, 4) != (uint64_t)(size - HEAD - TAIL))
        return "length";
    return NULL;
}

static PyObject *header_of(const uint8_t *data, PyObject *kind) {
    PyObject *header = header_type->tp_alloc(header_type, FIELDS);
    if (!header)
        return NULL;
    Py_INCREF(kind);
    PyTuple_SET_ITEM(header, 0, kind);
    for (int k = 1; k < FIELDS; k++) {
        PyObject *value = PyLong_FromUnsignedLong(load(data + AT[k], WIDTH[k]));
        if (!value) {
            Py_DECREF(header);
            return NULL;
        }
        PyTuple_SET_ITEM(header, k, value);
    }
    return header;
}

/* Makes a message. Takes over the references; any may be NULL, with an exception set, and then NULL is returned. */
static PyObject *message_of(PyObject *source, PyObject *header, PyObject *payload) {
    PyObject *message = source && header && payload ? message_type->tp_alloc(message_type, 3) : NULL;
    if (!message) {
        Py_XDECREF(source), Py_XDECREF(header), Py_XDECREF(payload);
        return NULL;
    }
    PyTuple_SET_ITEM(message, 0, source);
    PyTuple_SET_ITEM(message, 1, header);
    PyTuple_SET_ITEM(message, 2, payload);
    return message;
}

/* Returns the message of a frame whose CRC is right, or refuses its kind or run; `run` None accepts every run. */
static PyObject *checked(PyObject *source, PyObject *frame, const uint8_t *data, Py_ssize_t size, PyObject *run) {
    PyObject *kind = data[5] < PyTuple_GET_SIZE(kinds) ? PyTuple_GET_ITEM(kinds, data[5]) : Py_None;
    if (kind == Py_None)
        return refuse("kind");
    if (run != Py_None) {
        unsigned long wanted = PyLong_AsUnsignedLong(run), got = load(data + AT[RUN_FIELD], 4);
        if (PyErr_Occurred())
            return NULL;
        if (got != wanted && !(data[5] == HELLO && got == 0)) /* a HELLO's sender doesn't know the run yet */
            return refuse("run");
    }
    PyObject *header = header_of(data, kind);
    Py_INCREF(source);
    return message_of(source, header, header ? PySequence_GetSlice(frame, HEAD, size - TAIL) : NULL);
}

static PyObject *unpack(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    Py_buffer view;
    uint32_t sum;
    if (count != 3 || !PyMemoryView_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "unpack takes a source, a frame as a memoryview, and a run or None");
        return NULL;
    }
    PyObject *source = args[0], *frame = args[1], *run = args[2];
    if (PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *result = NULL;
    const char *fault = fault_of(view.buf, view.len);
    if (fault)
        refuse(fault);
    else if (sum_of(view.buf, view.len, &sum) == 0)
        result = sum == WHOLE ? checked(source, frame, view.buf, view.len, run) : refuse("crc");
    PyBuffer_Release(&view);
    return result;
}

/* ---- writing ---- */

/* Writes the header. Returns 0, or -1 with OverflowError set if a field does not fit its width. */
static int write_head(uint8_t *data, PyObject *header, Py_ssize_t length) {
    if (!PyTuple_Check(header) || PyTuple_GET_SIZE(header) != FIELDS || (uint64_t)length > UINT32_MAX) {
        PyErr_SetString(PyExc_TypeError, "a header is a tuple of seven fields, its payload below 4 GiB");
        return -1;
    }
    memcpy(data, START, sizeof START);
    for (int k = 0; k < FIELDS; k++) {
        unsigned long value = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(header, k));
        if (PyErr_Occurred())
            return -1;
        if (WIDTH[k] < 4 ? value >> (8 * WIDTH[k]) : value > UINT32_MAX) {
            PyErr_Format(PyExc_OverflowError, "field %d of a header, %lu, does not fit %d bytes", k, value, WIDTH[k]);
            return -1;
        }
        store(data + AT[k], WIDTH[k], (uint32_t)value);
    }
    store(data + LENGTH_AT, 4, (uint32_t)length);
    return 0;
}

/* Writes the CRC behind `size` bytes. Returns 0, or -1 with an exception set. */
static int write_tail(uint8_t *data, Py_ssize_t size) {
    uint32_t sum = 0;
    int failed = sum_of(data, size, &sum);
    store(data + size, TAIL, sum);
    return failed;
}

static PyObject *frame_of(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    Py_buffer payload;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "frame_of takes a header and a payload");
        return NULL;
    }
    if (PyObject_GetBuffer(args[1], &payload, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *frame = PyBytes_FromStringAndSize(NULL, HEAD + payload.len + TAIL);
    if (frame) {
        uint8_t *data = (uint8_t *)PyBytes_AS_STRING(frame);
        memcpy(data + HEAD, payload.buf, (size_t)payload.len);
        if (write_head(data, args[0], payload.len) < 0 || write_tail(data, HEAD + payload.len) < 0)
            Py_CLEAR(frame);
    }
    PyBuffer_Release(&payload);
    return frame;
}

static PyObject *seal(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    Py_buffer frame;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "seal takes a frame and a header");
        return NULL;
    }
    if (PyObject_GetBuffer(args[0], &frame, PyBUF_WRITABLE) < 0)
        return NULL;
    int failed = -1;
    if (frame.len < HEAD + TAIL)
        PyErr_SetString(PyExc_ValueError, "a frame has 32 bytes at least");
    else
        failed = write_head(frame.buf, args[1], frame.len - HEAD - TAIL) < 0 || write_tail(frame.buf, frame.len - TAIL) < 0;
    PyBuffer_Release(&frame);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

/* ---- the module ---- */

static PyObject *use(PyObject *self, PyObject *args) {
    PyTypeObject *message, *header;
    PyObject *all, *error, *sum;
    if (!PyArg_ParseTuple(args, "O!O!O!OO", &PyType_Type, &message, &PyType_Type, &header, &PyTuple_Type, &all, &error, &sum))
        return NULL;
    if (!PyType_IsSubtype(message, &PyTuple_Type) || !PyType_IsSubtype(header, &PyTuple_Type)) {
        PyErr_SetString(PyExc_TypeError, "a message and a header are named tuples");
        return NULL;
    }
    /* These references are kept for as long as the process lives. */
    Py_INCREF(message), Py_INCREF(header), Py_INCREF(all), Py_INCREF(error), Py_INCREF(sum);
    message_type = message, header_type = header, kinds = all, wire_error = error, crc32 = sum;
    Py_RETURN_NONE;
}

#define FAST(name) (PyCFunction)(void (*)(void))name, METH_FASTCALL

static PyMethodDef methods[] = {
    {"use", use, METH_VARARGS, "use(message_type, header_type, kinds, wire_error, crc32): before anything else."},
    {"unpack", FAST(unpack), "unpack(source, frame, run_id) -> message: see wire.py."},
    {"frame_of", FAST(frame_of), "frame_of(header, payload) -> bytes: see wire.py."},
    {"seal", FAST(seal), "seal(frame, header): see wire.py."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_frames", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__frames(void) { return PyModule_Create(&module); }

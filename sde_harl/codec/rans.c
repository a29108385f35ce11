/* The rANS coder: latents of one agent to strings of bytes and back, with integer tables. This is the Python module
 * sde_harl.codec._rans, which coder.py uses.
 *
 * The strings are those of CompressAI's EntropyBottleneck, byte for byte: range asymmetric numeral systems (Duda 2013,
 * arXiv:1311.2540) with a 64-bit state and 32-bit words, as in Giesen's rans64, frequencies of 16 bits, and 4-bit
 * escape codes for integers outside a table. CompressAI's own coder works on lists of Python integers, which costs ten
 * times what the coding does, and it reads past the end of a damaged string. This one reads and writes arrays and
 * checks every read.
 *
 * rANS is last in, first out: the encoder goes backwards through the latents and writes backwards, so that the decoder
 * reads forwards. The encoder's state starts at LOWER. So a string is damaged unless the decoder, after the last
 * symbol, is back at LOWER and at the string's end.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* Integers are clamped to +-LIMIT: exact in float32 beside any sane median, and at most 5 nibbles of escape code. */
enum { PRECISION = 16, TOTAL = 1 << PRECISION, LIMIT = 1 << 15, NIBBLE = 4, MAX_NIBBLES = 5, STATE_WORDS = 2 };
enum { PUTS_A_SYMBOL = 2 + MAX_NIBBLES }; /* symbol, number of nibbles, nibbles: each a word at most */
static const uint64_t LOWER = (uint64_t)1 << 31;

enum { BIN_BITS = 6, BINS = 1 << BIN_BITS };

typedef struct {
    uint64_t factor; /* state * factor >> (64 + shift) is state / frequency; 0 for a frequency of 1 */
    uint32_t shift;
    float bits; /* PRECISION - log2(frequency) */
} Symbol;

typedef struct {
    const int32_t *cdf;    /* top + 2 entries, rising from 0 to TOTAL */
    const Symbol *symbols; /* top + 1 */
    int32_t top;        /* the escape symbol */
    int32_t offset;     /* the integer that symbol 0 stands for */
    float median;
    uint16_t first[BINS]; /* the symbol at the start of each of BINS equal parts of the range */
} Channel;

typedef struct {
    PyObject_HEAD
    Py_ssize_t channels;
    Channel *channel;
    int32_t *entries;
    Symbol *symbols;
    uint8_t *scratch; /* memory to encode or decode in; kept and grown, so that most calls allocate only their result */
    Py_ssize_t scratch_bytes;
} Coder;

static uint32_t load_word(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void store_word(uint8_t *at, uint32_t word) {
    at[0] = (uint8_t)word, at[1] = (uint8_t)(word >> 8), at[2] = (uint8_t)(word >> 16), at[3] = (uint8_t)(word >> 24);
}

/* ---- encoding ---- */

typedef struct {
    uint64_t state;
    uint8_t *at; /* the word written last; the next one goes before it */
} Writer;

static void make_room(Writer *w, uint64_t frequency) {
    if (w->state >= ((LOWER >> PRECISION) << 32) * frequency) {
        w->at -= 4;
        store_word(w->at, (uint32_t)w->state);
        w->state >>= 32;
    }
}

static void put(Writer *w, const Channel *c, int32_t symbol) {
    uint64_t start = (uint64_t)c->cdf[symbol], frequency = (uint64_t)c->cdf[symbol + 1] - start;
    make_room(w, frequency);
#ifdef __SIZEOF_INT128__
    const Symbol *s = &c->symbols[symbol];
    uint64_t quotient = s->factor ? (uint64_t)((unsigned __int128)w->state * s->factor >> 64) >> s->shift : w->state;
#else
    uint64_t quotient = w->state / frequency;
#endif
    w->state = (quotient << PRECISION) + (w->state - quotient * frequency) + start;
}

static void put_nibble(Writer *w, uint32_t nibble) {
    make_room(w, TOTAL >> NIBBLE);
    w->state = w->state << NIBBLE | nibble;
}

/* Writes the escape code of a `value` outside the table. The decoder reads the number of nibbles, then the nibbles,
 * lowest first. */
static void put_escape(Writer *w, int32_t value, int32_t top) {
    uint32_t raw = value < 0 ? (uint32_t)(-2 * value - 1) : (uint32_t)(2 * (value - top));
    uint32_t nibbles = 0;
    while (raw >> (NIBBLE * nibbles))
        nibbles++;
    for (uint32_t k = nibbles; k-- > 0;)
        put_nibble(w, (raw >> (NIBBLE * k)) & 15);
    put_nibble(w, nibbles);
}

/* Returns 0, or -1 if the latent is not finite. */
static int put_latent(Writer *w, const Channel *c, float latent) {
    float step = rintf(latent - c->median);
    if (!(fabsf(step) <= LIMIT)) { /* true of NaN too */
        if (!isfinite(step))
            return -1;
        step = step < 0 ? -LIMIT : LIMIT;
    }
    int32_t value = (int32_t)step - c->offset, symbol = value;
    if (value < 0 || value >= c->top) {
        put_escape(w, value, c->top);
        symbol = c->top;
    }
    put(w, c, symbol);
    return 0;
}

/* Takes a view of a (rows, channels) float32 array, whose rows need not be adjacent. Returns 0, or -1 with an exception
 * set. */
static int view_rows(const Coder *self, PyObject *array, Py_buffer *view, int flags) {
    if (PyObject_GetBuffer(array, view, PyBUF_STRIDES | PyBUF_FORMAT | flags) < 0)
        return -1;
    if (view->ndim == 2 && !strcmp(view->format, "f") && view->shape[1] == self->channels && view->shape[0] > 0 &&
        view->strides[1] == sizeof(float) && view->strides[0] % (Py_ssize_t)sizeof(float) == 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "latents of a shape other than (rows, %zd), or not float32 rows", self->channels);
    PyBuffer_Release(view);
    return -1;
}

static int reserve(Coder *self, Py_ssize_t size) {
    if (size <= self->scratch_bytes)
        return 0;
    uint8_t *grown = PyMem_Realloc(self->scratch, (size_t)size);
    if (!grown) {
        PyErr_NoMemory();
        return -1;
    }
    self->scratch = grown;
    self->scratch_bytes = size;
    return 0;
}

static PyObject *encode_rows(Coder *self, const Py_buffer *view) {
    Py_ssize_t rows = view->shape[0];
    if (reserve(self, 4 * (STATE_WORDS + PUTS_A_SYMBOL * rows * self->channels)) < 0)
        return NULL;
    uint8_t *end = self->scratch + self->scratch_bytes;
    Writer w = {LOWER, end};
    for (Py_ssize_t row = rows; row-- > 0;) {
        const float *latents = (const float *)((const char *)view->buf + row * view->strides[0]);
        for (Py_ssize_t c = self->channels; c-- > 0;)
            if (put_latent(&w, &self->channel[c], latents[c]) < 0) {
                PyErr_SetString(PyExc_ValueError, "a latent is not finite");
                return NULL;
            }
    }
    w.at -= 8;
    store_word(w.at, (uint32_t)w.state);
    store_word(w.at + 4, (uint32_t)(w.state >> 32));
    return PyBytes_FromStringAndSize((const char *)w.at, end - w.at);
}

static PyObject *encode(Coder *self, PyObject *array) {
    Py_buffer view;
    if (view_rows(self, array, &view, 0) < 0)
        return NULL;
    PyObject *string = encode_rows(self, &view);
    PyBuffer_Release(&view);
    return string;
}

/* ---- decoding ---- */

typedef struct {
    uint64_t state;
    const uint8_t *at, *end;
    const char *damage; /* what is wrong with the string, once something is */
} Reader;

static void refill(Reader *r) {
    if (r->state >= LOWER)
        return;
    if (r->at == r->end) {
        r->damage = "a string ends before its symbols do";
        return;
    }
    r->state = r->state << 32 | load_word(r->at);
    r->at += 4;
}

static int32_t get_symbol(Reader *r, const Channel *c) {
    int32_t low = (int32_t)(r->state & (TOTAL - 1)), symbol = c->first[low >> (PRECISION - BIN_BITS)];
    while (c->cdf[symbol + 1] <= low)
        symbol++;
    uint64_t frequency = (uint64_t)(c->cdf[symbol + 1] - c->cdf[symbol]);
    r->state = frequency * (r->state >> PRECISION) + (uint64_t)(low - c->cdf[symbol]);
    refill(r);
    return symbol;
}

static uint32_t get_nibble(Reader *r) {
    uint32_t nibble = (uint32_t)(r->state & 15);
    r->state >>= NIBBLE;
    refill(r);
    return nibble;
}

static int32_t get_escaped(Reader *r, const Channel *c, double *bits) {
    uint32_t nibbles = get_nibble(r), raw = 0;
    if (nibbles > MAX_NIBBLES) {
        r->damage = "an escape code is too long";
        return 0;
    }
    for (uint32_t k = 0; k < nibbles; k++)
        raw |= get_nibble(r) << (NIBBLE * k);
    int32_t value = raw & 1 ? -(int32_t)(raw >> 1) - 1 : (int32_t)(raw >> 1) + c->top;
    if (value + c->offset < -LIMIT || value + c->offset > LIMIT)
        r->damage = "a symbol is out of bounds";
    *bits += NIBBLE * (1 + nibbles);
    return value;
}

/* Fills `latents` (rows, channels); returns the string's ideal size in bits, or sets r->damage. */
static double decode_rows(const Coder *self, Reader *r, float *latents, Py_ssize_t rows) {
    double bits = 0;
    for (Py_ssize_t row = 0; row < rows; row++, latents += self->channels)
        for (Py_ssize_t k = 0; k < self->channels; k++) {
            const Channel *c = &self->channel[k];
            int32_t value = get_symbol(r, c);
            bits += c->symbols[value].bits;
            if (value == c->top)
                value = get_escaped(r, c, &bits);
            if (r->damage)
                return 0;
            latents[k] = (float)(value + c->offset) + c->median;
        }
    if (r->state != LOWER || r->at != r->end)
        r->damage = "a string does not end where its symbols do";
    return bits;
}

/* Decodes into the scratch memory first, so that a damaged string leaves the view as it was. */
static PyObject *decode_string(Coder *self, const Py_buffer *string, const Py_buffer *view) {
    const uint8_t *data = string->buf;
    if (string->len < 8 || string->len % 4) {
        PyErr_SetString(PyExc_ValueError, "a string is cut short");
        return NULL;
    }
    Py_ssize_t rows = view->shape[0], row_bytes = self->channels * (Py_ssize_t)sizeof(float);
    if (reserve(self, rows * row_bytes) < 0)
        return NULL;
    Reader r = {load_word(data) | (uint64_t)load_word(data + 4) << 32, data + 8, data + string->len, NULL};
    double bits = decode_rows(self, &r, (float *)self->scratch, rows);
    if (r.damage) {
        PyErr_SetString(PyExc_ValueError, r.damage);
        return NULL;
    }
    for (Py_ssize_t row = 0; row < rows; row++)
        memcpy((char *)view->buf + row * view->strides[0], self->scratch + row * row_bytes, (size_t)row_bytes);
    return PyFloat_FromDouble(bits);
}

static PyObject *decode(Coder *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "decode takes a string and the latents to fill");
        return NULL;
    }
    Py_buffer string, view;
    if (PyObject_GetBuffer(args[0], &string, PyBUF_SIMPLE) < 0)
        return NULL;
    if (view_rows(self, args[1], &view, PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(&string);
        return NULL;
    }
    PyObject *bits = decode_string(self, &string, &view);
    PyBuffer_Release(&view);
    PyBuffer_Release(&string);
    return bits;
}

/* ---- making a coder ---- */

/* Division by a constant as a multiplication: factor = ceil(2^(64 + shift) / frequency) with 2^shift < frequency <=
 * 2^(shift + 1) is exact for numerators below 2^63 (Granlund & Montgomery, PLDI 1994, theorem 4.2). */
static Symbol symbol_of(uint64_t frequency) {
    Symbol symbol = {0, 0, (float)(PRECISION - log2((double)frequency))};
#ifdef __SIZEOF_INT128__
    while (((uint64_t)2 << symbol.shift) < frequency)
        symbol.shift++;
    if (frequency > 1)
        symbol.factor = (uint64_t)((((unsigned __int128)1 << (64 + symbol.shift)) + frequency - 1) / frequency);
#endif
    return symbol;
}

/* Copies one row of the tables. Returns 0, or -1 if the coder could read outside it. */
static int set_channel(Coder *self, Py_ssize_t k, Py_ssize_t at, const int32_t *row, int32_t length) {
    int32_t *cdf = self->entries + at;
    Symbol *symbols = self->symbols + at;
    memcpy(cdf, row, (size_t)length * sizeof *cdf);
    if (cdf[0] != 0 || cdf[length - 1] != TOTAL)
        return -1;
    for (int32_t symbol = 0; symbol < length - 1; symbol++) {
        int64_t frequency = (int64_t)cdf[symbol + 1] - cdf[symbol];
        if (frequency <= 0 || frequency >= TOTAL)
            return -1;
        symbols[symbol] = symbol_of((uint64_t)frequency);
    }
    Channel *channel = &self->channel[k];
    channel->cdf = cdf;
    channel->symbols = symbols;
    channel->top = length - 2;
    for (int32_t bin = 0, symbol = 0; bin < BINS; bin++) {
        while (cdf[symbol + 1] <= bin << (PRECISION - BIN_BITS))
            symbol++;
        channel->first[bin] = (uint16_t)symbol;
    }
    return 0;
}

static int fill(Coder *self, const Py_buffer *cdf, const int32_t *lengths, const int32_t *offsets, const float *medians) {
    Py_ssize_t channels = self->channels, width = cdf->len / (Py_ssize_t)sizeof(int32_t) / channels, entries = 0, at = 0;
    for (Py_ssize_t k = 0; k < channels; k++) {
        if (lengths[k] < 3 || lengths[k] > width || lengths[k] > UINT16_MAX || offsets[k] < -LIMIT || offsets[k] > LIMIT) {
            PyErr_SetString(PyExc_ValueError, "tables: a length or an offset is impossible");
            return -1;
        }
        entries += lengths[k];
    }
    self->channel = PyMem_Calloc((size_t)channels, sizeof *self->channel);
    self->entries = PyMem_Calloc((size_t)entries, sizeof *self->entries);
    self->symbols = PyMem_Calloc((size_t)entries, sizeof *self->symbols);
    if (!self->channel || !self->entries || !self->symbols) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t k = 0; k < channels; at += lengths[k], k++) {
        if (set_channel(self, k, at, (const int32_t *)cdf->buf + k * width, lengths[k]) < 0) {
            PyErr_SetString(PyExc_ValueError, "tables: a row does not rise from 0 to 65536");
            return -1;
        }
        self->channel[k].offset = offsets[k];
        self->channel[k].median = medians[k];
    }
    return 0;
}

static int init(Coder *self, PyObject *args, PyObject *kwargs) {
    Py_buffer cdf, lengths, offsets, medians;
    if (self->channel || (kwargs && PyDict_Size(kwargs))) {
        PyErr_SetString(PyExc_TypeError, "Coder(cdf, lengths, offsets, medians), once");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "y*y*y*y*", &cdf, &lengths, &offsets, &medians))
        return -1;
    int done = -1;
    self->channels = lengths.len / 4;
    if (self->channels < 1 || lengths.len % 4 || offsets.len != lengths.len || medians.len != lengths.len ||
        cdf.len % (4 * self->channels))
        PyErr_SetString(PyExc_ValueError, "tables: the arrays' sizes disagree");
    else
        done = fill(self, &cdf, lengths.buf, offsets.buf, medians.buf);
    PyBuffer_Release(&cdf);
    PyBuffer_Release(&lengths);
    PyBuffer_Release(&offsets);
    PyBuffer_Release(&medians);
    return done;
}

static void dealloc(Coder *self) {
    PyMem_Free(self->channel);
    PyMem_Free(self->entries);
    PyMem_Free(self->symbols);
    PyMem_Free(self->scratch);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef methods[] = {
    {"encode", (PyCFunction)encode, METH_O, "encode(latents) -> bytes: float32 (rows, channels) as one string."},
    {"decode", (PyCFunction)(void (*)(void))decode, METH_FASTCALL,
     "decode(string, latents) -> bits: fill float32 (rows, channels); the string's ideal size. ValueError if damaged."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject CoderType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "sde_harl.codec._rans.Coder",
    .tp_doc = "Coder(cdf, lengths, offsets, medians): int32 (C, L), int32 (C,), int32 (C,), float32 (C,), contiguous.",
    .tp_basicsize = sizeof(Coder),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)init,
    .tp_dealloc = (destructor)dealloc,
    .tp_methods = methods,
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_rans", .m_size = -1};

PyMODINIT_FUNC PyInit__rans(void) {
    if (PyType_Ready(&CoderType) < 0)
        return NULL;
    PyObject *self = PyModule_Create(&module);
    if (!self)
        return NULL;
    Py_INCREF(&CoderType);
    if (PyModule_AddObject(self, "Coder", (PyObject *)&CoderType) < 0 ||
        PyModule_AddIntConstant(self, "LIMIT", LIMIT) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

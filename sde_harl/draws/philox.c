/* Random numbers that depend on a counter alone: the Python module sde_harl.draws._philox.
 *
 * Philox4x64-10 (Salmon et al., SC 2011) maps a 256-bit counter and a 128-bit key to four random 64-bit words. The key
 * is (seed, purpose), the counter (block, step, environment, agent), so the numbers of one agent in one environment at
 * one step are the same whoever draws them, in whatever order. The words are the ones of
 * numpy.random.Philox(counter=[0, step, environment, agent], key=[seed, purpose]); tests hold them to that.
 *
 * Logarithm and inverse error function are polynomials written out here, and nothing is contracted into fused
 * operations: the C library's functions differ between machines, and an executor on ARM must draw what the server on
 * x86-64 would.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__)
#define WIDEST __attribute__((target_clones("avx2", "default")))
#else
#define WIDEST
#endif
#define INLINE static inline __attribute__((always_inline))

enum { ROUNDS = 10, WORDS = 4, HALVES = 2 * WORDS };
typedef enum { UNIFORM, EXPONENTIAL, NORMAL } Law;

typedef struct {
    uint64_t word[WORDS];
} Block;

typedef struct {
    uint64_t seed, purpose, step, first_environment;
    const int32_t *agents;                       /* (n,) */
    Py_ssize_t agent_count, environments, count; /* n, E and K of the output (n, E, K) */
} Request;

INLINE uint64_t multiply_high(uint64_t a, uint64_t b) {
#ifdef __SIZEOF_INT128__
    return (uint64_t)(((unsigned __int128)a * b) >> 64);
#else /* 32-bit boards */
    const uint64_t a_low = (uint32_t)a, a_high = a >> 32, b_low = (uint32_t)b, b_high = b >> 32;
    const uint64_t middle = a_high * b_low + ((a_low * b_low) >> 32);
    const uint64_t carried = a_low * b_high + (uint32_t)middle;
    return a_high * b_high + (middle >> 32) + (carried >> 32);
#endif
}

INLINE Block philox(Block counter, uint64_t key0, uint64_t key1) {
    for (int round = 0; round < ROUNDS; round++) {
        const uint64_t m0 = UINT64_C(0xD2E7470EE14C6C93), m1 = UINT64_C(0xCA5A826395121157);
        const uint64_t high0 = multiply_high(m0, counter.word[0]), low0 = m0 * counter.word[0];
        const uint64_t high1 = multiply_high(m1, counter.word[2]), low1 = m1 * counter.word[2];
        counter = (Block){{high1 ^ counter.word[1] ^ key0, low1, high0 ^ counter.word[3] ^ key1, low0}};
        key0 += UINT64_C(0x9E3779B97F4A7C15);
        key1 += UINT64_C(0xBB67AE8584CAA73B);
    }
    return counter;
}

/* 23 bits and a half: neither 0 nor 1 can come out, whose logarithms would be infinite or zero. */
INLINE float unit(uint32_t bits) { return ((float)(bits >> 9) + 0.5f) * 0x1p-23f; }

static void fill_uniform(const Request *request, float *out) {
    for (Py_ssize_t n = 0; n < request->agent_count; n++)
        for (Py_ssize_t e = 0; e < request->environments; e++) {
            const uint64_t environment = request->first_environment + (uint64_t)e;
            for (Py_ssize_t k = 0; k < request->count; k += HALVES) {
                /* numpy raises the counter before it draws, so its first block is number 1 */
                const Block counter = {{(uint64_t)k / HALVES + 1, request->step, environment,
                                        (uint64_t)request->agents[n]}};
                const Block drawn = philox(counter, request->seed, request->purpose);
                const Py_ssize_t left = request->count - k;
                for (Py_ssize_t i = 0; i < (left < HALVES ? left : HALVES); i++)
                    *out++ = unit((uint32_t)(drawn.word[i / 2] >> (i % 2 * 32)));
            }
        }
}

/* log x of a normal number, to 1 unit in the last place (Cephes, logf). */
INLINE float logarithm(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    /* exponent such that the mantissa lies between sqrt(1/2) and sqrt(2) */
    const int32_t shifted = bits - 0x3F3504F3, exponent = shifted >> 23;
    const int32_t mantissa_bits = bits - (int32_t)((uint32_t)exponent << 23);
    float m;
    memcpy(&m, &mantissa_bits, sizeof m);
    m -= 1.0f;
    const float square = m * m, e = (float)exponent;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * square - 2.12194440e-4f * e;
    return (m + (p - 0.5f * square)) + 0.693359375f * e;
}

/* The standard normal quantile of u: sqrt(2) erfinv(2 u - 1), by the polynomials of Giles (GPU Computing Gems, 2011). */
INLINE float normal_quantile(float u) {
    const float x = 2.0f * u - 1.0f, w = -logarithm((1.0f - x) * (1.0f + x));
    const float near = w - 2.5f, far = __builtin_sqrtf(w) - 3.0f;
    float p = 2.81022636e-08f, q = -0.000200214257f;
    p = p * near + 3.43273939e-07f, q = q * far + 0.000100950558f;
    p = p * near - 3.5233877e-06f, q = q * far + 0.00134934322f;
    p = p * near - 4.39150654e-06f, q = q * far - 0.00367342844f;
    p = p * near + 0.00021858087f, q = q * far + 0.00573950773f;
    p = p * near - 0.00125372503f, q = q * far - 0.0076224613f;
    p = p * near - 0.00417768164f, q = q * far + 0.00943887047f;
    p = p * near + 0.246640727f, q = q * far + 1.00167406f;
    p = p * near + 1.50140941f, q = q * far + 2.83297682f;
    return 1.41421356f * ((w < 5.0f ? p : q) * x);
}

/* These two loops over all numbers are what the compiler turns into vector operations. */
WIDEST static void to_exponential(float *values, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++)
        values[i] = -logarithm(values[i]);
}

WIDEST static void to_normal(float *values, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++)
        values[i] = normal_quantile(values[i]);
}

static int is_float32(const Py_buffer *out) {
    return out->ndim == 3 && out->itemsize == 4 && out->format && !strcmp(out->format, "f");
}

static int is_int32(const Py_buffer *agents) {
    return agents->ndim == 1 && agents->itemsize == 4 && agents->format &&
           (!strcmp(agents->format, "i") || !strcmp(agents->format, "l"));
}

static PyObject *fill(PyObject *self, PyObject *args) {
    int law;
    unsigned long long seed, purpose, step, first_environment;
    Py_buffer agents, out;
    if (!PyArg_ParseTuple(args, "iKKKKy*w*", &law, &seed, &purpose, &step, &first_environment, &agents, &out))
        return NULL;
    /* y* and w* ask for bytes; shapes and types come with a second look at the same objects */
    PyBuffer_Release(&agents);
    PyBuffer_Release(&out);
    if (PyObject_GetBuffer(PyTuple_GET_ITEM(args, 5), &agents, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0)
        return NULL;
    if (PyObject_GetBuffer(PyTuple_GET_ITEM(args, 6), &out, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(&agents);
        return NULL;
    }
    const int fits = is_float32(&out) && is_int32(&agents) && out.shape[0] == agents.shape[0] && law >= UNIFORM &&
                     law <= NORMAL;
    if (fits) {
        const Request request = {.seed = seed,
                                 .purpose = purpose,
                                 .step = step,
                                 .first_environment = first_environment,
                                 .agents = agents.buf,
                                 .agent_count = out.shape[0],
                                 .environments = out.shape[1],
                                 .count = out.shape[2]};
        fill_uniform(&request, out.buf);
        if (law == EXPONENTIAL)
            to_exponential(out.buf, out.len / 4);
        if (law == NORMAL)
            to_normal(out.buf, out.len / 4);
    }
    PyBuffer_Release(&agents);
    PyBuffer_Release(&out);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "fill takes int32 agents (n,) and a float32 array (n, E, K)");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"fill", fill, METH_VARARGS,
     "fill(law, seed, purpose, step, first_environment, agents, out): fills out (n, E, K) with random numbers."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_philox", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__philox(void) {
    PyObject *made = PyModule_Create(&module);
    if (made && (PyModule_AddIntMacro(made, UNIFORM) < 0 || PyModule_AddIntMacro(made, EXPONENTIAL) < 0 ||
                 PyModule_AddIntMacro(made, NORMAL) < 0))
        Py_CLEAR(made);
    return made;
}

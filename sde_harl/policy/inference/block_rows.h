/* The passes over rows of blocks.c, which includes this file once for each size of vectors: FLOATS numbers of a vector,
 * NAME(x) what x is called with vectors of that size.
 *
 * The compiler keeps vectors that are larger than the processor's in memory, and compares their numbers one by one: a
 * pass takes 5 to 14 times as long. So a sum of LANES numbers is PARTS vectors.
 *
 * Each pass is compiled twice, for float32 and for bfloat16: its inner function is called with a constant `half`. The
 * gradients' pass is compiled with and without normalisation, too. Where y is NaN, the ReLU counts as open, as it does
 * in torch.
 */
#define PARTS (LANES / FLOATS)
#define EACH_PART(p) _Pragma("GCC unroll 4") for (int p = 0; p < PARTS; p++)
#define EACH_OUTPUT(a, count) _Pragma("GCC unroll 4") for (int a = 0; a < (count); a++)
#define Vector NAME(Vector)
#define Bits NAME(Bits)
#define Words NAME(Words)
#define Halves NAME(Halves)
#define at NAME(at)
#define put NAME(put)
#define get NAME(get)
#define widened NAME(widened)
#define narrowed NAME(narrowed)
#define set NAME(set)
#define above NAME(above)
#define total NAME(total)
#define forward_of NAME(forward_of)
#define backward_of NAME(backward_of)
#define relu_gradients_of NAME(relu_gradients_of)
#define outputs_of_row NAME(outputs_of_row)
#define outputs_of NAME(outputs_of)
#define output_gradients_of NAME(output_gradients_of)

typedef float Vector __attribute__((vector_size(FLOATS * sizeof(float)), aligned(sizeof(float)), may_alias));
typedef int32_t Bits __attribute__((vector_size(FLOATS * sizeof(int32_t))));
typedef uint32_t Words __attribute__((vector_size(FLOATS * sizeof(uint32_t))));
typedef uint16_t Halves __attribute__((vector_size(FLOATS * sizeof(uint16_t)), aligned(sizeof(uint16_t)), may_alias));

INLINE Vector at(const float *values) { return *(const Vector *)values; }

INLINE void put(float *values, Vector vector) { *(Vector *)values = vector; }

/* The compilers' own conversions between 16 and 32 bits take several instructions where the processor has one. */
INLINE Words widened(Halves halves) {
#if FLOATS == 16
    return (Words)_mm512_cvtepu16_epi32((__m256i)halves);
#else
    return __builtin_convertvector(halves, Words);
#endif
}

#if FLOATS != 16
/* The lower halves of numbers of at most 16 bits. */
INLINE Halves narrowed(Bits bits) {
#if FLOATS == 8
    const __m256i all = (__m256i)bits;
    return (Halves)_mm_packs_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
#elif defined(__x86_64__)
    const __m128i packed = _mm_packs_epi32((__m128i)bits, (__m128i)bits);
    Halves halves;
    memcpy(&halves, &packed, sizeof halves);
    return halves;
#else
    return __builtin_convertvector(bits, Halves);
#endif
}
#endif

/* The numbers from i on of an array of bfloat16 where `half`, of float32 else. */
INLINE Vector get(const void *values, Py_ssize_t i, int half) {
    if (half)
        return (Vector)(widened(*(const Halves *)((const uint16_t *)values + i)) << 16);
    return at((const float *)values + i);
}

/* Rounds as `set_one` does. */
INLINE void set(void *values, Py_ssize_t i, Vector vector, int half) {
    if (!half) {
        put((float *)values + i, vector);
        return;
    }
    Halves *const place = (Halves *)((uint16_t *)values + i);
#if FLOATS == 16
    *place = (Halves)_mm512_cvtneps_pbh((__m512)vector);
#else
    const Words word = (Words)vector, rounded = word + 0x7fff + (word >> 16 & 1), nan = (Words)(vector != vector);
    const Words small = (Words)((word & EXPONENT) == 0);
    const Words kept = (rounded & ~nan & ~small) | ((word | 1 << 22) & nan) | (word & SIGN & small);
    *place = narrowed((Bits)kept >> 16);
#endif
}

/* Sets a value to 0 where `which` is at or below the bound. A NaN stays NaN, because hiding it would hide a fault. */
INLINE Vector above(Vector value, Vector which, float bound) {
#if FLOATS == 16
    const __mmask16 open = _mm512_cmp_ps_mask((__m512)which, _mm512_set1_ps(bound), _CMP_NLE_UQ);
    return (Vector)_mm512_maskz_mov_ps(open, (__m512)value);
#else
    return (Vector)((Bits)value & ~(which <= bound));
#endif
}

/* The sum of LANES partial sums and of those of the `rest` of a row, always in the same order. */
INLINE float total(const Vector *sums, const float *rest) {
    typedef float Quad __attribute__((vector_size(4 * sizeof(float))));
    Quad quads[LANES / 4], rests[LANES / 4];
    memcpy(quads, sums, sizeof quads);
    memcpy(rests, rest, sizeof rests);
    const Quad sum = ((quads[0] + rests[0]) + (quads[2] + rests[2])) + ((quads[1] + rests[1]) + (quads[3] + rests[3]));
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

INLINE void forward_of(Shape shape, void *restrict x, const float *restrict bias, int norm, float eps,
                       float *restrict stats, int half) {
    const Py_ssize_t width = shape.width, whole = width - width % LANES;
    const float share = 1.0f / (float)width;
    Py_ssize_t start = 0;
    for (Py_ssize_t k = 0; k < shape.sets; k++, bias += width)
        for (Py_ssize_t row = 0; row < shape.rows; row++, start += width) {
            Vector sum[PARTS] = {{0}}, squares[PARTS] = {{0}};
            float sum_rest[LANES] = {0}, squares_rest[LANES] = {0};
            for (Py_ssize_t i = 0; i < whole; i += LANES)
                EACH_PART(p) {
                    const Py_ssize_t j = i + p * FLOATS;
                    const Vector v = get(x, start + j, half) + at(bias + j), r = above(v, v, 0);
                    set(x, start + j, r, half), sum[p] += r;
                }
            for (Py_ssize_t i = whole; i < width; i++) {
                const float v = get_one(x, start + i, half) + bias[i], r = v <= 0 ? 0 : v;
                set_one(x, start + i, r, half), sum_rest[i - whole] += r;
            }
            if (!norm)
                continue;
            const float mean = total(sum, sum_rest) * share;
            for (Py_ssize_t i = 0; i < whole; i += LANES)
                EACH_PART(p) {
                    const Vector d = get(x, start + i + p * FLOATS, half) - mean;
                    squares[p] += d * d;
                }
            for (Py_ssize_t i = whole; i < width; i++) {
                const float d = get_one(x, start + i, half) - mean;
                squares_rest[i - whole] += d * d;
            }
            const float factor = 1.0f / sqrtf(total(squares, squares_rest) * share + eps);
            for (Py_ssize_t i = 0; i < whole; i += FLOATS)
                set(x, start + i, (get(x, start + i, half) - mean) * factor, half);
            for (Py_ssize_t i = whole; i < width; i++)
                set_one(x, start + i, (get_one(x, start + i, half) - mean) * factor, half);
            if (stats)
                stats[0] = (0.0f - mean) * factor, stats[1] = factor, stats += STATS;
        }
}

/* Overwrites x (sets * rows, W) with y. Writes to stats (sets * rows, 2), unless it is NULL, what the gradients need of
 * each row: the value that a 0 has become by the normalisation, and the factor 1 / sqrt(var + eps). */
static void NAME(forward)(Shape shape, void *x, const float *bias, int norm, float eps, float *stats, int half) {
    if (half)
        forward_of(shape, x, bias, norm, eps, stats, 1);
    else
        forward_of(shape, x, bias, norm, eps, stats, 0);
}

INLINE void backward_of(Shape shape, void *restrict dy, const void *restrict y, const float *restrict stats,
                        float *restrict db, int norm, int half) {
    const Py_ssize_t width = shape.width, whole = width - width % LANES;
    const float share = 1.0f / (float)width;
    Py_ssize_t start = 0;
    for (Py_ssize_t k = 0; k < shape.sets; k++, db += width)
        for (Py_ssize_t row = 0; row < shape.rows; row++, start += width) {
            float mean = 0, slope = 0, zero = 0, factor = 1;
            if (norm) {
                Vector sum[PARTS] = {{0}}, along[PARTS] = {{0}};
                float sum_rest[LANES] = {0}, along_rest[LANES] = {0};
                for (Py_ssize_t i = 0; i < whole; i += LANES)
                    EACH_PART(p) {
                        const Py_ssize_t j = start + i + p * FLOATS;
                        const Vector d = get(dy, j, half);
                        sum[p] += d, along[p] += d * get(y, j, half);
                    }
                for (Py_ssize_t i = whole; i < width; i++) {
                    const float d = get_one(dy, start + i, half);
                    sum_rest[i - whole] += d, along_rest[i - whole] += d * get_one(y, start + i, half);
                }
                mean = total(sum, sum_rest) * share, slope = total(along, along_rest) * share;
                zero = half ? rounded(stats[0]) : stats[0]; /* as y was */
                factor = stats[1], stats += STATS;
            }
            for (Py_ssize_t i = 0; i < whole; i += FLOATS) {
                const Vector up = get(y, start + i, half);
                Vector d = get(dy, start + i, half);
                if (norm)
                    d = (d - mean - up * slope) * factor;
                d = above(d, up, zero);
                set(dy, start + i, d, half), put(db + i, at(db + i) + d);
            }
            for (Py_ssize_t i = whole; i < width; i++) {
                const float up = get_one(y, start + i, half);
                float d = get_one(dy, start + i, half);
                if (norm)
                    d = (d - mean - up * slope) * factor;
                d = up <= zero ? 0 : d;
                set_one(dy, start + i, d, half), db[i] += d;
            }
        }
}

/* Overwrites dy, the gradient of y, with that of x; adds its sums over rows to db (sets, W), the gradient of the bias.
 * y and stats are as `forward` left them; stats is NULL where nothing was normalised. */
static void NAME(backward)(Shape shape, void *dy, const void *y, const float *stats, float *db, int half) {
    if (stats && half)
        backward_of(shape, dy, y, stats, db, 1, 1);
    else if (stats)
        backward_of(shape, dy, y, stats, db, 1, 0);
    else if (half)
        backward_of(shape, dy, y, stats, db, 0, 1);
    else
        backward_of(shape, dy, y, stats, db, 0, 0);
}

INLINE void relu_gradients_of(Shape shape, void *restrict dx, const void *restrict y, const int32_t *restrict rows,
                              int half) {
    const Py_ssize_t width = shape.width, whole = width - width % LANES;
    Py_ssize_t start = 0;
    for (Py_ssize_t row = 0; row < shape.rows; row++, start += width) {
        const Py_ssize_t from = rows[row] * width;
        for (Py_ssize_t i = 0; i < whole; i += FLOATS)
            set(dx, start + i, above(get(dx, start + i, half), get(y, from + i, half), 0), half);
        for (Py_ssize_t i = whole; i < width; i++)
            if (get_one(y, from + i, half) <= 0)
                set_one(dx, start + i, 0, half);
    }
}

/* Sets dx (rows, W) to 0 where the ReLU was closed: where y, at the row of it that `rows` names, is 0. */
static void NAME(relu_gradients)(Shape shape, void *dx, const void *y, const int32_t *rows, int half) {
    if (half)
        relu_gradients_of(shape, dx, y, rows, 1);
    else
        relu_gradients_of(shape, dx, y, rows, 0);
}

/* The values of `count` outputs of one row of x; w has a row of weights for each output. */
INLINE void outputs_of_row(Py_ssize_t width, const void *restrict x, Py_ssize_t start, const float *restrict w,
                           const float *restrict bias, int count, float *restrict y, int half) {
    const Py_ssize_t whole = width - width % LANES;
    Vector sum[TOGETHER][PARTS] = {{{0}}};
    float rest[TOGETHER][LANES] = {{0}};
    for (Py_ssize_t i = 0; i < whole; i += LANES)
        EACH_PART(p) {
            const Vector v = get(x, start + i + p * FLOATS, half);
            EACH_OUTPUT(a, count) sum[a][p] += v * at(w + a * width + i + p * FLOATS);
        }
    for (Py_ssize_t i = whole; i < width; i++)
        EACH_OUTPUT(a, count) rest[a][i - whole] += get_one(x, start + i, half) * w[a * width + i];
    EACH_OUTPUT(a, count) y[a] = total(sum[a], rest[a]) + bias[a];
}

INLINE void outputs_of(Shape shape, Py_ssize_t outputs, const void *restrict x, const float *restrict w,
                       const float *restrict bias, float *restrict y, int half) {
    const Py_ssize_t width = shape.width;
    Py_ssize_t start = 0;
    for (Py_ssize_t k = 0; k < shape.sets; k++, w += outputs * width, bias += outputs)
        for (Py_ssize_t row = 0; row < shape.rows; row++, start += width, y += outputs) {
            Py_ssize_t a = 0;
            for (; a + TOGETHER <= outputs; a += TOGETHER)
                outputs_of_row(width, x, start, w + a * width, bias + a, TOGETHER, y + a, half);
            for (; a < outputs; a++)
                outputs_of_row(width, x, start, w + a * width, bias + a, 1, y + a, half);
        }
}

/* Sets y (sets, rows, A) to the products of the rows of x with w (sets, A, W), plus bias (sets, A). */
static void NAME(outputs)(Shape shape, Py_ssize_t outputs, const void *x, const float *w, const float *bias, float *y,
                          int half) {
    if (half)
        outputs_of(shape, outputs, x, w, bias, y, 1);
    else
        outputs_of(shape, outputs, x, w, bias, y, 0);
}

INLINE void output_gradients_of(Shape shape, Py_ssize_t outputs, const float *restrict dy, const void *restrict x,
                                const float *restrict w, void *restrict dx, float *restrict dw, float *restrict db,
                                int half) {
    const Py_ssize_t width = shape.width, whole = width - width % LANES;
    Py_ssize_t start = 0;
    for (Py_ssize_t k = 0; k < shape.sets; k++, w += outputs * width) {
        for (Py_ssize_t row = 0; row < shape.rows; row++, start += width, dy += outputs) {
            for (Py_ssize_t i = 0; i < whole; i += FLOATS) {
                Vector d = at(w + i) * dy[0];
                for (Py_ssize_t a = 1; a < outputs; a++)
                    d += at(w + a * width + i) * dy[a];
                set(dx, start + i, d, half);
            }
            for (Py_ssize_t i = whole; i < width; i++) {
                float d = w[i] * dy[0];
                for (Py_ssize_t a = 1; a < outputs; a++)
                    d += w[a * width + i] * dy[a];
                set_one(dx, start + i, d, half);
            }
            if (!dw)
                continue;
            for (Py_ssize_t i = 0; i < whole; i += FLOATS) {
                const Vector v = get(x, start + i, half);
                for (Py_ssize_t a = 0; a < outputs; a++)
                    put(dw + a * width + i, at(dw + a * width + i) + v * dy[a]);
            }
            for (Py_ssize_t i = whole; i < width; i++)
                for (Py_ssize_t a = 0; a < outputs; a++)
                    dw[a * width + i] += get_one(x, start + i, half) * dy[a];
            for (Py_ssize_t a = 0; a < outputs; a++)
                db[a] += dy[a];
        }
        if (dw)
            dw += outputs * width, db += outputs;
    }
}

/* Sets dx, which is of the type of x, to the gradient of x for that of the outputs, dy (sets, rows, A), and adds those
 * of w and of the bias to dw and db. Where neither is wanted, both are NULL and x isn't read. */
static void NAME(output_gradients)(Shape shape, Py_ssize_t outputs, const float *dy, const void *x, const float *w,
                                   void *dx, float *dw, float *db, int half) {
    if (half)
        output_gradients_of(shape, outputs, dy, x, w, dx, dw, db, 1);
    else
        output_gradients_of(shape, outputs, dy, x, w, dx, dw, db, 0);
}

/* Sets y (sets, rows, W) to x with the first sizes[k] numbers of each row normalised and the others, padding, 0. */
static void NAME(normalise)(Shape shape, const float *restrict x, const int32_t *restrict sizes, float eps,
                          float *restrict y) {
    for (Py_ssize_t k = 0; k < shape.sets; k++) {
        const Py_ssize_t size = sizes[k], whole = size - size % LANES;
        const float share = 1.0f / (float)size;
        for (Py_ssize_t row = 0; row < shape.rows; row++, x += shape.width, y += shape.width) {
            Vector sum[PARTS] = {{0}}, squares[PARTS] = {{0}};
            float sum_rest[LANES] = {0}, squares_rest[LANES] = {0};
            for (Py_ssize_t i = 0; i < whole; i += LANES)
                EACH_PART(p) sum[p] += at(x + i + p * FLOATS);
            for (Py_ssize_t i = whole; i < size; i++)
                sum_rest[i - whole] += x[i];
            const float mean = total(sum, sum_rest) * share;
            for (Py_ssize_t i = 0; i < whole; i += LANES)
                EACH_PART(p) {
                    const Vector d = at(x + i + p * FLOATS) - mean;
                    put(y + i + p * FLOATS, d), squares[p] += d * d;
                }
            for (Py_ssize_t i = whole; i < size; i++)
                y[i] = x[i] - mean, squares_rest[i - whole] += y[i] * y[i];
            const float factor = 1.0f / sqrtf(total(squares, squares_rest) * share + eps);
            for (Py_ssize_t i = 0; i < whole; i += FLOATS)
                put(y + i, at(y + i) * factor);
            for (Py_ssize_t i = whole; i < size; i++)
                y[i] *= factor;
            memset(y + size, 0, (size_t)(shape.width - size) * sizeof *y);
        }
    }
}

static const Passes NAME(passes) = {NAME(forward), NAME(backward),         NAME(relu_gradients),
                                    NAME(outputs), NAME(output_gradients), NAME(normalise)};

#undef PARTS
#undef EACH_PART
#undef EACH_OUTPUT
#undef Vector
#undef Bits
#undef Words
#undef Halves
#undef at
#undef put
#undef get
#undef widened
#undef narrowed
#undef set
#undef above
#undef total
#undef forward_of
#undef backward_of
#undef relu_gradients_of
#undef outputs_of_row
#undef outputs_of
#undef output_gradients_of

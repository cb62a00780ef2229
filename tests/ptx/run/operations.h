/* Arithmetic: OP(name, type of the result, types of the operands a, b, c, its value).
 *
 * An instruction runs for all lanes of a warp that take part. encode.py makes names of PTX's: without
 * rounding to nearest, and `b32` is u32. Approximations are exact here.
 */

/* ftz: numbers too small for a full mantissa are 0 */
static inline f32 flush(f32 x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }

/* The 10 bits of mantissa that a tensor core reads, ties away from zero. */
static inline u32 to_tf32(u32 x) {
    return (x & 0x7f800000) == 0x7f800000 ? x : (x + 0x1000) & 0xffffe000;
}

/* A float without a fraction as an integer: the nearest there is, NaN as 0. */
#define WHOLE(T, LOW, HIGH) \
    static inline T whole_##T(f64 x) { \
        return x != x ? 0 : x <= (f64)LOW ? LOW : x >= (f64)HIGH ? HIGH : (T)x; \
    }
WHOLE(u32, 0, UINT32_MAX) WHOLE(s32, INT32_MIN, INT32_MAX)
WHOLE(u64, 0, UINT64_MAX) WHOLE(s64, INT64_MIN, INT64_MAX)

#define DIVISION(T) \
    static inline T quotient_##T(State *g, u32 l, T a, T b) { \
        if (!b) g->lane = l, fail(g, "division by zero"); \
        return (T)-1 < 0 && b == (T)-1 ? -a : a / b; \
    }
DIVISION(u32) DIVISION(s32) DIVISION(u64) DIVISION(s64)

static inline u64 field(u64 a, u32 at, u32 count) { /* bfe: `count` bits from bit `at` on */
    return (at & 255) > 63 ? 0 : a >> (at & 255) & ((count & 255) > 63 ? ~0ull : (1ull << (count & 255)) - 1);
}

/* bfi: of b, but for its `count` bits from bit `at` on, which are the lowest of a; 256 count + at */
static inline u64 inserted(u64 a, u64 b, u32 places) {
    u32 at = places & 255, count = places >> 8;
    u64 mask = (count > 63 ? ~0ull : (1ull << count) - 1) << at;
    return (b & ~mask) | (a << at & mask);
}

static inline u32 lop3(u32 a, u32 b, u32 c, u32 table) {
    u32 found = 0;
    for (int row = 0; row < 8; row++)
        if (table >> row & 1) found |= (row & 4 ? a : ~a) & (row & 2 ? b : ~b) & (row & 1 ? c : ~c);
    return found;
}

static inline u32 permuted(u32 a, u32 b, u32 which) { /* prmt: a half byte names one of eight bytes, or its sign */
    u32 found = 0;
    for (int k = 0; k < 4; k++) {
        u32 name = which >> 4 * k & 15, byte = ((u64)b << 32 | a) >> 8 * (name & 7) & 255;
        found |= (name & 8 ? (byte & 128 ? 255 : 0) : byte) << 8 * k;
    }
    return found;
}

#define AS_IS(x) (x)
#define FLOATS(OP, T, F, V) \
    OP(add##F##T, T, T, T, T, V(V(a) + V(b))) \
    OP(sub##F##T, T, T, T, T, V(V(a) - V(b))) \
    OP(mul##F##T, T, T, T, T, V(V(a) * V(b))) \
    OP(div##F##T, T, T, T, T, V(V(a) / V(b))) \
    OP(fma##F##T, T, T, T, T, V(fma(V(a), V(b), V(c)))) \
    OP(min##F##T, T, T, T, T, fmin(V(a), V(b))) \
    OP(max##F##T, T, T, T, T, fmax(V(a), V(b))) \
    OP(neg##F##T, T, T, T, T, -V(a)) \
    OP(abs##F##T, T, T, T, T, fabs(V(a))) \
    OP(sqrt##F##T, T, T, T, T, V(sqrt(V(a)))) \
    OP(rcp##F##T, T, T, T, T, V(1 / V(a))) \
    OP(rsqrt##F##T, T, T, T, T, V(1 / sqrt(V(a)))) \
    OP(ex2##F##T, T, T, T, T, V(exp2(V(a)))) \
    OP(lg2##F##T, T, T, T, T, V(log2(V(a)))) \
    OP(tanh##F##T, T, T, T, T, V(tanh(V(a)))) \
    OP(copysign##F##T, T, T, T, T, copysign(V(b), V(a)))

#define INTEGERS(OP, T, W) /* W: of twice the width */ \
    OP(add_##T, T, T, T, T, a + b) \
    OP(sub_##T, T, T, T, T, a - b) \
    OP(mul_lo_##T, T, T, T, T, a * b) \
    OP(mul_hi_##T, T, T, T, T, (W)a * (W)b >> 8 * sizeof(T)) \
    OP(mad_lo_##T, T, T, T, T, a * b + c) \
    OP(div_##T, T, T, T, T, quotient_##T(g, l, a, b)) \
    OP(rem_##T, T, T, T, T, a - quotient_##T(g, l, a, b) * b) \
    OP(neg_##T, T, T, T, T, -a) \
    OP(abs_##T, T, T, T, T, a < 0 ? -a : a) \
    OP(min_##T, T, T, T, T, a < b ? a : b) \
    OP(max_##T, T, T, T, T, a > b ? a : b) \
    OP(and_##T, T, T, T, T, a & b) \
    OP(or_##T, T, T, T, T, a | b) \
    OP(xor_##T, T, T, T, T, a ^ b) \
    OP(not_##T, T, T, T, T, ~a) \
    OP(mov_##T, T, T, T, T, a) \
    OP(shl_##T, T, T, u32, u32, b < 8 * sizeof(T) ? a << b : 0) \
    OP(shr_##T, T, T, u32, u32, b < 8 * sizeof(T) ? a >> b : (T)(a < 0 ? -1 : 0))

#define WIDE(OP, T, W) \
    OP(mul_wide_##T, W, T, T, T, (W)a * (W)b) \
    OP(mad_wide_##T, W, T, T, W, (W)a * (W)b + c)

#define BITS(OP, T) \
    OP(popc_##T, u32, T, T, T, __builtin_popcountll(a)) \
    OP(clz_##T, u32, T, T, T, a ? __builtin_clzll(a) - (64 - 8 * sizeof(T)) : 8 * sizeof(T)) \
    OP(bfe_##T, T, T, u32, u32, field(a, b, c)) \
    OP(bfi_##T, T, T, T, T, inserted(a, b, i->number))

#define WORDS(OP) \
    OP(lop3_u32, u32, u32, u32, u32, lop3(a, b, c, i->number)) \
    OP(prmt_u32, u32, u32, u32, u32, permuted(a, b, c)) \
    OP(shf_l_wrap_u32, u32, u32, u32, u32, ((u64)b << 32 | a) << (c & 31) >> 32) \
    OP(shf_r_wrap_u32, u32, u32, u32, u32, ((u64)b << 32 | a) >> (c & 31)) \
    OP(pack_u64, u64, u32, u32, u32, (u64)b << 32 | a) \
    OP(cvt_rna_tf32_f32, u32, u32, u32, u32, to_tf32(a))

#define TO_INTEGER(OP, T, S) \
    OP(cvt_rni_##T##_##S, T, S, S, S, whole_##T(nearbyint(a))) \
    OP(cvt_rzi_##T##_##S, T, S, S, S, whole_##T(trunc(a))) \
    OP(cvt_rmi_##T##_##S, T, S, S, S, whole_##T(floor(a))) \
    OP(cvt_rpi_##T##_##S, T, S, S, S, whole_##T(ceil(a)))
#define TO_WHOLE(OP, T) \
    OP(cvt_rni_##T##_##T, T, T, T, T, nearbyint(a)) \
    OP(cvt_rzi_##T##_##T, T, T, T, T, trunc(a)) \
    OP(cvt_rmi_##T##_##T, T, T, T, T, floor(a)) \
    OP(cvt_rpi_##T##_##T, T, T, T, T, ceil(a))
#define CAST(OP, T, S) OP(cvt_##T##_##S, T, S, S, S, (T)a)
#define CASTS(OP, T) CAST(OP, T, u32) CAST(OP, T, s32) CAST(OP, T, u64) CAST(OP, T, s64)
#define CONVERSIONS(OP) \
    CASTS(OP, u32) CASTS(OP, s32) CASTS(OP, u64) CASTS(OP, s64) CASTS(OP, f32) CASTS(OP, f64) \
    CAST(OP, f32, f64) CAST(OP, f64, f32) TO_WHOLE(OP, f32) TO_WHOLE(OP, f64) \
    TO_INTEGER(OP, u32, f32) TO_INTEGER(OP, s32, f32) TO_INTEGER(OP, u64, f32) TO_INTEGER(OP, s64, f32) \
    TO_INTEGER(OP, u32, f64) TO_INTEGER(OP, s32, f64) TO_INTEGER(OP, u64, f64) TO_INTEGER(OP, s64, f64)

#define ARITHMETIC(OP) \
    FLOATS(OP, f32, _, AS_IS) FLOATS(OP, f32, _ftz_, flush) FLOATS(OP, f64, _, AS_IS) \
    INTEGERS(OP, u32, u64) INTEGERS(OP, s32, s64) \
    INTEGERS(OP, u64, unsigned __int128) INTEGERS(OP, s64, __int128) \
    WIDE(OP, u32, u64) WIDE(OP, s32, s64) BITS(OP, u32) BITS(OP, u64) WORDS(OP) CONVERSIONS(OP)

#define OPERATION(NAME, D, A, B, C, VALUE) \
    static void NAME(State *g, Warp *w, const Op *i, u32 on) { \
        D *out = place(g, w, i->at[0]); \
        const A *as = place(g, w, i->at[1]); \
        const B *bs = place(g, w, i->at[2]); \
        const C *cs = place(g, w, i->at[3]); \
        (void)bs, (void)cs; \
        if (on == ALL) { \
            _Pragma("GCC ivdep") \
            for (u32 l = 0; l < 32; l++) { A a = as[l]; B b = bs[l]; C c = cs[l]; (void)b, (void)c; out[l] = VALUE; } \
        } else EACH_LANE(l, on) { A a = as[l]; B b = bs[l]; C c = cs[l]; (void)b, (void)c; out[l] = VALUE; } \
    }
ARITHMETIC(OPERATION)

/* Comparisons give predicates, which are bits. */

static inline u32 bits(State *g, Warp *w, u32 at) { return *(u32 *)place(g, w, at); }

static inline void put_bits(State *g, Warp *w, u32 at, u32 on, u32 found) {
    u32 *p = place(g, w, at);
    *p = (*p & ~on) | (found & on);
}

enum { ALONE, AND, OR, XOR }; /* how a comparison is joined with a third operand */

static void compared(State *g, Warp *w, const Op *i, u32 on, u32 found) {
    u32 third = bits(g, w, i->at[4]) ^ (u32)i->number;
    for (int k = 0; k < 2; k++, found = ~found) { /* p | q: q is of the opposite */
        u32 joined = i->how == AND ? found & third : i->how == OR ? found | third : i->how == XOR ? found ^ third : found;
        put_bits(g, w, i->at[k], on, joined);
    }
}

#define ORDERS(OP, T) \
    OP(lt, T, a < b) OP(le, T, a <= b) OP(gt, T, a > b) OP(ge, T, a >= b) OP(eq, T, a == b)
#define FLOAT_ORDERS(OP, T) /* of NaN the first half is false, the second true */ \
    ORDERS(OP, T) OP(ne, T, a < b || a > b) OP(num, T, a == a && b == b) \
    OP(ltu, T, !(a >= b)) OP(leu, T, !(a > b)) OP(gtu, T, !(a <= b)) OP(geu, T, !(a < b)) \
    OP(equ, T, !(a < b || a > b)) OP(neu, T, a != b) OP(nan, T, a != a || b != b)
#define INTEGER_ORDERS(OP, T) ORDERS(OP, T) OP(ne, T, a != b)
#define COMPARISONS(OP) \
    FLOAT_ORDERS(OP, f32) FLOAT_ORDERS(OP, f64) INTEGER_ORDERS(OP, u32) INTEGER_ORDERS(OP, s32) \
    INTEGER_ORDERS(OP, u64) INTEGER_ORDERS(OP, s64)

#define COMPARISON(NAME, T, VALUE) \
    static void setp_##NAME##_##T(State *g, Warp *w, const Op *i, u32 on) { \
        const T *as = place(g, w, i->at[2]), *bs = place(g, w, i->at[3]); \
        u32 found = 0; \
        for (u32 l = 0; l < 32; l++) { T a = as[l], b = bs[l]; found |= (u32)(VALUE) << l; } \
        compared(g, w, i, on, found); \
    }
COMPARISONS(COMPARISON)

#define PREDICATES(OP) OP(and, a & b) OP(or, a | b) OP(xor, a ^ b) OP(not, ~a) OP(mov, a)
#define PREDICATE(NAME, VALUE) \
    static void NAME##_pred(State *g, Warp *w, const Op *i, u32 on) { \
        u32 a = bits(g, w, i->at[1]), b = bits(g, w, i->at[2]); \
        (void)b; \
        put_bits(g, w, i->at[0], on, VALUE); \
    }
PREDICATES(PREDICATE)

#define SELECTION(T) \
    static void selp_##T(State *g, Warp *w, const Op *i, u32 on) { \
        T *out = place(g, w, i->at[0]); \
        const T *as = place(g, w, i->at[1]), *bs = place(g, w, i->at[2]); \
        u32 which = bits(g, w, i->at[3]); \
        EACH_LANE(l, on) out[l] = which >> l & 1 ? as[l] : bs[l]; \
    }
SELECTION(u32) SELECTION(u64)

static void unpack_u64(State *g, Warp *w, const Op *i, u32 on) {
    u32 *low = place(g, w, i->at[0]), *high = place(g, w, i->at[1]);
    const u64 *as = place(g, w, i->at[2]);
    EACH_LANE(l, on) low[l] = as[l], high[l] = as[l] >> 32;
}

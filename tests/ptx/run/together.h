/* What all lanes of a warp do together: in[operand][lane] and out[result][lane]. */

enum { RESULTS = 4, MASK = PLACES - 1 }; /* places of an instruction: 4 results, operands, the lanes meant */

static void take(State *g, Warp *w, const Op *i, u32 on, int n, u32 in[][32]) {
    u32 meant = *(u32 *)place(g, w, i->at[MASK]);
    if (on != (w->exists & ~w->ended) || (meant & on) != on)
        fail(g, "lanes of a warp do together what is not meant for all of them");
    if (g->launch->races) races_exchange(g, w, on);
    for (int k = 0; k < n; k++) memcpy(in[k], place(g, w, i->at[RESULTS + k]), 128);
}

static void give(State *g, Warp *w, const Op *i, u32 on, int k, u32 out[32]) {
    u32 *to = place(g, w, i->at[k]);
    EACH_LANE(l, on) to[l] = out[l];
}

static void bar_warp_sync(State *g, Warp *w, const Op *i, u32 on) {
    take(g, w, i, on, 0, NULL);
    u32 first = w->number * 32;
    if (g->launch->races) races_meet(g, w->block, first, first + __builtin_popcount(w->exists), warp_clock(g, w));
}

enum { UP, DOWN, BFLY, IDX };

static void exchange(State *g, Warp *w, const Op *i, u32 on, int mode) {
    u32 in[3][32], out[32], found = 0;
    take(g, w, i, on, 3, in);
    EACH_LANE(l, on) {
        s32 by = in[1][l], clamp = in[2][l] & 31, segment = in[2][l] >> 8 & 31;
        s32 last = (l & segment) | (clamp & ~segment), first = l & segment;
        s32 source = mode == UP ? (s32)l - by : mode == DOWN ? (s32)l + by
                   : mode == BFLY ? (s32)l ^ by : first | (by & ~segment & 31);
        u32 inside = mode == UP ? source >= last : source <= last;
        out[l] = in[0][inside ? source : (s32)l];
        if (inside && !(on >> source & 1)) out[l] = 0x7fc0dead; /* of a lane that is not there */
        found |= inside << l;
    }
    give(g, w, i, on, 0, out);
    put_bits(g, w, i->at[1], on, found);
}

static void shfl_sync_up_u32(State *g, Warp *w, const Op *i, u32 on) { exchange(g, w, i, on, UP); }
static void shfl_sync_down_u32(State *g, Warp *w, const Op *i, u32 on) { exchange(g, w, i, on, DOWN); }
static void shfl_sync_bfly_u32(State *g, Warp *w, const Op *i, u32 on) { exchange(g, w, i, on, BFLY); }
static void shfl_sync_idx_u32(State *g, Warp *w, const Op *i, u32 on) { exchange(g, w, i, on, IDX); }

static u32 votes(State *g, Warp *w, const Op *i, u32 on) {
    take(g, w, i, on, 0, NULL);
    return (bits(g, w, i->at[RESULTS]) ^ (u32)i->number) & on;
}

static void vote_sync_ballot_u32(State *g, Warp *w, const Op *i, u32 on) {
    u32 found = votes(g, w, i, on), out[32];
    for (int l = 0; l < 32; l++) out[l] = found;
    give(g, w, i, on, 0, out);
}
static void vote_sync_any_pred(State *g, Warp *w, const Op *i, u32 on) { put_bits(g, w, i->at[0], on, votes(g, w, i, on) ? ALL : 0); }
static void vote_sync_all_pred(State *g, Warp *w, const Op *i, u32 on) { put_bits(g, w, i->at[0], on, votes(g, w, i, on) == on ? ALL : 0); }

static inline f32 as_f32(u32 x) { f32 y; memcpy(&y, &x, 4); return y; }

/* D = A B + C of 16 x 8 by 8 x 8; TF32 has been rounded before: what would be cut off is 0 already. */
static void mma_tf32(State *g, Warp *w, const Op *i, u32 on) {
    u32 in[10][32], out[4][32];
    f64 A[16][8], B[8][8], C[16][8];
    take(g, w, i, on, 10, in);
    if (on != ALL) fail(g, "mma without all lanes of a warp");
    for (int l = 0; l < 32; l++) {
        int row = l / 4, j = l % 4;
        for (int k = 0; k < 6; k++)
            if (in[k][l] & 0x1fff && (in[k][l] & 0x7f800000) != 0x7f800000)
                g->lane = l, fail(g, "mma: an operand is not rounded to TF32");
        for (int k = 0; k < 4; k++) {
            A[row + k % 2 * 8][j + k / 2 * 4] = as_f32(in[k][l]);
            C[row + k / 2 * 8][2 * j + k % 2] = as_f32(in[6 + k][l]);
        }
        for (int k = 0; k < 2; k++) B[j + 4 * k][row] = as_f32(in[4 + k][l]);
    }
    for (int l = 0; l < 32; l++)
        for (int k = 0; k < 4; k++) {
            int row = l / 4 + k / 2 * 8, column = 2 * (l % 4) + k % 2;
            f64 sum = C[row][column];
            for (int t = 0; t < 8; t++) sum += A[row][t] * B[t][column];
            f32 rounded = sum;
            memcpy(&out[k][l], &rounded, 4);
        }
    for (int k = 0; k < 4; k++) give(g, w, i, on, k, out[k]);
}

"""The LSTM in CUDA; the equations are those of rnnfast/reference/lstm.py.

    A (N, T, 4H)   x Wx at first, blocks f, g, i, o; the gates after forward, dA after backward
    hp, cp (N, T, H)   h and c of the step before, kept for backward
    hs, dhs (N, T, H), h0, c0, hT, cT, dh0, ... and h_mask m (N, H), Wh (H, 4H), b (4H,),
    Wp (3, H) where `diagonal`, lengths ends (N,)

A kernel runs the T steps t = first, first + ahead, ...; `train` says whether A, hp and cp are kept.
Where `ragged`, sample n takes part in those before ends[n] alone. A row takes no others; a grid and
a step compute all of them and select what counts, so that a NaN beyond the end goes nowhere.
Three ways to run, see planner.py: row, grid, steps; with a Wp (3, H, H) always steps.
"""

from functools import cache
from math import isfinite

import numpy as np

from rnnfast.cuda import call as calls
from rnnfast.cuda.activations import activations
from rnnfast.cuda.grid import exchange, make_meeting
from rnnfast.cuda.lengths import make_at_work, make_own_steps
from rnnfast.cuda.product import THREADS, make_product, up
from rnnfast.cuda.rows import make_dot, make_over_lanes

GATES = 4
STATES = ("h", "c")
FORWARD, BACKWARD = ((1, 4),), ((4, 1),)  # products of a step: terms and columns, in H


def make_clip(gpu, dtype, clip):
    """Device functions: c within its bounds, and of its gradient what passes them."""
    real = np.dtype(dtype).type
    zero, low, high = real(0), real(-(clip or 0)), real(clip or 0)

    @gpu.device
    def clipped(c):
        if c < low:
            c = low
        if c > high:
            c = high
        return c

    @gpu.device
    def clipped_back(dc, c):
        if c <= low or c >= high:
            dc = zero
        return dc

    @gpu.device
    def as_it_is(c):
        return c

    @gpu.device
    def as_it_is_back(dc, c):
        return dc

    return (as_it_is, as_it_is_back) if clip is None else (clipped, clipped_back)


def make_step(gpu, H, dtype, diagonal, clip):
    """Device functions: the gates before the new c, with it; and the whole step of one unit, j."""
    sigmoid, tanh = activations(gpu, dtype)
    clipped, _ = make_clip(gpu, dtype, clip)

    @gpu.device
    def renew(af, ag, ai, c):
        f = sigmoid(af)
        g = tanh(ag)
        i = sigmoid(ai)
        return f, g, i, clipped(f * c + g * i)

    @gpu.device
    def step(af, ag, ai, ao, c, Wp, j):
        if diagonal:
            af += c * Wp[j]
            ai += c * Wp[H + j]
        f, g, i, c = renew(af, ag, ai, c)
        if diagonal:
            ao += c * Wp[2 * H + j]
        o = sigmoid(ao)
        return f, g, i, o, c, o * tanh(c)

    return renew, step


def make_step_back(gpu, H, dtype, diagonal, clip):
    """Its gradient: the one of A_o alone; and all four of dA, with dc of the step before."""
    _, tanh = activations(gpu, dtype)
    clipped, clipped_back = make_clip(gpu, dtype, clip)
    one = np.dtype(dtype).type(1)

    @gpu.device
    def output_back(dh, f, g, i, o, c_prev):
        return dh * tanh(clipped(f * c_prev + g * i)) * o * (one - o)

    @gpu.device
    def step_back(dh, dc, f, g, i, o, c_prev, Wp, j):
        c = clipped(f * c_prev + g * i)
        tanh_c = tanh(c)
        do = dh * tanh_c * o * (one - o)
        dc = dc + dh * o * (one - tanh_c * tanh_c)
        if diagonal:
            dc += do * Wp[2 * H + j]
        dc = clipped_back(dc, c)
        df = dc * c_prev * f * (one - f)
        dg = dc * i * (one - g * g)
        di = dc * g * i * (one - i)
        dc = dc * f
        if diagonal:
            dc += df * Wp[j] + di * Wp[H + j]
        return df, dg, di, do, dc

    return output_back, step_back


# A block for each sample; lane q of a unit has gate q


@cache
def row_forward(gpu, H, masked, ragged, diagonal, clip):
    cuda, dot = gpu.cuda, make_dot(gpu, up(H, 4))
    _, step = make_step(gpu, H, "float32", diagonal, clip)
    own_steps = make_own_steps(gpu, ragged)
    zero, one, float32 = np.float32(0), np.float32(1), gpu.float32
    TERMS = up(H, 4)
    VECTORS = 2 * TERMS  # h of this step and of the next one

    def lstm_row_forward_kernel(
        A, Wh, b, Wp, h0, c0, m, hs, hp, cp, hT, cT, ends, T, first, ahead, train
    ):
        W = cuda.local.array(TERMS, float32)
        s = cuda.shared.array(VECTORS, float32)
        tid = cuda.threadIdx.x
        n = cuda.blockIdx.x
        u = tid // 4
        q = tid % 4
        live = u < H
        for k in range(TERMS):
            W[k] = zero
            if live and k < H:
                W[k] = Wh[k * 4 * H + q * H + u]
        for e in range(tid, VECTORS, cuda.blockDim.x):
            s[e] = zero
        cuda.syncthreads()
        bias = zero
        c = zero
        h = zero
        mask = one
        if masked and live:
            mask = m[n * H + u]
        if live:
            bias = b[q * H + u]
            c = c0[n * H + u]
            h = h0[n * H + u]
            if q == 0:
                s[u] = h * mask
        cuda.syncthreads()
        now = 0
        first, steps = own_steps(ends, n, T, first, ahead)
        at = (n * T + first) * H + u
        for _ in range(steps):
            a = bias
            if live:
                a += A[4 * (at - u) + q * H + u]
            a += dot(W, 0, s, now)
            now = TERMS - now
            a1 = cuda.shfl_xor_sync(-1, a, 1)
            a2 = cuda.shfl_xor_sync(-1, a, 2)
            a3 = cuda.shfl_xor_sync(-1, a1, 2)
            if live and q == 0:
                f, g, i, o, c_next, h_next = step(a, a1, a2, a3, c, Wp, u)
                s[now + u] = h_next * mask
                hs[at] = h_next
                if train != 0:
                    hp[at] = h
                    cp[at] = c
                    gate = 4 * (at - u) + u
                    A[gate] = f
                    A[gate + H] = g
                    A[gate + 2 * H] = i
                    A[gate + 3 * H] = o
                c = c_next
                h = h_next
            at += ahead * H
            cuda.syncthreads()
        if live and q == 0:
            hT[n * H + u] = h
            cT[n * H + u] = c

    signature = "*f " * 12 + "*i i i i i"
    return gpu.kernel(lstm_row_forward_kernel, signature, up(4 * H, 32))


@cache
def row_backward(gpu, H, masked, ragged, diagonal, clip):
    cuda, dot, over_lanes = gpu.cuda, make_dot(gpu, up(H, 4)), make_over_lanes(gpu)
    _, step_back = make_step_back(gpu, H, "float32", diagonal, clip)
    own_steps = make_own_steps(gpu, ragged)
    zero, one, float32 = np.float32(0), np.float32(1), gpu.float32
    TERMS = up(H, 4)
    VECTORS = 8 * TERMS  # dA of two steps

    def lstm_row_backward_kernel(dhs, A, cp, Wh, Wp, m, dhT, dcT, dh0, dc0, ends, T, first, ahead):
        W = cuda.local.array(TERMS, float32)
        s = cuda.shared.array(VECTORS, float32)
        tid = cuda.threadIdx.x
        n = cuda.blockIdx.x
        u = tid // 4
        q = tid % 4
        live = u < H
        for k in range(TERMS):
            W[k] = zero
            if live and k < H:
                W[k] = Wh[u * 4 * H + q * H + k]
        for e in range(tid, VECTORS, cuda.blockDim.x):
            s[e] = zero
        cuda.syncthreads()
        dh = zero
        dc = zero
        mask = one
        if masked and live:
            mask = m[n * H + u]
        if live:
            dh = dhT[n * H + u]
            dc = dcT[n * H + u]
        now = 0
        first, steps = own_steps(ends, n, T, first, ahead)
        at = (n * T + first) * H + u
        for _ in range(steps):
            if live:
                gate = 4 * (at - u) + u
                df, dg, di, do, dc = step_back(
                    dh + dhs[at],
                    dc,
                    A[gate],
                    A[gate + H],
                    A[gate + 2 * H],
                    A[gate + 3 * H],
                    cp[at],
                    Wp,
                    u,
                )
                mine = df
                if q == 1:
                    mine = dg
                if q == 2:
                    mine = di
                if q == 3:
                    mine = do
                s[now + q * TERMS + u] = mine
            cuda.syncthreads()
            if live:
                A[4 * (at - u) + q * H + u] = mine
            dh = mask * over_lanes(dot(W, 0, s, now + q * TERMS))
            now = 4 * TERMS - now
            at += ahead * H
        if live and q == 0:
            dh0[n * H + u] = dh
            dc0[n * H + u] = dc

    return gpu.kernel(lstm_row_backward_kernel, "*f " * 10 + "*i i i i", up(4 * H, 32))


# The whole GPU for all steps


@cache
def grid_forward(gpu, H, masked, ragged, diagonal, clip, plan):
    cuda, publish, at_work = gpu.cuda, gpu.publish, make_at_work(gpu, ragged)
    _, step = make_step(gpu, H, "float32", diagonal, clip)
    signal, wait = make_meeting(gpu)
    (tile,) = plan.tiles
    place, rounded, product, total = make_product(gpu, tile)
    zero, float32 = np.float32(0), gpu.float32
    BLOCKS, UNITS, ROWS, NR = plan.blocks // plan.groups, plan.units, plan.rows, tile.NR
    GROUPS, STRIDE, C, COLUMNS = plan.groups, tile.stride, tile.C, tile.columns
    XS = tile.weights
    SUMS = XS + NR * tile.row
    STATE = plan.state

    def lstm_grid_forward_kernel(
        A, Wh, b, Wp, h0, c0, m, hs, hp, cp, hT, cT, x, counters, ends, N, T, first, ahead, train
    ):
        s = cuda.shared.array(0, float32)
        tid = cuda.threadIdx.x
        group = cuda.blockIdx.x // BLOCKS
        j0 = cuda.blockIdx.x % BLOCKS * UNITS
        n0 = group * ROWS
        for e in range(tid, STRIDE * C, THREADS):
            k = e // C
            c = e - k * C
            j = j0 + c // 4  # the four gates of a unit lie side by side
            w = zero
            if c < COLUMNS and j < H and k < H:
                w = Wh[k * 4 * H + c % 4 * H + j]
            s[place(k, c)] = rounded(w)
        for e in range(tid, ROWS * UNITS, THREADS):
            n = n0 + e // UNITS
            j = j0 + e % UNITS
            if n < N and j < H:
                s[STATE + e] = c0[n * H + j]
                h = h0[n * H + j]
                hT[n * H + j] = h
                if masked:
                    h *= m[n * H + j]
                publish(x, n * STRIDE + j, h)
        signal(counters, group)
        t = first
        for i_step in range(T):
            now = i_step % 2 * GROUPS * ROWS * STRIDE
            then = GROUPS * ROWS * STRIDE - now
            wait(counters, group, (i_step + 1) * BLOCKS)
            for r in range(0, ROWS, NR):
                product(x, now + (n0 + r) * STRIDE, s, 0, XS, SUMS)
                for e in range(tid, NR * UNITS, THREADS):
                    i = e // UNITS
                    v = e - i * UNITS
                    n = n0 + r + i
                    j = j0 + v
                    if n < N and j < H:
                        at = (n * T + t) * H + j
                        gate = (n * T + t) * 4 * H + j
                        unit = STATE + (r + i) * UNITS + v
                        c = s[unit]
                        f, g, i_gate, o, c_next, h = step(
                            A[gate] + b[j] + total(s, SUMS, i, 4 * v),
                            A[gate + H] + b[H + j] + total(s, SUMS, i, 4 * v + 1),
                            A[gate + 2 * H] + b[2 * H + j] + total(s, SUMS, i, 4 * v + 2),
                            A[gate + 3 * H] + b[3 * H + j] + total(s, SUMS, i, 4 * v + 3),
                            c,
                            Wp,
                            j,
                        )
                        shown = h
                        if not at_work(ends, n, t):
                            c_next = c
                            h = hT[n * H + j]
                            shown = zero
                        seen = h
                        if masked:
                            seen = h * m[n * H + j]
                        publish(x, then + n * STRIDE + j, seen)
                        s[unit] = c_next
                        hs[at] = shown
                        if train != 0:
                            hp[at] = hT[n * H + j]
                            cp[at] = c
                            A[gate] = f
                            A[gate + H] = g
                            A[gate + 2 * H] = i_gate
                            A[gate + 3 * H] = o
                        hT[n * H + j] = h
            signal(counters, group)
            t += ahead
        for e in range(tid, ROWS * UNITS, THREADS):
            n = n0 + e // UNITS
            j = j0 + e % UNITS
            if n < N and j < H:
                cT[n * H + j] = s[STATE + e]

    signature = "*f " * 13 + "*i *i i i i i i"
    return gpu.kernel(lstm_grid_forward_kernel, signature, THREADS, plan.shared, cooperative=True)


@cache
def grid_backward(gpu, H, masked, ragged, diagonal, clip, plan):
    cuda, publish, at_work = gpu.cuda, gpu.publish, make_at_work(gpu, ragged)
    _, step_back = make_step_back(gpu, H, "float32", diagonal, clip)
    signal, wait = make_meeting(gpu)
    (tile,) = plan.tiles
    place, rounded, product, total = make_product(gpu, tile)
    zero, float32 = np.float32(0), gpu.float32
    BLOCKS, UNITS, ROWS, NR = plan.blocks // plan.groups, plan.units, plan.rows, tile.NR
    GROUPS, STRIDE, C = plan.groups, tile.stride, tile.C
    XS = tile.weights
    SUMS = XS + NR * tile.row
    STATE = plan.state

    def lstm_grid_backward_kernel(
        dhs, A, cp, Wh, Wp, m, dhT, dcT, dh0, dc0, x, counters, ends, N, T, first, ahead
    ):
        s = cuda.shared.array(0, float32)
        tid = cuda.threadIdx.x
        group = cuda.blockIdx.x // BLOCKS
        j0 = cuda.blockIdx.x % BLOCKS * UNITS
        n0 = group * ROWS
        for e in range(tid, STRIDE * C, THREADS):
            c = e // STRIDE
            k = e - c * STRIDE
            w = zero
            if c < UNITS and j0 + c < H and k < 4 * H:
                w = Wh[(j0 + c) * 4 * H + k]
            s[place(k, c)] = rounded(w)
        for e in range(tid, ROWS * UNITS, THREADS):
            n = n0 + e // UNITS
            j = j0 + e % UNITS
            if n < N and j < H:
                s[STATE + e] = dcT[n * H + j]
        cuda.syncthreads()
        t = first
        for i_step in range(T + 1):  # dh comes from the step before; the last one gives dh0
            now = i_step % 2 * GROUPS * ROWS * STRIDE
            then = GROUPS * ROWS * STRIDE - now
            if i_step > 0:
                wait(counters, group, i_step * BLOCKS)
            for r in range(0, ROWS, NR):
                if i_step > 0:
                    product(x, now + (n0 + r) * STRIDE, s, 0, XS, SUMS)
                for e in range(tid, NR * UNITS, THREADS):
                    i = e // UNITS
                    v = e - i * UNITS
                    n = n0 + r + i
                    j = j0 + v
                    if n < N and j < H:
                        if i_step > 0:
                            dh = total(s, SUMS, i, v)
                            if masked:
                                dh *= m[n * H + j]
                        else:
                            dh = dhT[n * H + j]
                        if i_step > 0 and not at_work(ends, n, t - ahead):
                            dh = dh0[n * H + j]  # nothing of it went into the step before this one
                        if ragged or i_step == T:
                            dh0[n * H + j] = dh
                        if i_step != T:
                            at = (n * T + t) * H + j
                            gate = (n * T + t) * 4 * H + j
                            unit = STATE + (r + i) * UNITS + v
                            df, dg, di, do, dc = step_back(
                                dh + dhs[at],
                                s[unit],
                                A[gate],
                                A[gate + H],
                                A[gate + 2 * H],
                                A[gate + 3 * H],
                                cp[at],
                                Wp,
                                j,
                            )
                            if not at_work(ends, n, t):
                                df = zero
                                dg = zero
                                di = zero
                                do = zero
                                dc = s[unit]
                            out = then + n * STRIDE + j
                            publish(x, out, df)
                            publish(x, out + H, dg)
                            publish(x, out + 2 * H, di)
                            publish(x, out + 3 * H, do)
                            s[unit] = dc
                            A[gate] = df
                            A[gate + H] = dg
                            A[gate + 2 * H] = di
                            A[gate + 3 * H] = do
            signal(counters, group)
            t += ahead
        for e in range(tid, ROWS * UNITS, THREADS):
            n = n0 + e // UNITS
            j = j0 + e % UNITS
            if n < N and j < H:
                dc0[n * H + j] = s[STATE + e]

    signature = "*f " * 11 + "*i *i i i i i"
    return gpu.kernel(lstm_grid_backward_kernel, signature, THREADS, plan.shared, cooperative=True)


# Matrix products and a kernel a step. With a Wp (3, H, H) the same kernels run: what Wp gives is
# added to Ah and to dc before, and what has to meet it then, the new c and on the way back dA_o, is
# computed ahead by a kernel of its own.


@cache
def step_forward(gpu, H, ragged, diagonal, clip, dtype):
    cuda, at_work = gpu.cuda, make_at_work(gpu, ragged)
    _, step = make_step(gpu, H, dtype, diagonal, clip)
    zero = np.dtype(dtype).type(0)

    def lstm_step_forward_kernel(A, Ah, b, Wp, h, c, hs, hp, cp, ends, N, T, t, train):
        """Ah (N, 4H) is h Wh; h and c (N, H) are replaced."""
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < N * H:
            n = e // H
            j = e - n * H
            at = (n * T + t) * H + j
            gate = (n * T + t) * 4 * H + j
            row = n * 4 * H + j
            f, g, i, o, c_next, h_next = step(
                A[gate] + b[j] + Ah[row],
                A[gate + H] + b[H + j] + Ah[row + H],
                A[gate + 2 * H] + b[2 * H + j] + Ah[row + 2 * H],
                A[gate + 3 * H] + b[3 * H + j] + Ah[row + 3 * H],
                c[e],
                Wp,
                j,
            )
            shown = h_next
            if not at_work(ends, n, t):
                c_next = c[e]
                h_next = h[e]
                shown = zero
            hs[at] = shown
            if train != 0:
                hp[at] = h[e]
                cp[at] = c[e]
                A[gate] = f
                A[gate + H] = g
                A[gate + 2 * H] = i
                A[gate + 3 * H] = o
            h[e] = h_next
            c[e] = c_next

    real = "*" + np.dtype(dtype).char + " "
    return gpu.kernel(lstm_step_forward_kernel, real * 9 + "*i i i i i", THREADS)


@cache
def step_backward(gpu, H, ragged, diagonal, clip, dtype):
    cuda, at_work = gpu.cuda, make_at_work(gpu, ragged)
    _, step_back = make_step_back(gpu, H, dtype, diagonal, clip)
    zero = np.dtype(dtype).type(0)

    def lstm_step_backward_kernel(dhs, A, dA, cp, Wp, dh, dc, ends, N, T, t):
        """dA (N, 4H) is this step's alone, for the product that follows; dc is replaced.

        Where `ragged`, dh keeps what goes past the step, to which the product is added.
        """
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < N * H:
            n = e // H
            j = e - n * H
            at = (n * T + t) * H + j
            gate = (n * T + t) * 4 * H + j
            row = n * 4 * H + j
            df, dg, di, do, dc_prev = step_back(
                dh[e] + dhs[at],
                dc[e],
                A[gate],
                A[gate + H],
                A[gate + 2 * H],
                A[gate + 3 * H],
                cp[at],
                Wp,
                j,
            )
            if not at_work(ends, n, t):
                df = zero
                dg = zero
                di = zero
                do = zero
                dc_prev = dc[e]
            elif ragged:
                dh[e] = zero
            dA[row] = df
            dA[row + H] = dg
            dA[row + 2 * H] = di
            dA[row + 3 * H] = do
            A[gate] = df
            A[gate + H] = dg
            A[gate + 2 * H] = di
            A[gate + 3 * H] = do
            dc[e] = dc_prev

    real = "*" + np.dtype(dtype).char + " "
    return gpu.kernel(lstm_step_backward_kernel, real * 7 + "*i i i i", THREADS)


@cache
def step_cell(gpu, H, clip, dtype):
    cuda = gpu.cuda
    renew, _ = make_step(gpu, H, dtype, False, clip)

    def lstm_step_cell_kernel(A, Ah, b, c, c_next, N, T, t):
        """c_next (N, H) is the c that the step will give."""
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < N * H:
            n = e // H
            j = e - n * H
            gate = (n * T + t) * 4 * H + j
            row = n * 4 * H + j
            _, _, _, c_next[e] = renew(
                A[gate] + b[j] + Ah[row],
                A[gate + H] + b[H + j] + Ah[row + H],
                A[gate + 2 * H] + b[2 * H + j] + Ah[row + 2 * H],
                c[e],
            )

    real = "*" + np.dtype(dtype).char + " "
    return gpu.kernel(lstm_step_cell_kernel, real * 5 + "i i i", THREADS)


@cache
def step_output_back(gpu, H, ragged, clip, dtype):
    cuda, at_work = gpu.cuda, make_at_work(gpu, ragged)
    output_back, _ = make_step_back(gpu, H, dtype, False, clip)
    zero = np.dtype(dtype).type(0)

    def lstm_step_output_back_kernel(dhs, A, dA_o, cp, dh, ends, N, T, t):
        """dA_o (N, H) is this step's."""
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < N * H:
            n = e // H
            j = e - n * H
            at = (n * T + t) * H + j
            gate = (n * T + t) * 4 * H + j
            do = output_back(
                dh[e] + dhs[at],
                A[gate],
                A[gate + H],
                A[gate + 2 * H],
                A[gate + 3 * H],
                cp[at],
            )
            if not at_work(ends, n, t):
                do = zero
            dA_o[e] = do

    real = "*" + np.dtype(dtype).char + " "
    return gpu.kernel(lstm_step_output_back_kernel, real * 5 + "*i i i i", THREADS)


# The contract


def forward(
    xs, state, params, *, train=True, lengths=None, reverse=False, h_mask=None, cell_clip=None
):
    """See rnnfast.kernels."""
    _check(cell_clip)
    call = calls.start_forward(
        "lstm", GATES, STATES, xs, state, params, train, h_mask, lengths, peepholes=True
    )
    gpu, N, T, H = call.gpu, call.N, call.T, call.H
    m, ends = call.mask(h_mask), call.ends(lengths)
    xs, (Wx, Wh, b), Wp = call.inputs(xs, ends), call.weights(), call.cell_weights()
    h0, c0 = call.state(state)
    full, diagonal = (call.peepholes == kind for kind in ("full", "diagonal"))
    variant = call.ragged, diagonal, cell_clip
    plan = call.plan(None if full else FORWARD)
    A, masked = call.projection(xs, Wx), call.masked
    # A row kernel writes nothing beyond a sample's end
    new = call.zeros if call.ragged else call.empty
    hs, (hT, cT) = new(N, T, H), call.final(plan, h0, c0)
    hp, cp = (new(N, T, H), new(N, T, H)) if train else (hs, hs)

    first, ahead = (T - 1, -1) if reverse else (0, 1)
    if plan.kind == "row":
        kernel = row_forward(gpu, H, masked, *variant)
        kernel(N, A, Wh, b, Wp, h0, c0, m, hs, hp, cp, hT, cT, ends, T, first, ahead, train)
    elif plan.kind == "grid":
        counters, x = exchange(call, plan, (plan.tiles[0], 2))
        kernel = grid_forward(gpu, H, masked, *variant, plan)
        kernel(
            *(plan.blocks, A, Wh, b, Wp, h0, c0, m, hs, hp, cp, hT, cT, x, counters, ends),
            *(N, T, first, ahead, train),
        )
    elif plan.kind == "steps":
        kernel, Ah = step_forward(gpu, H, *variant, call.dtype.name), call.empty(N, 4 * H)
        if full:
            cell_kernel, c_next = step_cell(gpu, H, cell_clip, call.dtype.name), call.empty(N, H)
            Ah_f, _, Ah_i, Ah_o = blocks(Ah)
        for t in range(first, first + ahead * T, ahead):
            gpu.matmul(hT * m if masked else hT, Wh, out=Ah)
            if full:
                Ah_f += gpu.matmul(cT, Wp[0])
                Ah_i += gpu.matmul(cT, Wp[1])
                cell_kernel(plan.blocks, A, Ah, b, cT, c_next, N, T, t)
                Ah_o += gpu.matmul(c_next, Wp[2])
            kernel(plan.blocks, A, Ah, b, Wp, hT, cT, hs, hp, cp, ends, N, T, t, train)

    cache = None
    if train:
        kept = {"A": A, "hp": hp, "cp": cp, "cell_clip": cell_clip}
        if call.peepholes:
            kept["cT"] = cT.copy()
        cache = call.keep(xs, reverse, m, ends, **kept)
    return call.give(hs), (call.give(hT), call.give(cT)), cache


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels."""
    call, kept = calls.start_backward(
        "lstm", GATES, STATES, dhs, dstate, params, cache, grads, peepholes=True
    )
    gpu, N, T, H = call.gpu, call.N, call.T, call.H
    dhs, (Wx, Wh, _), Wp = call.move(dhs), call.weights(), call.cell_weights()
    dhT, dcT = call.state(dstate)
    A, hp, cp, m, ends = (kept[name] for name in ("A", "hp", "cp", "m", "ends"))
    full, diagonal = (call.peepholes == kind for kind in ("full", "diagonal"))
    variant = call.ragged, diagonal, kept["cell_clip"]
    plan = call.plan(None if full else BACKWARD)
    dh0, dc0 = call.final(plan, dhT, dcT)

    first, ahead = (0, 1) if kept["reverse"] else (T - 1, -1)
    if plan.kind == "row":
        kernel = row_backward(gpu, H, call.masked, *variant)
        kernel(N, dhs, A, cp, Wh, Wp, m, dhT, dcT, dh0, dc0, ends, T, first, ahead)
    elif plan.kind == "grid":
        counters, x = exchange(call, plan, (plan.tiles[0], 2))
        kernel = grid_backward(gpu, H, call.masked, *variant, plan)
        kernel(
            *(plan.blocks, dhs, A, cp, Wh, Wp, m, dhT, dcT, dh0, dc0, x, counters, ends),
            *(N, T, first, ahead),
        )
    elif plan.kind == "steps":
        kernel, dA = step_backward(gpu, H, *variant, call.dtype.name), call.empty(N, 4 * H)
        if full:
            output_kernel = step_output_back(
                gpu, H, call.ragged, kept["cell_clip"], call.dtype.name
            )
            dA_o, (dA_f, _, dA_i, _) = call.empty(N, H), blocks(dA)
        for t in range(first, first + ahead * T, ahead):
            if full:
                output_kernel(plan.blocks, dhs, A, dA_o, cp, dh0, ends, N, T, t)
                dc0 += gpu.matmul(dA_o, Wp[2].T)
            kernel(plan.blocks, dhs, A, dA, cp, Wp, dh0, dc0, ends, N, T, t)
            call.through(dA, Wh, m, dh0)
            if full:
                dc0 += gpu.matmul(dA_f, Wp[0].T)
                dc0 += gpu.matmul(dA_i, Wp[1].T)

    dWp = None
    if call.peepholes and plan.kind != "nothing":
        dWp = peephole_grads(call, kept, A, call.target(grads[3]))
    dxs = call.finish(kept, A, Wx, grads, ((hp, A, slice(None)),), dWp=dWp)
    return dxs, (call.give(dh0), call.give(dc0))


def pack(params, *, cell_clip=None):
    """See rnnfast.kernels."""
    _check(cell_clip)
    return calls.pack("lstm", GATES, params, peepholes=True)


def blocks(A):
    """A (..., 4H) as its blocks f, g, i, o."""
    H = A.shape[-1] // 4
    return [A[..., k * H : (k + 1) * H] for k in range(4)]


def peephole_grads(call, kept, dA, dWp):
    """dWp, from dA and c before each step; c after a step is c before the one that follows."""
    cp, cT, c = kept["cp"], kept["cT"], call.empty(call.N, call.T, call.H)
    if kept["reverse"]:
        c[:, 1:], c[:, 0] = cp[:, :-1], cT
    else:
        c[:, :-1], c[:, -1] = cp[:, 1:], cT
        if call.ragged:
            last = call.xp.arange(call.T) == kept["ends"][:, np.newaxis] - 1
            c = call.xp.where(last[:, :, np.newaxis], cT[:, np.newaxis], c)
    dA_f, _, dA_i, dA_o = blocks(dA)
    for k, (cell, dA_k) in enumerate(((cp, dA_f), (cp, dA_i), (c, dA_o))):
        if call.peepholes == "diagonal":
            dWp[k] = (cell * dA_k).sum(axis=(0, 1))
        else:
            dWp[k] = call.gpu.matmul(calls.rows(cell).T, calls.rows(dA_k))
    return dWp


def _check(cell_clip):
    if cell_clip is not None and not (cell_clip > 0 and isfinite(cell_clip)):
        raise ValueError(f"lstm: cell_clip must be positive and finite, got {cell_clip}")

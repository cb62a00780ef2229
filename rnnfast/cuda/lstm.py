"""The LSTM in CUDA; the equations are those of rnnfast/reference/lstm.py.

    A (N, T, 4H)   x Wx at first, blocks f, g, i, o; the gates after forward, dA after backward
    hp, cp (N, T, H)   h and c of the step before, kept for backward
    hs, dhs (N, T, H), h0, c0, hT, cT, dh0, ... and h_mask m (N, H), Wh (H, 4H), b (4H,)

A kernel runs the T steps t = first, first + ahead, ...; `train` says whether A, hp and cp are kept.
Three ways to run, see planner.py: row, grid, steps.
"""

from functools import cache

import numpy as np

from rnnfast.cuda import call as calls
from rnnfast.cuda.activations import activations
from rnnfast.cuda.grid import exchange, make_meeting
from rnnfast.cuda.product import THREADS, make_product, up
from rnnfast.cuda.rows import make_dot, make_over_lanes

GATES = 4
STATES = ("h", "c")
FORWARD, BACKWARD = ((1, 4),), ((4, 1),)  # products of a step: terms and columns, in H


def make_step(gpu, dtype):
    """One step of one unit: gates and the new c, h."""
    sigmoid, tanh = activations(gpu, dtype)

    @gpu.device
    def step(af, ag, ai, ao, c):
        f = sigmoid(af)
        g = tanh(ag)
        i = sigmoid(ai)
        o = sigmoid(ao)
        c = f * c + g * i
        return f, g, i, o, c, o * tanh(c)

    return step


def make_step_back(gpu, dtype):
    """Its gradient: the four of dA, and dc of the step before."""
    _, tanh = activations(gpu, dtype)
    one = np.dtype(dtype).type(1)

    @gpu.device
    def step_back(dh, dc, f, g, i, o, c_prev):
        tanh_c = tanh(f * c_prev + g * i)
        dc = dc + dh * o * (one - tanh_c * tanh_c)
        df = dc * c_prev * f * (one - f)
        dg = dc * i * (one - g * g)
        di = dc * g * i * (one - i)
        do = dh * tanh_c * o * (one - o)
        return df, dg, di, do, dc * f

    return step_back


# A block for each sample; lane q of a unit has gate q


@cache
def row_forward(gpu, H, masked):
    cuda, dot, step = gpu.cuda, make_dot(gpu, up(H, 4)), make_step(gpu, "float32")
    zero, one, float32 = np.float32(0), np.float32(1), gpu.float32
    TERMS = up(H, 4)
    VECTORS = 2 * TERMS  # h of this step and of the next one

    def lstm_row_forward_kernel(A, Wh, b, h0, c0, m, hs, hp, cp, hT, cT, T, first, ahead, train):
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
        at = (n * T + first) * H + u
        for _ in range(T):
            a = bias
            if live:
                a += A[4 * (at - u) + q * H + u]
            a += dot(W, 0, s, now)
            now = TERMS - now
            a1 = cuda.shfl_xor_sync(-1, a, 1)
            a2 = cuda.shfl_xor_sync(-1, a, 2)
            a3 = cuda.shfl_xor_sync(-1, a1, 2)
            if live and q == 0:
                f, g, i, o, c_next, h_next = step(a, a1, a2, a3, c)
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

    signature = "*f " * 11 + "i i i i"
    return gpu.kernel(lstm_row_forward_kernel, signature, up(4 * H, 32))


@cache
def row_backward(gpu, H, masked):
    cuda, dot, step_back = gpu.cuda, make_dot(gpu, up(H, 4)), make_step_back(gpu, "float32")
    over_lanes = make_over_lanes(gpu)
    zero, one, float32 = np.float32(0), np.float32(1), gpu.float32
    TERMS = up(H, 4)
    VECTORS = 8 * TERMS  # dA of two steps

    def lstm_row_backward_kernel(dhs, A, cp, Wh, m, dhT, dcT, dh0, dc0, T, first, ahead):
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
        at = (n * T + first) * H + u
        for _ in range(T):
            if live:
                gate = 4 * (at - u) + u
                dh += dhs[at]
                df, dg, di, do, dc = step_back(
                    dh, dc, A[gate], A[gate + H], A[gate + 2 * H], A[gate + 3 * H], cp[at]
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

    return gpu.kernel(lstm_row_backward_kernel, "*f " * 9 + "i i i", up(4 * H, 32))


# The whole GPU for all steps


@cache
def grid_forward(gpu, H, masked, plan):
    cuda, publish, step = gpu.cuda, gpu.publish, make_step(gpu, "float32")
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
        A, Wh, b, h0, c0, m, hs, hp, cp, hT, cT, x, counters, N, T, first, ahead, train
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
                        )
                        seen = h
                        if masked:
                            seen = h * m[n * H + j]
                        publish(x, then + n * STRIDE + j, seen)
                        s[unit] = c_next
                        hs[at] = h
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

    signature = "*f " * 12 + "*i i i i i i"
    return gpu.kernel(lstm_grid_forward_kernel, signature, THREADS, plan.shared, cooperative=True)


@cache
def grid_backward(gpu, H, masked, plan):
    cuda, publish, step_back = gpu.cuda, gpu.publish, make_step_back(gpu, "float32")
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
        dhs, A, cp, Wh, m, dhT, dcT, dh0, dc0, x, counters, N, T, first, ahead
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
                        if i_step == T:
                            dh0[n * H + j] = dh
                        else:
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
                            )
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

    signature = "*f " * 10 + "*i i i i i"
    return gpu.kernel(lstm_grid_backward_kernel, signature, THREADS, plan.shared, cooperative=True)


# A matrix product and a kernel a step


@cache
def step_forward(gpu, H, dtype):
    cuda, step = gpu.cuda, make_step(gpu, dtype)

    def lstm_step_forward_kernel(A, Ah, b, h, c, hs, hp, cp, N, T, t, train):
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
            )
            hs[at] = h_next
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
    return gpu.kernel(lstm_step_forward_kernel, real * 8 + "i i i i", THREADS)


@cache
def step_backward(gpu, H, dtype):
    cuda, step_back = gpu.cuda, make_step_back(gpu, dtype)

    def lstm_step_backward_kernel(dhs, A, dA, cp, dh, dc, N, T, t):
        """dA (N, 4H) is this step's alone, for the product that follows; dc is replaced."""
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
            )
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
    return gpu.kernel(lstm_step_backward_kernel, real * 6 + "i i i", THREADS)


# The contract


def forward(
    xs, state, params, *, train=True, lengths=None, reverse=False, h_mask=None, cell_clip=None
):
    """See rnnfast.kernels."""
    call = calls.start_forward("lstm", GATES, STATES, xs, state, params, train, h_mask, lengths)
    gpu, N, T, H = call.gpu, call.N, call.T, call.H
    m, ends = call.mask(h_mask), call.ends(lengths)
    xs, (Wx, Wh, b), (h0, c0) = call.inputs(xs, ends), call.weights(), call.state(state)
    plan = call.plan(FORWARD)
    hs, (hT, cT) = call.empty(N, T, H), call.final(plan, h0, c0)
    A, masked = call.projection(xs, Wx), call.masked
    hp, cp = (call.empty(N, T, H), call.empty(N, T, H)) if train else (hs, hs)

    first, ahead = (T - 1, -1) if reverse else (0, 1)
    if plan.kind == "row":
        kernel = row_forward(gpu, H, masked)
        kernel(N, A, Wh, b, h0, c0, m, hs, hp, cp, hT, cT, T, first, ahead, train)
    elif plan.kind == "grid":
        counters, x = exchange(call, plan, (plan.tiles[0], 2))
        kernel = grid_forward(gpu, H, masked, plan)
        kernel(
            *(plan.blocks, A, Wh, b, h0, c0, m, hs, hp, cp, hT, cT, x, counters),
            *(N, T, first, ahead, train),
        )
    elif plan.kind == "steps":
        kernel, Ah = step_forward(gpu, H, call.dtype.name), call.empty(N, 4 * H)
        for t in range(first, first + ahead * T, ahead):
            gpu.matmul(hT * m if masked else hT, Wh, out=Ah)
            kernel(plan.blocks, A, Ah, b, hT, cT, hs, hp, cp, N, T, t, train)

    cache = call.keep(xs, reverse, m, ends, A=A, hp=hp, cp=cp) if train else None
    return call.give(hs), (call.give(hT), call.give(cT)), cache


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels."""
    call, kept = calls.start_backward("lstm", GATES, STATES, dhs, dstate, params, cache, grads)
    gpu, N, T, H = call.gpu, call.N, call.T, call.H
    dhs, (Wx, Wh, _), (dhT, dcT) = call.move(dhs), call.weights(), call.state(dstate)
    A, hp, cp, m = (kept[name] for name in ("A", "hp", "cp", "m"))
    masked = call.masked
    plan = call.plan(BACKWARD)
    dh0, dc0 = call.final(plan, dhT, dcT)

    first, ahead = (0, 1) if kept["reverse"] else (T - 1, -1)
    if plan.kind == "row":
        row_backward(gpu, H, masked)(N, dhs, A, cp, Wh, m, dhT, dcT, dh0, dc0, T, first, ahead)
    elif plan.kind == "grid":
        counters, x = exchange(call, plan, (plan.tiles[0], 2))
        kernel = grid_backward(gpu, H, masked, plan)
        kernel(plan.blocks, dhs, A, cp, Wh, m, dhT, dcT, dh0, dc0, x, counters, N, T, first, ahead)
    elif plan.kind == "steps":
        kernel, dA = step_backward(gpu, H, call.dtype.name), call.empty(N, 4 * H)
        for t in range(first, first + ahead * T, ahead):
            kernel(plan.blocks, dhs, A, dA, cp, dh0, dc0, N, T, t)
            gpu.matmul(dA, Wh.T, out=dh0)
            if masked:
                dh0 *= m

    dxs = call.finish(kept, A, Wx, grads, ((hp, A, slice(None)),))
    return dxs, (call.give(dh0), call.give(dc0))


def pack(params, **options):
    """See rnnfast.kernels."""
    return calls.pack("lstm", GATES, params)

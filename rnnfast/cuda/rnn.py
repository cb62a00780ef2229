"""The simple recurrent network in CUDA; the equations are those of rnnfast/reference/rnn.py.

    A (N, T, H)    x Wx at first; h after forward, dA after backward
    hp (N, T, H)   h of the step before, kept for backward
    hs, dhs (N, T, H), h0, hT, dhT, dh0 and h_mask m (N, H), Wh (H, H), b (H,), lengths ends (N,)

A kernel runs the T steps t = first, first + ahead, ...; `train` says whether A and hp are kept.
Where `ragged`, sample n takes part in those before ends[n] alone. A row takes no others; a grid and
a step compute all of them and select what counts, so that a NaN beyond the end goes nowhere.
Three ways to run, see planner.py: row, grid, steps.
"""

from functools import cache

import numpy as np

from rnnfast.cuda import call as calls
from rnnfast.cuda.activations import activations
from rnnfast.cuda.grid import exchange, make_meeting
from rnnfast.cuda.lengths import make_at_work, make_own_steps
from rnnfast.cuda.product import THREADS, make_product, up
from rnnfast.cuda.rows import make_dot, make_over_lanes, quarter

GATES = 1
STATES = ("h",)
FORWARD, BACKWARD = ((1, 1),), ((1, 1),)  # products of a step: terms and columns, in H


def make_nonlinearity(gpu, nonlinearity, dtype):
    """Device functions: h of a pre-activation, and dA of dh and h. relu keeps a NaN."""
    _, tanh = activations(gpu, dtype)
    zero, one = np.dtype(dtype).type(0), np.dtype(dtype).type(1)

    @gpu.device
    def of_tanh(a):
        return tanh(a)

    @gpu.device
    def of_tanh_back(dh, h):
        return dh * (one - h * h)

    @gpu.device
    def of_relu(a):
        if a <= zero:
            a = zero
        return a

    @gpu.device
    def of_relu_back(dh, h):
        if h > zero:
            return dh
        return zero

    return (of_tanh, of_tanh_back) if nonlinearity == "tanh" else (of_relu, of_relu_back)


# A block for each sample; each of a unit's four lanes has a quarter of the terms


@cache
def row_forward(gpu, H, nonlinearity, masked, ragged):
    cuda, dot, over_lanes = gpu.cuda, make_dot(gpu, quarter(H)), make_over_lanes(gpu)
    step, _ = make_nonlinearity(gpu, nonlinearity, "float32")
    own_steps = make_own_steps(gpu, ragged)
    zero, one, float32 = np.float32(0), np.float32(1), gpu.float32
    TERMS = quarter(H)
    VECTORS = 8 * TERMS  # h of this step and of the next one

    def rnn_row_forward_kernel(A, Wh, b, h0, m, hs, hp, hT, ends, T, first, ahead, train):
        W = cuda.local.array(TERMS, float32)
        s = cuda.shared.array(VECTORS, float32)
        tid = cuda.threadIdx.x
        n = cuda.blockIdx.x
        u = tid // 4
        q = tid % 4
        live = u < H
        for k in range(TERMS):
            W[k] = zero
            if live and q * TERMS + k < H:
                W[k] = Wh[(q * TERMS + k) * H + u]
        for e in range(tid, VECTORS, cuda.blockDim.x):
            s[e] = zero
        cuda.syncthreads()
        bias = zero
        h = zero
        mask = one
        if masked and live:
            mask = m[n * H + u]
        if live:
            bias = b[u]
            h = h0[n * H + u]
            s[u] = h * mask
        cuda.syncthreads()
        now = 0
        first, steps = own_steps(ends, n, T, first, ahead)
        at = (n * T + first) * H + u
        for _ in range(steps):
            a = bias
            if live:
                a += A[at]
            h_next = step(a + over_lanes(dot(W, 0, s, now + q * TERMS)))
            now = 4 * TERMS - now
            if live and q == 0:
                s[now + u] = h_next * mask
                hs[at] = h_next
                if train != 0:
                    hp[at] = h
                    A[at] = h_next
            h = h_next
            at += ahead * H
            cuda.syncthreads()
        if live and q == 0:
            hT[n * H + u] = h

    return gpu.kernel(rnn_row_forward_kernel, "*f " * 8 + "*i i i i i", up(4 * H, 32))


@cache
def row_backward(gpu, H, nonlinearity, masked, ragged):
    cuda, dot, over_lanes = gpu.cuda, make_dot(gpu, quarter(H)), make_over_lanes(gpu)
    _, step_back = make_nonlinearity(gpu, nonlinearity, "float32")
    own_steps = make_own_steps(gpu, ragged)
    zero, one, float32 = np.float32(0), np.float32(1), gpu.float32
    TERMS = quarter(H)
    VECTORS = 8 * TERMS  # dA of two steps

    def rnn_row_backward_kernel(dhs, A, Wh, m, dhT, dh0, ends, T, first, ahead):
        W = cuda.local.array(TERMS, float32)
        s = cuda.shared.array(VECTORS, float32)
        tid = cuda.threadIdx.x
        n = cuda.blockIdx.x
        u = tid // 4
        q = tid % 4
        live = u < H
        for k in range(TERMS):
            W[k] = zero
            if live and q * TERMS + k < H:
                W[k] = Wh[u * H + q * TERMS + k]
        for e in range(tid, VECTORS, cuda.blockDim.x):
            s[e] = zero
        cuda.syncthreads()
        dh = zero
        mask = one
        if masked and live:
            mask = m[n * H + u]
        if live:
            dh = dhT[n * H + u]
        now = 0
        first, steps = own_steps(ends, n, T, first, ahead)
        at = (n * T + first) * H + u
        for _ in range(steps):
            da = zero
            if live:
                da = step_back(dh + dhs[at], A[at])
                if q == 0:
                    s[now + u] = da
            cuda.syncthreads()
            if live and q == 0:
                A[at] = da
            dh = mask * over_lanes(dot(W, 0, s, now + q * TERMS))
            now = 4 * TERMS - now
            at += ahead * H
        if live and q == 0:
            dh0[n * H + u] = dh

    return gpu.kernel(rnn_row_backward_kernel, "*f " * 6 + "*i i i i", up(4 * H, 32))


# The whole GPU for all steps


@cache
def grid_forward(gpu, H, nonlinearity, masked, ragged, plan):
    cuda, publish, at_work = gpu.cuda, gpu.publish, make_at_work(gpu, ragged)
    step, _ = make_nonlinearity(gpu, nonlinearity, "float32")
    signal, wait = make_meeting(gpu)
    (tile,) = plan.tiles
    place, rounded, product, total = make_product(gpu, tile)
    zero, float32 = np.float32(0), gpu.float32
    BLOCKS, UNITS, ROWS, NR = plan.blocks // plan.groups, plan.units, plan.rows, tile.NR
    GROUPS, STRIDE, C = plan.groups, tile.stride, tile.C
    XS = tile.weights
    SUMS = XS + NR * tile.row

    def rnn_grid_forward_kernel(
        A, Wh, b, h0, m, hs, hp, hT, x, counters, ends, N, T, first, ahead, train
    ):
        s = cuda.shared.array(0, float32)
        tid = cuda.threadIdx.x
        group = cuda.blockIdx.x // BLOCKS
        j0 = cuda.blockIdx.x % BLOCKS * UNITS
        n0 = group * ROWS
        for e in range(tid, STRIDE * C, THREADS):
            k = e // C
            c = e - k * C
            w = zero
            if c < UNITS and j0 + c < H and k < H:
                w = Wh[k * H + j0 + c]
            s[place(k, c)] = rounded(w)
        for e in range(tid, ROWS * UNITS, THREADS):
            n = n0 + e // UNITS
            j = j0 + e % UNITS
            if n < N and j < H:
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
                        h = step(A[at] + b[j] + total(s, SUMS, i, v))
                        shown = h
                        if not at_work(ends, n, t):
                            h = hT[n * H + j]
                            shown = zero
                        seen = h
                        if masked:
                            seen = h * m[n * H + j]
                        publish(x, then + n * STRIDE + j, seen)
                        hs[at] = shown
                        if train != 0:
                            hp[at] = hT[n * H + j]
                            A[at] = h
                        hT[n * H + j] = h
            signal(counters, group)
            t += ahead

    signature = "*f " * 9 + "*i *i i i i i i"
    return gpu.kernel(rnn_grid_forward_kernel, signature, THREADS, plan.shared, cooperative=True)


@cache
def grid_backward(gpu, H, nonlinearity, masked, ragged, plan):
    cuda, publish, at_work = gpu.cuda, gpu.publish, make_at_work(gpu, ragged)
    _, step_back = make_nonlinearity(gpu, nonlinearity, "float32")
    signal, wait = make_meeting(gpu)
    (tile,) = plan.tiles
    place, rounded, product, total = make_product(gpu, tile)
    zero, float32 = np.float32(0), gpu.float32
    BLOCKS, UNITS, ROWS, NR = plan.blocks // plan.groups, plan.units, plan.rows, tile.NR
    GROUPS, STRIDE, C = plan.groups, tile.stride, tile.C
    XS = tile.weights
    SUMS = XS + NR * tile.row

    def rnn_grid_backward_kernel(dhs, A, Wh, m, dhT, dh0, x, counters, ends, N, T, first, ahead):
        s = cuda.shared.array(0, float32)
        tid = cuda.threadIdx.x
        group = cuda.blockIdx.x // BLOCKS
        j0 = cuda.blockIdx.x % BLOCKS * UNITS
        n0 = group * ROWS
        for e in range(tid, STRIDE * C, THREADS):
            c = e // STRIDE
            k = e - c * STRIDE
            w = zero
            if c < UNITS and j0 + c < H and k < H:
                w = Wh[(j0 + c) * H + k]
            s[place(k, c)] = rounded(w)
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
                            da = step_back(dh + dhs[at], A[at])
                            if not at_work(ends, n, t):
                                da = zero
                            publish(x, then + n * STRIDE + j, da)
                            A[at] = da
            signal(counters, group)
            t += ahead

    signature = "*f " * 7 + "*i *i i i i i"
    return gpu.kernel(rnn_grid_backward_kernel, signature, THREADS, plan.shared, cooperative=True)


# A matrix product and a kernel a step


@cache
def step_forward(gpu, H, nonlinearity, ragged, dtype):
    cuda, at_work = gpu.cuda, make_at_work(gpu, ragged)
    step, _ = make_nonlinearity(gpu, nonlinearity, dtype)
    zero = np.dtype(dtype).type(0)

    def rnn_step_forward_kernel(A, Ah, b, h, hs, hp, ends, N, T, t, train):
        """Ah (N, H) is h Wh; h (N, H) is replaced."""
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < N * H:
            n = e // H
            j = e - n * H
            at = (n * T + t) * H + j
            h_next = step(A[at] + b[j] + Ah[e])
            shown = h_next
            if not at_work(ends, n, t):
                h_next = h[e]
                shown = zero
            hs[at] = shown
            if train != 0:
                hp[at] = h[e]
                A[at] = h_next
            h[e] = h_next

    real = "*" + np.dtype(dtype).char + " "
    return gpu.kernel(rnn_step_forward_kernel, real * 6 + "*i i i i i", THREADS)


@cache
def step_backward(gpu, H, nonlinearity, ragged, dtype):
    cuda, at_work = gpu.cuda, make_at_work(gpu, ragged)
    _, step_back = make_nonlinearity(gpu, nonlinearity, dtype)
    zero = np.dtype(dtype).type(0)

    def rnn_step_backward_kernel(dhs, A, dA, dh, ends, N, T, t):
        """dA (N, H) is this step's alone, for the product that follows.

        Where `ragged`, dh keeps what goes past the step, to which the product is added.
        """
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < N * H:
            n = e // H
            at = (n * T + t) * H + e - n * H
            da = step_back(dh[e] + dhs[at], A[at])
            if not at_work(ends, n, t):
                da = zero
            elif ragged:
                dh[e] = zero
            dA[e] = da
            A[at] = da

    real = "*" + np.dtype(dtype).char + " "
    return gpu.kernel(rnn_step_backward_kernel, real * 4 + "*i i i i", THREADS)


# The contract


def forward(
    xs, state, params, *, train=True, lengths=None, reverse=False, h_mask=None, nonlinearity="tanh"
):
    """See rnnfast.kernels."""
    _check(nonlinearity)
    call = calls.start_forward("rnn", GATES, STATES, xs, state, params, train, h_mask, lengths)
    gpu, N, T, H = call.gpu, call.N, call.T, call.H
    m, ends = call.mask(h_mask), call.ends(lengths)
    xs, (Wx, Wh, b), (h0,) = call.inputs(xs, ends), call.weights(), call.state(state)
    plan = call.plan(FORWARD)
    A, masked, ragged = call.projection(xs, Wx), call.masked, call.ragged
    new = call.zeros if ragged else call.empty  # a row kernel writes nothing beyond a sample's end
    hs, (hT,) = new(N, T, H), call.final(plan, h0)
    hp = new(N, T, H) if train else hs

    first, ahead = (T - 1, -1) if reverse else (0, 1)
    if plan.kind == "row":
        kernel = row_forward(gpu, H, nonlinearity, masked, ragged)
        kernel(N, A, Wh, b, h0, m, hs, hp, hT, ends, T, first, ahead, train)
    elif plan.kind == "grid":
        counters, x = exchange(call, plan, (plan.tiles[0], 2))
        kernel = grid_forward(gpu, H, nonlinearity, masked, ragged, plan)
        kernel(
            *(plan.blocks, A, Wh, b, h0, m, hs, hp, hT, x, counters, ends),
            *(N, T, first, ahead, train),
        )
    elif plan.kind == "steps":
        kernel = step_forward(gpu, H, nonlinearity, ragged, call.dtype.name)
        Ah = call.empty(N, H)
        for t in range(first, first + ahead * T, ahead):
            gpu.matmul(hT * m if masked else hT, Wh, out=Ah)
            kernel(plan.blocks, A, Ah, b, hT, hs, hp, ends, N, T, t, train)

    kept = {"A": A, "hp": hp, "nonlinearity": nonlinearity}
    cache = call.keep(xs, reverse, m, ends, **kept) if train else None
    return call.give(hs), (call.give(hT),), cache


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels."""
    call, kept = calls.start_backward("rnn", GATES, STATES, dhs, dstate, params, cache, grads)
    gpu, N, T, H = call.gpu, call.N, call.T, call.H
    dhs, (Wx, Wh, _), (dhT,) = call.move(dhs), call.weights(), call.state(dstate)
    A, hp, m, ends = (kept[name] for name in ("A", "hp", "m", "ends"))
    nonlinearity, masked, ragged = kept["nonlinearity"], call.masked, call.ragged
    plan = call.plan(BACKWARD)
    (dh0,) = call.final(plan, dhT)

    first, ahead = (0, 1) if kept["reverse"] else (T - 1, -1)
    if plan.kind == "row":
        kernel = row_backward(gpu, H, nonlinearity, masked, ragged)
        kernel(N, dhs, A, Wh, m, dhT, dh0, ends, T, first, ahead)
    elif plan.kind == "grid":
        counters, x = exchange(call, plan, (plan.tiles[0], 2))
        kernel = grid_backward(gpu, H, nonlinearity, masked, ragged, plan)
        kernel(plan.blocks, dhs, A, Wh, m, dhT, dh0, x, counters, ends, N, T, first, ahead)
    elif plan.kind == "steps":
        kernel = step_backward(gpu, H, nonlinearity, ragged, call.dtype.name)
        dA = call.empty(N, H)
        for t in range(first, first + ahead * T, ahead):
            kernel(plan.blocks, dhs, A, dA, dh0, ends, N, T, t)
            call.through(dA, Wh, m, dh0)

    dxs = call.finish(kept, A, Wx, grads, ((hp, A, slice(None)),))
    return dxs, (call.give(dh0),)


def pack(params, *, nonlinearity="tanh"):
    """See rnnfast.kernels."""
    _check(nonlinearity)
    return calls.pack("rnn", GATES, params)


def _check(nonlinearity):
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f'rnn: nonlinearity must be "tanh" or "relu", got {nonlinearity!r}')

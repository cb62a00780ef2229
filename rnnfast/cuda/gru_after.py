"""The GRU in CUDA where r comes after the product, as in cuDNN, PyTorch and Keras (reset_after).

    A (N, T, 3H)   x Wx at first, blocks z, r, candidate; the gates after forward, dA after backward
    hp, qs (N, T, H)   h of the step before, and q = h Wh_c + b1_c, kept for backward
    dB (N, T, 3H)  what comes back to h Wh + b1: blocks dA_z, dA_r, dq
    hs, dhs (N, T, H), h0, hT, dhT, dh0 and h_mask m (N, H), Wh (H, 3H), b (2, 3H),
    lengths ends (N,)

A step has one product. A kernel runs the T steps t = first, first + ahead, ...; `train` says
whether A, hp and qs are kept. Where a sample has ended nothing is read or written: hs, hp, qs and
dB are zeros there from the start, A is 0 Wx. Three ways to run, see planner.py: row, grid, steps.
"""

from functools import cache

import numpy as np

from rnnfast.cuda import call as calls
from rnnfast.cuda.activations import activations
from rnnfast.cuda.grid import exchange, make_meeting
from rnnfast.cuda.gru_equations import make_equations
from rnnfast.cuda.lengths import make_at_work, make_own_steps
from rnnfast.cuda.product import THREADS, make_product, up
from rnnfast.cuda.rows import UNIT_LANES, make_dot, make_over_lanes, quarter

FORWARD, BACKWARD = ((1, 3),), ((3, 1),)  # products of a step: terms and columns, in H


def make_step(gpu, dtype, z_keeps):
    """One step of one unit: the gates and the new h."""
    sigmoid, tanh = activations(gpu, dtype)
    update, renew, _, _ = make_equations(gpu, dtype, z_keeps)

    @gpu.device
    def step(a_z, a_r, a_c, q, h):
        """a_z and a_r have their part of h Wh, a_c is without q."""
        z = update(a_z)
        r = sigmoid(a_r)
        h_hat = tanh(a_c + r * q)
        return z, r, h_hat, renew(z, h, h_hat)

    return step


def make_step_back(gpu, dtype, z_keeps):
    """Its gradient: dA_z, dA_r, dA_c, dq, and what goes straight to dh of the step before."""
    _, _, renew_back, reset_back = make_equations(gpu, dtype, z_keeps)

    @gpu.device
    def step_back(dh, z, r, h_hat, q, h_prev):
        dz, dc, dh_prev = renew_back(dh, z, h_prev, h_hat)
        return dz, reset_back(dc * q, r), dc, dc * r, dh_prev

    return step_back


# A block for each sample; a unit's four lanes share its three sums, a quarter of the terms each


@cache
def row_forward(gpu, H, masked, ragged, z_keeps):
    cuda, over_lanes, own_steps = gpu.cuda, make_over_lanes(gpu), make_own_steps(gpu, ragged)
    step = make_step(gpu, "float32", z_keeps)
    zero, one, float32 = np.float32(0), np.float32(1), gpu.float32
    QUARTER = quarter(H)
    dot = make_dot(gpu, QUARTER)
    TERMS = 3 * QUARTER
    VECTOR = UNIT_LANES * QUARTER
    VECTORS = 2 * VECTOR  # h of this step and of the next one

    def gru_after_row_forward_kernel(A, Wh, b, h0, m, ends, hs, hp, qs, hT, T, first, ahead, train):
        W = cuda.local.array(TERMS, float32)
        s = cuda.shared.array(VECTORS, float32)
        tid = cuda.threadIdx.x
        n = cuda.blockIdx.x
        u = tid // 4
        start = tid % 4 * QUARTER
        live = u < H
        mine = live and tid % 4 == 0  # to write
        for k in range(QUARTER):
            W[k] = zero
            W[QUARTER + k] = zero
            W[2 * QUARTER + k] = zero
            if live and start + k < H:
                w = (start + k) * 3 * H + u
                W[k] = Wh[w]
                W[QUARTER + k] = Wh[w + H]
                W[2 * QUARTER + k] = Wh[w + 2 * H]
        for e in range(tid, VECTORS, cuda.blockDim.x):
            s[e] = zero
        cuda.syncthreads()
        b_z = zero
        b_r = zero
        b_c = zero
        b_q = zero
        h = zero
        mask = one
        if masked and live:
            mask = m[n * H + u]
        if live:
            b_z = b[u] + b[3 * H + u]
            b_r = b[H + u] + b[4 * H + u]
            b_c = b[2 * H + u]
            b_q = b[5 * H + u]
            h = h0[n * H + u]
            s[u] = h * mask
        cuda.syncthreads()
        now = 0
        own_first, steps = own_steps(ends, n, T, first, ahead)
        at = (n * T + own_first) * H + u
        for _ in range(steps):
            a_z = b_z
            a_r = b_r
            a_c = b_c
            at_z = 3 * (at - u) + u
            if live:
                a_z += A[at_z]
                a_r += A[at_z + H]
                a_c += A[at_z + 2 * H]
            a_z += over_lanes(dot(W, 0, s, now + start))
            a_r += over_lanes(dot(W, QUARTER, s, now + start))
            q = b_q + over_lanes(dot(W, 2 * QUARTER, s, now + start))
            z, r, h_hat, h_next = step(a_z, a_r, a_c, q, h)
            now = VECTOR - now
            if mine:
                s[now + u] = h_next * mask
                hs[at] = h_next
                if train != 0:
                    hp[at] = h
                    qs[at] = q
                    A[at_z] = z
                    A[at_z + H] = r
                    A[at_z + 2 * H] = h_hat
            h = h_next
            at += ahead * H
            cuda.syncthreads()
        if mine:
            hT[n * H + u] = h

    signature = "*f " * 5 + "*i " + "*f " * 4 + "i i i i"
    return gpu.kernel(gru_after_row_forward_kernel, signature, up(4 * H, 32))


@cache
def row_backward(gpu, H, masked, ragged, z_keeps):
    cuda, over_lanes, own_steps = gpu.cuda, make_over_lanes(gpu), make_own_steps(gpu, ragged)
    step_back = make_step_back(gpu, "float32", z_keeps)
    zero, one, float32 = np.float32(0), np.float32(1), gpu.float32
    QUARTER = quarter(H)
    dot = make_dot(gpu, QUARTER)
    TERMS = 3 * QUARTER
    VECTOR = UNIT_LANES * QUARTER
    VECTORS = 6 * VECTOR  # dB of two steps

    def gru_after_row_backward_kernel(dhs, A, hp, qs, Wh, m, ends, dhT, dh0, dB, T, first, ahead):
        W = cuda.local.array(TERMS, float32)
        s = cuda.shared.array(VECTORS, float32)
        tid = cuda.threadIdx.x
        n = cuda.blockIdx.x
        u = tid // 4
        start = tid % 4 * QUARTER
        live = u < H
        mine = live and tid % 4 == 0  # to write
        for k in range(QUARTER):
            W[k] = zero
            W[QUARTER + k] = zero
            W[2 * QUARTER + k] = zero
            if live and start + k < H:
                w = u * 3 * H + start + k
                W[k] = Wh[w]
                W[QUARTER + k] = Wh[w + H]
                W[2 * QUARTER + k] = Wh[w + 2 * H]
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
        own_first, steps = own_steps(ends, n, T, first, ahead)
        at = (n * T + own_first) * H + u
        for _ in range(steps):
            if live:
                at_z = 3 * (at - u) + u
                dz, dr, dc, dq, dh = step_back(
                    dh + dhs[at], A[at_z], A[at_z + H], A[at_z + 2 * H], qs[at], hp[at]
                )
                if mine:
                    s[now + u] = dz
                    s[now + VECTOR + u] = dr
                    s[now + 2 * VECTOR + u] = dq
            cuda.syncthreads()
            if mine:
                A[at_z] = dz
                A[at_z + H] = dr
                A[at_z + 2 * H] = dc
                dB[at_z] = dz
                dB[at_z + H] = dr
                dB[at_z + 2 * H] = dq
            part = dot(W, 0, s, now + start)
            part += dot(W, QUARTER, s, now + VECTOR + start)
            part += dot(W, 2 * QUARTER, s, now + 2 * VECTOR + start)
            dh += mask * over_lanes(part)
            now = 3 * VECTOR - now
            at += ahead * H
        if mine:
            dh0[n * H + u] = dh

    signature = "*f " * 6 + "*i *f *f *f i i i"
    return gpu.kernel(gru_after_row_backward_kernel, signature, up(4 * H, 32))


# The whole GPU for all steps


@cache
def grid_forward(gpu, H, masked, ragged, z_keeps, plan):
    cuda, publish, at_work = gpu.cuda, gpu.publish, make_at_work(gpu, ragged)
    step = make_step(gpu, "float32", z_keeps)
    signal, wait = make_meeting(gpu)
    (tile,) = plan.tiles
    place, rounded, product, total = make_product(gpu, tile)
    zero, float32 = np.float32(0), gpu.float32
    BLOCKS, UNITS, ROWS, NR = plan.blocks // plan.groups, plan.units, plan.rows, tile.NR
    GROUPS, STRIDE, C, COLUMNS = plan.groups, tile.stride, tile.C, tile.columns
    XS = tile.weights
    SUMS = XS + NR * tile.row
    STATE = plan.state

    def gru_after_grid_forward_kernel(
        A, Wh, b, h0, m, ends, hs, hp, qs, hT, x, counters, N, T, first, ahead, train
    ):
        s = cuda.shared.array(0, float32)
        tid = cuda.threadIdx.x
        group = cuda.blockIdx.x // BLOCKS
        j0 = cuda.blockIdx.x % BLOCKS * UNITS
        n0 = group * ROWS
        for e in range(tid, STRIDE * C, THREADS):
            k = e // C
            c = e - k * C
            j = j0 + c // 3  # the three gates of a unit lie side by side
            w = zero
            if c < COLUMNS and j < H and k < H:
                w = Wh[k * 3 * H + c % 3 * H + j]
            s[place(k, c)] = rounded(w)
        for e in range(tid, ROWS * UNITS, THREADS):
            n = n0 + e // UNITS
            j = j0 + e % UNITS
            if n < N and j < H:
                h = h0[n * H + j]
                s[STATE + e] = h
                if masked:
                    h *= m[n * H + j]
                publish(x, n * STRIDE + j, h)
        signal(counters, group)
        t = first
        for i_step in range(T):
            now = i_step % 2 * GROUPS * ROWS * STRIDE
            then = GROUPS * ROWS * STRIDE - now
            wait(counters, group, (i_step + 1) * BLOCKS)
            for row in range(0, ROWS, NR):
                product(x, now + (n0 + row) * STRIDE, s, 0, XS, SUMS)
                for e in range(tid, NR * UNITS, THREADS):
                    i = e // UNITS
                    v = e - i * UNITS
                    n = n0 + row + i
                    j = j0 + v
                    if n < N and j < H:
                        unit = STATE + (row + i) * UNITS + v
                        h = s[unit]
                        if at_work(ends, n, t):
                            at = (n * T + t) * H + j
                            at_z = (n * T + t) * 3 * H + j
                            q = b[5 * H + j] + total(s, SUMS, i, 3 * v + 2)
                            z, r, h_hat, h_next = step(
                                A[at_z] + b[j] + b[3 * H + j] + total(s, SUMS, i, 3 * v),
                                A[at_z + H]
                                + b[H + j]
                                + b[4 * H + j]
                                + total(s, SUMS, i, 3 * v + 1),
                                A[at_z + 2 * H] + b[2 * H + j],
                                q,
                                h,
                            )
                            s[unit] = h_next
                            hs[at] = h_next
                            if train != 0:
                                hp[at] = h
                                qs[at] = q
                                A[at_z] = z
                                A[at_z + H] = r
                                A[at_z + 2 * H] = h_hat
                            h = h_next
                        if masked:
                            h *= m[n * H + j]
                        publish(x, then + n * STRIDE + j, h)
            signal(counters, group)
            t += ahead
        for e in range(tid, ROWS * UNITS, THREADS):
            n = n0 + e // UNITS
            j = j0 + e % UNITS
            if n < N and j < H:
                hT[n * H + j] = s[STATE + e]

    signature = "*f " * 5 + "*i " + "*f " * 5 + "*i i i i i i"
    return gpu.kernel(
        gru_after_grid_forward_kernel, signature, THREADS, plan.shared, cooperative=True
    )


@cache
def grid_backward(gpu, H, masked, ragged, z_keeps, plan):
    cuda, publish, at_work = gpu.cuda, gpu.publish, make_at_work(gpu, ragged)
    step_back = make_step_back(gpu, "float32", z_keeps)
    signal, wait = make_meeting(gpu)
    (tile,) = plan.tiles
    place, rounded, product, total = make_product(gpu, tile)
    zero, float32 = np.float32(0), gpu.float32
    BLOCKS, UNITS, ROWS, NR = plan.blocks // plan.groups, plan.units, plan.rows, tile.NR
    GROUPS, STRIDE, C = plan.groups, tile.stride, tile.C
    XS = tile.weights
    SUMS = XS + NR * tile.row
    STATE = plan.state

    def gru_after_grid_backward_kernel(
        dhs, A, hp, qs, Wh, m, ends, dhT, dh0, dB, x, counters, N, T, first, ahead
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
            if c < UNITS and j0 + c < H and k < 3 * H:
                w = Wh[(j0 + c) * 3 * H + k]
            s[place(k, c)] = rounded(w)
        for e in range(tid, ROWS * UNITS, THREADS):
            n = n0 + e // UNITS
            j = j0 + e % UNITS
            if n < N and j < H:
                s[STATE + e] = dhT[n * H + j]
        cuda.syncthreads()
        t = first
        for i_step in range(T + 1):  # dh comes from the step before; the last one gives dh0
            now = i_step % 2 * GROUPS * ROWS * STRIDE
            then = GROUPS * ROWS * STRIDE - now
            if i_step > 0:
                wait(counters, group, i_step * BLOCKS)
            for row in range(0, ROWS, NR):
                if i_step > 0:
                    product(x, now + (n0 + row) * STRIDE, s, 0, XS, SUMS)
                for e in range(tid, NR * UNITS, THREADS):
                    i = e // UNITS
                    v = e - i * UNITS
                    n = n0 + row + i
                    j = j0 + v
                    if n < N and j < H:
                        unit = STATE + (row + i) * UNITS + v
                        dh = s[unit]
                        if i_step > 0 and at_work(ends, n, t - ahead):
                            through = total(s, SUMS, i, v)
                            if masked:
                                through *= m[n * H + j]
                            dh += through
                        if i_step == T:
                            dh0[n * H + j] = dh
                        else:
                            if at_work(ends, n, t):
                                at = (n * T + t) * H + j
                                at_z = (n * T + t) * 3 * H + j
                                dz, dr, dc, dq, dh = step_back(
                                    dh + dhs[at],
                                    A[at_z],
                                    A[at_z + H],
                                    A[at_z + 2 * H],
                                    qs[at],
                                    hp[at],
                                )
                                out = then + n * STRIDE + j
                                publish(x, out, dz)
                                publish(x, out + H, dr)
                                publish(x, out + 2 * H, dq)
                                A[at_z] = dz
                                A[at_z + H] = dr
                                A[at_z + 2 * H] = dc
                                dB[at_z] = dz
                                dB[at_z + H] = dr
                                dB[at_z + 2 * H] = dq
                            s[unit] = dh
            signal(counters, group)
            t += ahead

    signature = "*f " * 6 + "*i " + "*f " * 4 + "*i i i i i"
    return gpu.kernel(
        gru_after_grid_backward_kernel, signature, THREADS, plan.shared, cooperative=True
    )


# A matrix product and a kernel a step


@cache
def step_forward(gpu, H, ragged, z_keeps, dtype):
    cuda, at_work = gpu.cuda, make_at_work(gpu, ragged)
    step = make_step(gpu, dtype, z_keeps)

    def gru_after_step_forward_kernel(A, B, b, ends, h, hs, hp, qs, N, T, t, train):
        """B (N, 3H) is h Wh; h (N, H) is replaced."""
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        n = e // H
        j = e - n * H
        if e < N * H and at_work(ends, n, t):
            at = (n * T + t) * H + j
            at_z = (n * T + t) * 3 * H + j
            row = n * 3 * H + j
            q = b[5 * H + j] + B[row + 2 * H]
            z, r, h_hat, h_next = step(
                A[at_z] + b[j] + b[3 * H + j] + B[row],
                A[at_z + H] + b[H + j] + b[4 * H + j] + B[row + H],
                A[at_z + 2 * H] + b[2 * H + j],
                q,
                h[e],
            )
            hs[at] = h_next
            if train != 0:
                hp[at] = h[e]
                qs[at] = q
                A[at_z] = z
                A[at_z + H] = r
                A[at_z + 2 * H] = h_hat
            h[e] = h_next

    real = "*" + np.dtype(dtype).char + " "
    signature = real * 3 + "*i " + real * 4 + "i i i i"
    return gpu.kernel(gru_after_step_forward_kernel, signature, THREADS)


@cache
def step_backward(gpu, H, ragged, z_keeps, dtype):
    cuda, at_work = gpu.cuda, make_at_work(gpu, ragged)
    step_back = make_step_back(gpu, dtype, z_keeps)
    zero = np.dtype(dtype).type(0)

    def gru_after_step_backward_kernel(dhs, A, hp, qs, ends, dh, dB, dB_now, N, T, t):
        """dB_now (N, 3H) is for the product that follows; dh (N, H) keeps what goes past it."""
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        n = e // H
        j = e - n * H
        if e < N * H:
            dz = zero
            dr = zero
            dq = zero
            if at_work(ends, n, t):
                at = (n * T + t) * H + j
                at_z = (n * T + t) * 3 * H + j
                dz, dr, dc, dq, dh_prev = step_back(
                    dh[e] + dhs[at], A[at_z], A[at_z + H], A[at_z + 2 * H], qs[at], hp[at]
                )
                A[at_z] = dz
                A[at_z + H] = dr
                A[at_z + 2 * H] = dc
                dB[at_z] = dz
                dB[at_z + H] = dr
                dB[at_z + 2 * H] = dq
                dh[e] = dh_prev
            row = n * 3 * H + j
            dB_now[row] = dz
            dB_now[row + H] = dr
            dB_now[row + 2 * H] = dq

    real = "*" + np.dtype(dtype).char + " "
    signature = real * 4 + "*i " + real * 3 + "i i i"
    return gpu.kernel(gru_after_step_backward_kernel, signature, THREADS)


# The calls


def forward(call, xs, state, train, lengths, reverse, h_mask, z_keeps):
    gpu, N, T, H = call.gpu, call.N, call.T, call.H
    m, ends = call.mask(h_mask), call.ends(lengths)
    xs, (Wx, Wh, b), (h0,) = call.inputs(xs, ends), call.weights(), call.state(state)
    plan, new = call.plan(FORWARD), call.zeros if call.ragged else call.empty
    hs, (hT,), A = new(N, T, H), call.final(plan, h0), call.projection(xs, Wx)
    hp, qs = (new(N, T, H), new(N, T, H)) if train else (hs, hs)

    first, ahead = (T - 1, -1) if reverse else (0, 1)
    if plan.kind == "row":
        kernel = row_forward(gpu, H, call.masked, call.ragged, z_keeps)
        kernel(N, A, Wh, b, h0, m, ends, hs, hp, qs, hT, T, first, ahead, train)
    elif plan.kind == "grid":
        counters, x = exchange(call, plan, (plan.tiles[0], 2))
        kernel = grid_forward(gpu, H, call.masked, call.ragged, z_keeps, plan)
        kernel(
            *(plan.blocks, A, Wh, b, h0, m, ends, hs, hp, qs, hT, x, counters),
            *(N, T, first, ahead, train),
        )
    elif plan.kind == "steps":
        kernel = step_forward(gpu, H, call.ragged, z_keeps, call.dtype.name)
        B = call.empty(N, 3 * H)
        for t in range(first, first + ahead * T, ahead):
            gpu.matmul(hT * m if call.masked else hT, Wh, out=B)
            kernel(plan.blocks, A, B, b, ends, hT, hs, hp, qs, N, T, t, train)

    cache = call.keep(xs, reverse, m, ends, A=A, hp=hp, qs=qs, z_keeps=z_keeps) if train else None
    return call.give(hs), (call.give(hT),), cache


def backward(call, dhs, dstate, kept, grads):
    gpu, N, T, H = call.gpu, call.N, call.T, call.H
    dhs, (Wx, Wh, _), (dhT,) = call.move(dhs), call.weights(), call.state(dstate)
    A, hp, qs, m, ends, z_keeps = (kept[name] for name in ("A", "hp", "qs", "m", "ends", "z_keeps"))
    plan, new = call.plan(BACKWARD), call.zeros if call.ragged else call.empty
    (dh0,), dB = call.final(plan, dhT), new(N, T, 3 * H)

    first, ahead = (0, 1) if kept["reverse"] else (T - 1, -1)
    if plan.kind == "row":
        kernel = row_backward(gpu, H, call.masked, call.ragged, z_keeps)
        kernel(N, dhs, A, hp, qs, Wh, m, ends, dhT, dh0, dB, T, first, ahead)
    elif plan.kind == "grid":
        counters, x = exchange(call, plan, (plan.tiles[0], 2))
        kernel = grid_backward(gpu, H, call.masked, call.ragged, z_keeps, plan)
        kernel(
            *(plan.blocks, dhs, A, hp, qs, Wh, m, ends, dhT, dh0, dB, x, counters),
            *(N, T, first, ahead),
        )
    elif plan.kind == "steps":
        kernel = step_backward(gpu, H, call.ragged, z_keeps, call.dtype.name)
        dB_now = call.empty(N, 3 * H)
        for t in range(first, first + ahead * T, ahead):
            kernel(plan.blocks, dhs, A, hp, qs, ends, dh0, dB, dB_now, N, T, t)
            through = gpu.matmul(dB_now, Wh.T)
            dh0 += through * m if call.masked else through

    db = None
    if call.params[2] is not None:
        db = call.target(grads[2])
        calls.rows(A).sum(axis=0, out=db[0])
        calls.rows(dB).sum(axis=0, out=db[1])
    dxs = call.finish(kept, A, Wx, grads, ((hp, dB, slice(None)),), db=db)
    return dxs, (call.give(dh0),)

"""The GRU in CUDA where r comes before the candidate's product.

    A (N, T, 3H)   x Wx at first, blocks z, r, candidate; the gates after forward, dA after backward
    hp, rh (N, T, H)   h of the step before, and r times it, kept for backward
    hs, dhs (N, T, H), h0, hT, dhT, dh0 and h_mask m (N, H), Wh (H, 3H), b (3H,),
    lengths ends (N,)

A step has two products, one after the other. A kernel runs the T steps t = first, first + ahead,
...; `train` says whether A, hp and rh are kept. Where a sample has ended nothing is read or
written: hs, hp and rh are zeros there from the start, A is 0 Wx. Three ways to run, see planner.py:
row, grid, steps.
"""

from functools import cache

import numpy as np

from rnnfast.cuda.activations import activations
from rnnfast.cuda.grid import exchange, make_meeting
from rnnfast.cuda.gru_equations import make_equations
from rnnfast.cuda.lengths import make_at_work, make_own_steps
from rnnfast.cuda.product import THREADS, make_product, up
from rnnfast.cuda.rows import make_dot, make_over_lanes, quarter

# Products of a step: terms and columns, in H. Forward z r and then the candidate; back first the
# candidate's, then the others'.
FORWARD, BACKWARD = ((1, 2), (1, 1)), ((1, 1), (2, 1))


# A block for each sample. Of a unit's four lanes 0 and 2 share z, 1 and 3 share r (a half of the
# terms each), and all of them the candidate (a quarter each).


def half(H):
    return up(-(-H // 2), 4)


@cache
def row_forward(gpu, H, masked, ragged, z_keeps):
    cuda, over_lanes, own_steps = gpu.cuda, make_over_lanes(gpu), make_own_steps(gpu, ragged)
    sigmoid, tanh = activations(gpu, "float32")
    update, renew, _, _ = make_equations(gpu, "float32", z_keeps)
    zero, one, float32 = np.float32(0), np.float32(1), gpu.float32
    HALF, QUARTER = half(H), quarter(H)
    dot_half, dot_quarter = make_dot(gpu, HALF), make_dot(gpu, QUARTER)
    TERMS = HALF + QUARTER
    RH = 2 * HALF  # where r h' lies, after h
    VECTORS = RH + 4 * QUARTER

    def gru_row_forward_kernel(A, Wh, b, h0, m, ends, hs, hp, rh, hT, T, first, ahead, train):
        W = cuda.local.array(TERMS, float32)
        s = cuda.shared.array(VECTORS, float32)
        tid = cuda.threadIdx.x
        n = cuda.blockIdx.x
        u = tid // 4
        q = tid % 4
        gate = q % 2
        start = q // 2 * HALF
        live = u < H
        for k in range(HALF):
            W[k] = zero
            if live and start + k < H:
                W[k] = Wh[(start + k) * 3 * H + gate * H + u]
        for k in range(QUARTER):
            W[HALF + k] = zero
            if live and q * QUARTER + k < H:
                W[HALF + k] = Wh[(q * QUARTER + k) * 3 * H + 2 * H + u]
        for e in range(tid, VECTORS, cuda.blockDim.x):
            s[e] = zero
        cuda.syncthreads()
        bias = zero
        bias_c = zero
        h = zero
        mask = one
        if masked and live:
            mask = m[n * H + u]
        if live:
            bias = b[gate * H + u]
            bias_c = b[2 * H + u]
            h = h0[n * H + u]
            s[u] = h * mask
        cuda.syncthreads()
        own_first, steps = own_steps(ends, n, T, first, ahead)
        at = (n * T + own_first) * H + u
        for _ in range(steps):
            a = bias
            a_c = bias_c
            at_z = 3 * (at - u) + u
            if live:
                a += A[at_z + gate * H]
                a_c += A[at_z + 2 * H]
            part = dot_half(W, 0, s, start)
            a += part + cuda.shfl_xor_sync(-1, part, 2)
            y = update(a) if gate == 0 else sigmoid(a)
            other = cuda.shfl_xor_sync(-1, y, 1)
            z = y
            r = other
            if gate == 1:
                z = other
                r = y
            if live and q == 0:
                s[RH + u] = r * h * mask
            cuda.syncthreads()
            h_hat = tanh(a_c + over_lanes(dot_quarter(W, HALF, s, RH + q * QUARTER)))
            h_next = renew(z, h, h_hat)
            if live and q == 0:
                s[u] = h_next * mask
                hs[at] = h_next
                if train != 0:
                    hp[at] = h
                    rh[at] = r * h
                    A[at_z] = z
                    A[at_z + H] = r
                    A[at_z + 2 * H] = h_hat
            h = h_next
            at += ahead * H
            cuda.syncthreads()
        if live and q == 0:
            hT[n * H + u] = h

    return gpu.kernel(
        gru_row_forward_kernel, "*f " * 5 + "*i " + "*f " * 4 + "i i i i", up(4 * H, 32)
    )


@cache
def row_backward(gpu, H, masked, ragged, z_keeps):
    cuda, over_lanes, own_steps = gpu.cuda, make_over_lanes(gpu), make_own_steps(gpu, ragged)
    _, _, renew_back, reset_back = make_equations(gpu, "float32", z_keeps)
    zero, one, float32 = np.float32(0), np.float32(1), gpu.float32
    HALF, QUARTER = half(H), quarter(H)
    dot_half, dot_quarter = make_dot(gpu, HALF), make_dot(gpu, QUARTER)
    TERMS = HALF + QUARTER
    DZ = 4 * QUARTER  # where dA_z and dA_r lie, after dA_c
    DR = DZ + 2 * HALF
    VECTORS = DR + 2 * HALF

    def gru_row_backward_kernel(dhs, A, hp, Wh, m, ends, dhT, dh0, T, first, ahead):
        W = cuda.local.array(TERMS, float32)
        s = cuda.shared.array(VECTORS, float32)
        tid = cuda.threadIdx.x
        n = cuda.blockIdx.x
        u = tid // 4
        q = tid % 4
        gate = q % 2
        start = q // 2 * HALF
        live = u < H
        for k in range(HALF):
            W[k] = zero
            if live and start + k < H:
                W[k] = Wh[u * 3 * H + gate * H + start + k]
        for k in range(QUARTER):
            W[HALF + k] = zero
            if live and q * QUARTER + k < H:
                W[HALF + k] = Wh[u * 3 * H + 2 * H + q * QUARTER + k]
        for e in range(tid, VECTORS, cuda.blockDim.x):
            s[e] = zero
        cuda.syncthreads()
        dh = zero
        mask = one
        if masked and live:
            mask = m[n * H + u]
        if live:
            dh = dhT[n * H + u]
        own_first, steps = own_steps(ends, n, T, first, ahead)
        at = (n * T + own_first) * H + u
        for _ in range(steps):
            r = zero
            h_prev = zero
            at_z = 3 * (at - u) + u
            if live:
                r = A[at_z + H]
                h_prev = hp[at]
                dz, dc, dh = renew_back(dh + dhs[at], A[at_z], h_prev, A[at_z + 2 * H])
                if q == 0:
                    s[u] = dc
            cuda.syncthreads()
            drh = mask * over_lanes(dot_quarter(W, HALF, s, q * QUARTER))
            dr = reset_back(drh * h_prev, r)
            dh += drh * r
            if live and q == 0:
                s[DZ + u] = dz
                s[DR + u] = dr
            cuda.syncthreads()
            if live and q == 0:
                A[at_z] = dz
                A[at_z + H] = dr
                A[at_z + 2 * H] = dc
            dh += mask * over_lanes(dot_half(W, 0, s, DZ + gate * 2 * HALF + start))
            at += ahead * H
        if live and q == 0:
            dh0[n * H + u] = dh

    return gpu.kernel(gru_row_backward_kernel, "*f " * 5 + "*i *f *f i i i", up(4 * H, 32))


# The whole GPU for all steps


@cache
def grid_forward(gpu, H, masked, ragged, z_keeps, plan):
    cuda, publish, at_work = gpu.cuda, gpu.publish, make_at_work(gpu, ragged)
    sigmoid, tanh = activations(gpu, "float32")
    update, renew, _, _ = make_equations(gpu, "float32", z_keeps)
    signal, wait = make_meeting(gpu)
    tile, tile_c = plan.tiles
    place, rounded, product, total = make_product(gpu, tile)
    place_c, _, product_c, total_c = make_product(gpu, tile_c)
    zero, float32 = np.float32(0), gpu.float32
    BLOCKS, UNITS, ROWS, NR = plan.blocks // plan.groups, plan.units, plan.rows, tile.NR
    STRIDE, C, C_C = tile.stride, tile.C, tile_c.C
    W_C = tile.weights  # where the candidate's weights lie
    XS = W_C + tile_c.weights
    SUMS = XS + NR * tile.row
    STATE = plan.state

    def gru_grid_forward_kernel(
        A, Wh, b, h0, m, ends, hs, hp, rh, hT, x, xr, counters, N, T, first, ahead, train
    ):
        """x is where the blocks exchange h, xr where r h."""
        s = cuda.shared.array(0, float32)
        tid = cuda.threadIdx.x
        group = cuda.blockIdx.x // BLOCKS
        j0 = cuda.blockIdx.x % BLOCKS * UNITS
        n0 = group * ROWS
        for e in range(tid, STRIDE * C, THREADS):
            k = e // C
            c = e - k * C
            j = j0 + c // 2  # z and r of a unit lie side by side
            w = zero
            if c < 2 * UNITS and j < H and k < H:
                w = Wh[k * 3 * H + c % 2 * H + j]
            s[place(k, c)] = rounded(w)
        for e in range(tid, STRIDE * C_C, THREADS):
            k = e // C_C
            c = e - k * C_C
            w = zero
            if c < UNITS and j0 + c < H and k < H:
                w = Wh[k * 3 * H + 2 * H + j0 + c]
            s[W_C + place_c(k, c)] = rounded(w)
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
            wait(counters, group, (2 * i_step + 1) * BLOCKS)
            for row in range(0, ROWS, NR):
                product(x, (n0 + row) * STRIDE, s, 0, XS, SUMS)
                for e in range(tid, NR * UNITS, THREADS):
                    i = e // UNITS
                    v = e - i * UNITS
                    n = n0 + row + i
                    j = j0 + v
                    if n < N and j < H and at_work(ends, n, t):
                        at = (n * T + t) * H + j
                        at_z = (n * T + t) * 3 * H + j
                        h = s[STATE + (row + i) * UNITS + v]
                        r = sigmoid(A[at_z + H] + b[H + j] + total(s, SUMS, i, 2 * v + 1))
                        seen = r * h
                        if masked:
                            seen *= m[n * H + j]
                        publish(xr, n * STRIDE + j, seen)
                        A[at_z] = update(A[at_z] + b[j] + total(s, SUMS, i, 2 * v))
                        if train != 0:
                            A[at_z + H] = r
                            hp[at] = h
                            rh[at] = r * h
            signal(counters, group)
            wait(counters, group, (2 * i_step + 2) * BLOCKS)
            for row in range(0, ROWS, NR):
                product_c(xr, (n0 + row) * STRIDE, s, W_C, XS, SUMS)
                for e in range(tid, NR * UNITS, THREADS):
                    i = e // UNITS
                    v = e - i * UNITS
                    n = n0 + row + i
                    j = j0 + v
                    if n < N and j < H and at_work(ends, n, t):
                        at = (n * T + t) * H + j
                        at_z = (n * T + t) * 3 * H + j
                        unit = STATE + (row + i) * UNITS + v
                        h_hat = tanh(A[at_z + 2 * H] + b[2 * H + j] + total_c(s, SUMS, i, v))
                        h = renew(A[at_z], s[unit], h_hat)
                        seen = h
                        if masked:
                            seen = h * m[n * H + j]
                        publish(x, n * STRIDE + j, seen)
                        s[unit] = h
                        hs[at] = h
                        if train != 0:
                            A[at_z + 2 * H] = h_hat
            signal(counters, group)
            t += ahead
        for e in range(tid, ROWS * UNITS, THREADS):
            n = n0 + e // UNITS
            j = j0 + e % UNITS
            if n < N and j < H:
                hT[n * H + j] = s[STATE + e]

    signature = "*f " * 5 + "*i " + "*f " * 6 + "*i i i i i i"
    return gpu.kernel(gru_grid_forward_kernel, signature, THREADS, plan.shared, cooperative=True)


@cache
def grid_backward(gpu, H, masked, ragged, z_keeps, plan):
    cuda, publish, at_work = gpu.cuda, gpu.publish, make_at_work(gpu, ragged)
    _, _, renew_back, reset_back = make_equations(gpu, "float32", z_keeps)
    signal, wait = make_meeting(gpu)
    tile_c, tile = plan.tiles
    place_c, rounded, product_c, total_c = make_product(gpu, tile_c)
    place, _, product, total = make_product(gpu, tile)
    zero, float32 = np.float32(0), gpu.float32
    BLOCKS, UNITS, ROWS, NR = plan.blocks // plan.groups, plan.units, plan.rows, tile.NR
    STRIDE, STRIDE_C, C = tile.stride, tile_c.stride, tile.C
    W_C = tile.weights  # where the candidate's weights lie
    XS = W_C + tile_c.weights
    SUMS, SUMS_C = XS + NR * tile.row, XS + NR * tile_c.row
    STATE = plan.state

    def gru_grid_backward_kernel(
        dhs, A, hp, Wh, m, ends, dhT, dh0, x, xc, counters, N, T, first, ahead
    ):
        """x is where the blocks exchange dA_z and dA_r, xc where dA_c."""
        s = cuda.shared.array(0, float32)
        tid = cuda.threadIdx.x
        group = cuda.blockIdx.x // BLOCKS
        j0 = cuda.blockIdx.x % BLOCKS * UNITS
        n0 = group * ROWS
        for e in range(tid, STRIDE * C, THREADS):
            c = e // STRIDE
            k = e - c * STRIDE
            w = zero
            if c < UNITS and j0 + c < H and k < 2 * H:
                w = Wh[(j0 + c) * 3 * H + k]
            s[place(k, c)] = rounded(w)
        for e in range(tid, STRIDE_C * C, THREADS):
            c = e // STRIDE_C
            k = e - c * STRIDE_C
            w = zero
            if c < UNITS and j0 + c < H and k < H:
                w = Wh[(j0 + c) * 3 * H + 2 * H + k]
            s[W_C + place_c(k, c)] = rounded(w)
        for e in range(tid, ROWS * UNITS, THREADS):
            n = n0 + e // UNITS
            j = j0 + e % UNITS
            if n < N and j < H:
                s[STATE + e] = dhT[n * H + j]
        cuda.syncthreads()
        t = first
        for i_step in range(T + 1):  # dh comes from the step before; the last one gives dh0
            if i_step > 0:
                wait(counters, group, 2 * i_step * BLOCKS)
            for row in range(0, ROWS, NR):
                if i_step > 0:
                    product(x, (n0 + row) * STRIDE, s, 0, XS, SUMS)
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
                                dz, dc, dh = renew_back(
                                    dh + dhs[at], A[at_z], hp[at], A[at_z + 2 * H]
                                )
                                publish(xc, n * STRIDE_C + j, dc)
                                A[at_z] = dz
                                A[at_z + 2 * H] = dc
                            s[unit] = dh
            if i_step < T:
                signal(counters, group)
                wait(counters, group, (2 * i_step + 1) * BLOCKS)
                for row in range(0, ROWS, NR):
                    product_c(xc, (n0 + row) * STRIDE_C, s, W_C, XS, SUMS_C)
                    for e in range(tid, NR * UNITS, THREADS):
                        i = e // UNITS
                        v = e - i * UNITS
                        n = n0 + row + i
                        j = j0 + v
                        if n < N and j < H and at_work(ends, n, t):
                            at_z = (n * T + t) * 3 * H + j
                            r = A[at_z + H]
                            drh = total_c(s, SUMS_C, i, v)
                            if masked:
                                drh *= m[n * H + j]
                            dr = reset_back(drh * hp[(n * T + t) * H + j], r)
                            publish(x, n * STRIDE + j, A[at_z])
                            publish(x, n * STRIDE + H + j, dr)
                            A[at_z + H] = dr
                            s[STATE + (row + i) * UNITS + v] += drh * r
                signal(counters, group)
            t += ahead

    signature = "*f " * 5 + "*i *f *f *f *f *i i i i i"
    return gpu.kernel(gru_grid_backward_kernel, signature, THREADS, plan.shared, cooperative=True)


# Two matrix products and two kernels a step


@cache
def step_forward(gpu, H, ragged, z_keeps, dtype):
    cuda, at_work = gpu.cuda, make_at_work(gpu, ragged)
    sigmoid, tanh = activations(gpu, dtype)
    update, renew, _, _ = make_equations(gpu, dtype, z_keeps)

    def gru_step_gates_kernel(A, Ah, b, ends, h, hp, rh, rh_now, N, T, t, train):
        """Ah (N, 2H) is h [Wh_z, Wh_r]; rh_now (N, H) is r h, for the product that follows."""
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        n = e // H
        j = e - n * H
        if e < N * H and at_work(ends, n, t):
            at = (n * T + t) * H + j
            at_z = (n * T + t) * 3 * H + j
            r = sigmoid(A[at_z + H] + b[H + j] + Ah[n * 2 * H + H + j])
            A[at_z] = update(A[at_z] + b[j] + Ah[n * 2 * H + j])
            rh_now[e] = r * h[e]
            if train != 0:
                A[at_z + H] = r
                hp[at] = h[e]
                rh[at] = r * h[e]

    def gru_step_candidate_kernel(A, Ac, b, ends, h, hs, N, T, t):
        """Ac (N, H) is (r h) Wh_c; h (N, H) is replaced."""
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        n = e // H
        j = e - n * H
        if e < N * H and at_work(ends, n, t):
            at_z = (n * T + t) * 3 * H + j
            h_hat = tanh(A[at_z + 2 * H] + b[2 * H + j] + Ac[e])
            h_next = renew(A[at_z], h[e], h_hat)
            A[at_z + 2 * H] = h_hat
            hs[(n * T + t) * H + j] = h_next
            h[e] = h_next

    real = "*" + np.dtype(dtype).char + " "
    return (
        gpu.kernel(gru_step_gates_kernel, real * 3 + "*i " + real * 4 + "i i i i", THREADS),
        gpu.kernel(gru_step_candidate_kernel, real * 3 + "*i " + real * 2 + "i i i", THREADS),
    )


@cache
def step_backward(gpu, H, ragged, z_keeps, dtype):
    cuda, at_work = gpu.cuda, make_at_work(gpu, ragged)
    _, _, renew_back, reset_back = make_equations(gpu, dtype, z_keeps)
    zero = np.dtype(dtype).type(0)

    def gru_step_candidate_back_kernel(dhs, A, dA_c, hp, ends, dh, N, T, t):
        """dA_c (N, H) is for the product that follows; dh (N, H) keeps what goes past r."""
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        n = e // H
        j = e - n * H
        if e < N * H and at_work(ends, n, t):
            at = (n * T + t) * H + j
            at_z = (n * T + t) * 3 * H + j
            dz, dc, dh_prev = renew_back(dh[e] + dhs[at], A[at_z], hp[at], A[at_z + 2 * H])
            A[at_z] = dz
            A[at_z + 2 * H] = dc
            dA_c[e] = dc
            dh[e] = dh_prev

    def gru_step_gates_back_kernel(A, dA, drh, hp, ends, dh, N, T, t):
        """dA (N, 2H) is for the product that follows, drh (N, H) from the one before."""
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        n = e // H
        j = e - n * H
        if e < N * H:
            dz = zero
            dr = zero
            if at_work(ends, n, t):
                at_z = (n * T + t) * 3 * H + j
                r = A[at_z + H]
                dz = A[at_z]
                dr = reset_back(drh[e] * hp[(n * T + t) * H + j], r)
                A[at_z + H] = dr
                dh[e] += drh[e] * r
            dA[n * 2 * H + j] = dz
            dA[n * 2 * H + H + j] = dr

    real = "*" + np.dtype(dtype).char + " "
    signature = real * 4 + "*i " + real + "i i i"
    return (
        gpu.kernel(gru_step_candidate_back_kernel, signature, THREADS),
        gpu.kernel(gru_step_gates_back_kernel, signature, THREADS),
    )


# The calls


def forward(call, xs, state, train, lengths, reverse, h_mask, z_keeps):
    gpu, N, T, H = call.gpu, call.N, call.T, call.H
    m, ends = call.mask(h_mask), call.ends(lengths)
    xs, (Wx, Wh, b), (h0,) = call.inputs(xs, ends), call.weights(), call.state(state)
    plan, new = call.plan(FORWARD), call.zeros if call.ragged else call.empty
    hs, (hT,), A = new(N, T, H), call.final(plan, h0), call.projection(xs, Wx)
    hp, rh = (new(N, T, H), new(N, T, H)) if train else (hs, hs)

    first, ahead = (T - 1, -1) if reverse else (0, 1)
    if plan.kind == "row":
        kernel = row_forward(gpu, H, call.masked, call.ragged, z_keeps)
        kernel(N, A, Wh, b, h0, m, ends, hs, hp, rh, hT, T, first, ahead, train)
    elif plan.kind == "grid":
        counters, x, xr = exchange(call, plan, *((tile, 1) for tile in plan.tiles))
        kernel = grid_forward(gpu, H, call.masked, call.ragged, z_keeps, plan)
        kernel(
            *(plan.blocks, A, Wh, b, h0, m, ends, hs, hp, rh, hT, x, xr, counters),
            *(N, T, first, ahead, train),
        )
    elif plan.kind == "steps":
        gates, candidate = step_forward(gpu, H, call.ragged, z_keeps, call.dtype.name)
        Wh_zr, Wh_c = _halves(call, Wh)
        Ah, rh_now, Ac = call.empty(N, 2 * H), call.empty(N, H), call.empty(N, H)
        for t in range(first, first + ahead * T, ahead):
            gpu.matmul(hT * m if call.masked else hT, Wh_zr, out=Ah)
            gates(plan.blocks, A, Ah, b, ends, hT, hp, rh, rh_now, N, T, t, train)
            gpu.matmul(rh_now * m if call.masked else rh_now, Wh_c, out=Ac)
            candidate(plan.blocks, A, Ac, b, ends, hT, hs, N, T, t)

    cache = call.keep(xs, reverse, m, ends, A=A, hp=hp, rh=rh, z_keeps=z_keeps) if train else None
    return call.give(hs), (call.give(hT),), cache


def backward(call, dhs, dstate, kept, grads):
    gpu, N, T, H = call.gpu, call.N, call.T, call.H
    dhs, (Wx, Wh, _), (dhT,) = call.move(dhs), call.weights(), call.state(dstate)
    A, hp, rh, m, ends, z_keeps = (kept[name] for name in ("A", "hp", "rh", "m", "ends", "z_keeps"))
    plan = call.plan(BACKWARD)
    (dh0,) = call.final(plan, dhT)

    first, ahead = (0, 1) if kept["reverse"] else (T - 1, -1)
    if plan.kind == "row":
        kernel = row_backward(gpu, H, call.masked, call.ragged, z_keeps)
        kernel(N, dhs, A, hp, Wh, m, ends, dhT, dh0, T, first, ahead)
    elif plan.kind == "grid":
        tile_c, tile = plan.tiles
        counters, x, xc = exchange(call, plan, (tile, 1), (tile_c, 1))
        kernel = grid_backward(gpu, H, call.masked, call.ragged, z_keeps, plan)
        kernel(
            *(plan.blocks, dhs, A, hp, Wh, m, ends, dhT, dh0, x, xc, counters),
            *(N, T, first, ahead),
        )
    elif plan.kind == "steps":
        candidate_back, gates_back = step_backward(gpu, H, call.ragged, z_keeps, call.dtype.name)
        Wh_zr, Wh_c = _halves(call, Wh)
        dA, dA_c, drh = call.empty(N, 2 * H), call.empty(N, H), call.empty(N, H)
        for t in range(first, first + ahead * T, ahead):
            candidate_back(plan.blocks, dhs, A, dA_c, hp, ends, dh0, N, T, t)
            gpu.matmul(dA_c, Wh_c.T, out=drh)
            if call.masked:
                drh *= m
            gates_back(plan.blocks, A, dA, drh, hp, ends, dh0, N, T, t)
            through = gpu.matmul(dA, Wh_zr.T)
            dh0 += through * m if call.masked else through

    zr, candidate = slice(0, 2 * H), slice(2 * H, 3 * H)
    met = (hp, A[:, :, zr], zr), (rh, A[:, :, candidate], candidate)
    dxs = call.finish(kept, A, Wx, grads, met)
    return dxs, (call.give(dh0),)


def _halves(call, Wh):
    """[Wh_z, Wh_r] and Wh_c, contiguous."""
    H = call.H
    return call.xp.ascontiguousarray(Wh[:, : 2 * H]), call.xp.ascontiguousarray(Wh[:, 2 * H :])

"""The sLSTM of xLSTM in CUDA, in steps; the equations are those of rnnfast/reference/slstm.py.

A step is a product for each head and a kernel that takes a thread for each unit of each sample.

    Ah, dA (heads, N, 4K)    heads(h, Wh) of a step; dA of a step
    kept (N, T, H) each: h, c and n before each step, and sigmoid(-A_f)
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from rnnfast.cuda import recurrence, steps
from rnnfast.cuda.activations import activations, exponential
from rnnfast.cuda.cells import Cell
from rnnfast.cuda.signatures import signature_of
from rnnfast.cuda.tuples import columns, put, put_columns, take


@dataclass(frozen=True)
class Slstm(Cell):
    """Gates f, g, i, o, the exponential ones by their stabiliser; heads of K units."""

    name = "slstm"
    gates = 4
    states = ("h", "c", "n", "m")
    kept = ("hp", "cp", "np", "slope")
    biases = 4
    in_heads = True
    in_steps = True
    bounded = False

    def forward_steps(self, call, arrays, Wh, states, train):
        gpu, N, K = call.gpu, call.N, call.K
        Ah, seen = call.empty(call.H // K, N, 4 * K), steps.seen_by(call, arrays, states[0])
        products = [gpu.step_product(h, W, out) for h, W, out in of_heads(K, seen, Wh, Ah)]
        step = gpu.step_launch(
            make_step(gpu, call.H, K, call.masked, call.ragged, call.dtype.name),
            **steps.given(call, A=arrays.A, Ah=Ah, b=arrays.b, states=states, m=arrays.m),
            **{"seen": seen, "hs": arrays.hs, "kept": arrays.kept},
            **{"ends": arrays.ends, "train": train},
        )
        return [*products, step]

    def back_steps(self, call, arrays, Wh, dstates, came):
        gpu, K = call.gpu, call.K
        dA = call.empty(call.H // K, call.N, 4 * K)
        step = gpu.step_launch(
            make_step_back(gpu, call.H, K, call.masked, call.ragged, call.dtype.name),
            **steps.given(call, A=arrays.A, dA=dA, dstates=dstates, came=came, m=arrays.m),
            **{"dhs": arrays.dhs, "kept": arrays.kept, "ends": arrays.ends},
        )
        heads = of_heads(K, came, Wh, dA)
        return [step, *(gpu.step_product(d, W, out, turned=True) for out, W, d in heads)]

    def other_grads(self, call, arrays, grads):
        """dWh, a product for each head."""
        xp, R, K, heads = call.xp, call.N * call.T, call.K, call.H // call.K
        left = arrays.kept[0]
        if call.masked:
            left = left * arrays.m[:, np.newaxis]
        left = xp.ascontiguousarray(left.reshape(R, heads, K).transpose(1, 0, 2))
        dA = arrays.A.reshape(R, 4, heads, K).transpose(2, 0, 1, 3)
        dA = xp.ascontiguousarray(dA).reshape(heads, R, 4 * K)
        dWh = call.empty(heads, K, 4 * K)
        for k in range(heads):
            call.gpu.matmul(left[k].T, dA[k], out=dWh[k])
        return {"dWh": dWh.reshape(call.H, 4 * K)}


def of_heads(K, h, Wh, gates):
    """Of each head: the columns of h (N, H), its matrix (K, 4K), and gates (N, 4K)."""
    for k, own in enumerate(gates):
        yield h[:, k * K : (k + 1) * K], Wh[k * K : (k + 1) * K], own


def log_sigmoid_of(gpu, dtype):
    """log sigmoid(x) = min(x, 0) - log(1 + exp(-|x|)), without overflow, as a device function.

    In float32 log(1 + e) is 2 artanh(e / (2 + e)), by its series: src/kernels/slstm.h.
    """
    exp, log1p = exponential(gpu, dtype), gpu.log1p
    real = np.dtype(dtype).type
    zero, one, two = (real(k) for k in (0, 1, 2))
    c3, c5, c7, c9, c11, c13, c15 = (real(1 / k) for k in range(3, 16, 2))

    @gpu.device
    def by_series(x):
        least = min(x, zero)
        e = exp(-abs(x))
        z = e / (e + two)
        s = z * z
        series = s * c15 + c13
        series = series * s + c11
        series = series * s + c9
        series = series * s + c7
        series = series * s + c5
        series = series * s + c3
        return least - two * z * (series * s + one)

    @gpu.device
    def exact(x):
        return min(x, zero) - log1p(exp(-abs(x)))

    return by_series if real is np.float32 else exact


@cache
def make_step(gpu, H, K, masked, ragged, dtype):
    """The step of all states; A becomes the gates, f and i as they were used."""
    place, of_gates, put_gates = steps.make_place(gpu, H), columns(4, H), put_columns(4, H)
    of_product, (sigmoid, tanh) = columns(4, K), activations(gpu, dtype)
    exp, log_sigmoid = exponential(gpu, dtype), log_sigmoid_of(gpu, dtype)
    zero = np.dtype(dtype).type(0)

    def slstm_step_kernel(A, Ah, b, states, m, seen, hs, kept, ends, N, T, t, train):
        e, n, j, at = place(N, T, t)
        if e < N * H:
            gate, head = 4 * (at - j) + j, j // K
            x, bias = of_gates(A, gate), of_gates(b, j)
            a = of_product(Ah, (head * N + n) * 4 * K + j - head * K)
            before = take(states, e)
            h_prev, c_prev, n_prev, m_prev = before
            A_f = x[0] + bias[0] + a[0]
            A_i = x[2] + bias[2] + a[2]
            stays = log_sigmoid(A_f) + m_prev
            top = stays
            if n_prev == zero or A_i >= stays:
                top = A_i
            f = exp(min(stays - top, zero))
            i = exp(A_i - top)
            g = tanh(x[1] + bias[1] + a[1])
            o = sigmoid(x[3] + bias[3] + a[3])
            c = f * c_prev + i * g
            norm = f * n_prev + i
            after = (o * c / norm, c, norm, top)
            shown = after[0]
            on = True
            if ragged:
                on = t < ends[n]
            if not on:
                after = before
                shown = zero
            hs[at] = shown
            if train != 0 and on:
                put(kept, at, (h_prev, c_prev, n_prev, sigmoid(-A_f)))
                put_gates(A, gate, (f, g, i, o))
            put(states, e, after)
            if masked:
                seen[e] = after[0] * m[e]

    signature = signature_of(slstm_step_kernel, dtype, CELL)
    return gpu.kernel(slstm_step_kernel, signature, steps.THREADS)


@cache
def make_step_back(gpu, H, K, masked, ragged, dtype):
    """The step back: A becomes dA, which dA has of this step alone."""
    place, arriving = steps.make_place(gpu, H), steps.make_arriving(gpu, masked)
    of_gates, put_gates, put_dA = columns(4, H), put_columns(4, H), put_columns(4, K)
    zero, one = (np.dtype(dtype).type(k) for k in (0, 1))
    nothing = (zero,) * 4

    def slstm_step_back_kernel(dhs, A, dA, dstates, came, m, kept, ends, N, T, t):
        e, n, j, at = place(N, T, t)
        if e < N * H:
            gate, head = 4 * (at - j) + j, j // K
            f, g, i, o = of_gates(A, gate)
            _, c_prev, n_prev, slope = take(kept, at)
            before = arriving(dstates, came, m, e)
            dh, dc, dn, dm = before
            dh += dhs[at]
            norm = f * n_prev + i
            if ragged and not t < ends[n]:
                norm = one  # there is no such step
            q = (f * c_prev + i * g) / norm
            dq = dh * o / norm
            dc += dq
            dn -= dq * q
            of_f = f * (dc * c_prev + dn * n_prev)
            if n_prev == zero and f >= one:
                of_f = zero  # at its bound
            of_i = i * (dc * g + dn)
            dm -= of_f + of_i
            if i >= one:
                of_i += dm
            else:
                of_f += dm
            d = (of_f * slope, dc * i * (one - g * g), of_i, dh * q * o * (one - o))
            after = (zero, dc * f, dn * f, of_f)
            if ragged and not t < ends[n]:
                d = nothing
                after = before
            put_gates(A, gate, d)
            put_dA(dA, (head * N + n) * 4 * K + j - head * K, d)
            put(dstates, e, after)

    signature = signature_of(slstm_step_back_kernel, dtype, CELL)
    return gpu.kernel(slstm_step_back_kernel, signature, steps.THREADS)


CELL = Slstm()


def forward(xs, state, params, *, train=True, lengths=None, reverse=False, h_mask=None):
    """See rnnfast.kernels."""
    return recurrence.forward(CELL, xs, state, params, train, lengths, reverse, h_mask)


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels."""
    return recurrence.backward(Slstm, dhs, dstate, params, cache, grads)


def pack(params, *, precision=None):
    """See rnnfast.kernels."""
    return recurrence.pack(CELL, params, precision)

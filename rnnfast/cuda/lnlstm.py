"""The layer-normalised LSTM in CUDA; the equations are those of rnnfast/reference/lnlstm.py.

Its time loops are those of norms.py; norms: of x Wx, of h Wh and of c.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from rnnfast.cuda import recurrence
from rnnfast.cuda.activations import activations
from rnnfast.cuda.lstm import Lstm
from rnnfast.cuda.norms import THREADS, Norms, input_grads, normal, real_of, sums
from rnnfast.cuda.signatures import signature_of
from rnnfast.cuda.tuples import put, take

GROUPS = ((0, 4),)  # all four gates together


@dataclass(frozen=True)
class NormLstm(Norms, Lstm):
    """An LSTM with normalised products and a normalised c."""

    name = "lnlstm"
    beside = ("gx", "gh", "gc", "bc")
    in_steps = True
    groups = GROUPS
    own = 2

    def of(self, peepholes):
        return self

    def make_step(self, *of_call):
        return make_step(*of_call)

    def make_back(self, *of_call):
        return make_back(*of_call)

    def other_grads(self, call, arrays, grads):
        """db and those of the gains; A becomes du."""
        dA, u, norms, y, rows = arrays.of_norms
        du, dgx = input_grads(call, arrays, GROUPS, arrays.norms[0])
        arrays.A = du
        dgh = (dA * normal(u, norms, 1)).sum(axis=(0, 1))
        db = dA.sum(axis=(0, 1)) if call.biased else None
        return {"db": db, "beside": (dgx, dgh, rows.sum(axis=(0, 1)), y.sum(axis=(0, 1)))}


@cache
def make_step(gpu, H, masked, ragged, candidate, dtype):
    """c and h of one step; candidate: with a candidate_mask, here and on the way back."""
    cuda, real, zero = gpu.cuda, real_of(gpu, dtype), np.dtype(dtype).type(0)
    (sigmoid, tanh), (total, scale_of) = activations(gpu, dtype), sums(gpu, dtype)
    share, share_c = (np.dtype(dtype).type(1 / k) for k in (4 * H, H))

    def norm_step_kernel(
        A,
        Ah,
        b,
        gx,
        gh,
        gc,
        bc,
        states,
        m,
        seen,
        candidate_mask,
        hs,
        kept,
        gates,
        u,
        norms,
        c_next,
        ends,
        N,
        T,
        t,
        train,
    ):
        s = cuda.shared.array(THREADS, real)
        n = cuda.blockIdx.x
        tid = cuda.threadIdx.x
        at = n * T + t
        found = zero
        for k in range(n * 4 * H + tid, n * 4 * H + 4 * H, THREADS):
            found += Ah[k]
        mean = total(s, tid, found) * share
        found = zero
        for k in range(n * 4 * H + tid, n * 4 * H + 4 * H, THREADS):
            found += (Ah[k] - mean) * (Ah[k] - mean)
        scale = scale_of(total(s, tid, found) * share)
        mean_x = norms[at * 6]
        scale_x = norms[at * 6 + 1]
        found = zero
        for j in range(tid, H, THREADS):
            row = n * 4 * H + j
            gate = at * 4 * H + j
            h_prev, c_prev = take(states, n * H + j)
            f = sigmoid(
                (A[gate] - mean_x) * scale_x * gx[j] + (Ah[row] - mean) * scale * gh[j] + b[j]
            )
            g = tanh(
                (A[gate + H] - mean_x) * scale_x * gx[j + H]
                + (Ah[row + H] - mean) * scale * gh[j + H]
                + b[j + H]
            )
            i = sigmoid(
                (A[gate + 2 * H] - mean_x) * scale_x * gx[j + 2 * H]
                + (Ah[row + 2 * H] - mean) * scale * gh[j + 2 * H]
                + b[j + 2 * H]
            )
            o = sigmoid(
                (A[gate + 3 * H] - mean_x) * scale_x * gx[j + 3 * H]
                + (Ah[row + 3 * H] - mean) * scale * gh[j + 3 * H]
                + b[j + 3 * H]
            )
            if train != 0:
                for k in range(4):
                    u[gate + k * H] = Ah[row + k * H]
                gates[gate] = f
                gates[gate + H] = g
                gates[gate + 2 * H] = i
                gates[gate + 3 * H] = o
                put(kept, at * H + j, (h_prev, c_prev))
            if candidate:
                g *= candidate_mask[at * H + j]
            c = f * c_prev + g * i
            c_next[n * H + j] = c
            Ah[row] = o  # nobody else reads it again
            found += c
        mean_c = total(s, tid, found) * share_c
        found = zero
        for j in range(tid, H, THREADS):
            d = c_next[n * H + j] - mean_c
            found += d * d
        scale_c = scale_of(total(s, tid, found) * share_c)
        for j in range(tid, H, THREADS):
            e = n * H + j
            c = c_next[e]
            h = Ah[n * 4 * H + j] * tanh((c - mean_c) * scale_c * gc[j] + bc[j])
            if ragged and not t < ends[n]:
                hs[at * H + j] = zero
            else:
                hs[at * H + j] = h
                put(states, e, (h, c))
                if masked:
                    seen[e] = h * m[e]
        if train != 0 and tid == 0:
            norms[at * 6 + 2] = mean
            norms[at * 6 + 3] = scale
            norms[at * 6 + 4] = mean_c
            norms[at * 6 + 5] = scale_c

    signature = signature_of(norm_step_kernel, dtype, CELL)
    return gpu.kernel(norm_step_kernel, signature, THREADS)


@cache
def make_back(gpu, H, masked, ragged, candidate, dtype):
    """The step back: gates become dA; dv, also in Ah; y is dy, rows dy times the normalised c."""
    cuda, real, (_, tanh) = gpu.cuda, real_of(gpu, dtype), activations(gpu, dtype)
    total, _ = sums(gpu, dtype)
    zero, one, share, share_c = (np.dtype(dtype).type(k) for k in (0, 1, 1 / (4 * H), 1 / H))

    def norm_step_back_kernel(
        dhs,
        gates,
        u,
        norms,
        dv,
        y,
        rows,
        gh,
        gc,
        bc,
        dstates,
        came,
        m,
        candidate_mask,
        kept,
        ends,
        N,
        T,
        t,
    ):
        s = cuda.shared.array(THREADS, real)
        n = cuda.blockIdx.x
        tid = cuda.threadIdx.x
        at = n * T + t
        mean = norms[at * 6 + 2]
        scale = norms[at * 6 + 3]
        mean_c = norms[at * 6 + 4]
        scale_c = norms[at * 6 + 5]
        off = False
        if ragged:
            off = not t < ends[n]
        sum_d = zero
        sum_with = zero
        for j in range(tid, H, THREADS):
            e = n * H + j
            gate = at * 4 * H + j
            o = gates[gate + 3 * H]
            _, c_prev = take(kept, at * H + j)
            g = gates[gate + H]
            if candidate:
                g *= candidate_mask[at * H + j]
            c_hat = (gates[gate] * c_prev + g * gates[gate + 2 * H] - mean_c) * scale_c
            q = tanh(c_hat * gc[j] + bc[j])
            back = came[e]
            if masked:
                back *= m[e]
            dh, dc = take(dstates, e)
            dh += back
            put(dstates, e, (dh, dc))
            dh += dhs[at * H + j]
            dy = dh * o * (one - q * q)
            dA_o = dh * q * o * (one - o)
            of_gain = dy * c_hat
            if off:
                dy = zero
                dA_o = zero
                of_gain = zero
            gates[gate + 3 * H] = dA_o
            y[at * H + j] = dy
            rows[at * H + j] = of_gain
            sum_d += dy * gc[j]
            sum_with += dy * gc[j] * c_hat
        d_mean = total(s, tid, sum_d) * share_c
        d_with = total(s, tid, sum_with) * share_c
        sum_d = zero
        sum_with = zero
        for j in range(tid, H, THREADS):
            e = n * H + j
            gate = at * 4 * H + j
            f = gates[gate]
            g = gates[gate + H]
            i = gates[gate + 2 * H]
            slope = one - g * g
            if candidate:
                slope *= candidate_mask[at * H + j]
                g *= candidate_mask[at * H + j]
            _, c_prev = take(kept, at * H + j)
            dh, dc = take(dstates, e)
            c_hat = (f * c_prev + g * i - mean_c) * scale_c
            ds = dc + scale_c * (y[at * H + j] * gc[j] - d_mean - c_hat * d_with)
            gates[gate] = ds * c_prev * f * (one - f)
            gates[gate + H] = ds * i * slope
            gates[gate + 2 * H] = ds * g * i * (one - i)
            if off:
                for k in range(4):
                    gates[gate + k * H] = zero
            else:
                put(dstates, e, (zero, ds * f))
            for k in range(4):
                d = gates[gate + k * H] * gh[j + k * H]
                sum_d += d
                sum_with += d * ((u[gate + k * H] - mean) * scale)
        d_mean = total(s, tid, sum_d) * share
        d_with = total(s, tid, sum_with) * share
        for k in range(tid, 4 * H, THREADS):
            gate = at * 4 * H + k
            u_hat = (u[gate] - mean) * scale
            d = scale * (gates[gate] * gh[k] - d_mean - u_hat * d_with)
            if off:
                d = zero
            dv[gate] = d

    signature = signature_of(norm_step_back_kernel, dtype, CELL)
    return gpu.kernel(norm_step_back_kernel, signature, THREADS)


CELL = NormLstm()


def forward(
    xs,
    state,
    params,
    *,
    train=True,
    lengths=None,
    reverse=False,
    h_mask=None,
    candidate_mask=None,
    h_zoneout=None,
    c_zoneout=None,
):
    """See rnnfast.kernels."""
    of_steps = candidate_mask, h_zoneout, c_zoneout
    return recurrence.forward(CELL, xs, state, params, train, lengths, reverse, h_mask, of_steps)


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels."""
    return recurrence.backward(NormLstm, dhs, dstate, params, cache, grads)


def pack(params, *, precision=None):
    """See rnnfast.kernels."""
    return recurrence.pack(CELL, params, precision)

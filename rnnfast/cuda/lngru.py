"""The layer-normalised GRU in CUDA; the equations are those of rnnfast/reference/lngru.py.

Its time loops are those of norms.py; norms: of x Wx and of h Wh, each of z and r and of the
candidate.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from rnnfast.cuda import recurrence
from rnnfast.cuda.activations import activations
from rnnfast.cuda.cells import Cell
from rnnfast.cuda.norms import THREADS, Norms, input_grads, normal, real_of, sums
from rnnfast.cuda.signatures import signature_of
from rnnfast.cuda.tuples import put, take

GROUPS = ((0, 2), (2, 1))  # z and r, the candidate


@dataclass(frozen=True)
class NormGru(Norms, Cell):
    """A GRU with normalised products, r after the product."""

    name = "lngru"
    gates = 3
    biases = 3
    beside = ("gx", "gh", "bh")
    in_steps = True
    groups = GROUPS
    own = 2

    def make_step(self, *of_call):
        return make_step(*of_call)

    def make_back(self, *of_call):
        return make_back(*of_call)

    def other_grads(self, call, arrays, grads):
        """db and those of the gains; A becomes du."""
        dA, u, norms, _, dq = arrays.of_norms
        du, dgx = input_grads(call, arrays, GROUPS, arrays.norms[0])
        arrays.A, H = du, call.H
        dgh = call.empty(*dgx.shape)
        dgh[: 2 * H] = (dA[:, :, : 2 * H] * normal(u[:, :, : 2 * H], norms, 2)).sum(axis=(0, 1))
        dgh[2 * H :] = (dq * normal(u[:, :, 2 * H :], norms, 3)).sum(axis=(0, 1))
        db = dA.sum(axis=(0, 1)) if call.biased else None
        return {"db": db, "beside": (dgx, dgh, dq.sum(axis=(0, 1)))}


@cache
def make_step(gpu, H, masked, ragged, candidate, dtype):
    """The gates and h of one step; c_next and y are of other cells.

    candidate: with a candidate_mask, here and on the way back.
    """
    cuda, real, zero, one = gpu.cuda, real_of(gpu, dtype), *map(np.dtype(dtype).type, (0, 1))
    (sigmoid, tanh), (total, scale_of) = activations(gpu, dtype), sums(gpu, dtype)
    share, share_q = (np.dtype(dtype).type(1 / k) for k in (2 * H, H))

    def norm_step_kernel(
        A,
        Ah,
        b,
        gx,
        gh,
        bh,
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
        found_q = zero
        for k in range(n * 3 * H + tid, n * 3 * H + 2 * H, THREADS):
            found += Ah[k]
        for k in range(n * 3 * H + 2 * H + tid, n * 3 * H + 3 * H, THREADS):
            found_q += Ah[k]
        mean = total(s, tid, found) * share
        mean_q = total(s, tid, found_q) * share_q
        found = zero
        found_q = zero
        for k in range(n * 3 * H + tid, n * 3 * H + 2 * H, THREADS):
            found += (Ah[k] - mean) * (Ah[k] - mean)
        for k in range(n * 3 * H + 2 * H + tid, n * 3 * H + 3 * H, THREADS):
            found_q += (Ah[k] - mean_q) * (Ah[k] - mean_q)
        scale = scale_of(total(s, tid, found) * share)
        scale_q = scale_of(total(s, tid, found_q) * share_q)
        mean_x = norms[at * 8]
        scale_x = norms[at * 8 + 1]
        mean_x2 = norms[at * 8 + 2]
        scale_x2 = norms[at * 8 + 3]
        for j in range(tid, H, THREADS):
            e = n * H + j
            row = n * 3 * H + j
            gate = at * 3 * H + j
            (h_prev,) = take(states, e)
            z = sigmoid(
                (A[gate] - mean_x) * scale_x * gx[j] + (Ah[row] - mean) * scale * gh[j] + b[j]
            )
            r = sigmoid(
                (A[gate + H] - mean_x) * scale_x * gx[j + H]
                + (Ah[row + H] - mean) * scale * gh[j + H]
                + b[j + H]
            )
            q = (Ah[row + 2 * H] - mean_q) * scale_q * gh[j + 2 * H] + bh[j]
            x = (A[gate + 2 * H] - mean_x2) * scale_x2 * gx[j + 2 * H] + b[j + 2 * H]
            h_hat = tanh(x + r * q)
            fresh = h_hat
            if candidate:
                fresh *= candidate_mask[at * H + j]
            h = (one - z) * h_prev + z * fresh
            if train != 0:
                for k in range(3):
                    u[gate + k * H] = Ah[row + k * H]
                gates[gate] = z
                gates[gate + H] = r
                gates[gate + 2 * H] = h_hat
                put(kept, at * H + j, (h_prev,))
            if ragged and not t < ends[n]:
                hs[at * H + j] = zero
            else:
                hs[at * H + j] = h
                put(states, e, (h,))
                if masked:
                    seen[e] = h * m[e]
        if train != 0 and tid == 0:
            norms[at * 8 + 4] = mean
            norms[at * 8 + 5] = scale
            norms[at * 8 + 6] = mean_q
            norms[at * 8 + 7] = scale_q

    signature = signature_of(norm_step_kernel, dtype, CELL)
    return gpu.kernel(norm_step_kernel, signature, THREADS)


@cache
def make_back(gpu, H, masked, ragged, candidate, dtype):
    """The step back: gates become dA; rows is dq; y is of other cells."""
    cuda, real, one = gpu.cuda, real_of(gpu, dtype), np.dtype(dtype).type(1)
    total, _ = sums(gpu, dtype)
    zero, share, share_q = (np.dtype(dtype).type(k) for k in (0, 1 / (2 * H), 1 / H))

    def norm_step_back_kernel(
        dhs,
        gates,
        u,
        norms,
        dv,
        y,
        rows,
        gh,
        bh,
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
        mean = norms[at * 8 + 4]
        scale = norms[at * 8 + 5]
        mean_q = norms[at * 8 + 6]
        scale_q = norms[at * 8 + 7]
        off = False
        if ragged:
            off = not t < ends[n]
        sum_d = zero
        sum_with = zero
        sum_q = zero
        sum_with_q = zero
        for j in range(tid, H, THREADS):
            e = n * H + j
            gate = at * 3 * H + j
            z = gates[gate]
            r = gates[gate + H]
            h_hat = gates[gate + 2 * H]
            u_q = (u[gate + 2 * H] - mean_q) * scale_q
            (h_prev,) = take(kept, at * H + j)
            (dh,) = take(dstates, e)
            back = came[e]
            if masked:
                back *= m[e]
            before = dh + back
            dh = before + dhs[at * H + j]
            slope = z * (one - h_hat * h_hat)
            if candidate:
                slope *= candidate_mask[at * H + j]
                h_hat *= candidate_mask[at * H + j]
            dA_h = dh * slope
            dA_r = dA_h * (u_q * gh[j + 2 * H] + bh[j]) * r * (one - r)
            dA_z = dh * (h_hat - h_prev) * z * (one - z)
            dq = dA_h * r
            after = dh * (one - z)
            if off:
                dA_h = zero
                dA_r = zero
                dA_z = zero
                dq = zero
                after = before
            put(dstates, e, (after,))
            gates[gate] = dA_z
            gates[gate + H] = dA_r
            gates[gate + 2 * H] = dA_h
            rows[at * H + j] = dq
            d_z = dA_z * gh[j]
            d_r = dA_r * gh[j + H]
            d_q = dq * gh[j + 2 * H]
            sum_d += d_z + d_r
            sum_with += (d_z * (u[gate] - mean) + d_r * (u[gate + H] - mean)) * scale
            sum_q += d_q
            sum_with_q += d_q * u_q
        d_mean = total(s, tid, sum_d) * share
        d_with = total(s, tid, sum_with) * share
        d_mean_q = total(s, tid, sum_q) * share_q
        d_with_q = total(s, tid, sum_with_q) * share_q
        for j in range(tid, H, THREADS):
            gate = at * 3 * H + j
            for k in range(2):
                u_hat = (u[gate + k * H] - mean) * scale
                d = scale * (gates[gate + k * H] * gh[j + k * H] - d_mean - u_hat * d_with)
                if off:
                    d = zero
                dv[gate + k * H] = d
            u_hat = (u[gate + 2 * H] - mean_q) * scale_q
            d = scale_q * (rows[at * H + j] * gh[j + 2 * H] - d_mean_q - u_hat * d_with_q)
            if off:
                d = zero
            dv[gate + 2 * H] = d

    signature = signature_of(norm_step_back_kernel, dtype, CELL)
    return gpu.kernel(norm_step_back_kernel, signature, THREADS)


CELL = NormGru()


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
):
    """See rnnfast.kernels."""
    of_steps = candidate_mask, h_zoneout
    return recurrence.forward(CELL, xs, state, params, train, lengths, reverse, h_mask, of_steps)


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels."""
    return recurrence.backward(NormGru, dhs, dstate, params, cache, grads)


def pack(params, *, precision=None):
    """See rnnfast.kernels."""
    return recurrence.pack(CELL, params, precision)

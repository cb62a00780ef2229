"""One kernel forward and one back, for every cell: all steps of a recurrence in one launch.

A group of samples belongs to the blocks that have all units between them; each keeps its columns of
Wh in registers. Of a block's threads, thread `row * units + unit` has the state of one unit of one
sample (in each of `passes`, where a block has more samples than a product takes at a time).

Forward a block publishes h of its units, the others read it; back it sends each other block what
that block's units get from its dA, and they add up what came. What one block wrote the others may
read once `wait` has seen all blocks of the group `signal`. Nothing is added up by atomics, so the
bits do not depend on the schedule. A block that has all units keeps everything in shared memory.

A cell gives its equations (cells.py) and its products; where it has two a step (the book's GRU),
the first one's gates decide what the second one multiplies.

    A (N, T, G*H)     x Wx at first, the gates after forward, dA after backward
    B (N, T, G*H)     what comes back to h Wh, where that is not dA
    kept, hs, dhs     (N, T, H); initial, final: the states at both ends, (N, H); m (N, H): h_mask
    Wh (H, G*H), b and Wp: the constants of a unit, H apart; ends (N,): lengths

The steps are t = start, start + ahead, ...; with `ragged` a sample takes part in those before
ends[n] alone: else its state stays and its dA is 0.
"""

from functools import cache

import numpy as np

from rnnfast.cuda import ffma, ffma_back, mma, mma_back
from rnnfast.cuda.tiles import FfmaBack, FfmaForward
from rnnfast.cuda.tiles_mma import MmaBack, MmaForward
from rnnfast.cuda.tuples import columns, put_columns

COUNTER = 32  # ints between counters: a cache line each
PATIENCE = 1 << 25  # looks at a counter before a kernel gives up: some ten seconds
PRODUCTS = {
    FfmaForward: ffma.make_forward,
    FfmaBack: ffma_back.make_back,
    MmaForward: mma.make_forward,
    MmaBack: mma_back.make_back,
}


def make_product(gpu, tile, base):
    """What multiplies a tile, in shared memory from s[base] on: device functions.

    Forward place, begin, run, total, seen; back place, begin, put, send, receive, total.
    """
    return PRODUCTS[type(tile)](gpu, tile, base)


@cache
def make_meeting(gpu, together):
    """signal(counter) and wait(counter, goal) of a whole block; goal: blocks that signalled."""
    cuda, arrive, arrived, trap = gpu.cuda, gpu.arrive, gpu.arrived, gpu.trap

    @gpu.device
    def signal(counters, at):
        cuda.syncthreads()
        if together and cuda.threadIdx.x == 0:
            arrive(counters, at)

    @gpu.device
    def wait(counters, at, goal):
        if together:
            if cuda.threadIdx.x == 0:
                looks = np.int32(0)
                while arrived(counters, at) < goal:
                    looks = np.int32(looks + 1)
                    if looks == PATIENCE:
                        trap()
            cuda.syncthreads()

    return signal, wait


@cache
def make_own_steps(gpu, ragged, rows):
    """own_steps(ends, n, N, T, start, ahead): where `rows` samples from n on begin; how many."""

    @gpu.device
    def own_steps(ends, n, N, T, start, ahead):
        if ragged:
            T = 0
            for k in range(n, min(n + rows, N)):
                T = max(T, ends[k])
            if ahead < 0:
                start = T - 1
        return np.int32(start), np.int32(T)

    return own_steps


def make_common(gpu, cell, ragged, plan):
    """What both kernels of a plan are made of, for a block and each of its threads.

    signal, wait, own_steps, who, clear; keep_constants, constants_again: of a unit; remember,
    recall: the states of a pass.
    """
    return (
        *make_meeting(gpu, not plan.local),
        make_own_steps(gpu, ragged, plan.rows * plan.passes),
        make_who(gpu, plan),
        make_clear(gpu, plan),
        *make_memory(gpu, plan, plan.constants, cell.constants),
        *make_memory(gpu, plan, plan.memory, len(cell.states)),
    )


def make_memory(gpu, plan, start, count):
    """remember(s, r, values), recall(s, r): `count` numbers of a thread for pass r."""
    cuda, threads = gpu.cuda, plan.threads
    put_, get = put_columns(count, threads), columns(count, threads)

    @gpu.device
    def remember(s, r, values):
        put_(s, start + r * count * threads + cuda.threadIdx.x, values)

    @gpu.device
    def recall(s, r):
        return get(s, start + r * count * threads + cuda.threadIdx.x)

    return remember, recall


def make_who(gpu, plan):
    """who(): a thread's block of the group, group, row, unit of the block, j of H; n of pass 0."""
    cuda, blocks, units = gpu.cuda, plan.blocks, plan.units
    samples = plan.rows * plan.passes

    @gpu.device
    def who():
        block = cuda.blockIdx.x % blocks
        group = cuda.blockIdx.x // blocks
        row = cuda.threadIdx.x // units
        u = cuda.threadIdx.x % units
        return block, group, row, u, block * units + u, group * samples + row

    return who


def make_clear(gpu, plan):
    """clear(s, start, count): zeros, by all threads."""
    cuda, zero, threads = gpu.cuda, gpu.zero, plan.threads

    @gpu.device
    def clear(s, start, count):
        for e in range(cuda.threadIdx.x, count, threads):
            s[start + e] = zero

    return clear

"""One kernel forward and one back, for every cell: all steps of a recurrence in one launch.

A group of samples belongs to the blocks that have all units between them; each keeps its columns of
Wh in registers. Of a block's threads, thread `row * units + unit` has the state of one unit of one
sample (in each of `passes`, where a block has more samples than a product takes at a time).

Forward a block publishes h of its units, the others read it; back it sends each other block what
that block's units get from its dA, and they add up what came. What is sent says itself whether it
is there (exchange.py). Nothing is added up by atomics, so the bits do not depend on the schedule.
A block that has all units keeps everything in shared memory.

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
from rnnfast.cuda.exchange import make_tag
from rnnfast.cuda.numba_cuda import cgutils, intrinsic, types
from rnnfast.cuda.ptx import ZERO, beyond, only
from rnnfast.cuda.straight import floats
from rnnfast.cuda.tiles import FfmaBack, FfmaForward
from rnnfast.cuda.tiles_mma import MmaBack, MmaForward, MmaForward3
from rnnfast.cuda.whole import block_of, shared_element, thread_of, wholes

PRODUCTS = {
    FfmaForward: ffma.make_forward,
    FfmaBack: ffma_back.make_back,
    MmaForward: mma.make_forward,
    MmaForward3: mma.make_forward,
    MmaBack: mma_back.make_back,
}


def make_product(gpu, tile, base):
    """What multiplies a tile, in shared memory from s[base] on: device functions.

    Forward place, begin, run, total, seen; back place, begin, put, send, receive, total.
    """
    return PRODUCTS[type(tile)](gpu, tile, base)


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

    tag: of a step's numbers; own_steps, who; keep_constants, constants_again: of a unit;
    remember, recall: the states of a pass.
    """
    return (
        make_tag(gpu, plan.slots),
        make_own_steps(gpu, ragged, plan.rows * plan.passes),
        make_who(plan),
        *make_memory(plan, plan.constants, cell.constants),
        *make_memory(plan, plan.memory, len(cell.states)),
    )


def make_memory(plan, start, count):
    """remember(s, r, values), recall(s, r): `count` numbers of a thread for pass r."""
    threads = plan.threads

    def find(context, builder, signature, args):
        (r,) = wholes(context, builder, signature, args, 1)
        i = thread_of(builder) + (start + r * (count * threads))
        return shared_element(context, builder, signature, args, i)

    @intrinsic
    def remember(typing_context, s, r, values):
        def generate(context, builder, signature, args):
            first = find(context, builder, signature, args)
            for k, value in enumerate(cgutils.unpack_tuple(builder, args[2])):
                builder.store(value, beyond(builder, first, k * threads))
            return context.get_dummy_value()

        return types.void(s, r, floats(count)), generate

    @intrinsic
    def recall(typing_context, s, r):
        def generate(context, builder, signature, args):
            first = find(context, builder, signature, args)
            found = [builder.load(beyond(builder, first, k * threads)) for k in range(count)]
            return cgutils.pack_array(builder, found)

        return floats(count)(s, r), generate

    return remember, recall


def make_who(plan):
    """who(): a thread's block of the group, group, row, unit of the block, j of H; n of pass 0."""
    blocks, units, samples = plan.blocks, plan.units, plan.rows * plan.passes

    @intrinsic
    def who(typing_context):
        def generate(context, builder, signature, args):
            thread, grid = thread_of(builder), block_of(builder)
            block, group = grid % blocks, grid // blocks
            row, u = thread // units, thread % units
            found = block, group, row, u, block * units + u, group * samples + row
            return cgutils.pack_array(builder, [x.long for x in found])

        return types.UniTuple(types.int64, 6)(), generate

    return who


def make_clear(threads, start, count):
    """clear(s): zeros from s[start] on, by all threads."""

    @intrinsic
    def clear(typing_context, s):
        def generate(context, builder, signature, args):
            thread = thread_of(builder)
            first = shared_element(context, builder, signature, args, thread + start)
            for k in range(0, count, threads):
                with only(builder, None if k + threads <= count else thread < count - k):
                    builder.store(ZERO, beyond(builder, first, k))
            return context.get_dummy_value()

        return types.void(s), generate

    return clear

"""What the blocks of a group tell each other: numbers that carry whether they have come.

Two bits of a float32 are a tag. All numbers of a step have one tag, those that lie in their place
later the other one, and before the first step there is none. So a reader sees of each number
whether it is there, and no thread counts, signals or waits for another: the way from block to block
is one store and one load. What a thread has seen of a number it never sees older (coherence).

A block sends the numbers of a step when it has all of the step before, which its group sent after
it had read those of two steps before. So two slots of memory are enough, in turn, or one where each
step has two exchanges. Numbers that nobody sends, padding, have both tags from the first step on.

A number is rounded to 22 bits, the last two of float32 being the tag; one that is rounded to TF32
has these bits to spare.
"""

from functools import cache

import numpy as np

from rnnfast.cuda.numba_cuda import intrinsic, ir, types
from rnnfast.cuda.ptx import F32, I32, MEMORY, VOID, address, inline, load, only, store
from rnnfast.cuda.whole import thread_of, wholes

FIRST, OTHER = 1, 2  # tags: bits of a float32
BOTH = FIRST | OTHER
HALF = 2.0**-23  # of what rounding to 22 bits leaves, about
PATIENCE = 1 << 24  # looks before a kernel gives up: some ten seconds
STORE, LOAD = "st.relaxed.gpu.global", "ld.relaxed.gpu.global"


@cache
def make_tag(gpu, slots):
    """tag(k): of the numbers of step k, which lie in slot k % slots."""
    by_two = slots == 2

    @gpu.device
    def tag(k):
        if by_two:
            k >>= 1
        return np.int32(FIRST + (k & 1))

    return tag


def send(builder, p, x, tag, tf32=False):
    """Stores x for other blocks. tf32: it is rounded already."""
    if not tf32:
        x = builder.fadd(x, builder.fmul(x, ir.Constant(F32, HALF)))
    bits = builder.and_(builder.bitcast(x, I32), ir.Constant(I32, ~BOTH))
    store(builder, STORE, p, [builder.bitcast(builder.or_(bits, tag), F32)])


def look(builder, p):
    """Four numbers as they are now."""
    return [builder.bitcast(x, I32) for x in load(builder, LOAD, p, 4)]


def received(builder, places, found, tag):
    """Lists of four floats, all there. found: what a look at these places has given.

    Looks again until they have this tag.
    """
    function = builder.function
    begin = builder.block
    check = function.append_basic_block("check")
    again = function.append_basic_block("again")
    there = function.append_basic_block("there")
    builder.branch(check)

    builder.position_at_end(check)
    numbers = [[builder.phi(I32) for _ in four] for four in found]
    looks = builder.phi(I32)
    tags = tag
    for four in numbers:
        for x in four:
            tags = builder.and_(tags, x)
    have_come = builder.icmp_unsigned("!=", tags, ir.Constant(I32, 0))
    builder.cbranch(have_come, there, again)

    builder.position_at_end(again)
    more = builder.add(looks, ir.Constant(I32, 1))
    with builder.if_then(builder.icmp_unsigned("==", more, ir.Constant(I32, PATIENCE))):
        inline(builder, VOID, "trap;", MEMORY, [])
    news = [look(builder, p) for p in places]
    end = builder.block
    builder.branch(check)

    looks.add_incoming(ir.Constant(I32, 0), begin)
    looks.add_incoming(more, end)
    for four, old, new in zip(numbers, found, news, strict=True):
        for x, a, b in zip(four, old, new, strict=True):
            x.add_incoming(a, begin)
            x.add_incoming(b, end)

    builder.position_at_end(there)
    without = ir.Constant(I32, ~BOTH)
    return [[builder.bitcast(builder.and_(x, without), F32) for x in four] for four in numbers]


@intrinsic
def send_nothing(typing_context, x, i):
    """Marks x[i] as a number that nobody sends."""

    def generate(context, builder, signature, args):
        p = address(context, builder, signature, args, 0)
        store(builder, STORE, p, [builder.bitcast(ir.Constant(I32, BOTH), F32)])
        return context.get_dummy_value()

    return types.void(x, i), generate


def make_padding(tile):
    """padding(x, i, block): marks what nobody sends in the part of x from x[i] on.

    Forward the blocks of a group do that together; back each marks what it would receive.
    """
    threads, blocks, units, rows = tile.threads, tile.blocks, tile.units, tile.rows

    def forward(builder, base, block):
        first, step = block * threads + thread_of(builder), blocks * threads
        beyond_H, row = tile.row - tile.H, tile.row

        def of_a_row(e):
            return e // beyond_H * row + e % beyond_H + tile.H

        mark(builder, base, rows * beyond_H, first, step, of_a_row)
        mark(builder, base, tile.exchanged - rows * row, first, step, lambda e: e + rows * row)

    def back(builder, base, block):
        first, parcel = thread_of(builder), tile.parcel
        base = builder.gep(base, [(block * (tile.sources * parcel)).long])
        tail, beyond_H = parcel - rows * units, blocks * units - tile.H

        def of_a_parcel(e):
            return e // tail * parcel + e % tail + rows * units

        def of_a_row(e):
            row = e // beyond_H
            return row // rows * parcel + row % rows * units + e % beyond_H + (units - beyond_H)

        mark(builder, base, tile.sources * tail, first, threads, of_a_parcel)
        if beyond_H:  # in the last block
            last = builder.icmp_unsigned("==", block.value, ir.Constant(I32, blocks - 1))
            with builder.if_then(last):
                mark(builder, base, tile.sources * rows * beyond_H, first, threads, of_a_row)

    @intrinsic
    def padding(typing_context, x, i, block):
        def generate(context, builder, signature, args):
            if not (tile.local or tile.all_sent):
                (block,) = wholes(context, builder, signature, args, 2)
                base = address(context, builder, signature, args, 0)
                (forward if tile.forward else back)(builder, base, block)
            return context.get_dummy_value()

        return types.void(x, i, block), generate

    return padding


def mark(builder, base, count, first, step, place):
    """Marks place(e), from base on, for e = first, first + step, ... below count; first < step."""
    for start in range(0, count, step):
        e = first + start
        with only(builder, None if start + step <= count else e < count):
            p = builder.gep(base, [place(e).long])
            store(builder, STORE, p, [builder.bitcast(ir.Constant(I32, BOTH), F32)])

"""The contract of rnnfast.kernels for every cell: what is around the kernels of all steps."""

import itertools
from dataclasses import dataclass

from rnnfast.cuda import call as calls
from rnnfast.cuda import planner, steps
from rnnfast.cuda.frame import COUNTER
from rnnfast.cuda.frame_back import make_frame_back
from rnnfast.cuda.frame_forward import make_frame_forward
from rnnfast.kernels import get_float32_matmul_precision


@dataclass
class Arrays:
    """What the kernels of one call work on; shapes in frame.py and steps.py."""

    A: object
    b: object
    Wp: object  # without peepholes any array, which no kernel reads; so m and ends
    m: object
    ends: object
    kept: tuple
    hs: object = None
    dhs: object = None
    B: object = None


def planned(call, cell, forward):
    """How the steps run, and the kernel of all of them; each None where there is none.

    Found once for all calls of this signature, and that precision and planner.
    """
    precision = "tf32" if get_float32_matmul_precision() == "high" else "float32"

    def find():
        if call.N * call.T == 0:
            return None, None
        gpu, dtype = call.gpu, call.dtype.name
        plan = planner.make_plan(gpu, cell, forward, call.N, call.H, dtype, precision)
        make = make_frame_forward if forward else make_frame_back
        kernel = None
        if plan.kind != "steps":
            kernel = make(gpu, cell, call.masked, call.ragged, plan)
        return plan, kernel

    return call.once((forward, precision, planner.make_plan), find)


def exchange(call, plan):
    """Counters, and for each product what the blocks exchange: zeros, in one allocation."""
    if plan.local:
        return call.no_ends, call.nothing, call.nothing
    slots = 2 if len(plan.tiles) == 1 else 1
    sizes = [slots * plan.groups * plan.passes * tile.exchanged for tile in plan.tiles]
    starts = [COUNTER * plan.groups]
    for size in sizes:
        starts.append(starts[-1] + size)
    room = call.xp.zeros(starts[-1], "float32")
    rooms = [room[a:b] for a, b in itertools.pairwise(starts)]
    return room[: starts[0]].view("int32"), rooms[0], rooms[-1]


def states_at_the_end(call, kernel, states):
    """Arrays for the final states: the kernel's to write, in steps a copy to begin with."""
    if kernel is None:
        return tuple([x.copy() for x in states])
    return tuple([call.empty(call.N, call.H) for _ in states])


def start_and_way(T, backwards):
    return (T - 1, -1) if backwards else (0, 1)


def forward(cell, xs, state, params, train, lengths, reverse, h_mask):
    """See rnnfast.kernels; cell: sizes, equations and options."""
    call = calls.start_forward(cell, xs, state, params, train, h_mask, lengths)
    if call.peepholes:
        cell = cell.of(call.peepholes)
    N, T, H = call.N, call.T, call.H
    m, ends = call.mask(h_mask), call.ends(lengths)
    xs, (Wx, Wh, b), Wp = call.inputs(xs, ends), call.weights(), call.cell_weights()
    initial, (plan, kernel) = call.state(state), planned(call, cell, True)
    new = call.zeros if call.ragged else call.empty  # no kernel writes beyond all ends of a group
    hs = new(N, T, H)
    kept = tuple(new(N, T, H) if train else hs for _ in cell.kept)
    arrays = Arrays(call.projection(xs, Wx), b, Wp, m, ends, kept, hs=hs)
    final = states_at_the_end(call, kernel, initial)

    start, ahead = start_and_way(T, reverse)
    if plan is None:
        pass
    elif kernel is None:
        steps.forward(call, cell, arrays, Wh, final, start, ahead, train)
    else:
        counters, x, x2 = exchange(call, plan)
        kernel(
            *(plan.grid, arrays.A, Wh, b, Wp, initial, m, hs, kept, final, x, x2, counters, ends),
            *(N, T, start, ahead, train),
        )

    cache = None
    if train:
        last = {"final": tuple(x.copy() for x in final)} if call.peepholes else {}
        arrays.hs = None
        cache = call.keep(xs, reverse=reverse, cell=cell, arrays=arrays, **last)
    return call.give(hs), tuple(map(call.give, final)), cache


def backward(kind, dhs, dstate, params, cache, grads):
    """See rnnfast.kernels; kind: the class of the cells of which the cache may be."""
    call, kept = calls.start_backward(kind, dhs, dstate, params, cache, grads)
    cell, arrays = kept["cell"], kept["arrays"]
    N, T, H = call.N, call.T, call.H
    arrays.dhs, (Wx, Wh, b), arrays.Wp = call.move(dhs), call.weights(), call.cell_weights()
    arrays.b, arrays.B = b, arrays.A
    if cell.separate:
        arrays.B = (call.zeros if call.ragged else call.empty)(*arrays.A.shape)
    initial, (plan, kernel) = call.state(dstate), planned(call, cell, False)
    final = states_at_the_end(call, kernel, initial)

    start, ahead = start_and_way(T, not kept["reverse"])
    if plan is None:
        pass
    elif kernel is None:
        steps.back(call, cell, arrays, Wh, final, start, ahead)
    else:
        counters, *rooms = exchange(call, plan)
        kernel(
            *(plan.grid, arrays.dhs, arrays.A, arrays.B, Wh, b, arrays.Wp, initial, arrays.m),
            *(arrays.kept, final, rooms[-1], rooms[0], counters, arrays.ends),
            *(N, T, start, ahead),
        )

    met = [(arrays.kept[0], arrays.B, None)]
    if len(cell.products) > 1:
        parts = [slice(gates[0] * H, (gates[-1] + 1) * H) for gates in cell.products]
        met = [
            (left, arrays.B[:, :, part], part)
            for left, part in zip(arrays.kept, parts, strict=True)
        ]
    more = cell.other_grads(call, kept, grads) if plan is not None else {}
    dxs = call.finish(kept, arrays.A, Wx, grads, met, **more)
    return dxs, tuple(map(call.give, final))


def pack(cell, params):
    """See rnnfast.kernels."""
    return calls.pack(cell, params)

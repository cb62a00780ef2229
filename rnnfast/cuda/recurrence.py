"""The contract of rnnfast.kernels for every cell: what is around the kernels of all steps."""

import itertools
from dataclasses import dataclass
from functools import partial

from rnnfast.cuda import call as calls
from rnnfast.cuda import planner, steps
from rnnfast.cuda.aligned import sharing
from rnnfast.cuda.cells import with_steps
from rnnfast.cuda.frame_back import make_frame_back
from rnnfast.cuda.frame_forward import make_frame_forward
from rnnfast.cuda.signatures import bind
from rnnfast.kernels import get_float32_matmul_precision


@dataclass(slots=True, frozen=True)
class Way:
    """How the steps of a call run; plan and kernels are None where there are none."""

    cell: object  # with its peepholes
    no_kept: tuple  # what the kernel takes for them without training
    columns: tuple  # of A, a slice for each product of a step
    orders: tuple  # (first step, which way on) of the usual direction and of the other
    plan: object = None
    kernels: tuple | None = None  # of all steps, in either direction
    starts: tuple = ()  # of what the blocks exchange in each product, and where it ends
    alone: tuple = ()  # what the kernel takes in its place where they exchange nothing


def planned(call, cell, forward):
    """The Way of all calls of a signature, which that precision and planner are part of."""
    way = call.way = find_way(call, cell.of(call.peepholes), forward)
    return way


def find_way(call, cell, forward):
    gpu, dtype = call.gpu, call.dtype.name
    columns = tuple([slice(g[0] * call.H, (g[-1] + 1) * call.H) for g in cell.products])
    orders = (0, 1), (call.T - 1, -1)
    if not forward:
        orders = orders[::-1]
    made = partial(Way, cell, (call.nothing,) * len(cell.kept), columns, orders)
    if call.N * call.T == 0:
        return made()
    precision = "tf32" if get_float32_matmul_precision() != "highest" else "float32"
    plan = planner.make_plan(gpu, cell, forward, call.N, call.H, dtype, precision)
    if plan.kind == "steps":
        return made(plan)
    make = make_frame_forward if forward else make_frame_back
    kernel = make(gpu, cell, call.masked, call.ragged, plan)
    sizes = {"blocks": plan.grid, "N": call.N, "T": call.T}
    kernels = tuple([bind(kernel, **sizes, start=t, ahead=ahead) for t, ahead in orders])
    starts = ()
    if not plan.local:
        sizes = [plan.slots * plan.groups * plan.passes * tile.exchanged for tile in plan.tiles]
        starts = tuple(itertools.accumulate([0, *sizes]))
    return made(plan, kernels, starts, (None, call.nothing, call.nothing))


def exchange(call, starts):
    """Zeros, and what of them is for each product, as kernels take it; see exchange.py.

    Two products, of which the last stands twice where it is alone. First the array, which has to
    live until the launch.
    """
    room = call.gpu.zeros(starts[-1], "float32")
    rooms = call.gpu.parts(room, starts)
    return room, rooms[0], rooms[-1]


def states_at_the_end(call, kernel, states):
    """Arrays for the final states: the kernel's to write, in steps a copy to begin with."""
    if kernel is None:
        return tuple([call.gpu.copy(x) for x in states])
    empty, shape, dtype = call.gpu.empty, (call.N, call.H), call.dtype
    return tuple([empty(shape, dtype) for _ in states])


def forward(cell, xs, state, params, train, lengths, reverse, h_mask, of_steps=()):
    """See rnnfast.kernels; cell: sizes, equations and options.

    of_steps: candidate_mask, h_zoneout and c_zoneout, which may be None, or left out at the end.
    """
    if any(x is not None for x in of_steps):
        candidate, *shares = [x is not None for x in of_steps]
        cell = with_steps(cell, candidate, any(shares))
    else:
        of_steps = ()
    call, params = calls.start_forward(cell, xs, state, params, train, h_mask, lengths, of_steps)
    way = call.way or planned(call, cell, True)
    cell, N, T, dtype, direction = way.cell, call.N, call.T, call.dtype, 1 if reverse else 0
    kernel = way.kernels and way.kernels[direction]
    xs, Wx, Wh, b, beside, m, *initial = call.arrays(xs, params, h_mask, state)
    Wp, Wr, *_ = beside
    initial, ends, empty = tuple(initial), call.no_ends, call.gpu.empty
    new = empty
    if call.ragged:
        ends, xs = call.until(xs, lengths)
        new = call.gpu.zeros  # no kernel writes beyond all ends of a group
    shape = N, T, call.H  # of what is kept
    # x Wx of all steps; what a step makes of x instead is added in steps
    A = (call.gpu.zeros if cell.own_input else empty)((N, T, way.columns[-1].stop), dtype)
    hs = new((N, T, call.P), dtype)
    kept = tuple([new(shape, dtype) for _ in cell.kept]) if train else way.no_kept
    final = states_at_the_end(call, kernel, initial)
    of_xs = {} if train else None

    if N * T and not cell.own_input:
        product = call.bound.get("A") or call.bind("A", xs, Wx, A)
        sharing(product, of_xs)(xs, Wx, A)
    if kernel is not None:
        _room, x, x2 = exchange(call, way.starts) if way.starts else way.alone
        kernel(
            A=A,
            Wh=Wh,
            b=b,
            Wp=Wp,
            initial=initial,
            m=m,
            hs=hs,
            kept=kept,
            final=final,
            x=x,
            x2=x2,
            ends=ends,
            train=train,
        )
        if not train:
            return call.give(hs, final, None) if call.host else (hs, final, None)
    arrays = calls.Arrays(A, b, Wp, m, ends, kept, xs, hs, reverse, train, of_xs)
    if of_steps:
        of_steps = [None if x is None else call.move(x) for x in of_steps]
        arrays.of_steps = (*of_steps, None)[:3]
    if cell.own_input:
        arrays.Wx, arrays.Wh, arrays.Wr = Wx, Wh, Wr
    if kernel is None and N * T:
        arrays.norms = beside
        steps.forward(call, cell, arrays, Wh, final, *way.orders[direction], train)

    cache, arrays.hs = None, None
    if train:
        if call.peepholes:
            arrays.final = tuple([call.gpu.copy(x) for x in final])
        cache = calls.Cache(cell, call.of_forward, arrays)
    return call.give(hs, final, cache) if call.host else (hs, final, cache)


def backward(kind, dhs, dstate, params, cache, grads):
    """See rnnfast.kernels; kind: the class of the cells of which the cache may be."""
    call, arrays = calls.start_backward(kind, dhs, dstate, params, cache, grads)
    way = call.way or planned(call, cache.cell, False)
    cell, plan, direction, A = way.cell, way.plan, 1 if arrays.reverse else 0, arrays.A
    kernel = way.kernels and way.kernels[direction]
    dhs, Wx, Wh, b, beside, _, *initial = call.arrays(dhs, params, None, dstate)
    Wp, Wr, *_ = beside
    arrays.dhs, arrays.b, arrays.Wp, B = dhs, b, Wp, A
    if cell.own_input:
        arrays.Wx, arrays.Wh, arrays.Wr = Wx, Wh, Wr
    if cell.separate:
        B = (call.gpu.zeros if call.ragged else call.gpu.empty)(A.shape, call.dtype)
    arrays.B, initial = B, tuple(initial)
    final = states_at_the_end(call, kernel, initial)

    if kernel is not None:
        _room, x2, x = exchange(call, way.starts) if way.starts else way.alone
        kernel(
            dhs=dhs,
            A=A,
            B=B,
            Wh=Wh,
            b=b,
            Wp=Wp,
            initial=initial,
            m=arrays.m,
            kept=arrays.kept,
            final=final,
            x=x,
            x2=x2,
            ends=arrays.ends,
        )
    elif plan is not None:
        arrays.norms = beside
        steps.back(call, cell, arrays, Wh, final, *way.orders[direction])

    targets = grads
    if arrays.beside:
        targets = [None if g is None else call.empty(*g.shape) for g in grads]
    more = cell.other_grads(call, arrays, targets) if plan is not None else {}
    dxs = call.finish(arrays, Wx, targets, way.columns, **more)
    if targets is not grads:
        for grad, value in zip(grads, targets, strict=True):
            if grad is not None:
                call.write(grad, value)
    return call.give(dxs, final) if call.host else (dxs, final)


def pack(cell, params, precision):
    """See rnnfast.kernels. This column has no kernels for fewer bits; it has tensor cores."""
    if precision is not None:
        raise ValueError(
            f"{cell.name}: precision must be None on a GPU, got {precision!r} "
            "(see set_float32_matmul_precision)"
        )
    return calls.pack(cell, params)

"""Runs each kernel of the cuda column once, on small cases, for compute-sanitizer.

    python -m benchmarks.sanitize [NAME ...]
    compute-sanitizer --tool memcheck python -m benchmarks.sanitize

Each cell runs forward and backward in each way (row, grid in float32 and in TF32, the same with
weights in shared memory and in passes, steps), the grid with several groups and blocks, plainly and
("ragged") with an h_mask, with lengths and in reverse, and the ops run once. Results are compared
with the reference. One line per case; exit code 1 if one is wrong. Without a GPU: one line with the
reason, exit code 1.
"""

import argparse
import sys
from functools import partial
from itertools import product
from unittest import mock

import numpy as np

import rnnfast
from rnnfast import cuda
from rnnfast.checks import is_numpy
from rnnfast.cuda import planner
from rnnfast.cuda.precision import tf32_tolerance
from rnnfast.kernels import CELLS, load
from rnnfast.layers.cells import RECURRENT

N, T, D, H = 5, 3, 4, 37
TOLERANCES = {"float32": 1e-5, "tf32": tf32_tolerance(N, T, D, H)}
SAMPLES, UNITS, THREADS = 3, 13, 64  # of a block in the grid: 2 groups of several blocks
OPTIONS = {
    "rnn": ({}, {"nonlinearity": "relu"}),
    "lstm": (
        {},
        {"peepholes": "diagonal", "cell_clip": 0.5},
        {"peepholes": "full"},
        {"peepholes": "full", "of_steps": True},
    ),
    "mogrifier": ({"rounds": 3}, {"rounds": 2, "rank": 3}, {"rounds": 2, "of_steps": True}),
    "lstmp": ({"proj_size": 19, "cell_clip": 0.5}, {"proj_size": 19, "of_steps": True}),
    "gru": ({}, {"reset_after": True}, {"of_steps": True}),
    "lnlstm": ({}, {"of_steps": True}),
    "lngru": ({}, {"of_steps": True}),
    "slstm": ({}, {"heads": 37}),
}


def make_plan(kind, gpu, cell, forward, N, H, dtype, precision):
    """Replaces the planner: the given plan, for any size."""
    if kind == "steps":
        return planner.steps_plan(cell, forward, N, H, precision)
    if kind == "three":  # products on tensor cores, which backward does not have
        precision = "3xtf32" if forward else "float32"
    sizes = cell, forward, N, H, precision
    units = UNITS if precision == "float32" else 16
    if kind == "row":
        return planner.frame_plan(*sizes, H, 1, THREADS, slices=2)
    if kind == "aside":  # weights in shared memory; and passes, where the cell has them
        passes = 3 - len(cell.products)
        more = {"passes": passes, "slices": 2, "own": 1, "aside": 1}
        return planner.frame_plan(*sizes, units, 4 - passes, THREADS, **more)
    return planner.frame_plan(*sizes, units, SAMPLES, THREADS, slices=2)


def run_cell(cell, kind, precision, options, ragged):
    """Forward and backward of one cell; returns the largest error and its bound."""
    rng = np.random.default_rng(0)
    columns, keywords = RECURRENT[cell].gates * H, dict(options)
    P = keywords.pop("proj_size", H)  # the width of h

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    b = normal(2, columns) if options.get("reset_after") else normal(columns)
    heads = keywords.pop("heads", 1)
    params = normal(D, columns) / 2, normal(P, columns // heads) / 4, b
    if peepholes := keywords.pop("peepholes", None):
        params += (normal(3, H) if peepholes == "diagonal" else normal(3, H, H) / 4,)
    if rounds := keywords.pop("rounds", None):
        rank = keywords.pop("rank", None)
        params += (normal(rounds, H, rank or D) / 2,)
        params += () if rank is None else (normal(rounds, rank, D),)
    params += (normal(H, P) / 4,) if cell == "lstmp" else ()
    if "gx" in RECURRENT[cell].more:
        params += tuple(map(normal, (columns, columns, H, H)))[: len(RECURRENT[cell].more)]
    names = RECURRENT[cell].states
    widths = [P if name == "h" else H for name in names]
    state, dstate = (tuple(normal(N, width) for width in widths) for _ in range(2))
    state = tuple(abs(s) + 1 if name == "n" else s for name, s in zip(names, state, strict=True))
    xs, dhs = normal(N, T, D), normal(N, T, P)
    if keywords.pop("of_steps", False):  # recurrent dropout and zoneout
        of_steps = RECURRENT[cell].of_steps
        for name in of_steps:
            shape = N, T, P if name == "h_zoneout" else H
            keywords[name] = rng.random(shape).astype(np.float32)
    if ragged:
        keywords |= {"h_mask": (rng.random((N, P)) > 0.3) * np.float32(1.5), "reverse": True}
        keywords["lengths"] = np.arange(N, dtype=np.intp) % (T + 1)

    def run(module, as_is):
        x, s, p, d, ds = xs, state, params, dhs, dstate
        more = dict(keywords)
        if not as_is:
            x, d = x.astype("f8"), d.astype("f8")
            s, p, ds = ([a.astype("f8") for a in arrays] for arrays in (s, p, ds))
            for name in more.keys() & {"h_mask", *RECURRENT[cell].of_steps}:
                more[name] = more[name].astype("f8")
        hs, final, kept = module.forward(x, s, p, **more)
        grads = [np.full_like(a, np.nan) for a in p]
        dxs, first = module.backward(d, ds, p, kept, grads)
        return [hs, dxs, *final, *first, *grads]

    with mock.patch.object(planner, "make_plan", partial(make_plan, kind)):
        rnnfast.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        try:
            got = run(load(cell, "cuda"), True)
        finally:
            rnnfast.set_float32_matmul_precision("highest")
    return worst(got, run(load(cell, "reference"), False)), TOLERANCES[precision]


def worst(got, expected):
    """The largest error of all arrays, relative to the largest number of its array."""
    errors = [
        float(np.max(np.abs(a - b))) / (1 + float(np.max(np.abs(b))))
        for a, b in zip(got, expected, strict=True)
    ]
    return float("nan") if np.isnan(errors).any() else max(errors)


def run_ops():
    """Every op with a kernel of its own, against the reference."""
    found = []
    for device in ("cuda", "reference"):
        ops, rng = load("ops", device), np.random.default_rng(0)
        real = np.float32 if device == "cuda" else np.float64

        def normal(*shape, rng=rng, real=real):
            return rng.standard_normal(shape).astype(np.float32).astype(real)

        ids = np.array([3, 0, 3, 8, 3, 1, 0])
        W, affine, b, dout = normal(9, 5), normal(5, 300), normal(300), normal(7, 5)
        dW, d_affine, db = np.full_like(W, np.nan), np.zeros_like(affine), np.zeros_like(b)
        x = ops.embedding_forward(ids, W)
        ops.embedding_backward(dout, ids, dW)
        often, d_often = np.tile([4, 1, 4], 140), np.full_like(W, np.nan)  # more than a block has
        ops.embedding_backward(normal(len(often), 5), often, d_often)
        loss, kept = ops.affine_softmax_loss_forward(x, affine, b, ids)
        dx = ops.affine_softmax_loss_backward(kept, d_affine, db)
        hs, prior, dW1, db1 = normal(7, 3, 5), normal(7, 3), normal(5, 300), normal(300)
        mixed, kept = ops.mixture_softmax_loss_forward(hs, prior, affine, b, ids)
        dhs, dprior = ops.mixture_softmax_loss_backward(kept, dW1, db1)
        log_p = ops.mixture_softmax(hs, prior, affine, b)
        p, q, m, v = normal(7, 5), normal(7, 5), np.zeros((7, 5), real), np.zeros((7, 5), real)
        ops.sgd(p, dout, 0.1)
        ops.adam(q, dout, m, v, 0.01, 0.9, 0.999)
        mask = ops.dropout_mask((13, 5), 0.4, (1, 2), 3, real)
        mask = mask if is_numpy(mask) else mask.get()
        scaled = normal(7, 5)
        ops.scale(scaled, 0.5)
        squares = ops.sum_of_squares(W)
        scalars = np.array([loss, squares, mixed], real)
        mixture = [log_p, dhs, dprior, dW1, db1]
        lists = [[normal(7, 5), normal(300), normal(1)] for _ in range(4)]
        lists[3] = list(map(np.square, lists[3]))
        at_once = update(ops, *lists) if device == "reference" else update_at_once(ops, *lists)
        rest = [p, q, m, v, mask, scaled, scalars, *at_once]
        found.append([x, dW, d_often, dx, d_affine, db, *mixture, *rest])
    return worst(*found), TOLERANCES["float32"]


def update(ops, params, grads, m, v):
    """Clipping at 0.5, SGD and the second update of Adam, array by array -> all that is written."""
    norm = sum(map(ops.sum_of_squares, grads)) ** 0.5
    rate = 0.01 * (1 - 0.999**2) ** 0.5 / (1 - 0.9**2)
    for arrays in zip(params, grads, m, v, strict=True):
        ops.scale(arrays[1], 0.5 / (norm + 1e-6))
        ops.sgd(*arrays[:2], 0.1)
        ops.adam(*arrays, rate, 0.9, 0.999)
    return [np.array([norm]), *params, *grads, *m, *v]


def update_at_once(ops, *lists):
    """The same, all arrays in one launch each."""
    params, grads, *moments = ([ops.to_device(x) for x in arrays] for arrays in lists)
    norm = ops.clip(grads, 0.5)
    assert ops.sgd_of_all(params, grads, 0.1)
    assert ops.adam_of_all(params, grads, *moments, 0.01, 0.9, 0.999, 2)
    written = norm.reshape(1), *params, *grads, *moments[0], *moments[1]
    return [cuda.what_runs().to_host(x) for x in written]


def cases():
    """{name: function}."""
    found = {"ops": run_ops}
    ways = [("row", "float32"), ("steps", "float32"), ("three", "float32")]
    ways += list(product(("grid", "aside"), ("float32", "tf32")))
    variants = [(cell, options) for cell in CELLS for options in OPTIONS[cell]]
    for (cell, options), (kind, precision) in product(variants, ways):
        in_steps = ("mogrifier", "lstmp", "lnlstm", "lngru", "slstm")
        whole = cell in in_steps or options.get("peepholes") == "full" or "of_steps" in options
        if whole and kind != "steps":
            continue
        for ragged in (False, True):
            named = (name if value is True else str(value) for name, value in options.items())
            words = [cell, *named, kind, precision, "ragged" * ragged]
            name = "-".join(filter(None, words))
            found[name] = partial(run_cell, cell, kind, precision, options, ragged)
    return found


def run(names):
    """Run cases and print a line for each; returns the number of wrong cases."""
    wrong = 0
    for name in names:
        error, tolerance = cases()[name]()
        good = error <= tolerance
        wrong += not good
        print(f"{name:<28} error {error:.1e} {'ok' if good else f'WRONG, over {tolerance:g}'}")
        sys.stdout.flush()
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases to run (all)")
    names = parser.parse_args().names or list(cases())
    if unknown := set(names) - set(cases()):
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(cases())}")
    if reason := cuda.available():
        raise SystemExit(f"no GPU: {reason}")
    import cupy

    # No memory pool: each array is its own allocation, so that memcheck sees accesses beyond it.
    cupy.cuda.set_allocator(None)
    raise SystemExit(1 if run(names) else 0)


if __name__ == "__main__":
    main()

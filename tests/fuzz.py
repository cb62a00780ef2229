"""Random calls of the public API, in processes that may die.

    python tests/fuzz.py --seconds 60 [--seed 1] [--device cpu]

Arrays lie between guard pages, in any layout, with NaN, infinities and denormal numbers among them;
some say something else of themselves than is true, are of another type or size, or overlap each
other. A call has to give what the reference gives in float64, or one of the exceptions of the
contract, and then nothing may have been written. A process that dies, or an example that fails, is
printed with the seed that brings it back.
"""

import argparse
import faulthandler
import os
import subprocess
import sys
import time

import numpy as np
from cases import (
    CELLS,
    MASKS,
    assert_close,
    assert_grad_close,
    beside_of,
    heads_of,
    make_problem,
)
from guard import guarded
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import rnnfast
from rnnfast import kernels, optim
from rnnfast.layers.cells import BIDIRECTIONAL, RECURRENT

REFUSED = (TypeError, ValueError, BufferError, MemoryError, OverflowError, RuntimeError)
SIZES = (1, 2, 3, 5, 8, 9, 16, 17, 31, 33)
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, 3e38)
BATCH = 100  # examples of one seed
LAYOUTS = ("C", "C", "F", "reversed", "spread", "start")


class Liar(np.ndarray):
    """Says a shape that is not its own."""

    @property
    def shape(self):
        return tuple(7 for _ in range(self.ndim))


def placed(array, layout):
    """Equal to array, between guard pages."""
    if layout == "F":
        return guarded(array.T.copy()).T
    if layout == "reversed":
        return guarded(np.flip(array).copy())[(slice(None, None, -1),) * array.ndim]
    if layout == "spread" and array.ndim:
        wide = np.repeat(array, 2, axis=-1)
        return guarded(wide)[..., 1::2]
    return guarded(array, at_end=layout != "start")


def spoilt(draw, array):
    """Something that is not like array."""
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return array.view(Liar)
    if kind == 1:
        return array.astype(draw(st.sampled_from(("f2", "f4", "f8", "i8", "c8", "O", ">f4", "?"))))
    if kind == 2:
        return array[..., :-1] if array.ndim else array
    if kind == 3:
        return np.broadcast_to(array, (2, *array.shape))
    if kind == 4:
        return draw(st.sampled_from((None, 3, "weights", [], float("nan"))))
    if kind == 5:
        return np.broadcast_to(array.dtype.type(1), (1 << 40, *array.shape[1:]))
    raw = guarded(np.zeros(array.nbytes + 1, "u1"))[1:]
    copy = raw[: array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


class Arguments:
    """The arrays of a problem as a call gets them, one of them perhaps spoilt."""

    def __init__(self, draw, finite):
        self.draw, self.finite, self.good = draw, finite, True
        self.spoil = draw(st.integers(0, 40))

    def __call__(self, array):
        if array is None:
            return None
        self.spoil -= 1
        if not self.finite and self.draw(st.integers(0, 3)) == 0:
            array = array.copy()
            rng = np.random.default_rng(self.draw(st.integers(0, 99)))
            if array.size and array.dtype.kind == "f":
                array.flat[rng.integers(array.size)] = self.draw(st.sampled_from(SPECIAL))
        array = placed(array, self.draw(st.sampled_from(LAYOUTS)))
        if self.spoil == 0:
            self.good = False
            return spoilt(self.draw, array)
        return array


def _has_precision(cell, dtype, options, precision):
    """Whether pack takes it; see TimeLSTM.freeze."""
    relu = "nonlinearity" in options and precision == "int8"
    full = options.get("peepholes") == "full"
    return cell.name in ("rnn", "lstm", "gru") and dtype == "float32" and not (relu or full)


def kernel_calls(draw, device):
    """A cell's forward and backward by the contract."""
    cell = draw(st.sampled_from(CELLS))
    options = dict(draw(st.sampled_from(cell.options)))
    dtype = draw(st.sampled_from(("float32", "float64")))
    size = st.sampled_from(SIZES)
    shape = draw(st.sampled_from((0, *SIZES))), draw(st.integers(0, 5)), draw(size), draw(size)
    more = {name: draw(st.booleans()) for name in ("bias", "states", "mask", "lengths")}
    problem = make_problem(cell, shape, dtype, seed=draw(st.integers(0, 9)), **more, **options)
    finite = draw(st.integers(0, 2)) > 0
    take, module = Arguments(draw, finite), kernels.load(cell.name, device)
    state = None if problem.state is None else tuple(map(take, problem.state))
    params, xs = tuple(map(take, problem.params)), take(problem.xs)
    keywords = problem.keywords | {"reverse": draw(st.booleans())}
    for name in (*MASKS, "lengths"):
        if name in keywords:
            keywords[name] = take(keywords[name])
    low = kernels.get_float32_matmul_precision() == "medium"
    low = low and _has_precision(cell, dtype, options, "bf16")
    hs, final, cache = module.forward(xs, state, params, **keywords)
    if draw(st.booleans()):
        precision = {"precision": "bf16"} if low else {}
        packed = module.pack(params, **precision, **problem.options)
        again = module.forward(xs, state, packed, train=False, **keywords)[0]
        np.testing.assert_array_equal(hs, again)

    fewer = [p for p in ("bf16", "int8") if _has_precision(cell, dtype, options, p)]
    if fewer and draw(st.booleans()):
        packed = module.pack(params, precision=draw(st.sampled_from(fewer)), **problem.options)
        rough, after, _ = module.forward(xs, state, packed, train=False, **keywords)
        if take.good and finite and "nonlinearity" not in options:
            bound = max(1, np.abs(problem.state[0]).max(initial=0) if problem.state else 1)
            assert np.abs(rough - hs).max(initial=0) <= 2 * bound
            assert all(np.isfinite(array).all() for array in after)

    dstate = None if problem.dstate is None else tuple(map(take, problem.dstate))
    dhs = take(problem.dhs)
    grads = [None if p is None else take(np.full_like(p, 7)) for p in problem.params]
    if draw(st.integers(0, 5)) == 0:  # over what is read
        read = [a for a in (xs, dhs, *params) if isinstance(a, np.ndarray) and a.ndim > 1]
        for k, g in enumerate(grads[:2]):
            base = draw(st.sampled_from(read)) if read else None
            if base is not None and g is not None and base.size >= problem.params[k].size:
                flat = base.reshape(-1)
                if np.shares_memory(flat, base) and flat.dtype == dtype:
                    shape = problem.params[k].shape
                    grads[k] = flat[: problem.params[k].size].reshape(shape)
    before = [None if not isinstance(g, np.ndarray) else g.tobytes() for g in grads]
    try:
        dxs, dstate = module.backward(dhs, dstate, params, cache, tuple(grads))
    except REFUSED:
        for g, old in zip(grads, before, strict=True):
            assert old is None or g.tobytes() == old, "written before it was refused"
        raise
    if not (take.good and finite):
        return
    expected = problem if low else problem.astype("float64")  # a relu rounded alike is 0 alike
    expected.keywords["reverse"] = keywords["reverse"]
    expected = expected.run(kernels.load(cell.name, "reference"))
    got = {"hs": hs, "dxs": dxs, **dict(zip("hc", final, strict=False))}
    steep = expected.steep
    # of two or three numbers that are normalised, little may be left but rounding errors
    loose = 1e-10 if steep else None
    single, of_grads = (3e-4, 1e-3) if steep else (0.02, 0.02) if low else (3e-5, 1e-4)
    for name, a in got.items():
        right, tolerance = dict(expected.arrays())[name], single if dtype == "float32" else loose
        assert_close(a, right, name, tolerance, steep and name == "dxs")
    for name, g in zip(problem.names, grads, strict=True):
        if g is not None:
            tolerance, right = of_grads, dict(expected.named_grads())
            tolerance = tolerance if dtype == "float32" else loose
            assert_grad_close(np.asarray(g), right[f"d{name}"], name, tolerance, steep)


def ops_calls(draw, device):
    """What is not recurrent, by the contract."""
    ops, size = kernels.load("ops", device), st.sampled_from((0, *SIZES))
    dtype, (M, K, N) = draw(st.sampled_from(("f4", "f8"))), (draw(size), draw(size), draw(size))
    rng, take = np.random.default_rng(draw(st.integers(0, 9))), Arguments(draw, draw(st.booleans()))

    def normal(*shape):
        return take(rng.standard_normal(shape).astype(dtype))

    which = draw(st.integers(0, 5))
    if which == 0:
        x, W, b = normal(M, K), normal(K, N), normal(N)
        ops.affine_forward(x, W, b)
        ops.affine_backward(normal(M, N), x, W, normal(K, N), normal(N))
    elif which == 1:
        ids = take(rng.integers(-(draw(st.integers(0, 9)) == 0), max(N, 1), (M, K)))
        ops.embedding_forward(ids, normal(N, 5))
        ops.embedding_backward(normal(M, K, 5), ids, normal(N, 5))
    elif which == 2:
        ts = take(rng.integers(-1, max(N, 1), M))
        _, cache = ops.softmax_loss_forward(normal(M, N), ts, ignore_label=-1)
        ops.softmax_loss_backward(cache, 0.5)
    elif which == 3:
        ts, x, W = take(rng.integers(-1, max(N, 1), M)), normal(M, K), normal(K, N)
        _, cache = ops.affine_softmax_loss_forward(x, W, normal(N), ts)
        ops.affine_softmax_loss_backward(cache, normal(K, N), normal(N), 0.5)
        hs, prior = normal(M, 3, K), normal(M, 3)
        ops.mixture_softmax(hs, prior, W, normal(N))
        _, cache = ops.mixture_softmax_loss_forward(hs, prior, W, normal(N), ts)
        ops.mixture_softmax_loss_backward(cache, normal(K, N), normal(N), 0.5)
    elif which == 4:
        arrays = [normal(M, N) for _ in range(4)]
        ops.adam(*arrays, 0.1, 0.9, 0.99)
        ops.scale(arrays[0], 0.5)
        ops.sum_of_squares(arrays[1])
    else:
        optimizer = draw(st.sampled_from((*optim.OPTIMIZERS.values(),)))()
        for _ in range(2):
            optimizer.update([normal(M, N), normal(K)], [normal(M, N), normal(K)])
        optim.clip_grads([normal(M, N)], 1.0)


def layer_calls(draw, device):
    """Layers, with all that may come between forward and backward."""
    cell, size = draw(st.sampled_from(CELLS)), st.sampled_from(SIZES)
    N, T, D, H = draw(size), draw(st.integers(0, 4)), draw(size), draw(size)
    rng, take = np.random.default_rng(draw(st.integers(0, 9))), Arguments(draw, draw(st.booleans()))

    def normal(*shape):
        return take(rng.standard_normal(shape).astype("f"))

    G, both = cell.gates, draw(st.booleans())
    P = draw(size) if cell.name == "lstmp" else H  # the width of h
    K = H // draw(st.sampled_from((1, heads_of(cell, H)))) if H else H
    weights = [normal(D, G * H), normal(P, G * K), normal(G * H)]
    kind, beside = (BIDIRECTIONAL if both else RECURRENT)[cell.name], {}
    if cell.name == "mogrifier":
        Wm = normal(draw(st.integers(0, 3)), H, D)
        beside = {"Wm1": Wm, "Wm2": Wm} if both else {"Wm": Wm}
    elif cell.name == "lstmp":
        Wproj = normal(H, P)
        beside = {"Wproj1": Wproj, "Wproj2": Wproj} if both else {"Wproj": Wproj}
    elif "gx" in RECURRENT[cell.name].more:
        names, shapes = RECURRENT[cell.name].more, beside_of(cell, D, H)
        norms = {name: normal(*shape) for name, shape in zip(names, shapes, strict=True)}
        beside = {f"{name}{k}": W for name, W in norms.items() for k in ("12" if both else ("",))}
    with rnnfast.device(device):
        layer = kind(*weights * (1 + both), stateful=draw(st.booleans()), **beside)
    for _ in range(draw(st.integers(1, 6))):
        step = draw(st.integers(0, 6))
        try:
            if step < 3:
                lengths = take(rng.integers(0, T + 1, N)) if draw(st.booleans()) else None
                layer.forward(normal(N, T, D), train=step > 0, lengths=lengths)
            elif step == 3:
                layer.backward(normal(N, T, P * (1 + both)))
            elif step == 4:
                layer.freeze()
            elif step == 5:
                layer.unfreeze()
            else:
                widths = (P, *(H,) * (cell.states - 1)) * (1 + both)
                layer.set_state(*[normal(N, width) for width in widths])
        except REFUSED:
            pass
    layer.unfreeze()


def work(seconds, number, device):
    """Batches of examples until the time is up; prints their number."""
    faulthandler.enable()
    end, count = time.monotonic() + seconds, 0

    def one(data, call):
        nonlocal count
        count += 1
        rnnfast.set_num_threads(data.draw(st.sampled_from((1, 2, 3))))
        precision = data.draw(st.sampled_from(("highest", "highest", "medium")))
        rnnfast.set_float32_matmul_precision(precision)
        try:
            with np.errstate(all="ignore"):
                call(data.draw, device)
        except REFUSED:
            pass

    batch = 0
    while time.monotonic() < end:
        examples = given(st.data(), st.sampled_from((kernel_calls, ops_calls, layer_calls)))(one)
        quiet = settings(
            max_examples=BATCH,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        seed(number * 1000 + batch)(quiet(examples))()
        batch += 1
    print(count)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", action="store_true", help="in this process")
    args = parser.parse_args()
    if args.work:
        work(args.seconds, args.seed, args.device)
        return
    end, number, total = time.monotonic() + args.seconds, args.seed, 0
    while (left := end - time.monotonic()) > 1:
        command = [sys.executable, __file__, "--work", "--device", args.device]
        command += ["--seed", str(number), "--seconds", str(min(left, 30))]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=600)
        if done.returncode:
            print(" ".join(command), f"ended with {done.returncode}", done.stdout, done.stderr)
            raise SystemExit(1)
        total += int(done.stdout.split()[-1])
        number += 1
    print(f"{total} examples, seeds {args.seed} to {number - 1}, device {args.device}: all well")


if __name__ == "__main__":
    main()

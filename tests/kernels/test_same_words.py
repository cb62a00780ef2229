"""The columns say the same of the same mistake, in the words of rnnfast/checks.py."""

import re
from contextlib import nullcontext

import numpy as np
import pytest
from cases import CELLS, OF_STEPS, heads_of, make_problem, widths
from on_cuda import in_software

from rnnfast import kernels
from rnnfast.layers.cells import RECURRENT

N, T, D, H = 2, 0, 4, 5  # no step: what is wrong is said before any kernel is needed
CELL = {cell.name: cell for cell in CELLS}
NAMES = dict.fromkeys(CELL, "Wx, Wh, b")
NAMES |= {"lstm": "Wx, Wh, b, Wp", "mogrifier": "Wx, Wh, b, Wm, Wr", "lstmp": "Wx, Wh, b, Wproj"}
NAMES |= {"lnlstm": "Wx, Wh, b, gx, gh, gc, bc", "lngru": "Wx, Wh, b, gx, gh, bh"}


def problem(cell, **options):
    return make_problem(CELL[cell], (N, T, D, H), **options)


def forward(module, cell, **wrong):
    options = wrong.pop("options", {})
    p = problem(cell, **options)
    given = {"xs": p.xs, "state": p.state, "params": p.params, **p.keywords, **wrong}
    return module.forward(given.pop("xs"), given.pop("state"), given.pop("params"), **given)


def backward(module, cell, **wrong):
    p = problem(cell)
    *_, cache = forward(module, cell)
    given = {"dhs": p.dhs, "dstate": p.dstate, "params": p.params, "cache": cache}
    given |= {"grads": p.poisoned_grads(), **wrong}
    return module.backward(*given.values())


def changed(arrays, k, array):
    return (*arrays[:k], array, *arrays[k + 1 :])


def weights(cell, k, array):
    return changed(problem(cell).params, k, array)


def read_only(cell):
    grads = problem(cell).poisoned_grads()
    grads[0].flags.writeable = False
    return grads


def f4(*shape):
    return np.zeros(shape, "f4")


# What is done, with what of it, and the error; {G} is the number of gates, {C} of columns.
MISTAKES = [
    (forward, {"params": lambda c: 3}, "params must be ({params}), got int"),
    (
        forward,
        {"params": lambda c: weights(c, 0, [1.0])},
        "Wx must be a float32 or float64 array, got list",
    ),
    (
        forward,
        {"params": lambda c: weights(c, 0, f4(D).astype(np.int64))},
        "Wx must be a float32 or float64 array, got int64",
    ),
    (
        forward,
        {"params": lambda c: weights(c, 1, None)},
        "Wh must be a float32 array, got NoneType",
    ),
    (
        forward,
        {"params": lambda c: weights(c, 1, np.zeros((H, H)))},
        "Wh must be a float32 array, got float64",
    ),
    (forward, {"params": lambda c: weights(c, 0, f4(D))}, "Wx must have 2 axes, got (4,)"),
    (
        forward,
        {"params": lambda c: weights(c, 0, f4(D, 1))},
        "Wx must be (D, {G}H) = (D, {C}), got (4, 1)",
    ),
    (
        forward,
        {"params": lambda c: weights(c, 1, f4(H, 1))},
        "Wh must be {of_Wh}, got (5, 1)",
    ),
    (forward, {"params": lambda c: weights(c, 2, f4(1))}, "b must be ({G}H,) = ({C},), got (1,)"),
    (forward, {"params": lambda c: weights(c, 2, "b")}, "b must be a float32 array, got str"),
    (forward, {"xs": lambda c: None}, "xs must be a float32 array, got NoneType"),
    (forward, {"xs": lambda c: f4(N, D)}, "xs must have 3 axes, got (2, 4)"),
    (forward, {"xs": lambda c: f4(N, T, D + 1)}, "xs must be (N, T, D) = (N, T, 4), got (2, 0, 5)"),
    (
        forward,
        {"state": lambda c: f4(N, H)},
        "state must be None or a tuple of {states} arrays, got ndarray",
    ),
    (
        forward,
        {"state": lambda c: changed(problem(c).state, 0, f4(N, 1))},
        "h must be (N, {wide}) = (2, {P}), got (2, 1)",
    ),
    (
        forward,
        {"state": lambda c: changed(problem(c).state, 0, np.zeros((N, H)))},
        "h must be a float32 array, got float64",
    ),
    (
        forward,
        {"h_mask": lambda c: f4(N, 1)},
        "h_mask must be (N, {wide}) = (2, {P}), got (2, 1)",
    ),
    *(
        (
            forward,
            {name: lambda c: f4(N, T, 1)},
            f"{name} must be (N, T, H) = (2, 0, 5), got (2, 0, 1)",
        )
        for name in ("candidate_mask", "c_zoneout")
    ),
    (
        forward,
        {"h_zoneout": lambda c: f4(N, T, 1)},
        "h_zoneout must be (N, T, {wide}) = (2, 0, {P}), got (2, 0, 1)",
    ),
    (forward, {"h_zoneout": lambda c: 0.5}, "h_zoneout must be a float32 array, got float"),
    (forward, {"lengths": lambda c: [0, 0]}, "lengths must be an intp array, got list"),
    (forward, {"lengths": lambda c: f4(N)}, "lengths must be an intp array, got float32"),
    (forward, {"lengths": lambda c: np.zeros(3, np.intp)}, "lengths must be (N,) = (2,), got (3,)"),
    (
        forward,
        {"lengths": lambda c: np.arange(2, dtype=np.intp)},
        "lengths must be in [0, T] = [0, 0], got 1",
    ),
    (backward, {"dhs": lambda c: None}, "dhs must be a float32 array, got NoneType"),
    (
        backward,
        {"dhs": lambda c: f4(N, T, 1)},
        "dhs must be (N, T, {wide}) = (N, T, {P}), got (2, 0, 1)",
    ),
    (
        backward,
        {"dhs": lambda c: f4(N, 3, widths(CELL[c], H)[0])},
        "dhs must be (N, T, {wide}) = (2, 0, {P}), got (2, 3, {P})",
    ),
    (
        backward,
        {"dstate": lambda c: 3},
        "dstate must be None or a tuple of {states} arrays, got int",
    ),
    (
        backward,
        {"dstate": lambda c: changed(problem(c).state, 0, f4(N))},
        "dh must have 2 axes, got (2,)",
    ),
    (
        backward,
        {"cache": lambda c: None},
        "backward needs the cache of a forward with train=True, got None",
    ),
    (backward, {"cache": lambda c: 3}, "cache must come from {name}.forward, got int"),
    (
        backward,
        {"params": lambda c: make_problem(CELL[c], (N, T, D + 1, H)).params},
        "params must be those of forward, with D = 4, H = 5, float32{more}, "
        "got D = 5, H = 5, float32{more}",
    ),
    (backward, {"grads": lambda c: 3}, "grads must be ({grads}), got int"),
    (backward, {"grads": lambda c: (f4(D, 1),)}, "grads must be one for each parameter, got 1"),
    (
        backward,
        {"grads": lambda c: weights(c, 0, None)},
        "grads[0] must be a float32 array, got NoneType",
    ),
    (
        backward,
        {"grads": lambda c: weights(c, 0, np.zeros(3))},
        "grads[0] must be a float32 array, got float64",
    ),
    (
        backward,
        {"grads": lambda c: weights(c, 0, f4(D, 1))},
        "grads[0] must have shape ({D}, {C}), got (4, 1)",
    ),
    (
        backward,
        {"grads": lambda c: weights(c, 0, f4(D))},
        "grads[0] must have shape ({D}, {C}), got (4,)",
    ),
    (backward, {"grads": read_only}, "grads[0] must be writeable, got read-only"),
]


def said(call):
    with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
        call()
    return f"{caught.type.__name__}: {caught.value}"


def meant(text, cell):
    names = NAMES[cell]
    grads = ", ".join(f"d{name}" for name in names.split(", "))
    more = {"mogrifier": ", rounds = 5 and rank = None", "lstmp": " and P = 3"}
    more["slstm"] = f" and K = {H // heads_of(CELL[cell], H)}"
    wide = "P" if cell == "lstmp" else "H"
    of_Wh = f"({wide}, {CELL[cell].gates}H)"
    values = {
        "of_Wh": "(H, 4K) with a K that divides H" if cell == "slstm" else of_Wh,
        "more": more.get(cell, " and no peepholes"),
        "wide": wide,
        "P": widths(CELL[cell], H)[0],
        "D": D,
        "G": CELL[cell].gates,
        "C": CELL[cell].gates * H,
        "states": CELL[cell].states,
    }
    return text.format(name=cell, params=names, grads=grads, **values)


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    with in_software() if request.param == "cuda" else nullcontext():
        yield request.param


@pytest.mark.parametrize("cell", CELL)
def test_what_is_checked_on_both(device, cell):
    module = kernels.load(cell, device)
    others = {*OF_STEPS} - {*RECURRENT[cell].of_steps}
    for way, wrong, text in MISTAKES:
        if wrong.keys() & others:
            continue
        values = {name: make(cell) for name, make in wrong.items()}
        error = said(lambda way=way, values=values: way(module, cell, **values))
        assert re.sub(r"^\w+: ", "", error) == f"{cell}: {meant(text, cell)}"


@pytest.mark.parametrize("cell", CELL)
def test_what_is_checked_everywhere(device, cell):
    for name in ("reference", device):
        module = kernels.load(cell, name)
        p = problem(cell)
        packed = module.pack(p.params)
        text = f"TypeError: {cell}: packed params are for train=False"
        assert said(lambda m=module, x=packed: forward(m, cell, params=x)) == text
        text = (
            f"RuntimeError: {cell}: backward needs the cache of a forward with train=True, got None"
        )
        assert said(lambda m=module: backward(m, cell, cache=None)) == text
        *_, cache = forward(module, cell)
        backward(module, cell, cache=cache)
        text = (
            f"RuntimeError: {cell}: this cache was used by an earlier backward; call forward again"
        )
        assert said(lambda m=module, c=cache: backward(m, cell, cache=c)) == text


@pytest.mark.parametrize(
    ("cell", "option", "value", "text"),
    [
        ("rnn", "nonlinearity", "sin", 'nonlinearity must be "tanh" or "relu", got \'sin\''),
        ("lstm", "cell_clip", -1.0, "cell_clip must be positive and finite, got -1.0"),
        ("lstm", "cell_clip", float("inf"), "cell_clip must be positive and finite, got inf"),
        ("lstmp", "cell_clip", 0.0, "cell_clip must be positive and finite, got 0.0"),
    ],
)
def test_options(device, cell, option, value, text):
    for name in ("reference", device):
        module = kernels.load(cell, name)
        error = said(lambda m=module: forward(m, cell, **{option: value}))
        assert error == f"ValueError: {cell}: {text}"


PROJECTIONS = [  # what only an lstmp says
    (weights("lstmp", 3, f4(H, 4)), "Wproj must be (H, P) = (5, 3), got (5, 4)"),
    (weights("lstmp", 3, f4(4, 3)), "Wproj must be (H, P) = (5, 3), got (4, 3)"),
    (weights("lstmp", 3, f4(5)), "Wproj must have 2 axes, got (5,)"),
    (weights("lstmp", 3, None), "Wproj must be a float32 array, got NoneType"),
    (weights("lstmp", 1, f4(2, 4 * H)), "Wproj must be (H, P) = (5, 2), got (5, 3)"),
    (weights("lstmp", 1, f4(3, 4 * H + 1)), "Wh must be (P, 4H), got (3, 21)"),
    (problem("lstmp").params[:3], "params must be (Wx, Wh, b, Wproj), got tuple"),
]


def test_projections(device):
    module = kernels.load("lstmp", device)
    for params, text in PROJECTIONS:
        error = said(lambda params=params: forward(module, "lstmp", params=params))
        assert re.sub(r"^\w+: ", "", error) == f"lstmp: {text}"
    state = changed(problem("lstmp").state, 1, f4(N, 3))
    error = said(lambda: forward(module, "lstmp", state=state))
    assert error == "ValueError: lstmp: c must be (N, H) = (2, 5), got (2, 3)"

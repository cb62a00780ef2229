"""Zoneout and recurrent dropout: a module of PyTorch beside the layers, and what layers take."""

import re

import numpy as np
import pytest
from on_host import assert_allclose, assert_array_equal

import rnnfast
from rnnfast.layers.cells import RECURRENT

N, T, D, H, P = 4, 6, 5, 7, 3  # P: the width of an LSTMP's h
CLOSE = 1e-10  # float64 against PyTorch
WEIGHTS = {
    "lstm": {"Wx": (D, 4 * H), "Wh": (H, 4 * H), "b": (4 * H,)},
    "gru": {"Wx": (D, 3 * H), "Wh": (H, 3 * H), "b": (3 * H,)},
    "rnn": {"Wx": (D, H), "Wh": (H, H), "b": (H,)},
}
WEIGHTS["mogrifier"] = WEIGHTS["lstm"] | {"Wm": (3, H, D)}
WEIGHTS["lstmp"] = WEIGHTS["lstm"] | {"Wh": (P, 4 * H), "Wproj": (H, P)}
NORMS = {"gx": (4 * H,), "gh": (4 * H,), "gc": (H,), "bc": (H,)}
WEIGHTS["lnlstm"] = WEIGHTS["lstm"] | NORMS
WEIGHTS["lngru"] = WEIGHTS["gru"] | {"gx": (3 * H,), "gh": (3 * H,), "bh": (H,)}
KINDS = {cell: RECURRENT[cell] for cell in WEIGHTS}
CASES = [
    ("lstm", {}),
    ("lstm", {"Wp": (3, H), "cell_clip": 0.6}),
    ("lstm", {"Wp": (3, H, H), "cell_clip": 0.6}),
    ("gru", {}),
    ("gru", {"reset_after": True}),
    ("rnn", {}),
    ("mogrifier", {}),
    ("lstmp", {"cell_clip": 0.6}),
    ("lnlstm", {}),
    ("lngru", {}),
]


def normal(torch, u, gain):
    return torch.nn.functional.layer_norm(u, u.shape[1:]) * gain


def gates_of(torch, cell, w, x, seen):
    """What the gates of an LSTM are functions of."""
    for i, M in enumerate(w.get("Wm", ())):
        if i % 2 == 0:
            x = 2 * torch.sigmoid(seen @ M) * x
        else:
            seen = 2 * torch.sigmoid(x @ M.T) * seen
    X, A = x @ w["Wx"], seen @ w["Wh"]
    if cell == "lnlstm":
        X, A = normal(torch, X, w["gx"]), normal(torch, A, w["gh"])
    return torch.chunk(X + A + w["b"], 4, dim=1)


def normal_gru(torch, w, x, h, seen, mask):
    """The next h of a layer-normalised GRU."""

    def parts(u, gain):
        zr = normal(torch, u[:, : 2 * H], gain[: 2 * H])
        return zr, normal(torch, u[:, 2 * H :], gain[2 * H :])

    (X, X_h), (A, q) = parts(x @ w["Wx"], w["gx"]), parts(seen @ w["Wh"], w["gh"])
    z, r = torch.chunk(torch.sigmoid(X + A + w["b"][: 2 * H]), 2, dim=1)
    h_hat = torch.tanh(X_h + w["b"][2 * H :] + r * (q + w["bh"]))
    return (1 - z) * h + z * (mask * h_hat)


def step_of(torch, cell, w, x, h, c, seen, mask, options):
    """The next h and c without zoneout."""
    sigmoid, tanh = torch.sigmoid, torch.tanh
    if cell == "lngru":
        return normal_gru(torch, w, x, h, seen, mask), c
    if cell == "rnn":
        return tanh(x @ w["Wx"] + seen @ w["Wh"] + w["b"]), c
    if cell == "gru":
        X, (Wz, Wr, Wh) = x @ w["Wx"], torch.chunk(w["Wh"], 3, dim=1)
        if options.get("reset_after"):
            b0, b1 = w["b"]
            X, bz, br, bh = X + b0, *torch.chunk(b1, 3)
        else:
            X, bz, br, bh = X + w["b"], 0, 0, 0
        Xz, Xr, Xh = torch.chunk(X, 3, dim=1)
        z, r = sigmoid(Xz + seen @ Wz + bz), sigmoid(Xr + seen @ Wr + br)
        inner = r * (seen @ Wh + bh) if options.get("reset_after") else (r * seen) @ Wh
        return (1 - z) * h + z * (mask * tanh(Xh + inner)), c
    f, g, i, o = gates_of(torch, cell, w, x, seen)
    P = w.get("Wp", torch.zeros(3, H, dtype=x.dtype))
    see = torch.matmul if P.ndim == 3 else torch.mul
    f, i = sigmoid(f + see(c, P[0])), sigmoid(i + see(c, P[1]))
    bound = options.get("cell_clip", float("inf"))
    new = torch.clamp(f * c + i * (mask * tanh(g)), -bound, bound)
    shown = normal(torch, new, w["gc"]) + w["bc"] if cell == "lnlstm" else new
    h = sigmoid(o + see(new, P[2])) * tanh(shown)
    return h @ w["Wproj"] if cell == "lstmp" else h, new


def by_torch(torch, cell, weights, given, masks, lengths, options):
    """hs, and gradients of it all."""
    leaf = {name: torch.tensor(W, requires_grad=True) for name, W in (weights | given).items()}
    m = {name: torch.tensor(x) for name, x in masks.items()}
    outputs, h, c = [], leaf["h"], leaf.get("c")
    for t in range(T):
        mask = m["candidate_mask"][:, t] if "candidate_mask" in m else 1
        seen = h * m["h_mask"]
        h_new, c_new = step_of(torch, cell, leaf, leaf["xs"][:, t], h, c, seen, mask, options)
        z_h, on = m["h_zoneout"][:, t], torch.tensor(t < lengths)[:, None]
        h = torch.where(on, z_h * h + (1 - z_h) * h_new, h)
        if c is not None:
            z_c = m["c_zoneout"][:, t]
            c = torch.where(on, z_c * c + (1 - z_c) * c_new, c)
        outputs.append(torch.where(on, h, 0))
    hs = torch.stack(outputs, dim=1)
    loss = (hs * leaf["dhs"]).sum() + (h * leaf["dh"]).sum()
    if c is not None:
        loss = loss + (c * leaf["dc"]).sum()
    loss.backward()
    return hs.detach().numpy(), {name: x.grad.numpy() for name, x in leaf.items()}


@pytest.mark.parametrize(("cell", "options"), CASES)
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_against_pytorch(cell, options, binary, device):
    """Masks of training, 0 and 1, and any shares, as in evaluation."""
    torch = pytest.importorskip("torch")
    rng, kind = np.random.default_rng(CASES.index((cell, options))), KINDS[cell]
    of_h = P if cell == "lstmp" else H
    shapes = WEIGHTS[cell] | {k: x for k, x in options.items() if k == "Wp"}
    more = {k: x for k, x in options.items() if k != "Wp"}
    if more.get("reset_after"):
        shapes = shapes | {"b": (2, 3 * H)}
    weights = {name: rng.normal(0, 0.6, shape) for name, shape in shapes.items()}
    shapes = {"xs": (N, T, D), "dhs": (N, T, of_h)}
    shapes |= {d + name: (N, of_h if name == "h" else H) for name in kind.states for d in ("", "d")}
    given = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    masks = {name: rng.random((N, T, of_h if name == "h_zoneout" else H)) for name in kind.of_steps}
    if binary:
        masks = {name: (x < 0.4).astype("f8") for name, x in masks.items()}
    masks["h_mask"] = (rng.random((N, of_h)) < 0.7) / 0.7
    lengths = np.array([T, 0, 2, T - 1])
    hs, grads = by_torch(torch, cell, weights, given, masks, lengths, more)

    layer = kind(**weights, stateful=True, device=device, **more)
    state = [given[name] for name in layer.states]
    layer.set_state(*state)
    got = layer.forward(given["xs"], lengths=lengths, **masks)
    np.testing.assert_allclose(got, hs, atol=CLOSE)
    layer.set_state(*state)
    assert_array_equal(layer.forward(given["xs"], lengths=lengths, train=False, **masks), got)
    layer.set_state(*state)
    layer.forward(given["xs"], lengths=lengths, **masks)
    dxs = layer.backward(given["dhs"], *(given[f"d{name}"] for name in layer.states))
    found = {"xs": dxs, **dict(zip(layer.states, layer.dstate, strict=True))}
    found |= dict(zip(weights, layer.grads, strict=True))
    for name, grad in found.items():
        assert_allclose(grad, grads[name], atol=CLOSE, err_msg=name)


@pytest.mark.parametrize("cell", KINDS)
def test_masks_of_a_sequence_and_numbers(device, cell):
    """(N, H) is the same for all steps, a number the same for all units; no copy of it is made."""
    kind, options = KINDS[cell], {"proj_size": P} if cell == "lstmp" else {}
    layer = kind.create(D, H, rng=0, dtype="float64", **options)
    rng = np.random.default_rng(1)
    xs, dhs = rng.normal(size=(N, T, D)), rng.normal(size=(N, T, layer.width_of("h_zoneout")))
    rows = {name: rng.random((N, layer.width_of(name))) for name in kind.of_steps}
    numbers = {name: 0.3 for name in kind.of_steps if name.endswith("zoneout")}
    for short in rows, numbers:
        whole = {
            name: np.broadcast_to(
                np.reshape(x, (N, 1, -1) if np.ndim(x) else (1, 1, 1)), (N, T, layer.width_of(name))
            )
            for name, x in short.items()
        }
        results = []
        for masks in short, {name: x.copy() for name, x in whole.items()}:
            results.append([layer.forward(xs, **masks), layer.backward(dhs)])
            results[-1] += [grad.copy() for grad in layer.grads]
        for a, b in zip(*results, strict=True):
            assert_array_equal(a, b)
        layer.freeze()
        assert_array_equal(layer.forward(xs, train=False, **short), results[0][0])
        layer.unfreeze()
    assert (layer.forward(xs, h_zoneout=1) == 0).all()
    assert_allclose(layer.forward(xs, h_zoneout=0), layer.forward(xs), atol=1e-14)


def test_wrong_arguments():
    layers = {kind: kind.create(D, H, rng=0, device="cpu") for kind in KINDS.values()}
    layers[rnnfast.TimeSLSTM] = rnnfast.TimeSLSTM.create(D, H, rng=0, device="cpu")
    layers[rnnfast.TimeLSTMP] = rnnfast.TimeLSTMP.create(D, H, proj_size=P, rng=0, device="cpu")
    xs = np.ones((N, T, D), "f")
    for kind, layer in layers.items():
        for name in ("candidate_mask", "h_zoneout", "c_zoneout"):
            if name not in kind.of_steps:
                message = f"{kind.__name__}: {name} must be None, which this cell does not have"
                with pytest.raises(ValueError, match=f"^{message}, got ndarray$"):
                    layer.forward(xs, **{name: np.ones((N, T, H))})
                continue
            for wrong in np.ones((N, T, 1)), np.ones((N, 1)), np.ones((T, N, H)), np.ones(H):
                letter, width = "H", H
                if kind is rnnfast.TimeLSTMP and name == "h_zoneout":
                    letter, width = "P", P
                message = f"{kind.__name__}: {name} must be (N, T, {letter}) = {(N, T, width)} or "
                message += f"(N, {letter}) = {(N, width)}, got {wrong.shape}"
                with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                    layer.forward(xs, **{name: wrong})
            for wrong, what in ("x", "str"), ([0.5], "list"), (True, "bool"):
                with pytest.raises(TypeError, match=f"{name} must be a NumPy array, got {what}"):
                    layer.forward(xs, **{name: wrong})
        for wrong in (-0.1, 1.1, float("nan")):
            if "h_zoneout" in kind.of_steps:
                with pytest.raises(ValueError, match=r"h_zoneout must be in \[0, 1\], got"):
                    layer.forward(xs, h_zoneout=wrong)
        assert layer.cache is None and layer.h is None
    with pytest.raises(TypeError, match="candidate_mask must be a NumPy array, got float"):
        layers[rnnfast.TimeLSTM].forward(xs, candidate_mask=0.5)

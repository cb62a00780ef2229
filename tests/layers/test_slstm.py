"""The sLSTM: against a module of PyTorch, and what only its layers have."""

import numpy as np
import pytest
import xlstm_cell
from cases import assert_close

from rnnfast import kernels

N, T, D, K = 4, 6, 5, 3
CLOSE = 1e-10  # float64 against PyTorch
ORDER = [2, 0, 1, 3]  # where i, f, z and o of the packages are among f, g, i and o


def weights_of(heads, rng):
    H = heads * K
    shapes = {"Wx": (D, 4 * H), "Wh": (H, 4 * K), "b": (4 * H,)}
    return {name: rng.normal(0, 1, shape) for name, shape in shapes.items()}


def by_torch(torch, given, lengths):
    """hs, the final states, and the gradients of it all."""
    leaf = {name: torch.tensor(x, requires_grad=True) for name, x in given.items()}
    H, heads = len(leaf["Wh"]), len(leaf["Wh"]) // K
    Wx = (leaf["xs"] @ leaf["Wx"]).reshape(N, T, 4, H)[:, :, ORDER]
    R = leaf["Wh"].reshape(heads, K, 4, K)[:, :, ORDER]
    b = leaf["b"].reshape(4, H)[ORDER]
    hs, states = xlstm_cell.sequence(torch, Wx, R, b, leaf["states"], lengths)
    ((hs * leaf["dhs"]).sum() + (states * leaf["dstates"]).sum()).backward()
    grads = {name: x.grad.numpy() for name, x in leaf.items()}
    return hs.detach().numpy(), states.detach().numpy(), grads


@pytest.mark.parametrize("heads", [1, 2, 5])
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("device", ["reference"])
def test_against_pytorch(heads, fresh, device):
    """From zeros, too, where the first step has a rule of its own."""
    torch = pytest.importorskip("torch")
    rng, H = np.random.default_rng(5), heads * K
    weights, states = weights_of(heads, rng), rng.normal(size=(4, N, H))
    states[2] = 0.5 + abs(states[2])
    states *= not fresh
    given = {"xs": rng.normal(size=(N, T, D)), "dhs": rng.normal(size=(N, T, H))}
    given |= {"states": states, "dstates": rng.normal(size=(4, N, H))}
    lengths = np.array([T, 0, 2, T - 1])
    expected = by_torch(torch, weights | given, lengths)

    cell, params = kernels.load("slstm", device), tuple(weights.values())
    hs, state, cache = cell.forward(given["xs"], tuple(states), params, lengths=lengths)
    grads = [np.empty_like(W) for W in params]
    dxs, dstate = cell.backward(given["dhs"], tuple(given["dstates"]), params, cache, grads)
    assert_close(hs, expected[0], "hs", CLOSE)
    assert_close(np.stack(state), expected[1], "states", CLOSE)
    assert_close(dxs, expected[2]["xs"], "dxs", CLOSE)
    assert_close(np.stack(dstate), expected[2]["states"], "dstates", CLOSE)
    for name, grad in zip(weights, grads, strict=True):
        assert_close(grad, expected[2][name], name, CLOSE)

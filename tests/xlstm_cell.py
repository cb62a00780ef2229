"""The sLSTM as the packages xlstm and flashrnn have it, written down again for PyTorch.

Their states are (4, N, H), in the order h, c, n, m; their gates i, f, z, o. `Wx` is (N, T, 4, H):
what comes from x. R is (heads, K, 4, K), from each unit of a head to each gate of its units, and b
(4, H).
"""


def step(torch, Wx, R, b, states):
    """One step of the "vanilla" backend of xlstm, with one sample's n apart from another's."""
    h, c, n, m = states
    heads, K = R.shape[:2]
    Ry = torch.einsum("nhk,hkgj->nghj", h.reshape(len(h), heads, K), R).reshape(Wx.shape)
    i, f, z, o = torch.unbind(Wx + Ry + b, dim=1)
    kept = m + torch.nn.functional.logsigmoid(f)
    m = torch.where(n == 0, i, torch.maximum(i, kept))
    i = torch.minimum(torch.exp(i - m), torch.ones_like(i))
    f = torch.minimum(torch.exp(kept - m), torch.ones_like(i))
    c = f * c + i * torch.tanh(z)
    n = f * n + i
    return torch.stack((torch.sigmoid(o) * c / n, c, n, m))


def sequence(torch, Wx, R, b, states, lengths=None):
    """hs (N, T, H) and the final states."""
    outputs = []
    for t in range(Wx.shape[1]):
        after = step(torch, Wx[:, t], R, b, states)
        on = torch.tensor(True if lengths is None else t < lengths)[..., None]
        outputs.append(torch.where(on, after[0], 0))
        states = torch.where(on, after, states)
    return torch.stack(outputs, dim=1), states

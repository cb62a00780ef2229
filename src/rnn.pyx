"""Simple RNN over a sequence on the CPU; equations and layout in src/kernels/rnn.h."""
from rnnfast.cpu._cell cimport Cell

cdef Cell cell = Cell("rnn")


def forward(xs, state, params, *, bint train=True, bint reverse=False, h_mask=None, nonlinearity="tanh"):
    """See rnnfast.kernels for the contract. nonlinearity: "tanh" or "relu"."""
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f'rnn: nonlinearity must be "tanh" or "relu", got {nonlinearity!r}')
    return cell.forward(xs, state, params, train, reverse, h_mask, nonlinearity == "relu")


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels for the contract."""
    return cell.backward(dhs, dstate, params, cache, grads)


def pack(params, *, nonlinearity="tanh"):
    """See rnnfast.kernels for the contract."""
    return cell.pack(params)

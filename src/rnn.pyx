"""Simple RNN over a sequence on the CPU; equations and layout in src/kernels/rnn.h."""
from rnnfast.cpu._cell cimport Cell, Options

cdef Cell cell = Cell("rnn", gates=1, kept=1)


def forward(
    xs,
    state,
    params,
    *,
    bint train=True,
    lengths=None,
    bint reverse=False,
    h_mask=None,
    h_zoneout=None,
    nonlinearity="tanh",
):
    """See rnnfast.kernels for the contract. nonlinearity: "tanh" or "relu"."""
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f'rnn: nonlinearity must be "tanh" or "relu", got {nonlinearity!r}')
    cdef Options options = Options(nonlinearity == "relu", False, False, 0)
    of_steps = None, h_zoneout, None
    return cell.forward(xs, state, params, train, lengths, reverse, h_mask, of_steps, options)


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels for the contract."""
    return cell.backward(dhs, dstate, params, cache, grads)


def pack(params, *, precision=None, nonlinearity="tanh"):
    """See rnnfast.kernels for the contract."""
    return cell.pack(params, False, precision, nonlinearity == "relu")

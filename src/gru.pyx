"""GRU over a sequence on the CPU; equations and layout in src/kernels/gru.h."""
from rnnfast.cpu._cell cimport Cell

cdef Cell cell = Cell("gru")


def forward(xs, state, params, *, bint train=True, bint reverse=False, h_mask=None):
    """See rnnfast.kernels for the contract."""
    return cell.forward(xs, state, params, train, reverse, h_mask, False)


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels for the contract."""
    return cell.backward(dhs, dstate, params, cache, grads)


def pack(params):
    """See rnnfast.kernels for the contract."""
    return cell.pack(params)

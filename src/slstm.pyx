"""The sLSTM over a sequence on the CPU; equations and layout in src/kernels/slstm.h."""
from rnnfast.cpu._cell cimport Cell, Options

cdef Cell cell = Cell("slstm", gates=4, kept=7, has_c=True, has_heads=True)


def forward(xs, state, params, *, bint train=True, lengths=None, bint reverse=False, h_mask=None):
    """See rnnfast.kernels for the contract."""
    cdef Options options = Options(False, False, False, 0)
    return cell.forward(xs, state, params, train, lengths, reverse, h_mask, (None, None, None), options)


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels for the contract."""
    return cell.backward(dhs, dstate, params, cache, grads)


def pack(params, *, precision=None):
    """See rnnfast.kernels for the contract."""
    return cell.pack(params, False, precision)

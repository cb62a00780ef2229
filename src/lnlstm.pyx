"""The layer-normalised LSTM over a sequence on the CPU; equations and layout in src/kernels/lnlstm.h."""
from rnnfast.cpu._cell cimport Cell, Options

cdef Cell cell = Cell("lnlstm", gates=4, kept=5, has_c=True, beside=("gx", "gh", "gc", "bc"))


def forward(
    xs,
    state,
    params,
    *,
    bint train=True,
    lengths=None,
    bint reverse=False,
    h_mask=None,
    candidate_mask=None,
    h_zoneout=None,
    c_zoneout=None,
):
    """See rnnfast.kernels for the contract."""
    cdef Options options = Options(False, False, False, 0)
    of_steps = candidate_mask, h_zoneout, c_zoneout
    return cell.forward(xs, state, params, train, lengths, reverse, h_mask, of_steps, options)


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels for the contract."""
    return cell.backward(dhs, dstate, params, cache, grads)


def pack(params, *, precision=None):
    """See rnnfast.kernels for the contract."""
    return cell.pack(params, False, precision)

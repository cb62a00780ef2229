"""GRU over a sequence on the CPU; equations and layout in src/kernels/gru.h."""
from rnnfast.cpu._cell cimport Cell, Options

cdef Cell cell = Cell("gru", gates=3, kept=3, has_rh=True)


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
    bint reset_after=False,
    bint z_keeps=False,
):
    """See rnnfast.kernels for the contract, rnnfast.reference.gru for reset_after and z_keeps."""
    cdef Options options = Options(False, reset_after, z_keeps, 0)
    of_steps = candidate_mask, h_zoneout, None
    return cell.forward(xs, state, params, train, lengths, reverse, h_mask, of_steps, options)


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels for the contract."""
    return cell.backward(dhs, dstate, params, cache, grads)


def pack(params, *, precision=None, bint reset_after=False, bint z_keeps=False):
    """See rnnfast.kernels for the contract."""
    return cell.pack(params, reset_after, precision)

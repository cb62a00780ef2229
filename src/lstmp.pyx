"""The LSTM with a projection over a sequence on the CPU; equations and layout in src/kernels/lstmp.h."""
from libc.math cimport isfinite

from rnnfast.cpu._cell cimport Cell, Options

cdef Cell cell = Cell("lstmp", gates=4, kept=5, has_c=True, beside=("Wproj",))


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
    cell_clip=None,
):
    """See rnnfast.kernels for the contract. cell_clip: the bound of the cell, positive, or None."""
    cdef Options options = Options(False, False, False, 0 if cell_clip is None else cell_clip)
    if cell_clip is not None and not (options.clip > 0 and isfinite(options.clip)):
        raise ValueError(f"lstmp: cell_clip must be positive and finite, got {cell_clip}")
    of_steps = candidate_mask, h_zoneout, c_zoneout
    return cell.forward(xs, state, params, train, lengths, reverse, h_mask, of_steps, options)


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels for the contract."""
    return cell.backward(dhs, dstate, params, cache, grads)


def pack(params, *, precision=None, cell_clip=None):
    """See rnnfast.kernels for the contract."""
    return cell.pack(params, False, precision)

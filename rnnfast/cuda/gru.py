"""The GRU in CUDA: the contract. The kernels are in gru_before.py and gru_after.py.

r comes before the candidate's product, or with reset_after after it. That makes two cells: one has
two products a step with an exchange between them, the other a single one.
"""

from rnnfast.cuda import call as calls
from rnnfast.cuda import gru_after, gru_before

GATES = 3
STATES = ("h",)
FORWARD, BACKWARD = gru_before.FORWARD, gru_before.BACKWARD  # of the default


def forward(
    xs,
    state,
    params,
    *,
    train=True,
    lengths=None,
    reverse=False,
    h_mask=None,
    reset_after=False,
    z_keeps=False,
):
    """See rnnfast.kernels."""
    call = calls.start_forward(
        "gru", GATES, STATES, xs, state, params, train, h_mask, lengths, two_biases=reset_after
    )
    kind = gru_after if reset_after else gru_before
    return kind.forward(call, xs, state, train, lengths, reverse, h_mask, z_keeps)


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels."""
    call, kept = calls.start_backward("gru", GATES, STATES, dhs, dstate, params, cache, grads)
    kind = gru_after if call.two_biases else gru_before
    return kind.backward(call, dhs, dstate, kept, grads)


def pack(params, *, reset_after=False, z_keeps=False):
    """See rnnfast.kernels."""
    return calls.pack("gru", GATES, params, two_biases=reset_after)

"""The layers of a model while it only predicts: weights laid out once, the state put back."""

from contextlib import contextmanager


@contextmanager
def frozen(model):
    """Within the block every layer's weights are laid out once; then it is as frozen as before.

    Only rnnfast's own models tell their layers that nothing is trained; all others, such as the
    book's, whose predict calls forward(xs) of their layers, are left alone.
    """
    own = model.layers if hasattr(model, "next_scores") else ()
    layers = [layer for layer in own if hasattr(layer, "freeze")]
    thawed = [layer for layer in layers if not layer.frozen]
    try:
        for layer in thawed:
            layer.freeze()
        yield
    finally:
        for layer in thawed:
            layer.unfreeze()


@contextmanager
def own_state(model):
    """Within the block a model's state may be anything; then it is as it was before."""
    state = model.get_state()
    try:
        yield
    finally:
        model.reset_state()
        if any(array is not None for arrays in state for array in arrays):
            model.set_state(state)

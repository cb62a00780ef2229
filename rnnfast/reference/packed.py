"""`pack` for all cells. NumPy needs no other layout, so packed weights are copies."""


class Packed(tuple):
    """Packed params, which forward accepts if train=False."""


def pack(params, **options):
    """See rnnfast.kernels."""
    return Packed(None if p is None else p.copy() for p in params)


def weights(params, train, count, cell="reference"):
    """The params, extended to `count` with None.

    Packed params with train=True are a TypeError.
    """
    if train and isinstance(params, Packed):
        raise TypeError(f"{cell}: packed params are for train=False")
    return (*params, *(None,) * (count - len(params)))

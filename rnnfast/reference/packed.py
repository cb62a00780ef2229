"""`pack` of every cell: in NumPy there is nothing to lay out, so it is a copy that says so."""


class Packed(tuple):
    """The params, which forward takes where train=False."""


def pack(params, **options):
    """See rnnfast.kernels."""
    return Packed(None if p is None else p.copy() for p in params)


def weights(params, train, count, cell="reference"):
    """`count` weights, None for those that were left out at the end.

    A TypeError where packed ones are to be trained.
    """
    if train and isinstance(params, Packed):
        raise TypeError(f"{cell}: packed params are for train=False")
    return (*params, *(None,) * (count - len(params)))

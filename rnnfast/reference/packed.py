"""`pack` of every cell: in NumPy there is nothing to lay out, so it is a copy that says so."""


class Packed(tuple):
    """(Wx, Wh, b) that forward takes where train=False."""


def pack(params, **options):
    """See rnnfast.kernels."""
    return Packed(None if p is None else p.copy() for p in params)


def weights(params, train):
    """Wx, Wh, b; a TypeError where packed ones are to be trained."""
    if train and isinstance(params, Packed):
        raise TypeError("packed params are for train=False")
    return params

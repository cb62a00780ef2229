"""What the training loops and the evaluation ask of their arguments."""

import numpy as np


def checked_lengths(owner, lengths, samples):
    """lengths as an array, one for each sample; a model checks the rest."""
    if lengths is None:
        return None
    lengths = np.asarray(lengths)
    if lengths.shape != (samples,):
        raise ValueError(f"{owner}: lengths must be ({samples},), got {lengths.shape}")
    return lengths


def given(lengths, rows=slice(None)):
    """lengths as a keyword, for models that know it where there are some."""
    return {} if lengths is None else {"lengths": lengths[rows]}


def ids(owner, name, value):
    """value as an array of integer ids (length,)."""
    value = value if hasattr(value, "dtype") else np.asarray(value)
    if value.ndim != 1 or value.dtype.kind not in "iu":
        raise ValueError(
            f"{owner}: {name} must be integer ids (length,), got {value.dtype} {value.shape}"
        )
    return value

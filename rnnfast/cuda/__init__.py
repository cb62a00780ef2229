"""The CUDA column: its room, still empty."""


def available():
    """Why this column cannot be used, or None."""
    return "this version of rnnfast has no CUDA kernels yet"

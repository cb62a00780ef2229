"""The CPU column, compiled from `src/`: one module per cell over the kernels of `_runtime`."""


def available() -> None:
    """None: the CPU column is part of every install."""
    return None

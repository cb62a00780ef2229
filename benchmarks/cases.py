"""The cases: a cell, a shape and a mode, with the same numbers for all contenders."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

GATES = {"rnn": 1, "lstm": 4, "gru": 3}  # the cells that the peers have, too
MODES = ("forward", "training")

# (N, T, D, H)
FULL_GRID = (
    (1, 1, 512, 512),
    (1, 35, 100, 100),
    (1, 128, 256, 256),
    (8, 64, 128, 128),
    (20, 35, 100, 100),
    (20, 35, 650, 650),
    (32, 64, 256, 256),
    (64, 50, 512, 512),
    (128, 25, 1024, 1024),
    (256, 16, 64, 64),
)
SLOW = {(1, 128, 256, 256), (128, 25, 1024, 1024), (256, 16, 64, 64)}  # only in the full grid
DEFAULT_GRID = tuple(shape for shape in FULL_GRID if shape not in SLOW)
GRIDS = {"default": DEFAULT_GRID, "full": FULL_GRID}


@dataclass(frozen=True)
class Case:
    """One row of the results.

    mode "forward" is inference, "training" is forward and backward with the gradients of the
    inputs and of all weights. A sequence starts from zeros. A single step (T = 1) is streaming: it
    starts from the final state of the previous call. From zeros, half of its work would be a
    product with zeros, which rnnfast skips.
    """

    cell: str
    shape: tuple
    mode: str
    dtype: type = np.float32

    def __str__(self):
        return f"{self.cell}-N{self.N}-T{self.T}-D{self.D}-H{self.H}-{self.mode}"

    N, T, D, H = (property(lambda self, axis=axis: self.shape[axis]) for axis in range(4))

    @property
    def training(self):
        return self.mode == "training"

    @property
    def streaming(self):
        return self.T == 1

    @cached_property
    def arrays(self):
        """params, xs, dhs and state, initialised as in the book."""
        rng = np.random.default_rng(0)
        N, T, D, H, width = *self.shape, GATES[self.cell] * self.H

        def normal(*shape, scale=1.0):
            return (rng.standard_normal(shape) * scale).astype(self.dtype)

        params = [normal(D, width, scale=D**-0.5), normal(H, width, scale=H**-0.5)]
        if self.cell != "gru":  # the book's GRU has no bias
            params.append(normal(width, scale=0.1))
        states = 2 if self.cell == "lstm" else 1
        return {
            "params": params,
            "xs": normal(N, T, D),
            "dhs": normal(N, T, H),
            "state": tuple(normal(N, H, scale=0.5) for _ in range(states)),
        }

    @property
    def flops(self):
        """Multiplications and additions of the necessary products in one call.

        From zeros, the first product with Wh and the last product of dWh are not necessary.
        """
        steps = self.T if self.streaming else self.T - 1
        forward = self.T * self.D + steps * self.H
        backward = 2 * self.T * self.D + (self.T + steps) * self.H
        columns = GATES[self.cell] * self.H
        return 2 * self.N * columns * (forward + backward * self.training)

"""Arrays that say something else of themselves than they are."""

import numpy as np


class Liar(np.ndarray):
    says = (64, 64)

    @property
    def shape(self):
        return self.says

    def __getitem__(self, key):
        raise AssertionError("asked for")

    def __array_finalize__(self, other):
        self.says = getattr(other, "says", (64, 64))


def liar(array, says):
    array = array.view(Liar)
    array.says = says
    return array

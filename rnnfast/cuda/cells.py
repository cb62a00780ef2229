"""What the kernels know of a cell: sizes, names, and its equations as functions of tuples.

Forward, of one unit in one step:

    first(x, a, states, w)       -> gates of the first product, what the second one multiplies
    step(x, a, states, w)        -> gates, states, kept

and back; `through` is what came back through the first product of a step that has two, else 0:

    first_back(dstates, gates, kept, w)          -> dA of the gates of the second product
    step_back(dstates, through, gates, kept, w)  -> dA, dB, dstates of the step before

x is x Wx and a what the products gave, a number a gate (after `first` the gates themselves), w the
constants of a unit, and at its end the factor of a `candidate` mask. dB is of the gates of the
first product: what goes back to h through Wh, dA but where a cell says that it is `separate`.
dstates[0] comes with dhs, and goes without what dB gives.
"""

from dataclasses import dataclass, field, replace
from functools import cache, lru_cache


@dataclass(frozen=True)
class Cell:
    """The sizes; a cell's module derives its own, with equations and options.

    candidate: with a candidate_mask; zoned: with h_zoneout or c_zoneout. These run in steps.
    """

    candidate: bool = field(default=False, kw_only=True)
    zoned: bool = field(default=False, kw_only=True)

    name = ""
    gates = 1
    states = ("h",)
    kept = ("hp",)  # beside the gates, each (N, T, H); the first is h of the step before
    biases = 1  # constants of a unit in b
    peepholes = 0  # and in Wp
    separate = False
    bounded = True  # whether h lies in [-1, 1] after a step
    in_heads = False  # whether Wh is (H, G*K), a matrix for each head of K units
    own_input = False  # whether what meets Wx is made in each step: then x Wx is not of all before
    beside = ()  # the names of params after Wx, Wh and b: Wp, Wm and Wr, Wproj, or gains and biases
    forward_steps = back_steps = None  # methods in the place of those of steps.py

    @property
    def in_steps(self):
        """Whether no frame can run it."""
        return self.candidate or self.zoned

    @property
    def products(self):
        """The gates of each product of a step, one after the other."""
        return (tuple(range(self.gates)),)

    @property
    def constants(self):
        """Numbers of a unit that are the same in every step."""
        return self.biases + self.peepholes

    @property
    def two_biases(self):
        """Whether b is (2, G*H): one of x Wx, one of h Wh."""
        return self.biases > self.gates

    def of(self, peepholes):
        """The cell with such peepholes: None, "diagonal" or "full"."""
        return self

    def equations(self, gpu, dtype):
        """first (None where a step has one product) and step."""
        raise NotImplementedError

    def equations_back(self, gpu, dtype):
        """first_back and step_back."""
        raise NotImplementedError

    # What no frame runs, between the kernels of steps.py: more work of each step

    def complete(self, call, arrays, Ah, states, seen):
        """Adds to the products Ah what the kernel of the step cannot know."""
        return []

    def complete_back(self, call, arrays, dstates, came):
        """Before the kernel of the step back, and after what it gives has gone through Wh."""
        return [], []

    # What a call has beside dWx, dWh and db

    def other_grads(self, call, arrays, grads):
        """For `call.finish`: db where it is the cell's own, the gradients of what is beside b, dxs.

        dxs only of a cell with its `own_input`, which also puts what met Wx and Wh into arrays.xs
        and arrays.left.
        """
        return {}


@lru_cache(typed=True)
def with_steps(cell, candidate, zoned):
    """The cell with masks or shares of each step; the same object for the same ones."""
    return replace(cell, candidate=candidate, zoned=zoned)


# What a process compiles once, whatever the sizes


@cache
def equations(gpu, cell, dtype):
    return cell.equations(gpu, dtype)


@cache
def equations_back(gpu, cell, dtype):
    return cell.equations_back(gpu, dtype)

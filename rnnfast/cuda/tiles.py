"""What a block of the frame multiplies: sizes, and where things lie in shared memory.

A block has `units` of the H units and, in a pass, `rows` samples. Forward it multiplies h of all
units with its own columns of Wh; back its own dA with the same columns transposed, which gives
what each unit's dh gets from it (a reduce-scatter: the blocks add up what they were sent).

    gates      the gates that the product is of, by their place in Wh (H, G*H)
    threads    of the block; each keeps `weights` of them in registers and the others, whole
               rounds of the product, in shared memory, where only it reads them

A Tile is sizes alone; ffma.py and ffma_back.py make the functions of those below, mma.py and
mma_back.py of those in tiles_mma.py.
"""

from dataclasses import dataclass, field

WARP = 32


def up(n, multiple):
    """n rounded up to a multiple."""
    return -(-n // multiple) * multiple


@dataclass(frozen=True)
class Tile:
    H: int
    G: int  # gates of the cell, blocks of Wh
    gates: tuple
    units: int
    rows: int
    threads: int
    blocks: int  # that have all units between them: a group
    aside: int = field(default=0, kw_only=True)  # rounds whose weights lie in shared memory

    arithmetic = "float32"  # of its products
    may_lie_aside = True  # weights, in shared memory

    @property
    def weights(self):
        """Of a thread in registers."""
        return (self.rounds - self.aside) * self.round

    @property
    def shared(self):
        """Floats of shared memory: what a step works in, then weights."""
        return self.scratch + self.aside * self.round * self.threads

    @property
    def local(self):
        """Whether a block has all units, so that nothing leaves it."""
        return self.blocks == 1

    @property
    def columns(self):
        """Of Wh, for each unit."""
        return len(self.gates)

    @property
    def warps(self):
        return self.threads // WARP


class Back(Tile):
    """A reduce-scatter: `sources` send a parcel each, which several threads add up."""

    @property
    def adders(self):
        """How many threads share what there is to add up for one four of a parcel."""
        return max(1, min(self.threads // (self.parcel // 4), -(-self.sources // 4)))

    @property
    def fetches(self):
        """Fours that such a thread fetches."""
        return -(-self.sources // self.adders)


@dataclass(frozen=True)
class FfmaForward(Tile):
    """A thread has `own` units of all gates, for every so-many-th four of the terms.

    The part of the terms is slow among the threads: a warp reads few addresses of h at a time.
    Shared memory: h of the rows | partial sums, part by part of the terms.
    """

    forward = True

    own: int

    @property
    def width(self):
        """Columns of a thread."""
        return self.own * self.columns

    @property
    def across(self):
        """Threads that have all units between them."""
        return -(-self.units // self.own)

    @property
    def piece(self):
        """Sums of a thread that lie side by side: by fours no bank is met twice."""
        return 4 if self.width > 4 and 4 % self.columns == 0 else self.width

    @property
    def parts(self):
        return self.threads // self.across

    @property
    def fours(self):
        """Fours of terms that a thread multiplies."""
        return -(-self.H // (4 * self.parts))

    @property
    def row(self):
        """Floats between rows of h, with padding, wherever it lies."""
        return 4 * self.parts * self.fours

    @property
    def exchanged(self):
        """Floats that a group exchanges in a pass."""
        return self.rows * self.row

    @property
    def all_sent(self):
        """Whether somebody sends all that is exchanged."""
        return self.row == self.H

    @property
    def sums(self):
        """Floats between rows of partial sums."""
        return self.across * self.width

    @property
    def scratch(self):
        return self.exchanged + up(self.parts * self.rows * self.sums, 4)

    @property
    def rounds(self):
        return self.fours

    @property
    def round(self):
        """Weights of a four of terms."""
        return 4 * self.width

    @property
    def registers(self):
        """What a thread keeps at once in the product: weights, sums, four of h."""
        return self.weights + self.rows * self.width + 8 + self.round * (self.aside > 0)


@dataclass(frozen=True)
class FfmaBack(Back):
    """A thread has every so-many-th of the H units that receive, for the units of its slice.

    Shared memory: dA of the rows, slice by slice | what came, added up by `adders`.
    """

    forward = False

    slices: int = 1

    @property
    def across(self):
        return self.threads // self.slices

    @property
    def receivers(self):
        """Units of a thread that receive."""
        return -(-self.H // self.across)

    @property
    def of_slice(self):
        """Units of a slice."""
        return -(-self.units // self.slices)

    @property
    def terms(self):
        """Of a slice: its units' dA, with padding to fours."""
        return up(self.of_slice * self.columns, 4)

    @property
    def row(self):
        """Floats between rows of dA."""
        return self.slices * self.terms

    @property
    def sources(self):
        """From which a unit receives, a float for each sample."""
        return self.blocks * self.slices

    @property
    def parcel(self):
        """Floats that a block receives from one source."""
        return up(self.rows * self.units, 4)

    @property
    def exchanged(self):
        return self.blocks * self.sources * self.parcel

    @property
    def all_sent(self):
        return self.blocks * self.units == self.H and self.parcel == self.rows * self.units

    @property
    def received(self):
        """Where in shared memory what came is added up."""
        return self.rows * self.row

    @property
    def scratch(self):
        came = self.sources if self.local else self.adders
        return self.received + came * self.parcel

    @property
    def rounds(self):
        return self.receivers

    @property
    def round(self):
        """Weights of a unit that receives."""
        return self.terms

    @property
    def registers(self):
        sums = max(4 * (self.receivers - self.aside), self.rows * (self.aside > 0))
        return self.weights + max(sums + 4, 4 * self.fetches)

"""What a block of the frame multiplies: sizes, and where things lie in shared memory.

A block has `units` of the H units and, in a pass, `rows` samples. Forward it multiplies h of all
units with its own columns of Wh; back its own dA with the same columns transposed, which gives
what each unit's dh gets from it (a reduce-scatter: the blocks add up what they were sent).

    gates      the gates that the product is of, by their place in Wh (H, G*H)
    threads    of the block; each keeps `weights` of them in registers

A Tile is sizes alone; ffma.py, ffma_back.py, mma.py and mma_back.py make the functions of it.
"""

from dataclasses import dataclass

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
    def sums(self):
        """Floats between rows of partial sums."""
        return self.across * self.width

    @property
    def shared(self):
        return self.exchanged + up(self.parts * self.rows * self.sums, 4)

    @property
    def weights(self):
        return 4 * self.fours * self.width

    @property
    def registers(self):
        """What a thread keeps at once in the product: weights, sums, four of h."""
        return self.weights + self.rows * self.width + 8


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
    def received(self):
        """Where in shared memory what came is added up."""
        return self.rows * self.row

    @property
    def shared(self):
        came = self.sources if self.local else self.adders
        return self.received + came * self.parcel

    @property
    def weights(self):
        return self.receivers * self.terms

    @property
    def registers(self):
        return self.weights + max(4 * self.receivers + 4, 4 * self.fetches)


@dataclass(frozen=True)
class MmaForward(Tile):
    """Tensor cores: a tile's 16 rows are units of one gate, its 8 columns samples.

    The terms are dealt to the warps, 32 at a time, who read them straight from where the blocks
    exchange h. `units` is a multiple of 16.
    Shared memory: the partial sums of the warps, a row for each sample. Where a warp spreads them
    it writes every other row, where they are added up it reads two that are neighbours, and neither
    may find a bank twice: so of two rows the second is `second` floats after the first, and the
    next two begin after `pair`.
    """

    forward = True

    @property
    def tiles(self):
        """Of 16 columns of Wh."""
        return self.columns * self.units // 16

    @property
    def eights(self):
        """Of samples."""
        return -(-self.rows // 8)

    @property
    def groups(self):
        """Of 32 terms, for each warp."""
        return -(-self.H // (32 * self.warps))

    @property
    def row(self):
        return 32 * self.groups * self.warps

    @property
    def exchanged(self):
        return 8 * self.eights * self.row

    @property
    def second(self):
        return 16 * (self.tiles + 1 - self.tiles % 2)  # 16 banks on

    @property
    def pair(self):
        return up(2 * self.second, 32) + 8

    @property
    def sums(self):
        """Floats of a warp."""
        return 4 * self.eights * self.pair

    @property
    def shared(self):
        return self.warps * self.sums

    @property
    def weights(self):
        return 16 * self.tiles * self.groups

    @property
    def registers(self):
        return self.weights + 4 * self.tiles * self.eights + 8


@dataclass(frozen=True)
class MmaBack(Back):
    """Tensor cores: a tile's 16 rows are units that receive, its 8 columns samples.

    The terms are the block's own columns, 16 units of a gate after the other.
    Shared memory: dA of the samples | what came, added up by `adders`.
    """

    forward = False

    @property
    def eights(self):
        return -(-self.rows // 8)

    @property
    def terms(self):
        """Eights of terms."""
        return self.columns * self.units // 8

    @property
    def receivers(self):
        """Tiles of 16 units for each warp."""
        return -(-self.wide // (16 * self.warps))

    @property
    def row(self):
        return 8 * self.terms + 4

    @property
    def wide(self):
        """Floats between samples of what a source sends: all units of the group, with padding."""
        return self.blocks * self.units

    @property
    def sources(self):
        return self.blocks

    @property
    def parcel(self):
        return self.rows * self.units

    @property
    def exchanged(self):
        return self.sources * self.rows * self.wide

    @property
    def received(self):
        return 8 * self.eights * self.row

    @property
    def shared(self):
        return self.received + self.adders * self.parcel

    @property
    def weights(self):
        return 4 * self.receivers * self.terms

    @property
    def registers(self):
        return self.weights + max(2 * self.terms + 4, 4 * self.fetches)

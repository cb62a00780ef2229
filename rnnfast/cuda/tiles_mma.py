"""What a block of the frame multiplies on tensor cores; see tiles.py."""

from dataclasses import dataclass

from rnnfast.cuda.tiles import Back, Tile, up


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
    arithmetic = "tf32"
    halves = 0  # registers for parts of factors, and for more h at a time

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
    def all_sent(self):
        return self.row == self.H and self.rows % 8 == 0

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
    def scratch(self):
        return self.warps * self.sums

    @property
    def rounds(self):
        return 4 * self.groups

    @property
    def round(self):
        """Weights of eight terms of a warp."""
        return 4 * self.tiles

    @property
    def at_once(self):
        """Parts of 32 terms and eight samples whose eight numbers a thread loads at once."""
        taken = 4 * self.tiles * self.eights + self.round * (self.aside > 0) + self.halves
        return min(self.groups * self.eights, max(1, (240 - self.weights - taken) // 8))

    @property
    def registers(self):
        more = self.round * (self.aside > 0) + self.halves
        return self.weights + 4 * self.tiles * self.eights + 8 + more


@dataclass(frozen=True)
class MmaForward3(MmaForward):
    """In float32: each factor is a sum of two TF32 numbers, of whose four products three count.

    Weights lie in registers as float32; their parts are made where they are multiplied, once for
    all samples.
    """

    arithmetic = "3xtf32"

    @property
    def halves(self):
        return 12 * self.eights

    @property
    def may_lie_aside(self):
        return self.eights == 1  # else registers spill


@dataclass(frozen=True)
class MmaBack(Back):
    """Tensor cores: a tile's 16 rows are units that receive, its 8 columns samples.

    The terms are the block's own columns, 16 units of a gate after the other.
    Shared memory: dA of the samples | what came, added up by `adders`.
    """

    forward = False
    arithmetic = "tf32"

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
    def all_sent(self):
        return True  # padding too

    @property
    def received(self):
        return 8 * self.eights * self.row

    @property
    def scratch(self):
        return self.received + self.adders * self.parcel

    @property
    def rounds(self):
        return self.receivers

    @property
    def round(self):
        """Weights of a tile of units that receive."""
        return 4 * self.terms

    @property
    def registers(self):
        right = 2 * self.terms + 4 + self.round * (self.aside > 0)
        return self.weights + max(right, 4 * self.fetches)

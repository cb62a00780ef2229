"""Where the registers and constants of a kernel lie, and what an operand says.

A lane's part of a register lies beside those of the other lanes; a predicate is 32 bits. There are
three regions: constants, registers of one basic block ("passing", whose places are used again), and
those that outlive one ("lasting"), of which each warp has its own.
"""

import re

import numpy as np

from .parse import REGISTER, SIZES, Unknown

LANES = 32
PREDICATE = 4  # bytes of 32 lanes
SPECIAL = {  # names of operations in run/run.c
    **{f"%{name}.x": f"{name}_x" for name in ("tid", "ntid", "ctaid", "nctaid")},
    **{f"%{name}.{d}": "zero" for name in ("tid", "ctaid") for d in "yz"},
    **{f"%{name}.{d}": "one" for name in ("ntid", "nctaid") for d in "yz"},
    **{f"%{name}": name for name in ("laneid", "dynamic_smem_size")},
    **dict.fromkeys(("%globaltimer", "%clock64"), "time"),
}
NUMBER = re.compile(r"-?\d+U?$|0x[0-9A-Fa-f]+U?$")
HEX_FLOAT = re.compile(r"0([fFdD])([0-9A-Fa-f]{8}|[0-9A-Fa-f]{16})$")


class Places:
    """Where things lie: offsets of bytes, given out and taken back."""

    def __init__(self):
        self.end, self.free = 0, {}

    def take(self, size):
        free = self.free.setdefault(size, [])
        if free:
            return free.pop()
        at = -(-self.end // min(size, 64)) * min(size, 64)
        self.end = at + size
        return at

    def give_back(self, at, size):
        self.free[size].append(at)


class Registers:
    """A place is a region and an offset there; `offset` makes one number of them at the end."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.constants, self.places_of_constants = {}, Places()
        self.passing, self.lasting = Places(), Places()
        self.trash = "passing", self.passing.take(8 * LANES)  # of results that nobody wants
        self.here = {}  # places of passing registers, in the basic block that is being encoded
        self.outliving = self._outliving()

    def _outliving(self):
        """Places of registers that some block reads before it writes them."""
        found = {}
        for block in self.kernel.blocks:
            written = set()
            for i in block.code:
                for r in sorted(set(i.uses) - written - SPECIAL.keys() - found.keys()):
                    try:
                        found[r] = self.lasting.take(self._bytes(r))
                    except Unknown as error:
                        raise Unknown(f"line {i.line}: {i.text} ({error})") from None
                written |= set(i.defines)
        return found

    def _bytes(self, register):
        size = self.kernel.size_of(register)
        return PREDICATE if size == 1 else size * LANES

    def enter(self, i):
        """Gives a place to what an instruction writes."""
        for r in i.defines:
            if r != "_" and r not in self.outliving and r not in self.here:
                self.here[r] = self.passing.take(self._bytes(r))

    def leave(self, registers):
        """Takes back the places of those that no later instruction of the block uses."""
        for r in registers:
            if r in self.here:
                self.passing.give_back(self.here.pop(r), self._bytes(r))

    def constant(self, key, value, size):
        """The place of `value` in all lanes; size: bytes of a lane, or None for a predicate."""
        key = key, size
        if key not in self.constants:
            lanes = np.array([value] * (LANES if size else 1), f"u{size or PREDICATE}")
            self.constants[key] = self.places_of_constants.take(lanes.nbytes), lanes
        return "common", self.constants[key][0]

    def place(self, text, kind):
        """Of an operand, read as this type."""
        if text in SPECIAL:
            raise Unknown(f"{text} outside of mov")
        if REGISTER.fullmatch(text):
            wanted, has = SIZES[kind], self.kernel.size_of(text)
            if wanted != has and kind != "pred" and max(wanted, has) > 4:
                raise Unknown(f"{text} has {has} bytes")
            return (
                ("passing", self.here[text])
                if text in self.here
                else ("lasting", self.outliving[text])
            )
        if kind == "pred":
            return self.truth(int(text))
        return self.constant(*self.number(text, kind), SIZES[kind])

    def number(self, text, kind):
        """(key, bits) of an immediate operand."""
        size = SIZES[kind]
        if match := HEX_FLOAT.match(text):
            if (size == 4) != (match.group(1) in "fF"):
                raise Unknown(f"{text} for {kind}")
            bits = int(match.group(2), 16)
        elif NUMBER.match(text):
            bits = int(text.rstrip("U"), 0) % (1 << 8 * size)
        elif text in self.kernel.symbols:
            bits = self.kernel.symbols[text]
        else:
            raise Unknown(f"operand {text}")
        return bits, bits

    def truth(self, value):
        return self.constant(bool(value), 0xFFFFFFFF if value else 0, None)

    def result(self, register):
        if register == "_":
            return self.trash
        size = self.kernel.size_of(register)
        return self.place(register, "pred" if size == 1 else f"u{8 * size}")

    def common(self):
        """Bytes of constants and of passing registers; afterwards `offset` knows where all are."""
        constants = -(-self.places_of_constants.end // 64) * 64
        passing = -(-self.passing.end // 64) * 64 + 8 * LANES  # room to read beyond the last one
        self.start = {"common": 0, "passing": constants, "lasting": constants + passing}
        found = np.zeros(constants + passing, np.uint8)
        for at, lanes in self.constants.values():
            found[at : at + lanes.nbytes] = lanes.view(np.uint8)
        return found

    def offset(self, place):
        region, offset = place
        return self.start[region] + offset

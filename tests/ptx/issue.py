"""What the schedulers of a multiprocessor issue for an instruction of PTX, as far as PTX shows it.

An instruction of a warp is one. More are mma and the special functions (2), a 64-bit integer of
which both halves matter (2, a product 4) and a division (20); one whose result is used in its lower
half alone is an instruction of 32 bits. The assembler makes no instruction of moves, parameters and
a constant that is added to an address of shared memory.
"""

import re

from .parse import REGISTER

LOWER_HALF_ALONE = (
    "add",
    "sub",
    "mul",
    "mad",
    "and",
    "or",
    "xor",
    "not",
    "neg",
    "mov",
    "selp",
    "cvta",
)
SPECIAL_FUNCTIONS = ("ex2", "rcp", "lg2", "sqrt", "rsqrt", "tanh")
NOTHING = ("mov", "cvta")
CONSTANT = re.compile(r"-?\d+$")


def issues(kernel):
    """[[how many are issued for each instruction] for each basic block]"""
    wide, folded = _wide(kernel), _folded(kernel)
    return [[_issue(i, wide, folded) for i in block.code] for block in kernel.blocks]


def _issue(i, wide, folded):
    name, kind = i.parts[0], i.parts[-1]
    (into, *_) = i.defines or [None]
    if name == "mma" or name in SPECIAL_FUNCTIONS:
        return 2
    if name in ("div", "rem"):
        return 20
    if (
        name in NOTHING
        or "param" in i.parts
        or (name == "cvt" and not re.search(r"\.f\d|tf32", i.op))
    ):
        return 0
    if name == "add" and into in folded and CONSTANT.match(i.operands[2]):
        return 0
    if kind in ("s64", "u64", "b64") and name not in ("ld", "st", "atom", "red"):
        if into is None or into.startswith("%p"):
            return 2  # a comparison
        if into in wide:
            return 4 if name == "mul" else 2
    return 1


def _instructions(kernel):
    return [i for block in kernel.blocks for i in block.code]


def _wide(kernel):
    """64-bit registers of which more than the lower half is used."""
    uses = [
        (r, i)
        for i in _instructions(kernel)
        for r in set(REGISTER.findall(i.text))
        if r.startswith("%rd") and (r not in i.defines or i.text.count(r) > 1)
    ]
    wide, before = set(), None
    while before != len(wide):
        before = len(wide)
        wide |= {r for r, i in uses if r not in wide and not _takes_the_lower_half(i, r, wide)}
    return wide


def _takes_the_lower_half(i, register, wide):
    """Whether what this instruction gives depends on the lower half of `register` alone."""
    if i.op.startswith(("cvt.u32", "cvt.s32")):
        return True
    if i.parts[0] == "shl":
        return register == i.operands[1] and not wide.intersection(i.defines)
    narrow = i.parts[0] in LOWER_HALF_ALONE and not {"wide", "hi"} & set(i.parts)
    return narrow and not wide.intersection(i.defines)


def _folded(kernel):
    """Registers that are addresses of shared memory and nothing else."""
    narrowed = {
        i.operands[0]: i.operands[1]
        for i in _instructions(kernel)
        if i.op.startswith("cvt.u32.u64")
    }
    addresses, others = set(), set()
    for i in _instructions(kernel):
        inside = []
        if i.parts[0] in ("ld", "st") and "shared" in i.parts:
            inside = REGISTER.findall(i.operands[i.parts[0] == "ld"])
            addresses.update(narrowed.get(r, r) for r in inside)
        if not i.op.startswith("cvt.u32.u64"):
            others.update(set(REGISTER.findall(i.text)) - set(inside) - set(i.defines))
    return addresses - others

"""A parsed kernel -> Program, which is what run/run.c reads."""

from dataclasses import dataclass

import numpy as np

from .instructions import PLACES, Instructions
from .parse import Unknown
from .registers import Registers

OP = np.dtype(
    [
        *((name, "u4") for name in ("code", "line", "guard", "negated")),
        ("at", "u4", PLACES),
        ("number", "i8"),
        *((name, "u4") for name in ("space", "size", "count", "how", "width", "into", "site")),
    ],
    align=True,
)
CODE = np.dtype([(name, "u4") for name in ("first", "end", "kind", "line")])


@dataclass
class Program:
    params: list  # of Param
    threads: int | None
    shared: int
    local: int
    ops: np.ndarray
    code: np.ndarray
    common: np.ndarray  # bytes: constants, then the place of registers that live in one block
    register_bytes: int  # of a warp
    sites: list  # (line, space, bytes) of the instructions that look at memory


def encode(kernel, numbers):
    """numbers: those of the operations, by name."""
    registers = Registers(kernel)
    instructions = Instructions(kernel, registers)
    ops, code = [], []
    for block in kernel.blocks:
        first = len(ops)
        last = {r: i for i in block.code for r in (*i.uses, *i.defines)}
        for i in block.code:
            registers.enter(i)
            ops.append(_operation(i, instructions, numbers))
            registers.leave(r for r, user in last.items() if user is i)
        code.append((first, len(ops), block.kind, block.line))
    return Program(
        params=kernel.params,
        threads=kernel.threads,
        shared=kernel.shared,
        local=kernel.local,
        common=registers.common(),
        ops=_table(ops, registers),
        code=np.array(code, CODE),
        register_bytes=max(64, registers.lasting.end),
        sites=instructions.sites,
    )


def _operation(i, instructions, numbers):
    """The fields of one instruction."""
    name, fields = instructions.operation(i)
    if name not in numbers:
        raise Unknown(f"line {i.line}: {i.text}")
    registers = instructions.registers
    guard, negated = i.guard or (None, False)
    always = registers.truth(True)
    return {
        "code": numbers[name],
        "line": i.line,
        "guard": registers.place(guard, "pred") if guard else always,
        "negated": 0xFFFFFFFF * negated,
        **fields,
    }


def _table(ops, registers):
    for fields in ops:
        at = [registers.offset(place) for place in fields.get("at", ())]
        fields["at"] = at + [0] * (PLACES - len(at))
        fields["guard"] = registers.offset(fields["guard"])
    found = np.empty(len(ops), OP)
    for name in OP.names:  # a column at a time: NumPy takes long for a field of a row
        found[name] = np.array([fields.pop(name, 0) for fields in ops], OP[name].base)
    assert not any(ops), "fields that OP does not have"
    return found

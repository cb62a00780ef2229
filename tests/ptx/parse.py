"""The text of a kernel in PTX -> Kernel: instructions in basic blocks, parameters, shared memory.

What it does not know it refuses, with the line (`Unknown`); so do those who read what it gives.
"""

import math
import re
from dataclasses import dataclass, field
from functools import cached_property

SIZES = {f"{kind}{bits}": bits // 8 for kind in "bus" for bits in (8, 16, 32, 64)}
SIZES |= {"pred": 1, "f32": 4, "f64": 8}

ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\((.*?)\)(.*?)\{", re.DOTALL)
PARAM = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+(?:\.ptr\s[^,]*?)?([\w$]+)$")
ARRAY = re.compile(
    r"\.(shared|local)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)\s*(?:\[(\d*)\])?\s*;"
)
REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)", re.DOTALL)
INSTRUCTION = re.compile(r"(?:@(!?)([%\w]+)\s+)?([\w.:]+)\s*(.*)", re.DOTALL)
TOKEN = re.compile(r"\s*(?:([\w$]+):(?!:)|([{}])|([^;]+);)")
REGISTER = re.compile(r"%[A-Za-z_]\w*(?:\.[xyz]\b)?")

WARP_OPS = ("shfl", "vote", "mma")  # all lanes of a warp do them together, as they do bar.warp
STRONG = {"relaxed", "acquire", "release", "acq_rel", "volatile"}
NO_RESULT = {"st", "red", "bra", "ret", "exit", "bar", "barrier", "trap", "nanosleep", "cp"}
PLAIN, TOGETHER, BARRIER, LOOK = range(4)  # kinds of basic blocks; LOOK: at what others may change


class Unknown(NotImplementedError):
    """An instruction that is not known here."""


@dataclass
class Instruction:
    line: int
    text: str
    guard: tuple | None  # (register, whether it has to be false)
    op: str
    operands: list

    @cached_property
    def parts(self):
        return self.op.split(".")

    def is_a(self, name):
        """Whether its name begins so: a "bar.sync" is a "bar"."""
        return f"{self.op}.".startswith(f"{name}.")

    @cached_property
    def defines(self):
        """The registers that it writes."""
        if self.parts[0] in NO_RESULT or not self.operands:
            return []
        return REGISTER.findall(self.operands[0])

    @cached_property
    def uses(self):
        """The registers that it reads, special ones among them."""
        read = self.operands if self.parts[0] in NO_RESULT else self.operands[1:]
        found = [r for operand in read for r in REGISTER.findall(operand)]
        if self.guard:  # where it is off, what it writes keeps its value
            found += [self.guard[0], *self.defines]
        return found

    @cached_property
    def kind(self):
        if self.op.startswith(("bar.sync", "barrier.sync")):
            return BARRIER
        if self.parts[0] in WARP_OPS or self.op.startswith("bar.warp"):
            return TOGETHER
        looks = self.parts[0] == "ld" and STRONG.intersection(self.parts)
        timers = {"%globaltimer", "%clock64"}.intersection(self.operands)
        return LOOK if looks or timers or self.parts[0] in ("atom", "nanosleep") else PLAIN

    @property
    def ends_a_block(self):
        return self.kind != PLAIN or self.parts[0] in ("bra", "ret", "exit", "trap")


@dataclass
class Block:
    """Instructions that run one after the other."""

    number: int
    labels: list = field(default_factory=list)
    code: list = field(default_factory=list)

    @property
    def line(self):
        return self.code[0].line if self.code else 0

    @property
    def kind(self):
        return self.code[0].kind if self.code else PLAIN


@dataclass
class Param:
    name: str
    size: int
    offset: int


@dataclass
class Kernel:
    name: str
    params: list
    threads: int | None  # of a block, at most
    shared: int  # bytes, without those of a launch
    local: int  # bytes of a thread
    symbols: dict  # what lies in shared or local memory: its offset
    sizes: dict  # of the registers, by prefix (%rd) or name
    blocks: list

    def size_of(self, register):
        """Bytes of a register."""
        for name in (register, register.rstrip("0123456789")):
            if name in self.sizes:
                return self.sizes[name]
        raise Unknown(f"register {register}")

    @cached_property
    def targets(self):
        return {label: block.number for block in self.blocks for label in block.labels}

    def successors(self, block):
        """Numbers of the blocks that may come after."""
        last = block.code[-1] if block.code else None
        if last and last.parts[0] == "bra":
            jump = [self.targets[last.operands[0]]]
            return jump + [block.number + 1] * (last.guard is not None)
        ends = last and last.parts[0] in ("ret", "exit", "trap") and not last.guard
        return [] if ends else [block.number + 1]


def parse(ptx):
    """The one kernel of this PTX."""
    ptx = re.sub(r"//[^\n]*", "", ptx)
    entries = list(ENTRY.finditer(ptx))
    if len(entries) != 1:
        raise Unknown(f"PTX of one kernel is needed, this has {len(entries)}")
    (entry,) = entries
    name, head, directives = entry.groups()
    end = ptx.index("\n}", entry.end())  # what ends a kernel alone stands at the first column
    sizes, threads = {}, re.search(r"\.(?:maxntid|reqntid)\s+([\d, ]+)", directives)
    blocks = _blocks(list(_instructions(ptx, entry.end(), end, sizes)))
    arrays = ARRAY.findall(ptx[: entry.start()]) + ARRAY.findall(ptx[entry.end() : end])
    symbols, shared, local = _places(arrays)
    return Kernel(
        name=name,
        params=_params(head),
        threads=math.prod(map(int, threads.group(1).split(","))) if threads else None,
        shared=shared,
        local=local,
        symbols=symbols,
        sizes=sizes,
        blocks=blocks,
    )


def _params(head):
    found, offset = [], 0
    for text in filter(None, map(str.strip, head.split(","))):
        match = PARAM.match(text)
        if not match:
            raise Unknown(f"parameter {text}")
        size = SIZES[match.group(1)]
        offset = -(-offset // size) * size
        found.append(Param(match.group(2), size, offset))
        offset += size
    return found


def _places(arrays):
    """-> symbols, bytes of static shared memory, of local memory; a launch's part comes last."""
    symbols, used, dynamic = {}, {"shared": 0, "local": 0}, []
    for space, align, kind, symbol, count in arrays:
        if count == "" and space == "shared":
            dynamic.append(symbol)
            continue
        align = int(align or SIZES[kind])
        symbols[symbol] = -(-used[space] // align) * align
        used[space] = symbols[symbol] + SIZES[kind] * int(count or 1)
    shared = -(-used["shared"] // 16) * 16
    return symbols | dict.fromkeys(dynamic, shared), shared, used["local"]


def _statements(ptx, start, end):
    """(line, label, brace, statement) of a body, one of the last three at a time."""
    line, seen = ptx.count("\n", 0, start) + 1, start
    for token in TOKEN.finditer(ptx, start, end):
        at = token.start(token.lastindex)
        line, seen = line + ptx.count("\n", seen, at), at
        yield line, *token.groups()


def _instructions(ptx, start, end, sizes):
    """(labels, Instruction) of a body; `sizes` takes up what is declared there."""
    labels, scopes = [], [{}]  # of registers that are declared without a %, in inline code
    for line, label, brace, text in _statements(ptx, start, end):
        if label:
            labels.append(label)
        elif brace == "{":
            scopes.append(dict(scopes[-1]))
        elif brace:
            scopes.pop()
        elif match := REGISTERS.match(text):
            for name in re.split(r"[,\s]+", match.group(2)):
                register = name.partition("<")[0]
                if register[0] != "%":
                    scopes[-1][register] = register = f"%{register}_at_{line}"
                sizes[register] = SIZES[match.group(1)]
        elif text[0] != ".":  # no directive
            for name, register in scopes[-1].items():
                text = re.sub(rf"(?<![\w%$.]){re.escape(name)}(?!\w)", register, text)
            for i in _narrowing(_instruction(line, " ".join(text.split())), sizes):
                yield labels, i
                labels = []
    if labels:
        yield labels, None


def _narrowing(i, sizes):
    """i, after one that takes the lower half of a register where i converts that alone."""
    if i.parts[0] == "cvt" and i.guard is None and SIZES.get(i.parts[-1]) == 4:
        wide = i.operands[1]
        if (sizes.get(wide) or sizes.get(wide.rstrip("0123456789"))) == 8:
            half = f"%half_of_{wide[1:]}_at_{i.line}"
            sizes[half] = 4
            yield _instruction(i.line, f"cvt.u32.u64 {half}, {wide}")
            i = _instruction(i.line, f"{i.op} {i.operands[0]}, {half}")
    yield i


def _instruction(line, text):
    negated, guard, op, rest = INSTRUCTION.match(text).groups()
    return Instruction(
        line, text, (guard, bool(negated)) if guard else None, op, list(operands(rest))
    )


def operands(text):
    """What stands between the commas outside of all brackets."""
    depth, start = 0, 0
    for at, letter in enumerate(text):
        depth += (letter in "{[(") - (letter in "}])")
        if letter == "," and not depth:
            yield text[start:at].strip()
            start = at + 1
    if last := text[start:].strip():
        yield last


def _blocks(instructions):
    """A block begins at a label, at what waits or looks, and after what ends one."""
    blocks = [Block(0)]
    for labels, i in instructions:
        now = blocks[-1]
        alone = i is not None and i.kind != PLAIN
        if now.code and (labels or alone or now.code[-1].ends_a_block):
            blocks.append(now := Block(len(blocks)))
        now.labels += labels
        if i is not None:
            now.code.append(i)
    return blocks

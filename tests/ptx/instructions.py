"""An instruction of PTX -> the name of an operation in run/, and the fields that it reads."""

import re

from .parse import REGISTER, SIZES, STRONG, Unknown, operands
from .registers import SPECIAL

PLACES = 16  # of an operation, at most: run/state.h
RESULTS, MASK, ADDRESS = 4, PLACES - 1, 4  # which: run/together.h, run/accesses.h
SPACES = ("generic", "global", "shared", "local", "param")  # run/memory.h
WINDOWS = {"global": 0, "shared": 1 << 62, "local": 1 << 61}
WRITE, STRONGLY, CONSTANT, RELEASE, ACQUIRE = 1, 2, 4, 8, 16
HOW = {"nc": CONSTANT, "release": RELEASE, "acquire": ACQUIRE, "acq_rel": RELEASE | ACQUIRE}
JOINS = {"and": 1, "or": 2, "xor": 3}  # run/operations.h
CACHING = STRONG | {"cg", "ca", "cs", "lu", "wb", "nc", "gpu", "cta", "sys", "weak", "v2", "v4"}
ATOMICS = {"add", "min", "max", "and", "or", "exch", "cas", "inc"}
NEAREST = {"rn", "approx", "full"}  # the approximations are exact here
ADDRESS_OF = re.compile(r"\[\s*([%\w$.]+)\s*(?:\+\s*(-?\d+))?\s*\]$")


class Instructions:
    """Those of one kernel; `sites` collects (line, space, bytes) of those that look at memory."""

    def __init__(self, kernel, registers):
        self.kernel, self.registers = kernel, registers
        self.offsets = {p.name: p.offset for p in kernel.params}
        self.sites = []

    def operation(self, i):
        name, kind = i.parts[0], i.parts[-1].replace("b", "u") if i.parts[-1] in SIZES else ""
        method = getattr(self, f"_{name}", self._plain)
        try:
            return method(i, kind)
        except (KeyError, IndexError, ValueError, Unknown) as error:
            raise Unknown(f"line {i.line}: {i.text} ({error})") from None

    @staticmethod
    def _name(i, kind):
        words = [x for x in i.parts[:-1] if x not in NEAREST]
        if kind == "f64" and "approx" in i.parts and "ftz" in words:
            words.remove("ftz")  # of a coarse approximation, which is exact here
        return "_".join((*words, kind))

    def _plain(self, i, kind):
        shifts = i.parts[0] in ("shl", "shr", "bfe", "shf")
        kinds = [kind, *(("u32",) * 2 if shifts and i.parts[0] != "shf" else (kind,) * 2)]
        if "wide" in i.parts:
            kinds[2] = f"{kind[0]}64"
        given = [
            self.registers.place(text, k) for text, k in zip(i.operands[1:], kinds, strict=False)
        ]
        if len(i.operands) > 4:
            raise Unknown("four operands")
        return self._name(i, kind), {"at": [self.registers.result(i.operands[0]), *given]}

    def _lop3(self, i, kind):
        to, *given, table = i.operands
        at = [self.registers.result(to), *(self.registers.place(x, "u32") for x in given)]
        return f"lop3_{kind}", {"at": at, "number": int(table, 0)}

    def _bfi(self, i, kind):
        to, *given, at, count = i.operands
        places = [self.registers.result(to), *(self.registers.place(x, kind) for x in given)]
        return f"bfi_{kind}", {"at": places, "number": int(count) << 8 | int(at)}

    def _mov(self, i, kind):
        to, of = i.operands
        if of in SPECIAL:
            size = self.kernel.size_of(to)
            if (size == 8) != (SPECIAL[of] == "time"):
                raise Unknown(f"{to} has {size} bytes")
            return SPECIAL[of], {"at": [self.registers.result(to)]}
        if of.startswith("{") or to.startswith("{"):
            if kind != "u64":
                raise Unknown("parts of what is not of 8 bytes")
            parts = list(operands((of if of.startswith("{") else to)[1:-1]))
            if len(parts) != 2:
                raise Unknown(f"{len(parts)} parts")
            if of.startswith("{"):
                return "pack_u64", {
                    "at": [
                        self.registers.result(to),
                        *(self.registers.place(x, "u32") for x in parts),
                    ]
                }
            return "unpack_u64", {
                "at": [*map(self.registers.result, parts), self.registers.place(of, "u64")]
            }
        kind = {"f32": "u32", "f64": "u64"}.get(kind, kind.replace("s", "u"))
        return f"mov_{kind}", {"at": [self.registers.result(to), self.registers.place(of, kind)]}

    def _selp(self, i, kind):
        to, a, b, which = i.operands
        kind = f"u{8 * SIZES[kind]}"
        given = (
            self.registers.place(a, kind),
            self.registers.place(b, kind),
            self.registers.place(which, "pred"),
        )
        return f"selp_{kind}", {"at": [self.registers.result(to), *given]}

    def _setp(self, i, kind):
        to, a, b, *third = i.operands
        order, *join = (x for x in i.parts[1:-1] if x != "ftz")
        if kind[0] == "u":
            order = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.get(order, order)
        first, _, second = to.partition("|")
        fields = {"at": [self.registers.result(first), self.registers.result(second or "_")]}
        fields["at"] += [self.registers.place(a, kind), self.registers.place(b, kind)]
        if third:
            fields["at"].append(self.registers.place(third[0].lstrip("!"), "pred"))
            fields |= {"how": JOINS[join[0]], "number": -(third[0][0] == "!")}
        elif join:
            raise Unknown("a join without a third operand")
        return f"setp_{order}_{kind}", fields

    def _cvt(self, i, kind):
        to, of = i.operands
        words = [x.replace("b", "u") for x in i.parts if x != "rn"]
        if words[1] not in SIZES and words[1] not in ("rni", "rzi", "rmi", "rpi", "rna"):
            raise Unknown(words[1])
        return "_".join(words), {"at": [self.registers.result(to), self.registers.place(of, kind)]}

    def _cvta(self, i, kind):
        window = WINDOWS[i.parts[1 + (i.parts[1] == "to")]]
        sign = "sub" if i.parts[1] == "to" else "add"
        at = [self.registers.result(i.operands[0]), self.registers.place(i.operands[1], kind)]
        return f"{sign}_{kind}", {"at": [*at, self.registers.constant(window, window, 8)]}

    def _access(self, i, kind, address, elements, how=0):
        """Fields of what looks at memory; elements: their places."""
        if unknown := set(i.parts[1:-1]) - CACHING - set(SPACES) - ATOMICS:
            raise Unknown(", ".join(unknown))
        space = next((x for x in SPACES if x in i.parts), "generic")
        if STRONG & set(i.parts) or i.parts[0] in ("red", "atom"):
            how |= STRONGLY
        for word in i.parts:
            how |= HOW.get(word, 0)
        base, offset = ADDRESS_OF.match(address).groups()
        offset, width = int(offset or 0), 8
        if REGISTER.fullmatch(base):
            width = self.kernel.size_of(base)
            start = self.registers.place(base, f"u{8 * width}")
        else:
            base = str(self.offsets[base]) if space == "param" else base
            start = self.registers.place(base, "u64")
        at = elements + [self.registers.truth(True)] * (ADDRESS - len(elements)) + [start]
        fields = {"at": at, "number": offset, "space": SPACES.index(space), "how": how}
        fields |= {"size": SIZES[kind], "count": len(elements), "width": width}
        if space != "param":
            fields["site"] = len(self.sites)
            self.sites.append((i.line, space, SIZES[kind] * len(elements)))
        return fields

    @staticmethod
    def _elements(text):
        return list(operands(text[1:-1])) if text.startswith("{") else [text]

    def _ld(self, i, kind):
        into = self._elements(i.operands[0])
        fields = self._access(i, kind, i.operands[1], [self.registers.result(r) for r in into])
        sizes = {self.kernel.size_of(r) for r in into if r != "_"}
        if len(sizes) != 1 or min(sizes) < SIZES[kind]:
            raise Unknown("registers of another size")
        return "ld_signed" if kind[0] == "s" else "ld", fields | {"into": sizes.pop()}

    def _st(self, i, kind):
        of = self._elements(i.operands[1])
        wide = f"u{max(32, 8 * SIZES[kind])}"
        if any(x in self.kernel.sizes and self.kernel.size_of(x) != SIZES[wide] for x in of):
            raise Unknown("registers of another size")
        fields = self._access(
            i, kind, i.operands[0], [self.registers.place(x, wide) for x in of], WRITE
        )
        return "st", fields | {"into": SIZES[wide]}

    def _atomic(self, i, kind, into, address, given):
        (operation,) = ATOMICS & set(i.parts)
        fields = self._access(i, kind, address, [self.registers.result(into)], WRITE)
        fields["at"][1 : 1 + len(given)] = [self.registers.place(x, kind) for x in given]
        if len(given) < 2:
            fields["at"][2] = fields["at"][1]
        return f"atom_{operation}_{kind}", fields

    def _red(self, i, kind):
        return self._atomic(i, kind, "_", i.operands[0], i.operands[1:])

    def _atom(self, i, kind):
        return self._atomic(i, kind, i.operands[0], i.operands[1], i.operands[2:])

    # Jumps, and what threads do together

    def _bra(self, i, kind):
        return "bra", {"number": self.kernel.targets[i.operands[0]]}

    def _ret(self, i, kind):
        return "ret", {}

    _exit = _ret

    def _trap(self, i, kind):
        return "trap", {}

    def _nanosleep(self, i, kind):
        return "nothing", {}

    def _bar(self, i, kind):
        if i.op == "bar.warp.sync":
            return self._together(i, "bar_warp_sync", [], [], i.operands[0])
        if i.guard or i.op != "bar.sync" or i.operands != ["0"]:
            raise Unknown("a barrier is of all threads of a block, without a condition")
        return "nothing", {}

    def _together(self, i, name, results, given, mask, number=0):
        if i.guard:
            raise Unknown("under a condition")
        at = results + [self.registers.truth(True)] * (RESULTS - len(results)) + given
        at += [self.registers.truth(True)] * (MASK - len(at)) + [self.registers.place(mask, "u32")]
        return name, {"at": at, "number": number}

    def _shfl(self, i, kind):
        to, *given, mask = i.operands
        first, _, second = to.partition("|")
        results = [self.registers.result(first), self.registers.result(second or "_")]
        given = [self.registers.place(x, "u32") for x in given]
        return self._together(i, "_".join((*i.parts[:-1], kind)), results, given, mask)

    def _vote(self, i, kind):
        to, of, mask = i.operands
        given = [self.registers.place(of.lstrip("!"), "pred")]
        name = "_".join((*i.parts[:-1], kind))
        return self._together(i, name, [self.registers.result(to)], given, mask, -(of[0] == "!"))

    def _mma(self, i, kind):
        if i.op != "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32":
            raise Unknown("no such product")
        into, *given = (list(operands(x[1:-1])) for x in i.operands)
        given = [self.registers.place(x, "u32") for of in given for x in of]
        return self._together(i, "mma_tf32", [self.registers.result(r) for r in into], given, "-1")

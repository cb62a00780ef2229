"""Kernels that are written in PTX, for tests of what runs it."""

import numpy as np

from .arrays import device_array
from .gpu import PtxGpu

REGISTERS = """
    .reg .pred %p<9>; .reg .b32 %r<29>; .reg .b64 %rd<29>; .reg .f32 %f<29>; .reg .f64 %fd<29>;
"""


def text(body, params, declared=""):
    """A kernel that takes pointers: number k is in %rd1k, %tid.x in %r10, eight of it in %rd9."""
    listed = ", ".join(f".param .u64 a{k}" for k in range(params))
    pointers = "\n".join(f"ld.param.u64 %rd{10 + k}, [a{k}];" for k in range(params))
    return (
        ".version 9.0\n.target sm_90\n.address_size 64\n"
        f".visible .entry kernel({listed})\n{{\n{REGISTERS}{declared}\n"
        f"mov.u32 %r10, %tid.x; mul.wide.u32 %rd9, %r10, 8;\n{pointers}\n{body}\nret;\n}}\n"
    )


def run(body, *arrays, threads=32, grid=1, declared="", cooperative=False, shared=0, **options):
    """Runs it on these arrays, in place; options: those of PtxGpu, which it gives back."""
    gpu = PtxGpu(**options)
    kinds = ["i" if a.dtype.itemsize == 4 else "d" for a in arrays]
    signature = " ".join(f"*{kind}" for kind in kinds)
    ptx = text(body, len(arrays), declared)
    kernel = gpu.load("kernel", ptx, signature, threads, shared, cooperative)
    kernel(grid, *(device_array(a.view(k)) for a, k in zip(arrays, kinds, strict=True)))
    return gpu


def compute(op, into, kinds, columns):
    """op, of 32 operands of each of these kinds, in 32 lanes; as NumPy scalars of kind `into`."""
    words = []
    for kind, column in zip(kinds, columns, strict=True):
        given = np.array(column, kind)
        words.append(given.view(f"u{given.itemsize}").astype("u8"))
    loads = (
        f"add.s64 %rd20, %rd{11 + k}, %rd9; "
        f"ld.global.b{8 * int(kind[1])} {register(kind, 2 + k)}, [%rd20];"
        for k, kind in enumerate(kinds)
    )
    operands = ", ".join(register(kind, 2 + k) for k, kind in enumerate(kinds))
    out = np.zeros(32, "u8")
    run(
        f"{' '.join(loads)}\n{op.format(register(into, 1), operands)}\n"
        f"add.s64 %rd20, %rd10, %rd9; st.global.b{8 * int(into[1])} [%rd20], {register(into, 1)};",
        *(out, *words),
    )
    return out.astype(f"u{into[1]}").view(into)


def register(kind, k):
    """kind: NumPy's, as "f4"."""
    prefix = {"f4": "f", "f8": "fd"}.get(kind, "r" if kind[1] == "4" else "rd")
    return f"%{prefix}{k}"

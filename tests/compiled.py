"""The CUDA kernels compiled for a GPU that is not there: what the linker and the SASS say.

    python tests/compiled.py            the table for sm_80 and sm_90, as Markdown

Nothing is listed by hand: the column's own functions run on a runtime that compiles every kernel
that it is asked for, and launches none. Needs numba-cuda and nvdisasm (the `cuda-compile` extra),
no driver.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
from cases import VARIANTS, make_problem, variant_name

import rnnfast
from rnnfast import cuda, kernels
from rnnfast.cuda import planner
from rnnfast.cuda.runtime import Compiler

GPUS = {  # name: compute capability, multiprocessors, bytes of shared memory for a block at most
    "A100": ((8, 0), 108, 163 * 1024),
    "H100": ((9, 0), 132, 227 * 1024),
}
PRECISIONS = {"float32": "highest", "tf32": "high"}
STEPS = (5, 128)  # N, H, of a kernel a step where the planner is made to take it
SHAPES = ((20, 100), (20, 650), (64, 1024), STEPS)  # of the table

NEEDED = {"numba_cuda": "numba-cuda", "cuda.core": "cuda-core"}

RESOURCES = re.compile(r"Used (\d+) registers")
MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
STATIC = re.compile(r"(\d+) bytes smem")
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
FLOAT64 = re.compile(r"D(ADD|MUL|FMA|SETP|MNMX|MMA)\b|\w+\.(.*\.)?F64\b|MUFU\.\w+64H")


def why_missing():
    """Why nothing can be compiled here, or None."""
    missing = [package for module, package in NEEDED.items() if not _found(module)]
    if nvdisasm() is None:
        missing.append("nvidia-cuda-nvdisasm")
    if missing:
        return f"{', '.join(missing)} not installed: pip install 'rnnfast[cuda-compile]'"
    return None


def _found(module):
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False


def nvdisasm():
    """The path of nvdisasm: of the pip package, else in PATH; or None."""
    for folder in sys.path:
        found = sorted(Path(folder or ".").glob("nvidia/cu*/bin/nvdisasm"))
        if found:
            return str(found[-1])
    return shutil.which("nvdisasm")


@dataclass
class Compiled:
    """One kernel and its figures; shared memory in bytes, `opcodes` counts whole opcodes."""

    name: str
    threads: int
    cooperative: bool
    float64: bool  # it is meant to compute in float64
    registers: int
    stack: int
    spills: int
    static: int
    dynamic: int
    seconds: float
    opcodes: Counter = field(repr=False)
    arithmetic: str = "float32"  # of the products that it is meant to have

    def count(self, *names):
        """Instructions whose opcode is one of these, whatever follows it (LDL.64 is an LDL)."""
        return sum(n for code, n in self.opcodes.items() if code.partition(".")[0] in names)

    @property
    def instructions(self):
        return sum(self.opcodes.values())

    @property
    def float64_instructions(self):
        return sum(n for code, n in self.opcodes.items() if FLOAT64.match(code))

    def violations(self, let_pass=0):
        """The rules that it breaks. let_pass: bytes of spills that are no offence."""
        found = []
        if not 0 < self.spills <= let_pass:
            if self.spills:
                found.append(f"{self.spills} bytes of spills")
            if self.stack:
                found.append(f"a stack frame of {self.stack} bytes")
            if local := self.count("LDL", "STL"):
                found.append(f"{local} accesses to local memory")
        if not self.float64 and self.float64_instructions:
            found.append(f"{self.float64_instructions} float64 instructions")
        products = self.count("HMMA")
        if self.arithmetic == "float32" and products:
            found.append(f"{products} tensor-core instructions in full precision")
        in_tf32 = any(c.startswith("HMMA") and "TF32" in c for c in self.opcodes)
        if self.arithmetic != "float32" and not in_tf32:
            found.append("no tensor-core instruction")
        if self.arithmetic == "3xtf32" and products % 3:
            found.append(f"{products} tensor-core instructions, not three for a product")
        return found


class Probe(Compiler):
    """A runtime for rnnfast.cuda on NumPy arrays that compiles kernels and launches none."""

    xp = np

    def __init__(self, gpu):
        compute_capability, self.multiprocessors, self.shared_memory = GPUS[gpu]
        super().__init__(compute_capability)
        self.name = gpu
        self.compiled = []

    def launcher(self, function, signature, threads, shared, cooperative):
        start = time.perf_counter()
        _, cubin, log = self.compile(function, signature, threads)
        stack, stores, loads = map(int, MEMORY.search(log).groups())
        static = STATIC.search(log)
        kernel = Compiled(
            name=function.__name__,
            threads=threads,
            cooperative=cooperative,
            float64="d" in signature.replace("*", "").split(),
            registers=int(RESOURCES.search(log).group(1)),
            stack=stack,
            spills=stores + loads,
            static=int(static.group(1)) if static else 0,
            dynamic=4 * shared,
            seconds=time.perf_counter() - start,
            opcodes=opcodes(cubin),
        )
        self.compiled.append(kernel)
        return lambda grid, *args: None

    to_device = to_host = staticmethod(lambda x: x)
    shares_memory = staticmethod(np.shares_memory)

    def is_array(self, x):
        return isinstance(x, np.ndarray)

    def matmul(self, a, b, out=None, of_a=None, of_b=None):
        return np.zeros((a.shape[0], b.shape[1]), a.dtype) if out is None else out


def disassembled(cubin):
    """The SASS of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run(
            [nvdisasm(), "-c", file.name], check=True, capture_output=True, text=True
        ).stdout


def opcodes(cubin):
    """How often each opcode is in a cubin's SASS."""
    sass = disassembled(cubin)
    counts = Counter(INSTRUCTION.findall(sass))
    if not counts["EXIT"]:
        raise ValueError(f"no SASS in what nvdisasm printed: {sass[:200]!r}")
    return counts


@cache
def probe(gpu):
    return Probe(gpu)


class Running:
    """The column runs on a probe meanwhile; `kernels` are those that it asked for, after `plan`."""

    def __init__(self, gpu, precision="float32"):
        self.probe, self.precision, self.plan = probe(gpu), precision, None

    def make_plan(self, *arguments):
        self.plan = self.chooser(*arguments)
        return self.plan

    def __enter__(self):
        self.chooser = planner.make_plan
        planner.make_plan = self.make_plan
        self.before = kernels.get_float32_matmul_precision()
        self.start = len(self.probe.compiled)
        cuda.use(self.probe)
        rnnfast.set_float32_matmul_precision(PRECISIONS[self.precision])
        self.ignored = np.errstate(all="ignore")  # nothing is launched, so arrays hold anything
        self.ignored.__enter__()
        return self

    def __exit__(self, *error):
        self.ignored.__exit__(*error)
        rnnfast.set_float32_matmul_precision(self.before)
        cuda.use(None)
        planner.make_plan = self.chooser

    @property
    def kernels(self):
        return self.probe.compiled[self.start :]

    def found(self):
        """The plan and its kernels, which are told what products they are meant to have."""
        for kernel in self.kernels if self.plan.tiles else ():
            kernel.arithmetic = self.plan.arithmetic
        return self.plan, list(self.kernels)


@cache
def compile_cell(gpu, cell, options, N, H, precision="float32", **ways):
    """What forward and backward launch, compiled: of each its plan and its kernels.

    options and ways (mask, lengths): keyword arguments of make_problem, the first as items.
    """
    p = make_problem(cell, (N, 1, 1, H), **dict(options), **ways)
    module = import_module(f"rnnfast.cuda.{cell.name}")
    with Running(gpu, precision) as running:
        *_, cache_ = module.forward(p.xs, p.state, p.params, **p.keywords)
        forward = running.found()
    with Running(gpu, precision) as running:
        module.backward(p.dhs, p.dstate, p.params, cache_, p.poisoned_grads())
        return forward, running.found()


@cache
def compile_ops(gpu):
    """Every kernel of rnnfast.cuda.ops in float32."""
    ops = import_module("rnnfast.cuda.ops")
    x, W, b = (np.zeros(shape, np.float32) for shape in ((3, 4), (4, 5), 5))
    ids = np.zeros(3, np.int64)
    with Running(gpu) as running:
        ops.embedding_forward(ids, W)
        ops.embedding_backward(np.zeros((3, 5), np.float32), ids, W)
        _, spent = ops.affine_softmax_loss_forward(x, W, b, ids)
        ops.affine_softmax_loss_backward(spent, W, b)
        hs, prior = np.zeros((3, 2, 4), np.float32), np.zeros((3, 2), np.float32)
        ops.mixture_softmax(hs, prior, W, b)
        ops.mixture_softmax_loss_forward(hs, prior, W, b, ids)
        ops.sum_of_squares(x)
        ops.scale(x, 0.5)
        arrays = [x.copy() for _ in range(6)]
        ops.clip(arrays, 0.5)
        ops.sgd_of_all(arrays[:3], arrays[3:], 0.1)
        ops.sgd(x, x.copy(), 0.1)
        ops.adam_of_all(*([array] for array in arrays[:4]), 0.1, 0.9, 0.999, 1)
        ops.adam(x, x.copy(), x.copy(), x.copy(), 0.1, 0.9, 0.999)
        ops.dropout_mask((3, 4), 0.5, (1, 2), 3, "float32")
        return list(running.kernels)


def kernel_names():
    """The names of all kernels in the column's sources; each is made inside of a function."""
    folder = Path(cuda.__file__).parent
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py")))
    return set(re.findall(r"^ +def (\w+_kernel)\(", text, re.MULTILINE))


# The table

HEADINGS = ("kernel", "N, H", "plan", "registers", "spills", "local", "shared KB", "SASS")
COUNTED = ("FFMA", "HMMA", "DFMA")


def short(kernel):
    return kernel.name.removesuffix("_kernel")


def row(name, kernel, shape, plan):
    broken = kernel.violations()
    figures = (
        str(kernel.registers),
        str(kernel.spills),
        str(kernel.stack),
        f"{(kernel.static + kernel.dynamic) / 1024:.1f}",
        str(kernel.instructions),
        *(str(kernel.count(opcode)) for opcode in COUNTED),
    )
    columns = (name + (f" **{', '.join(broken)}**" if broken else ""), shape, plan, *figures)
    return "| " + " | ".join(columns) + " |"


def table(gpu):
    """The lines of the table of one GPU."""
    compute_capability, multiprocessors, shared = GPUS[gpu]
    yield f"## sm_{compute_capability[0]}{compute_capability[1]}"
    yield ""
    yield f"Plans for an {gpu}: {multiprocessors} multiprocessors, {shared // 1024} KB."
    yield ""
    yield "| " + " | ".join((*HEADINGS, *COUNTED)) + " |"
    yield "|" + " --- |" * 3 + " ---: |" * (len(HEADINGS) - 3 + len(COUNTED))
    for (cell, options), (N, H), precision in product(VARIANTS, SHAPES, PRECISIONS):
        tf32 = precision == "tf32"
        for plan, of_plan in compile_cell(gpu, cell, tuple(options.items()), N, H, precision):
            if tf32 and not (plan.kind == "grid" and plan.arithmetic == "tf32"):
                continue  # the same kernels as in float32
            for kernel in of_plan:
                name = " ".join((short(kernel), *variant_name(cell, options).split("-")[1:]))
                yield row(name, kernel, f"{N}, {H}", str(plan))
    for kernel in compile_ops(gpu):
        plan = f"{kernel.threads} threads a block"
        yield row(short(kernel), kernel, "any", plan)


def versions():
    names = ("numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvdisasm")
    return ", ".join(f"{name} {version(name)}" for name in names)


def main():
    if reason := why_missing():
        raise SystemExit(reason)
    print("# The CUDA kernels, compiled")
    print()
    print(f"Printed by `python tests/compiled.py`, without a GPU: {versions()}.")
    print(
        "Spills, local memory (the stack frame) in bytes; SASS, FFMA, HMMA, DFMA are instructions."
    )
    print("A kernel that breaks a rule says so in bold beside its name.")
    for gpu in GPUS:
        print()
        for line in table(gpu):
            print(line, flush=True)


if __name__ == "__main__":
    main()

"""Builds what is compiled: Cython modules in src/, those of the CPU column over src/kernels/.

Everything else about the package is in pyproject.toml. The C files choose their instruction sets
and their system themselves, so one build runs on every processor of its architecture.
"""

import glob
import os
import platform
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

COMPILE = [
    "-std=gnu11",
    "-O2",
    "-g0",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",  # ISO modes would keep the compiler from fusing multiply and add
]
# The part of GCC's -O3 that float32 gains from: all of it makes the kernels a quarter larger
MORE = ["-funswitch-loops", "-fpeel-loops", "-fsplit-loops", "-ftree-partial-pre"]
if sys.platform == "linux":
    COMPILE += ["-fno-asynchronous-unwind-tables"]  # of use to no exception, and 70 kB in a wheel
LINK = []
if sanitizers := os.environ.get("RNNFAST_SANITIZE"):  # .ci/sanitize
    COMPILE += ["-O1", "-g", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    LINK += [f"-fsanitize={sanitizers}"]
# Each src/*.pyx is a module of the CPU column but one; the native code is linked into one of them
MODULES = sorted(path.stem for path in Path("src").glob("*.pyx"))
COLUMNS = {"_bound": "cuda"}
NATIVE = {"_runtime": sorted(glob.glob("src/kernels/*.c"))}
# Compiled for their size: modules in which calls of recurrent layers spend little time, and the
# kernels for any processor, where nearly all have kernels of their own
SMALL = {*MODULES} - {"_arguments", "_cell"}
if platform.machine().lower() in ("x86_64", "amd64", "aarch64", "arm64"):
    SMALL |= {"portable_f32", "portable_f64"}
PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
HEADERS = sorted(glob.glob("src/kernels/*.h"))
SHARED = sorted(glob.glob("rnnfast/cpu/*.pxd"))  # what modules offer each other

NO_COMPILER = """
rnnfast is compiled from C, and that failed. It needs GCC 9 or Clang 12, or a newer one, and the
headers of Python:
    Debian, Ubuntu:  apt install gcc python3-dev        Fedora:  dnf install gcc python3-devel
    macOS:           xcode-select --install
    Windows:         pip brings a compiler along, ziglang. CC=clang-cl takes that one, of LLVM or of
                     "C++ Clang tools" of Visual Studio. Microsoft's cl does not compile it.
"""


def extension(name):
    native = NATIVE.get(name, [])
    return Extension(
        f"rnnfast.{COLUMNS.get(name, 'cpu')}.{name}",
        [f"src/{name}.pyx", *native],
        include_dirs=["src", numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        depends=[*HEADERS, *SHARED],
    )


def zig():
    """The Clang of the package ziglang, as CC names it to setuptools.

    It compiles for every processor of an architecture only where it is told for which one.
    """
    try:
        import ziglang
    except ImportError:
        sys.exit(NO_COMPILER)
    processor = "aarch64" if sysconfig.get_platform() == "win-arm64" else "x86_64"
    program = Path(ziglang.__file__).with_name("zig.exe").as_posix()
    known = "-DMS_WIN64"  # Python's headers define it for Microsoft's compiler alone
    return f'"{program}" cc -target {processor}-windows-gnu {known}'


def clang_cl(flag):
    return f"/clang:{flag}"


def flags_of(source, gcc):
    """For the compiler, of one file."""
    name = Path(source).stem
    if sanitizers:
        return []
    return ["-Os"] if name in SMALL else MORE if gcc and name.endswith("_f32") else []


def is_gcc(compiler):
    """Whether setuptools' compiler is GCC, whatever its name: on macOS even gcc is Clang."""
    command = [*compiler.compiler_so, "--version"]
    try:
        version = subprocess.run(command, capture_output=True, encoding="utf-8", check=False).stdout
    except OSError:  # there is none, as compiling will say
        return False
    return "Free Software Foundation" in version


def flags(kind, gcc):
    """For the compiler and for the linker, of a compiler of this kind, as setuptools calls it."""
    if kind == "msvc":  # clang-cl, see use_clang_cl
        return [*map(clang_cl, COMPILE)], LINK
    if kind == "mingw32" and gcc:
        # On Windows GCC does not align its stack for vectors of 32 bytes; Clang does.
        alone = ["-static-libgcc", "-Wl,-Bstatic", "-lwinpthread", "-Wl,-Bdynamic"]  # no more DLLs
        return [*COMPILE, "-Wa,-muse-unaligned-vector-move"], [*LINK, *alone]
    if kind == "mingw32":
        return COMPILE, LINK
    return [*COMPILE, "-pthread"], [*LINK, "-pthread", "-lm"]


def use_clang_cl(compiler):
    """Let setuptools' compiler of Visual Studio call clang-cl, whose arguments are those of cl."""
    clang = os.environ.get("CC", "")
    if "clang-cl" not in os.path.basename(clang):
        sys.exit(NO_COMPILER)
    compiler.initialize()
    compiler.cc = clang


class BuildKernels(build_ext):
    """build_ext that compiles files at the same time, with a plain message where it fails."""

    def run(self):
        if sys.platform == "win32" and not self.compiler:
            cc = os.environ["CC"] = os.environ.get("CC") or zig()
            name = os.path.basename(cc).lower().removesuffix(".exe")
            if name not in ("cl", "clang-cl"):  # those of Visual Studio
                self.compiler = "mingw32"
        super().run()

    def get_export_symbols(self, ext):
        return []  # Cython exports what Python needs

    def build_extensions(self):
        kind = self.compiler.compiler_type
        if kind == "msvc":
            use_clang_cl(self.compiler)
        gcc = kind != "msvc" and is_gcc(self.compiler)
        for module in self.extensions:
            module.extra_compile_args, module.extra_link_args = flags(kind, gcc)
        compile_in_turn = self.compiler.compile
        self.parallel = self.parallel or PROCESSORS
        # setuptools alone would compile the files of one module in turn
        with ThreadPoolExecutor(self.parallel) as pool:

            def compile_one(source, options):
                own = flags_of(source, gcc)
                if kind == "msvc":
                    own = [*map(clang_cl, own)]
                return compile_in_turn(
                    [source], **options | {"extra_postargs": [*options["extra_postargs"], *own]}
                )

            def compile_at_once(sources, **options):
                objects = pool.map(lambda source: compile_one(source, options), sources)
                return list(chain.from_iterable(objects))

            self.compiler.compile = compile_at_once
            try:
                super().build_extensions()
            except Exception as error:
                sys.exit(f"{error}\n{NO_COMPILER}")


setup(
    ext_modules=cythonize(
        [extension(name) for name in MODULES],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "freethreading_compatible": True,  # caches are taken by one thread at a time
        },
        build_dir="build/cython",
    ),
    cmdclass={"build_ext": BuildKernels},
)

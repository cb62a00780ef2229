"""Files for a GPU machine where nothing can be installed and time is short.

`prepare` needs no GPU. It compiles all kernels that the suites need on an H100 into .carry/kernels,
which is a cache folder of rnnfast. It packs them and rnnfast's compiled modules into one archive
and copies Penn Treebank into .carry. On the GPU machine, `unpack` puts the files of the archive
into place. A kernel is compiled again only after a change of the column's sources.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from benchmarks.cuda import runner
from benchmarks.cuda.runner import ROOT, Suite

FOLDER = ROOT / ".carry"  # git ignores it
KERNELS, MODULES, PTB = (FOLDER / name for name in ("kernels", "modules", "ptb"))
ARCHIVE = FOLDER / "compiled.tar.xz"
SUITES = ("smoke", "cells", "language", "sweep", "column")  # "sanitized" has the kernels of "smoke"
TEXTS = tuple(f"ptb.{part}.txt" for part in ("train", "valid", "test"))
HOURS = 3600.0


def prepare(suites, dry):
    """Fills .carry. The environment variable PTB names the folder with the texts."""
    from rnnfast.cuda.kept import sources, toolchain

    made_of = KERNELS / "sources"
    if not made_of.exists() or made_of.read_text() != sources():
        shutil.rmtree(KERNELS, ignore_errors=True)
    KERNELS.mkdir(parents=True, exist_ok=True)
    made_of.write_text(sources())
    (KERNELS / "toolchain").write_text(toolchain())
    environment = os.environ | {"RNNFAST_CACHE": str(KERNELS), "RNNFAST_NUM_THREADS": "1"}
    for name in suites:
        before = count()
        with open(FOLDER / f"{name}.log", "w", encoding="utf-8") as log:
            suite = Suite(name, each=HOURS, total=10 * HOURS, startup=HOURS, log=log, dry=dry)
            suite.workers, suite.on = os.cpu_count(), "benchmarks.cuda.record"
            suite.environment = environment
            result = runner.run(suite, FOLDER / f"{name}.json")
        items = len(result["items"])
        if not items:
            raise SystemExit(f"{name}: nothing was asked for: {result.get('problem')}")
        new = f"{count() - before} new kernels, {count()} in all"
        print(f"{name}: {items} items, {new}, {result['seconds']} s", flush=True)
    if texts := os.environ.get("PTB"):
        PTB.mkdir(exist_ok=True)
        for text in TEXTS:
            shutil.copy(Path(texts) / text, PTB)
    pack()


def count(folder=KERNELS):
    """The number of compiled kernels in a folder."""
    return len(list(Path(folder).glob("*.cubin")))


def pack():
    """Writes kernels and compiled modules into the archive."""
    part = ARCHIVE.with_suffix(".part")
    with tarfile.open(part, "w:xz") as tar:
        for path in sorted(KERNELS.iterdir()):
            tar.add(path, f"{KERNELS.name}/{path.name}")
        for path in sorted((ROOT / "rnnfast").glob("*/*.so")):
            tar.add(path, f"{MODULES.name}/{path.parent.name}/{path.name}")
    os.replace(part, ARCHIVE)
    print(f"{ARCHIVE.relative_to(ROOT)}: {ARCHIVE.stat().st_size / 2**20:.1f} MB")


def unpack():
    """Unpacks the archive, if there is one."""
    if ARCHIVE.exists():
        with tarfile.open(ARCHIVE) as tar:
            tar.extractall(FOLDER, filter="data")


def build(say, environment, seconds):
    """Makes `import rnnfast` work: without changes, with the carried modules, or by compiling."""

    def works():
        words = [sys.executable, "-c", "import rnnfast, rnnfast.cuda._bound"]
        return not subprocess.run(words, cwd=ROOT, env=environment, capture_output=True).returncode

    if works():
        return say("rnnfast: already built")
    for path in MODULES.glob("*/*.so"):
        shutil.copy(path, ROOT / "rnnfast" / path.parent.name)
    if works():
        return say("rnnfast: the carried modules work here")
    words = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "-j", str(os.cpu_count())]
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds
    )
    if not works():
        raise SystemExit(f"rnnfast cannot be built: {(done.stderr or done.stdout).strip()[-800:]}")
    return say("rnnfast: built here")

"""The stages of benchmarks/gpu.sh: their suites, time limits and reports.

This module needs only Python, because rnnfast may have to be built first. All work on the GPU is
done in worker processes, which may hang (runner.py). Each suite writes its results into
$OUT/SUITE.json while it runs. stage-N.json has a summary, stage-N.log has the output. --archive
names a file that has all of $OUT after each suite, for a machine that returns few files.
"""

import argparse
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.cuda import carry, runner
from benchmarks.cuda.runner import ROOT, Suite

BUDGET = {"1": 150, "2": 200, "3": 200}  # seconds
LAST = 6  # seconds for the tables
STARTUP = 40  # seconds until a worker has imported everything and has a CUDA context
TOOLS = ("memcheck", "racecheck")
CLEAN = re.compile(r"COMPUTE-SANITIZER|SUMMARY: 0 |^=+\s*$")


def environment():
    """The environment variables of the workers."""
    found = dict(os.environ)
    found |= {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    found["NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS"] = "0"
    found.setdefault("RNNFAST_CACHE", str(carry.KERNELS))
    if carry.PTB.exists():
        found.setdefault("PTB", str(carry.PTB))
    if home := toolkit():
        found |= {"CUDA_HOME": home, "CUDA_PATH": home}
        found["PATH"] = os.pathsep.join((found.get("PATH", os.defpath), f"{home}/bin"))
    return found


def toolkit():
    """The folder of a CUDA toolkit with NVVM, for CUDA_HOME, where Numba looks; or None."""
    places = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places += sorted(glob.glob("/usr/local/cuda*"), key=len)
    return next((p for p in places if p and Path(p, "nvvm", "libdevice").is_dir()), None)


def sanitizer(path):
    """The path of compute-sanitizer, from PATH or from its pip package; or None."""
    packages = [p for folder in sys.path for p in Path(folder or ".").glob("nvidia/cu*/bin")]
    return shutil.which("compute-sanitizer", path=os.pathsep.join((path, *map(str, packages))))


class Stage:
    """One stage: its clock, its log, its suites."""

    def __init__(self, name, out, begin, budget, dry, on, archive=None):
        self.begin, self.name, self.out, self.archive = begin, name, out, archive
        self.budget, self.scale = budget, budget / BUDGET[name]
        self.dry, self.on, self.results = dry, on, {}
        self.environment = environment()
        self.kernels = self.count()
        self.log = open(out / f"stage-{name}.log", "w", encoding="utf-8")  # noqa: SIM115

    @property
    def seconds(self):
        return time.monotonic() - self.begin

    def say(self, text):
        line = f"[{self.seconds:3.0f} s] {text}"
        print(line, flush=True)
        print(line, file=self.log, flush=True)

    def run(self, suite, seconds=None, each=10, workers=1, out=None, prefix=(), **variables):
        """Runs a suite; limits: `seconds` (None: all time that is left), `each` for an item."""
        left = self.budget - LAST - self.seconds
        total = left if seconds is None else min(left, seconds * self.scale)
        name, threads = out or suite, max(1, (os.cpu_count() or 1) // workers)
        result = runner.run(
            Suite(
                suite,
                each=each * self.scale,
                total=max(total, 1),
                workers=1 if self.dry else workers,
                startup=STARTUP * self.scale,
                dry=self.dry,
                on=self.on,
                prefix=prefix,
                log=self.log,
                environment=self.environment | {"RNNFAST_NUM_THREADS": str(threads)} | variables,
            ),
            self.out / f"{name}.json",
        )
        self.results[name] = result
        for line in runner.summary(result | {"suite": name}):
            self.say(line)
        self.pack()
        return result

    def pack(self):
        """Writes all results so far into the archive, if there is to be one."""
        if self.archive is None:
            return
        part = f"{self.archive}.part{threading.get_ident()}"  # two suites may end at once
        with tarfile.open(part, "w:xz") as tar:
            for path in sorted(self.out.iterdir()):
                if path.suffix in (".json", ".log"):
                    tar.add(path, path.name)
        os.replace(part, self.archive)

    def sanitize(self, tool):
        """Runs the cases of benchmarks/sanitize.py under a tool of compute-sanitizer."""
        found = sanitizer(self.environment["PATH"])
        with tempfile.TemporaryDirectory() as folder:
            logs = f"{folder}/%p.log"
            prefix = (found, "--tool", tool, "--print-limit", "20", "--log-file", logs)
            result = self.run("sanitized", None, 40, 4, tool, prefix if found else ())
            logs = sorted(Path(folder).glob("*.log"))
            said = [line for log in logs for line in log.read_text(errors="replace").splitlines()]
        result["findings"] = [line for line in said if not CLEAN.search(line)][:200]
        result["summaries"] = sum("SUMMARY" in line for line in said)
        if not found:
            result["problem"] = "compute-sanitizer was not found"
        elif result["findings"] or not result["summaries"]:
            what = result["findings"][0] if result["findings"] else "it said nothing"
            result["problem"] = f"{tool}: {what}"
        runner.write_json(self.out / f"{tool}.json", result)
        self.say(result.get("problem", f"{tool}: nothing found"))

    def report(self):
        """Prints the tables of all results so far."""
        words = [sys.executable, "-m", "benchmarks.cuda.report", str(self.out)]
        done = subprocess.run(
            words, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=60
        )
        self.say(f"tables\n{done.stdout or done.stderr}")

    def count(self):
        """The number of compiled kernels."""
        return carry.count(self.environment["RNNFAST_CACHE"])

    def end(self):
        passed = all(map(runner.passed, self.results.values()))
        suites = {name: list(runner.summary(r))[-1] for name, r in self.results.items()}
        compiled = self.count() - self.kernels
        about = {"passed": passed, "seconds": round(self.seconds, 1), "dry": self.dry}
        about |= {"kernels_compiled_here": compiled, "suites": suites}
        runner.write_json(self.out / f"stage-{self.name}.json", about)
        self.say(f"{compiled} kernels were compiled here")
        self.say("all passed" if passed else "NOT ALL PASSED")
        self.log.close()
        return passed


def why_missing():
    """The reason why nothing can be measured here, on one line, or None."""
    words = [sys.executable, "-m", "benchmarks.cuda.machine"]
    try:
        done = subprocess.run(
            words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=2 * STARTUP
        )
    except subprocess.TimeoutExpired:
        return "no GPU: it does not answer"
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


def stage_1(stage):
    found = stage.run("versions", 25, each=20)["items"]
    if "result" not in found.get("carried", {}):
        stage.say("carried kernels do not load here; all are compiled here")
        stage.environment["RNNFAST_CACHE"], stage.kernels = tempfile.mkdtemp(), 0
    stage.run("smoke", 45, each=10, workers=6)
    stage.run("micro", 30, each=6)
    stage.run("cells", each=10)
    stage.report()


def stage_2(stage):
    stage.run("column", 110, each=20, workers=os.cpu_count() or 8)
    with ThreadPoolExecutor() as pool:
        list(pool.map(stage.sanitize, TOOLS))


def stage_3(stage):
    stage.run("language", 90, each=40)
    stage.run("sweep", each=8)
    stage.report()


STAGES = {"1": stage_1, "2": stage_2, "3": stage_3}


def main():
    parser = argparse.ArgumentParser("benchmarks/gpu.sh", description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=[*STAGES, "prepare"])
    parser.add_argument("suites", nargs="*", help=f"to prepare ({' '.join(carry.SUITES)})")
    parser.add_argument("--budget", type=float, help=f"seconds of the stage ({BUDGET})")
    parser.add_argument("--archive", metavar="FILE", type=Path, help="all results in one .tar.xz")
    parser.add_argument("--dry", action="store_true", help="few and small cases")
    parser.add_argument("--on", metavar="MODULE", help="its install() replaces the GPU")
    options = parser.parse_intermixed_args()
    if unknown := set(options.suites) - set(carry.SUITES if options.stage == "prepare" else ()):
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(carry.SUITES)}")
    if options.stage == "prepare":
        return carry.prepare(options.suites or carry.SUITES, options.dry)
    signal.signal(signal.SIGTERM, runner.end)
    begin = time.monotonic()
    carry.unpack()
    carry.build(print, environment(), seconds=90)
    if not options.on and (reason := why_missing()):
        print(reason, file=sys.stderr)
        return 1
    out = Path(os.environ.get("OUT") or ROOT / "benchmarks" / "results" / "gpu").resolve()
    out.mkdir(parents=True, exist_ok=True)
    name = options.stage
    if options.archive:
        options.archive.parent.mkdir(parents=True, exist_ok=True)
    budget = options.budget or BUDGET[name]
    stage = Stage(name, out, begin, budget, options.dry, options.on, options.archive)
    try:
        STAGES[name](stage)
        return 0 if stage.end() else 1
    finally:
        stage.pack()  # also if the stage is stopped


if __name__ == "__main__":
    raise SystemExit(main())

"""Runs the items of a suite in worker processes, with a time limit for each item.

    python -m benchmarks.cuda.runner SUITE --out FILE.json [--each 10] [--total 60] [--workers 1]
                                     [--dry] [NAME ...]

A worker (worker.py) runs items one after the other. If an item hangs, crashes or breaks the CUDA
context, this costs no more than the item's time limit; a new worker continues with the next item.
FILE.json is written again and again, so that the results remain if the run is stopped:

    {"suite": ..., "seconds": ..., "items": {name: {"seconds": ..., "result": ...}}}

If the suite has a `begin`, "begun" has its seconds in each process, and what failed there; it is
part of the process's start. Instead of "result" there can be "wrong" (an AssertionError), "failed"
(another error, or the item hung, or its process died) or "skipped". With NAMEs, only items run
whose name contains one of them.
This module needs only Python; the workers need the GPU.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STARTUP = 60  # seconds of a worker's imports and CUDA context; as many of the suite's `begin`
WRITTEN = 1.0  # seconds between two writings of the results
BAD = ("wrong", "failed", "skipped")


@dataclass
class Suite:
    """A suite and how to run it. prefix: words before a worker's command, as for a debugger."""

    name: str
    each: float = 10
    total: float = 60
    workers: int = 1
    startup: float = STARTUP
    dry: bool = False
    on: str | None = None
    prefix: tuple = ()
    log: object = None  # a file for the output of the workers
    environment: dict = field(default_factory=lambda: dict(os.environ))

    def command(self, *files):
        words = [*self.prefix, sys.executable, "-m", "benchmarks.cuda.worker", self.name, *files]
        return words + ["--dry"] * self.dry + (["--on", self.on] if self.on else [])

    def names(self):
        """The names of its items. Raises RuntimeError if the suite cannot list them."""
        words = self.command()[len(self.prefix) :]
        said = subprocess.run(
            words,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=2 * self.startup,
        )
        if said.returncode:
            raise RuntimeError(f"{self.name} has no items: {said.stderr.strip()[-600:]}")
        return json.loads(said.stdout.splitlines()[-1])


class Worker:
    """Some of the items and the process that runs them."""

    def __init__(self, suite, names, folder):
        self.suite, self.names, self.folder = suite, list(names), folder
        self.rows, self.fruitless, self.begun = {}, 0, []
        self.begin()

    def begin(self):
        self.fruitless += 1
        handle, self.progress = tempfile.mkstemp(dir=self.folder)
        os.close(handle)
        todo = Path(f"{self.progress}.names")
        todo.write_text(json.dumps(self.names))
        self.running, self.size, self.told = None, 0, time.monotonic()
        self.beginning = False
        self.process = subprocess.Popen(
            self.suite.command(str(todo), self.progress),
            cwd=ROOT,
            env=self.suite.environment,
            stdin=subprocess.DEVNULL,
            stdout=self.suite.log,
            stderr=self.suite.log,
            # So that its children can be killed, too. Not a new session: it must end with us.
            process_group=0,
        )

    def look(self, over):
        """Continues; returns False at the end. over: the time for the whole suite has passed."""
        self.read()
        ended = self.process.poll() is not None
        patience = self.suite.each if self.running else self.suite.startup
        late = time.monotonic() - self.told > patience
        if not (ended or late or over):
            return True
        self.end()
        why = f"hung: killed after {patience:g} s" if late else "killed: no time was left"
        if ended:
            why = f"its process died with {self.process.returncode}"
        if self.running:
            self.take(self.running, {"failed": why})
        elif self.beginning:
            self.begun.append({"failed": why})
        if over or not self.names:
            return False
        if self.fruitless > 1:
            for name in list(self.names):
                self.take(name, {"failed": "the worker does not start; see the log"})
            return False
        self.begin()
        return True

    def end(self):
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        self.read()

    def read(self):
        """Reads what the process has written since the last call."""
        with open(self.progress, "rb") as file:
            file.seek(self.size)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.size += len(whole)
        for line in whole.splitlines():
            self.told = time.monotonic()
            row = json.loads(line)
            if "begin" in row:
                self.beginning = True
            elif "begun" in row:
                self.beginning = False
                self.begun.append(row)
            elif "start" in row:
                self.running = row["start"]
            else:
                self.take(row.pop("end"), row)

    def take(self, name, row):
        self.rows[name] = row
        self.running, self.fruitless = None, 0
        if name in self.names:
            self.names.remove(name)


def run(suite, out, words=()):
    """Runs a Suite, writes the results into the file `out` and returns them."""
    begin = time.monotonic()
    names, problem = [], None
    try:
        names = [n for n in suite.names() if not words or any(word in n for word in words)]
    except (RuntimeError, ValueError, OSError, subprocess.SubprocessError) as error:
        problem = str(error)
    result = {"suite": suite.name, "seconds": 0, "items": {}}
    if problem:
        result["problem"] = problem

    def write(over):
        rows = {name: row for worker in every for name, row in worker.rows.items()}
        if over:
            rows = {name: rows.get(name, {"skipped": "no time was left"}) for name in names}
        result["items"] = rows
        if begun := [row for worker in every for row in worker.begun]:
            result["begun"] = begun
        result["seconds"] = round(time.monotonic() - begin, 1)
        write_json(out, result)

    with tempfile.TemporaryDirectory() as folder:
        shares = [names[i :: suite.workers] for i in range(suite.workers)]
        every = [Worker(suite, share, folder) for share in shares if share]
        busy, written = every, begin
        try:
            while busy:
                time.sleep(0.02)
                over = time.monotonic() - begin > suite.total
                busy = [worker for worker in busy if worker.look(over)]
                if time.monotonic() - written > WRITTEN:
                    written = time.monotonic()
                    write(over=False)
        finally:
            for worker in every:
                worker.end()
        write(over=True)
    return result


def write_json(path, value):
    """Writes a JSON file; if this fails, the old file remains."""
    temporary = f"{path}.part"
    Path(temporary).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def summary(result):
    """Lines about bad items; the last line has the numbers of good and bad ones."""
    count = dict.fromkeys(BAD, 0)
    for name, row in result["items"].items():
        for kind in set(BAD) & set(row):
            count[kind] += 1
            if kind != "skipped":
                yield f"{name}: {kind.upper()} {row[kind]}"[:300]
    for row in result.get("begun", ()):
        if "failed" in row:
            yield f"its beginning: FAILED {row['failed']}"[:300]
    if "problem" in result:
        yield result["problem"]
    good = len(result["items"]) - sum(count.values())
    bad = "".join(f", {number} {kind}" for kind, number in count.items() if number)
    yield f"{result['suite']}: {good} good{bad}, {result['seconds']} s"


def passed(result):
    """Whether there are items and all of them are good."""
    rows = result["items"].values()
    return bool(rows) and "problem" not in result and not any(set(BAD) & set(r) for r in rows)


def end(*_):
    """For SIGTERM: exits in a way that also ends the workers."""
    raise SystemExit(143)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite")
    parser.add_argument("words", nargs="*", metavar="NAME", help="parts of items' names (all)")
    parser.add_argument("--out", required=True, help="JSON to write")
    parser.add_argument("--each", type=float, default=10, help="seconds of an item")
    parser.add_argument("--total", type=float, default=60, help="seconds of all")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="few and small cases")
    parser.add_argument("--on", metavar="MODULE", help="its install() replaces the GPU")
    options = vars(parser.parse_intermixed_args())
    signal.signal(signal.SIGTERM, end)
    name, out, words = (options.pop(key) for key in ("suite", "out", "words"))
    result = run(Suite(name, **options), out, words)
    print("\n".join(summary(result)))
    raise SystemExit(0 if passed(result) else 1)


if __name__ == "__main__":
    main()

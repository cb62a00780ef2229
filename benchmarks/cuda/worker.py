"""Runs items of a suite one after the other, in a process that may hang or die.

    python -m benchmarks.cuda.worker SUITE                    prints the names of its items
    python -m benchmarks.cuda.worker SUITE NAMES PROGRESS     runs those in NAMES, a JSON list

A suite is a module of this folder with `items(dry)`: {name: function}. A function returns an object
for JSON. If its results are wrong, it raises AssertionError or returns a dictionary with the key
"wrong". A suite whose items are no functions has `names(dry)` and `run(names, dry, progress)`
instead. A suite may have `begin(dry)`, for what only the first item would pay for, such as the
import of PyTorch; an error there does not stop the items. Before and after it, and before and after
each item, one line of JSON is written into the file PROGRESS, which runner.py reads.
"""

import argparse
import importlib
import json
import sys
import time
import traceback

LENGTH = 800  # characters of a message, at most


class Progress:
    """Writes the progress of a worker, one line of JSON at a time."""

    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115, open as long as the process

    def tell(self, **row):
        self.file.write(json.dumps(row, default=str) + "\n")
        self.file.flush()

    def begin(self, begin, dry):
        """Calls what a suite does before its first item."""
        self.tell(begin=True)
        start, failed = time.perf_counter(), {}
        try:
            begin(dry)
        except Exception as error:
            traceback.print_exc()
            failed = {"failed": f"{type(error).__name__}: {error}"[:LENGTH]}
        self.tell(begun=round(time.perf_counter() - start, 3), **failed)

    def start(self, name):
        self.tell(start=name)

    def end(self, name, seconds, **row):
        self.tell(end=name, seconds=round(seconds, 3), **row)


def run_items(items, names, progress):
    """Runs functions; stops after a failure that has broken the CUDA context."""
    for name in names:
        progress.start(name)
        begin = time.perf_counter()
        try:
            result = items[name]()
            wrong = result.pop("wrong", None) if isinstance(result, dict) else None
            row = {"result": result} | ({"wrong": wrong[:LENGTH]} if wrong else {})
        except AssertionError as error:
            row = {"wrong": str(error)[:LENGTH]}
        except Exception as error:
            traceback.print_exc()
            row = {"failed": f"{type(error).__name__}: {error}"[:LENGTH]}
        progress.end(name, time.perf_counter() - begin, **row)
        if "failed" in row and is_broken():
            raise SystemExit("the CUDA context is broken; a fresh process goes on")


def is_broken():
    """Whether CUDA no longer works in this process, as after an illegal access of a kernel."""
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return False
    try:
        cupy.cuda.runtime.deviceSynchronize()
    except Exception:
        return True
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite")
    parser.add_argument("names", nargs="?", help="file with a JSON list")
    parser.add_argument("progress", nargs="?", help="file to add lines to")
    parser.add_argument("--dry", action="store_true", help="few and small cases")
    parser.add_argument("--on", metavar="MODULE", help="its install() replaces the GPU")
    options = parser.parse_args()
    if options.on:
        importlib.import_module(options.on).install()
    suite = importlib.import_module(f"benchmarks.cuda.{options.suite}")
    if options.names is None:
        names = suite.names if hasattr(suite, "names") else suite.items
        print(json.dumps(list(names(options.dry))))
        return
    with open(options.names, encoding="utf-8") as file:
        names = json.load(file)
    progress = Progress(options.progress)
    if hasattr(suite, "begin"):
        progress.begin(suite.begin, options.dry)
    if hasattr(suite, "run"):
        suite.run(names, options.dry, progress)
    else:
        run_items(suite.items(options.dry), names, progress)


if __name__ == "__main__":
    main()

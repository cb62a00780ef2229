"""The tests of the cuda column. A test that hangs or breaks CUDA does not stop the others.

A worker runs its tests in one pytest session, without third-party plugins. If a test breaks the
CUDA context, the worker stops, and the runner starts another worker for the rest. A test file that
cannot be imported is an item, too, and counts as wrong.
"""

import sys

import pytest

from benchmarks.cuda import worker
from benchmarks.cuda.worker import LENGTH

WORDS = ("-q", "-W", "default", "--tb=short", "--continue-on-collection-errors")
WORDS += ("-m", "not large")  # also those that pytest leaves out by default: a GPU is fast
NO_PLUGINS = ("cacheprovider", "benchmark", "xdist", "timeout")  # whether installed or not
OF_COLUMN = "test_gpu.py", "test_cuda_host.py", "test_step.py"


def is_of_column(nodeid):
    """Whether a test needs the GPU, by its file or its parameters."""
    file, _, test = nodeid.partition("::")
    return "cuda" in test or file.rpartition("/")[2] in OF_COLUMN


def call_pytest(plugin, *words):
    blocked = [word for name in NO_PLUGINS for word in ("-p", f"no:{name}")]
    return pytest.main([*WORDS, *blocked, *words], plugins=[plugin])


class Names:
    """A pytest plugin that lists the tests."""

    def __init__(self):
        self.found = []

    def pytest_collectreport(self, report):
        if report.failed:
            self.found.append(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        self.found += [item.nodeid for item in items if is_of_column(item.nodeid)]


class Share:
    """A pytest plugin that runs some of the tests and writes the progress."""

    def __init__(self, names, progress):
        self.names, self.progress = names, progress

    def pytest_collectreport(self, report):
        if report.failed:
            self.progress.start(report.nodeid)
            self.progress.end(report.nodeid, 0, wrong=report.longreprtext[-LENGTH:])

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        wanted = {name: i for i, name in enumerate(self.names)}
        items[:] = [item for item in items if item.nodeid in wanted]
        items.sort(key=lambda item: wanted[item.nodeid])

    def pytest_runtest_logstart(self, nodeid):
        self.progress.start(nodeid)
        self.seconds, self.row = 0, {}

    def pytest_runtest_logreport(self, report):
        self.seconds += report.duration
        if report.failed:
            self.row["wrong"] = f"{report.when}: {report.longreprtext}"[-LENGTH:]
        elif report.skipped:
            self.row["result"] = f"skipped: {report.longrepr[-1]}"[:LENGTH]

    def pytest_runtest_logfinish(self, nodeid):
        self.progress.end(nodeid, self.seconds, **self.row)
        if "wrong" in self.row and worker.is_broken():
            pytest.exit("the CUDA context is broken; a fresh process goes on")


def names(dry):
    plugin = Names()
    code = call_pytest(plugin, "tests", "--collect-only", "-qq")
    if not plugin.found:
        raise SystemExit(f"there are no tests of the column: pytest ends with {int(code)}")
    step = -(-len(plugin.found) // 30) if dry else 1
    sys.stdout.flush()
    return plugin.found[::step]


def run(names, dry, progress):
    files = sorted({name.partition("::")[0] for name in names})
    call_pytest(Share(names, progress), *files)

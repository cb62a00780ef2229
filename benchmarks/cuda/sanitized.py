"""The cases of benchmarks/sanitize.py for a run under compute-sanitizer; see stages.py."""

import sys
from functools import partial

from benchmarks import sanitize
from benchmarks.cuda.smoke import small


def watched(run):
    """Runs a case without a memory pool, so that accesses beyond an array are found."""
    if cupy := sys.modules.get("cupy"):
        cupy.cuda.set_allocator(None)
    return small(run)


def items(dry):
    from rnnfast import cuda

    cuda.what_runs()
    found = {name: partial(watched, run) for name, run in sanitize.cases().items()}
    return dict(list(found.items())[:: len(found) // 3]) if dry else found

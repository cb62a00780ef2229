"""One training iteration of the language models of chapter 6 on the GPU: V 10,000, N 20, T 35.

As benchmarks/test_models.py: before a race the contenders take two steps without dropout, after
which losses and weights have to agree with the book's code in NumPy.
"""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import model_contenders
from benchmarks.cuda.contenders import PEER_TOLERANCES, TOLERANCES, why_not
from benchmarks.cuda.measure import Measured, admit, go, row, wanted
from benchmarks.cuda.models import CONTENDERS
from benchmarks.model_contenders import CHECKED_LR, JOBS
from benchmarks.replay import replay


def expected_of(job):
    """Losses and weights of two steps of the book's code, in NumPy."""
    book = model_contenders.Book(job)
    losses = [float(book.step()), float(book.step())]
    return losses, [p.copy() for p in book.params()]


def check(contender, losses, params):
    """AssertionError unless two steps of a contender give these losses and weights."""
    got = [float(loss) for loss in take_two_steps(contender)]
    (of_losses, _), (of_weights, _) = (
        t[contender.precision] for t in (TOLERANCES, PEER_TOLERANCES)
    )
    assert np.allclose(got, losses, rtol=of_losses), f"losses {got}, not {losses}"
    for i, (value, ref) in enumerate(zip(contender.params(), params, strict=True)):
        error = np.linalg.norm(value - ref) / np.linalg.norm(ref)
        assert error <= of_weights, f"weight {i} is off by {error:.2g}"


def take_two_steps(contender):
    for _ in range(2):
        contender.run()
        yield contender.loss


@pytest.fixture(scope="module", params=JOBS, ids=lambda job: job.model)
def measured(request, gpu, clock, in_time):
    in_time()
    job, config = request.param, request.config
    checked = replace(job, dropout=0.0, lr=CHECKED_LR)
    losses, params = expected_of(checked)
    measured = Measured(job)
    ours = [name for name, contender in CONTENDERS.items() if contender.ours]
    for name, why in wanted(CONTENDERS, ours, config).items():
        contender = CONTENDERS[name]

        def gate(made, contender=contender):
            check(contender(checked, gpu), losses, params)

        why = why or why_not(contender, gpu)
        admit(measured, name, contender, why, lambda c=contender: c(job, gpu), gate)
    go(measured, clock, config)
    return measured


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.benchmark(timer=replay)
def test_iteration(measured, name, about, benchmark):
    job, found = measured.what, row(measured, name)
    benchmark.group = f"{job.model}, one training iteration"
    if found is None:
        benchmark(lambda: None)
        return
    replay.play(benchmark, measured.result.times[name])
    benchmark.extra_info |= {"model": job.model, "width": job.H, **found, **about}

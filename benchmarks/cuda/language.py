"""The book's language models on the GPU: one iteration, and one epoch compared with PyTorch.

An iteration is one of Rnnlm or BetterRnnlm (V 10,000, N 20, T 35). Before it is timed, a contender
must give the losses and weights of the book's code in three iterations without dropout. The epoch
is one of BetterRnnlm on Penn Treebank with the book's settings (two layers of 650, dropout 0.5, SGD
with 20, clipping at 0.25). All contenders start from the same weights. $PTB is the folder with
ptb.train.txt and ptb.valid.txt.
"""

import math
import os
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks import model_contenders
from benchmarks.cuda import machine, models
from benchmarks.cuda.contenders import PEER_TOLERANCES, RIVALS, our_tolerance, why_not
from benchmarks.cuda.race import race
from benchmarks.model_contenders import CHECKED_LR, JOBS, Job
from rnnfast import data
from rnnfast.trainer import eval_perplexity

EPOCH = Job("BetterRnnlm", 650, 0.5, lr=20.0)
IN_EPOCH = ("rnnfast", "cudnn", "cudnn-graph", "rnnfast-tf32", "cudnn-tf32", "cudnn-graph-tf32")
BOOKS_EPOCHS = 40
CHECKED = 3  # iterations; rnnfast's third one is a launch of a CUDA graph
WARM = 20  # iterations before the timed ones
DRY = {"V": 50, "N": 2, "T": 3}  # instead of the book's sizes
DRY_WIDTH, DRY_WARM = 5, 1
TINY_WIDTH = 8  # of the iterations before the first item


def check(contender, H, losses, params):
    """Raises AssertionError if the steps of a contender do not give these losses and weights."""
    got = []
    for _ in losses:
        contender.run()
        got.append(float(contender.loss))
    of_losses = our_tolerance(contender.precision, model_contenders.N, model_contenders.T, H, H)
    of_weights = PEER_TOLERANCES[contender.precision]
    assert np.allclose(got, losses, rtol=of_losses), f"losses {got}, not {losses}"
    for i, (value, ref) in enumerate(zip(contender.params(), params, strict=True)):
        error = np.linalg.norm(value - ref) / np.linalg.norm(ref)
        assert error <= of_weights, f"weight {i} is off by {error:.2g}"


def iteration(job, rounds):
    """ms of an iteration for all contenders, timed in turns."""
    gpu, clock = machine.this_gpu(), machine.Events()
    checked = replace(job, dropout=0.0, lr=CHECKED_LR)
    book = model_contenders.Book(checked)
    losses = [float(book.step()) for _ in range(CHECKED)]
    params, made, out, wrong = [p.copy() for p in book.params()], {}, {}, []
    for name, contender in models.CONTENDERS.items():
        if reason := why_not(contender, gpu):
            out[name] = reason
            continue
        try:
            first = contender(checked, gpu)
            first.prepare()
            check(first, job.H, losses, params)
            made[name] = contender(job, gpu)
        except AssertionError as error:
            wrong.append(f"{name}: {error}")
        except RuntimeError as error:
            if contender.ours:
                raise
            out[name] = f"{error}"  # PyTorch cannot capture it
    result, found = race(made, clock, rounds), {}
    for name, contender in made.items():
        found[name] = {
            "label": contender.label,
            "precision": contender.precision,
            "ms": round(1e3 * result.median(name), 4),
            "host_ms": round(1e3 * result.host_median(name), 4),
        }
        if (rival := RIVALS.get(name)) in made:
            found[name]["ratio"] = [round(r, 3) for r in result.ratio(name, rival)]
    row = {"model": job.model, "width": job.H, "contenders": found, "left_out": out}
    return {**row, "wrong": "; ".join(wrong)} if wrong else row


def corpus(part, dry):
    if dry:
        return np.random.default_rng(0).integers(0, model_contenders.V, 80)
    folder = os.environ.get("PTB")
    if not folder:
        raise RuntimeError("PTB must name the folder with ptb.train.txt and ptb.valid.txt")
    return data.load_ptb(part, folder)[0]


def epoch(name, job, dry):
    """An epoch of one contender: seconds, loss in each tenth, perplexity on the validation text."""
    gpu, N, T = machine.this_gpu(), model_contenders.N, model_contenders.T
    contender = models.CONTENDERS[name]
    if reason := why_not(contender, gpu):
        return {"left_out": reason}
    racer, words, warm = contender(job, gpu), corpus("train", dry), DRY_WARM if dry else WARM
    racer.prepare()
    count = len(words[:-1]) // (N * T)
    batches = [data.sequence_batch(words[:-1], words[1:], N, T, i * T) for i in range(count)]
    xs, ts = (racer.put(np.array(x, np.int64)) for x in zip(*batches, strict=True))
    losses = []

    def step():
        racer.xs, racer.ts = xs[len(losses)], ts[len(losses)]
        racer.run()
        losses.append(racer.loss)

    for _ in range(warm):
        step()
    seconds = count * machine.Events().time(step, count - warm)[0]
    losses = [float(loss) for loss in losses]
    perplexity = evaluated(job, racer.params(), gpu, dry)
    assert math.isfinite(perplexity), f"perplexity {perplexity}, last losses {losses[-3:]}"
    tenth = max(1, len(losses) // 10)
    tenths = [losses[i : i + tenth] for i in range(0, len(losses), tenth)]
    return {
        "label": racer.label,
        "precision": racer.precision,
        "seconds": round(seconds, 3),
        "seconds_of_40_epochs": round(BOOKS_EPOCHS * seconds, 1),
        "ms_per_iteration": round(1e3 * seconds / count, 3),
        "words_per_second": round(count * N * T / seconds),
        "losses": [round(float(np.mean(some)), 4) for some in tenths],
        "valid_perplexity": round(perplexity, 2),
    }


def evaluated(job, params, gpu, dry):
    """The perplexity with these weights, by rnnfast's evaluation, which is like the book's."""
    model = job.ours("cuda")
    unique, _ = model_contenders.remove_duplicate(model.params, model.grads)
    for param, trained in zip(unique, params, strict=True):
        param[...] = gpu.put(np.ascontiguousarray(trained))
    sizes = (model_contenders.N, model_contenders.T) if dry else ()
    return eval_perplexity(model, corpus("valid", dry), *sizes)


def begin(dry):
    """Imports PyTorch, starts cuDNN and compiles CuPy's kernels."""
    gpu = machine.this_gpu()
    for job in JOBS:
        for contender in models.CONTENDERS.values():
            # Ours compile kernels for this width, which no archive has
            if not contender.ours and not why_not(contender, gpu):
                peer = contender(replace(job, H=TINY_WIDTH), gpu)
                peer.prepare()
                peer.run()
                peer.params()


def items(dry):
    jobs, of_epoch = JOBS, EPOCH
    if dry:
        for name, value in DRY.items():
            setattr(model_contenders, name, value)
        jobs = tuple(replace(job, H=DRY_WIDTH) for job in JOBS)
        of_epoch = replace(EPOCH, H=DRY_WIDTH, lr=1.0)
    found = {f"epoch {name}": partial(epoch, name, of_epoch, dry) for name in IN_EPOCH}
    for job in jobs:
        found[f"iteration {job.model}"] = partial(iteration, job, 2 if dry else 7)
    return found

"""Jobs of tests that ranks run on GPUs, or on the device of tests/fake_cuda.py."""

import os
import sys
from contextlib import contextmanager

import fake_cuda
import numpy as np
import pytest
import rank_jobs
from fake_streams import Fake

import rnnfast
from rnnfast import checks
from rnnfast.distributed import gpu_sums
from rnnfast.distributed.gpus import take_gpu
from rnnfast.io import to_numpy
from rnnfast.models import Rnnlm
from rnnfast.optim import SGD, Adam
from rnnfast.trainer import RnnlmTrainer, Sync
from rnnfast.training import parallel

NAMES = ["rnnlm", "awd", "balance", "past decode, noise", "frage"]
EXACT = 1e-12  # of float64, after 100 updates
WHAT = "params", "losses", "ppl", "measures"


@contextmanager
def on_gpus(comm, real, way, gpus=None):
    """A GPU for each rank, on which models are made; -> the simulated one, None for real ones."""
    os.environ[gpu_sums.VARIABLE] = way or ""
    with pytest.MonkeyPatch.context() as patch:
        fake = None
        if not real:
            fake_cuda.install(patch)
            fake = sys.modules["cupy"].cuda = Fake(comm, gpus)
            patch.setitem(sys.modules, "cupy.cuda", fake)
        take_gpu(comm)
        with rnnfast.device("cuda"):
            yield fake


def on_host(found):
    """The same with NumPy arrays."""
    return {name: [np.array(to_host(x), float) for x in found[name]] for name in WHAT}


def to_host(x):
    return to_numpy(x) if hasattr(x, "dtype") else [np.nan if y is None else y for y in _flat(x)]


def _flat(x):
    return x if isinstance(x, (tuple, list)) else [x]


def language(comm, names, way=None, real=False, dtype="float64"):
    """What rank_jobs.language trains, on GPUs."""
    with on_gpus(comm, real, way):
        return {name: on_host(rank_jobs.language(comm, name, dtype)) for name in names}


def assert_same(found, expected, name, tolerance=EXACT):
    """What a rank has found is what one process finds."""
    assert found.keys() == expected.keys()
    for key in expected:
        for mine, theirs in zip(found[key], expected[key], strict=True):
            allowed = {"rtol": 10 * tolerance, "atol": tolerance, "equal_nan": True}
            np.testing.assert_allclose(mine, theirs, **allowed, err_msg=f"{name}: {key}")


def order(comm, way):
    """The log of one iteration; layers and clipping put themselves into it."""
    with on_gpus(comm, False, way) as fake:
        model = Rnnlm(rank_jobs.V, 4, 8, rng=1, dtype="float64")

        def watched(name, function):
            def call(*args):
                fake.log.append((name, "host"))
                fake.moment += 1
                return function(*args)

            return call

        for layer in (model.loss_layer, *model.layers[:-1]):
            layer.backward = watched(type(layer).__name__, layer.backward)
        parallel.clip_grads = watched("clip", parallel.clip_grads)
        text = rank_jobs.TEXT
        trainer = RnnlmTrainer(model, SGD(0.1), write=lambda line: None, comm=comm)
        trainer.fit(text[:20], text[1:21], 1, 4, 5, 1.0)
        return fake.log


def taken(comm, gpus, real=False):
    """Which GPU a rank takes, the way that is chosen there, and with NCCL wanted."""
    with on_gpus(comm, real, None, gpus):
        ranks = rank_jobs.Ranks(comm)
        found = sys.modules["cupy"].cuda.Device().id, gpu_sums.chosen_way(ranks)
        os.environ[gpu_sums.VARIABLE] = "nccl"
        try:
            return (*found, gpu_sums.chosen_way(ranks))
        except ValueError as error:
            return (*found, str(error))


def without_waiting(comm, way, names):
    """As language, with what computes waiting for nothing."""
    gpu_sums._GpuSums._before_computing = lambda self, stream: None
    return language(comm, names, way)


def rounds(comm, path, sync, device):
    """Train in rounds or in 16 bits, save, and go on in a new trainer."""
    with on_gpus(comm, False, None):
        found = []
        for epochs in (1, 2):
            model = Rnnlm(rank_jobs.V, 4, 8, rng=1, dtype="float64", device=device)
            options = {"write": lambda line: None, "comm": comm, "sync": Sync(**sync)}
            trainer = RnnlmTrainer(model, Adam(0.01), **options)
            if epochs == 2:
                trainer.load_checkpoint(path)
            text = rank_jobs.TEXT[:300]
            trainer.fit(text[:-1], text[1:], epochs, 4, 5, 1.0)
            if epochs == 1:
                trainer.save_checkpoint(path)
            assert checks.is_cupy(model.params[0]) == (device == "cuda")
            found += map(to_numpy, model.params)
        return found


def refused(comm, way):
    """Why this is no way."""
    with on_gpus(comm, False, way), pytest.raises(ValueError) as error:
        gpu_sums.chosen_way(rank_jobs.Ranks(comm))
    return str(error.value)


def known(comm):
    return gpu_sums.mpi_knows_gpus()

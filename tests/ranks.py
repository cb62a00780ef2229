"""Jobs that tests run on several ranks: `python ranks.py MODULE JOB FOLDER` is each of them."""

import importlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import PATIENCE
from shell import LINES, QUIET, SMALL, run

from rnnfast.io import load_weights

HERE = Path(__file__).parent
TEXT = LINES * 40
COMMAND = [*SMALL, *QUIET, "--epochs", "3", "--eval-interval", "7", "--dropout", "0.3"]
MODEL = ["--model", "custom", "--layers", "2", "--variational", "--weight-drop", "0.2"]


def mpiexec():
    """The launcher that belongs to this Python's mpi4py; skips the test if there is none."""
    pytest.importorskip("mpi4py", reason="needs the extra mpi")
    beside = shutil.which("mpiexec", path=os.path.dirname(sys.executable))
    return beside or shutil.which("mpiexec") or pytest.skip("needs mpiexec: pip install mpich")


def mpi_version():
    """What the MPI of this Python's mpi4py calls itself."""
    command = [sys.executable, "-c", "from mpi4py import MPI; print(MPI.Get_library_version())"]
    said = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    return " ".join(said.splitlines()[0].partition(",")[0].split())


def launch(size, *arguments, then=(), **options):
    """The process of mpiexec with `size` ranks of Python, oversubscribed if need be.

    then: the arguments of one more rank.
    """
    command = [mpiexec(), "-n", str(size), sys.executable, *map(str, arguments)]
    if then:
        command += [":", "-n", "1", sys.executable, *map(str, then)]
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
    env |= {"OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1"}
    env |= {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    env |= {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} | options.pop("env", {})
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=env,
        **options,
    )


PMIX = re.compile(r"^\[\S+:\d+\] PMIX ERROR: .*\n", re.MULTILINE)
BANNER = re.compile(r"-{70,}\n(?:prterun|mpirun|mpiexec) .*?\n-{70,}\n", re.DOTALL)


def finished(process, patience=PATIENCE):
    """-> exit code, stdout and stderr of a launched process; not what Open MPI adds."""
    try:
        out, err = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, BANNER.sub("", PMIX.sub("", err))


def run_job(size, folder, module, job, **arguments):
    """What a job returns on each rank."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "arguments.json").write_text(json.dumps(arguments))
    code, out, err = finished(launch(size, HERE / "ranks.py", module, job, folder))
    assert code == 0, f"{out}\n{err}"
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(size)]


def train(size, *arguments, **options):
    """-> exit code, stdout and stderr of `rnnfast train` on some ranks."""
    if size == 1:
        found = run("train", *arguments)
        return found.returncode, found.stdout, found.stderr
    return finished(launch(size, "-m", "rnnfast", "train", *arguments, **options))


def ok(size, *arguments):
    code, out, err = train(size, *arguments)
    assert (code, err) == (0, "")
    return out


def assert_equal_weights(folder, other, tolerance=0.0):
    name = "LanguageModel.safetensors"
    mine, theirs = (load_weights(f / name).params for f in (folder, other))
    assert mine.keys() == theirs.keys()
    for key in mine:
        np.testing.assert_allclose(mine[key], theirs[key], rtol=0, atol=tolerance, err_msg=key)


def main(module, job, folder):
    from mpi4py import MPI

    folder = Path(folder)
    arguments = json.loads((folder / "arguments.json").read_text())
    found = getattr(importlib.import_module(module), job)(MPI.COMM_WORLD, **arguments)
    (folder / f"{MPI.COMM_WORLD.Get_rank()}.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

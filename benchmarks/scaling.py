"""How training over MPI scales: a model of a step, and the measurements that it rests on.

    python -m benchmarks.scaling measure --folder ptb --out scaling.json
    python -m benchmarks.scaling predict scaling.json --picture scaling.png

`measure` times one process and two ranks, `predict` prints and draws 1 to 1,024 ranks.

A step of a rank computes its samples, and sums gradients with the others meanwhile::

    compute(n)   = fixed + each n                         seconds for n samples, measured
    bytes(R, n)  = dense + row distinct(R n T) + V / 8    of the gradients, exact
    sum(R, B)    = the fastest of three algorithms        from latency and bandwidth
    step         = compute + max(0, sum - overlap backward)

distinct(m) is the expected number of different words among m words of the text's frequencies, and
backward is two thirds of compute. `overlap` is the part of it in which sums go on: 1 by assumption,
as the first sums begin when backward does. `measure` prints what two ranks took beside what the
model predicts for them. With rounds of K updates a step has a K-th of the sum of all weights, and
hides nothing of it.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rnnfast import data, io, models, optim
from rnnfast.kernels import get_num_threads, set_num_threads
from rnnfast.trainer import RnnlmTrainer, Sync

N, T, MAX_GRAD = 20, 35, 0.25
MODELS = {"Rnnlm": (models.Rnnlm, 100), "BetterRnnlm": (models.BetterRnnlm, 650)}
RANKS = tuple(2**k for k in range(11))
BACKWARD = 2 / 3  # of the time of a step


@dataclass(frozen=True)
class Network:
    """Seconds that a message takes at least, and bytes in a second."""

    latency: float
    bandwidth: float


# Typical values, not measured
NETWORKS = {
    "1 Gbit/s Ethernet": Network(50e-6, 118e6),
    "10 Gbit/s Ethernet": Network(20e-6, 1.18e9),
    "InfiniBand HDR": Network(1.5e-6, 24e9),
    "open internet, 100 Mbit/s, 50 ms": Network(50e-3, 11.8e6),
}


@dataclass(frozen=True)
class Workload:
    """A model in training.

    fixed, each: seconds of a step, and of each of its samples.
    dense, row, V: bytes of all gradients but the embedding's, bytes of one of its rows, its rows.
    tied: whether the embedding is among `dense`, too.
    frequencies: of the words of the text, in decreasing order.
    overlap: the part of backward in which sums go on.
    """

    fixed: float
    each: float
    dense: int
    row: int
    V: int
    tied: bool
    frequencies: list
    overlap: float = 1.0

    def compute(self, n):
        return self.fixed + self.each * n

    def bytes(self, ranks, n):
        return self.dense + self.row * self.distinct(ranks * n * T) + self.V / 8

    def weights(self):
        """Bytes of all weights, which rounds exchange."""
        return self.dense + (0 if self.tied else self.row * self.V)

    def distinct(self, words):
        """The expected number of different words among so many."""
        return float(-np.expm1(words * np.log1p(-np.array(self.frequencies))).sum())


def sum_time(network, ranks, size):
    """Seconds of a sum over ranks: recursive doubling, Rabenseifner's algorithm or a ring."""
    if ranks == 1:
        return 0.0
    a, send, rounds = network.latency, size / network.bandwidth, math.ceil(math.log2(ranks))
    both = 2 * (ranks - 1) / ranks * send
    return min(rounds * (a + send), 2 * rounds * a + both, 2 * (ranks - 1) * a + both)


def step_time(work, network, ranks, n, every=1):
    """Seconds of a step in which each rank has n samples; every: the updates of a round."""
    compute = work.compute(n)
    if every > 1:
        return compute + sum_time(network, ranks, work.weights()) / every
    hidden = work.overlap * BACKWARD * compute
    return compute + max(0.0, sum_time(network, ranks, work.bytes(ranks, n)) - hidden)


def efficiency(work, network, ranks, batch, *, weak, every=1):
    """Words a second of all ranks, divided by that of one times their number.

    weak: batch is that of a rank; else it is that of all, of which the largest share counts.
    """
    n = batch if weak else math.ceil(batch / ranks)
    done = batch if weak else batch / ranks
    alone = work.compute(batch) / batch
    return alone / (step_time(work, network, ranks, n, every) / done)


# Measurements


def made(name, V):
    kind, H = MODELS[name]
    return kind(V, H, H, rng=0)


def sizes(model, frequencies):
    """The bytes of a model, as fields of a Workload."""
    tied = None in model.param_names  # a view of another parameter
    V, D = model.layers[0].params[0].shape
    item = model.params[0].itemsize
    dense = item * sum(param.size for layer in model.layers[1:] for param in layer.params)
    return {"dense": dense, "row": item * D, "V": V, "tied": tied, "frequencies": frequencies}


def seconds_of_steps(name, corpus, batch, steps, comm=None, sync=None):
    """The median and the mean time of so many steps after the first one, and the trainer."""
    model, ends = made(name, int(corpus.max()) + 1), []
    trainer = RnnlmTrainer(
        model,
        optim.SGD(1.0),
        callbacks=[lambda step: ends.append(time.perf_counter())],
        write=lambda line: None,
        comm=comm,
        sync=sync,
    )
    length = (steps + 2) * batch * T  # the last step is the end of an epoch
    trainer.fit(corpus[:length], corpus[1 : length + 1], 1, batch, T, MAX_GRAD, None)
    times = np.diff(ends)[:steps]
    return float(np.median(times)), float(np.mean(times)), trainer


def alone(name, corpus, shares, steps):
    """A Workload of one process with half of the threads, as each of two ranks, and s a step."""
    threads = get_num_threads()
    set_num_threads(max(1, threads // 2))
    try:
        half, whole = (seconds_of_steps(name, corpus, n, steps)[0] for n in (N // 2, N))
    finally:
        set_num_threads(threads)
    each = max(0.0, (whole - half) / (N - N // 2))
    numbers = sizes(made(name, len(shares)), shares)
    return Workload(max(0.0, whole - N * each), each, **numbers), whole


def measure(folder, name, steps):
    """A Workload of one process, and two ranks beside what it predicts for them."""
    corpus = data.load_ptb("train", folder)[0]
    counts = np.sort(np.bincount(corpus))[::-1]
    shares = [float(f"{share:.4g}") for share in counts / counts.sum()]
    work, whole = alone(name, corpus, shares, steps)
    found = on_ranks(2, folder, name, steps)
    network = Network(found["latency"], found["bandwidth"])
    predicted = step_time(work, network, 2, N // 2)
    ranks = found | {"predicted": predicted, "alone": whole}
    return {"workload": asdict(work), "two ranks": ranks}


def mpiexec():
    """The launcher beside this Python, which is that of its mpi4py; else the one on the path."""
    return shutil.which("mpiexec", path=Path(sys.executable).parent) or "mpiexec"


def on_ranks(count, folder, name, steps):
    """What rank 0 of several measures."""
    here = [sys.executable, "-m", "benchmarks.scaling", "rank", folder, name, str(steps)]
    done = subprocess.run(
        [mpiexec(), "-n", str(count), *here], capture_output=True, encoding="utf-8", check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def rank(folder, name, steps, sync=None):
    """One of several ranks: seconds of a step, of its exchange, and of the network."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    corpus = data.load_ptb("train", folder)[0]
    seconds, mean, trainer = seconds_of_steps(name, corpus, N, steps, comm, sync)
    times = {}
    for size in (8, 1 << 23):
        buffer, each = np.zeros(size, np.uint8), []
        for _ in range(20):
            comm.Barrier()
            start = time.perf_counter()
            comm.Allreduce(MPI.IN_PLACE, buffer)
            each.append(time.perf_counter() - start)
        times[size] = float(np.median(each))
    latency = times[8] / max(1, math.ceil(math.log2(comm.size)))
    share = 2 * (comm.size - 1) / comm.size
    traffic = trainer.traffic
    found = {
        "seconds": seconds,
        "mean": mean,
        "bytes": traffic.bytes / traffic.steps,
        "hidden": traffic.hidden / traffic.steps,
        "waited": traffic.waited / traffic.steps,
        "latency": latency,
        "bandwidth": share * (1 << 23) / max(times[1 << 23] - times[8], 1e-9),
    }
    if comm.rank == 0:
        print(json.dumps(found), flush=True)


# Output


def table(work, batch=N):
    """Lines of predicted efficiencies."""
    lines = [f"{'':<46}" + "".join(f"{ranks:>7}" for ranks in RANKS)]
    for network_name, network in NETWORKS.items():
        for what, options in CASES.items():
            row = [efficiency(work, network, ranks, batch, **options) for ranks in RANKS]
            label = f"{network_name}, {what}"
            lines.append(f"{label:<46}" + "".join(f"{100 * value:6.1f}%" for value in row))
    return lines


CASES = {
    "weak": {"weak": True},
    "strong": {"weak": False},
    "rounds of 100": {"weak": True, "every": 100},
}


def draw(works, path):
    """A panel for each model and case, a line for each network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(CASES), 3 * len(works)), layout="constrained")
    panels = figure.subplots(len(works), len(CASES), squeeze=False, sharex=True, sharey=True)
    for line, (name, work) in zip(panels, works.items(), strict=True):
        for axes, (what, options) in zip(line, CASES.items(), strict=True):
            for network_name, network in NETWORKS.items():
                values = [efficiency(work, network, ranks, N, **options) for ranks in RANKS]
                axes.plot(RANKS, values, label=network_name)
            axes.set(xscale="log", ylim=(0, 1.05), title=f"{name}, {what}", xlabel="ranks")
        line[0].set_ylabel("predicted efficiency")
    panels[0][0].legend(fontsize="x-small")
    figure.savefig(path)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("measure")
    command.add_argument("--folder", default="ptb", help="where ptb.train.txt is")
    command.add_argument("--steps", type=int, default=100)
    command.add_argument("--out", required=True, help="JSON to write")
    command = commands.add_parser("predict")
    command.add_argument("measured", help="what `measure` has written")
    command.add_argument("--picture", help="PNG to write")
    command = commands.add_parser("rank")
    command.add_argument("folder")
    command.add_argument("name", choices=tuple(MODELS))
    command.add_argument("steps", type=int)
    command.add_argument("--every", type=int, default=1)
    command.add_argument("--half", action="store_true")
    options = parser.parse_args(argv)
    if options.command == "rank":
        sync = Sync(every=options.every, half=options.half)
        return rank(options.folder, options.name, options.steps, sync)
    if options.command == "measure":
        found = {name: measure(options.folder, name, options.steps) for name in MODELS}
        from benchmarks.machine import describe  # needs what the extra `bench` has

        text = json.dumps({"machine": describe(), "models": found}) + "\n"
        io.write_atomically(options.out, text.encode())
        return print(*comparison(found), sep="\n")
    with open(options.measured, encoding="utf-8") as file:
        found = json.load(file)["models"]
    works = {name: Workload(**each["workload"]) for name, each in found.items()}
    print(*comparison(found), sep="\n")
    for name, work in works.items():
        print(f"\n{name}, batch {N}", *table(work), sep="\n")
    if options.picture:
        draw(works, options.picture)
    return None


def comparison(found):
    """Lines of what two ranks took beside the prediction."""
    for name, each in found.items():
        two = each["two ranks"]
        yield (
            f"{name}: one process {1000 * two['alone']:.1f} ms a step, two ranks "
            f"{1000 * two['seconds']:.1f} ms, predicted {1000 * two['predicted']:.1f} ms"
        )


if __name__ == "__main__":
    sys.exit(main())

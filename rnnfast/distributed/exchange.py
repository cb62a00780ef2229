"""The sum of all ranks' gradients, made while backward still computes others.

MPI goes on with what was begun only while it is called, so every layer that is done gives it a
moment, too.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from rnnfast import checks
from rnnfast.distributed.compression import HalfSums
from rnnfast.distributed.gpu_sums import sums_of
from rnnfast.distributed.ranks import Ranks, in_place, on_host
from rnnfast.layers.embedding import Embedding

BUCKET = 1 << 20  # bytes; larger arrays travel as they lie, smaller ones together


class Traffic:
    """What exchanges have cost so far.

    Attributes
    ----------
    steps : int
        Number of exchanges.
    bytes : int
        What this rank has given to sums.
    hidden, waited : float
        Seconds in which sums were under way while this rank computed, and in which it only waited
        for them.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.bytes = 0
        self.hidden = 0.0
        self.waited = 0.0

    def __str__(self) -> str:
        n = max(self.steps, 1)
        return (
            f"{self.steps} exchanges of {self.bytes / n / 1e6:.2f} MB, each "
            f"{1000 * self.hidden / n:.1f} ms hidden behind computing, "
            f"{1000 * self.waited / n:.1f} ms not hidden"
        )


class _Part(NamedTuple):
    """A sum that is under way."""

    buffer: Any  # flat
    targets: list[Any]  # the gradients that it belongs into; empty if it is made in place
    rows: Any = None  # of the only target, if it has only some


class Exchange:
    """Sums the gradients of a model over all ranks.

    Parameters
    ----------
    ranks : Ranks
    model : Model
        Its `grads` are summed in place. Of an embedding only the rows of the ids that any rank has
        read are exchanged, unless FRAGE changes all of them.
    traffic : Traffic
        Counts.
    half : HalfSums, optional
        Sums other arrays than those rows in 16 bits.

    Attributes
    ----------
    begun : int
        Sums that this iteration has begun.
    """

    def __init__(
        self, ranks: Ranks, model: Any, traffic: Traffic, half: HalfSums | None = None
    ) -> None:
        self.ranks = ranks
        self.model = model
        self.traffic = traffic
        self._half = half
        self._halves = 0  # begun in this iteration
        self._in_place = in_place(ranks.comm)
        self._sums: Any = None  # what makes them; chosen by all ranks in the first iteration
        whole = getattr(model, "adversary", None) is not None
        self._embeddings = [] if whole else list(_embeddings(getattr(model, "layers", ())))
        self._under_way: list[_Part] = []
        self._small: list[Any] = []
        self._done: set[int] = set()
        self._numbers: Any = None  # a request
        self._read: tuple[Any, Any] | None = None  # a request, and a bit for each id of embeddings
        self._began = 0.0
        self.begun = 0

    def begin(self, numbers: Any, beside: Any = None) -> None:
        """Begin an iteration whose forward is done.

        Parameters
        ----------
        numbers : ndarray of float64 (n,)
            To sum, in place. They are there after `finish`.
        beside : array, optional
            One more, where the gradients are. It is there after `wait`.
        """
        if self._sums is None:
            self._sums = sums_of(self.ranks, self.model.grads, self._half is not None)
        self._began = time.monotonic()
        self._under_way, self._small, self._done = [], [], set()
        self._halves = self.begun = 0
        self._numbers = self._reduce(numbers)
        if self._embeddings:
            bits = []
            for layer in self._embeddings:
                read = np.zeros(len(layer.params[0]), bool)
                if layer.cache is not None:
                    read[on_host(layer.cache[0]).reshape(-1)] = True
                bits.append(np.packbits(read))
            every = np.concatenate(bits)
            self._read = self._reduce(every, op=self._or()), every
        if beside is not None:
            self._start(beside, exact=True)

    def add(self, layer: Any) -> None:
        """Begin the sums of a layer's gradients, which are complete."""
        for grad in layer.grads:
            if id(grad) in self._done:
                continue
            self._done.add(id(grad))
            if layer in self._embeddings:
                self._add_rows(layer, grad)
            else:
                self._add(grad)
        self._numbers.Test()  # lets MPI go on
        self._sums.go_on()
        self.ranks.heart.beat()

    def finish(self) -> None:
        """Begin the sums of all other gradients, and wait until all are there.

        On a GPU: what is computed from now on waits for them there.
        """
        for layer in self._embeddings:
            self.add(layer)
        for grad in self.model.grads:
            if id(grad) not in self._done:
                self._done.add(id(grad))
                self._add(grad)
        self._flush()
        start = time.monotonic()
        self.ranks.wait([self._numbers], "numbers")
        self._sums.finish()
        for each in self._under_way:
            if each.rows is not None:
                each.targets[0][each.rows] = each.buffer
                continue
            first = 0
            for target in each.targets:
                part = each.buffer[first : first + target.size]
                target[...] = part.reshape(target.shape)
                first += target.size
        self.traffic.steps += 1
        self.traffic.hidden += start - self._began
        self.traffic.waited += time.monotonic() - start
        self._under_way = []

    def wait(self) -> None:
        """Wait until GPUs have the sums, too."""
        start = time.monotonic()
        self._sums.wait()
        self.traffic.waited += time.monotonic() - start

    def _add(self, grad: Any) -> None:
        """Begin the sum of a gradient, or put it to others."""
        if grad.nbytes < BUCKET:
            self._small.append(grad)
            if sum(small.nbytes for small in self._small) >= BUCKET:
                self._flush()
        elif grad.flags.c_contiguous or grad.flags.f_contiguous:
            self._start((grad if grad.flags.c_contiguous else grad.T).reshape(-1))
        else:
            self._start(grad.reshape(-1), [grad])

    def _add_rows(self, layer: Any, grad: Any) -> None:
        """Begin the sum of the rows that any rank has read."""
        assert self._read is not None
        request, every = self._read
        self.ranks.wait([request], "the ids that were read")
        before = self._embeddings[: self._embeddings.index(layer)]
        first = sum(_bytes_of_bits(len(other.params[0])) for other in before)
        V = len(layer.params[0])
        bits = every[first : first + _bytes_of_bits(V)]
        rows = checks.beside(grad, np.flatnonzero(np.unpackbits(bits, count=V)))
        self._start(grad[rows], [grad], rows, exact=True)

    def _flush(self) -> None:
        """Begin the sums of the small gradients, a bucket for each dtype."""
        for dtype in dict.fromkeys(small.dtype for small in self._small):
            targets = [small for small in self._small if small.dtype == dtype]
            self._start(np.concatenate([target.reshape(-1) for target in targets]), targets)
        self._small = []

    def _start(
        self, buffer: Any, targets: Sequence[Any] = (), rows: Any = None, *, exact: bool = False
    ) -> None:
        """Begin a sum. exact: not in 16 bits."""
        half, sent = None, buffer.nbytes
        if self._half is not None and not exact:
            half = self._half.get(self._halves, buffer.size)
            self._halves += 1
            sent = half.bytes
        self._sums.begin(buffer, half)
        self._under_way.append(_Part(buffer, list(targets), rows))
        self.traffic.bytes += sent
        self.begun += 1

    def _reduce(self, array: Any, **options: Any) -> Any:
        """Begin a sum on the host, or of the kind `op`; -> a request."""
        self.traffic.bytes += array.nbytes
        self.begun += 1
        return self.ranks.comm.Iallreduce(self._in_place, array, **options)

    def _or(self) -> Any:
        """MPI.BOR, or what a communicator that is not mpi4py's has for it."""
        own = getattr(self.ranks.comm, "BOR", None)
        if own is not None:
            return own
        from mpi4py import MPI

        return MPI.BOR


class _Arrays(NamedTuple):
    """What an Exchange needs of a model whose gradients are these arrays."""

    grads: list[Any]


def sum_arrays(
    ranks: Ranks, arrays: list[Any], traffic: Traffic, half: HalfSums | None = None
) -> None:
    """Sum arrays over all ranks, in place."""
    exchange = Exchange(ranks, _Arrays(arrays), traffic, half)
    exchange.begin(np.zeros(0))
    exchange.finish()
    exchange.wait()


def _bytes_of_bits(count: int) -> int:
    return -(-count // 8)


def _embeddings(layers: Sequence[Any]) -> Iterator[Any]:
    """The embeddings among layers and their parts whose gradients are of whole rows."""
    for layer in layers:
        if isinstance(layer, Embedding):
            yield layer
        yield from _embeddings(getattr(layer, "parts", ()))

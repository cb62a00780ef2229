"""Recurrences in steps that come again with the same arrays: one launch in the place of all.

A launch takes the host longer than a step takes the GPU. Where a program does the same again and
again, CuPy's memory pool gives the arrays of a call the addresses that those of an earlier call
had. Then the steps are recorded as a CUDA graph, which is launched whenever all addresses are those
of the graph.
"""

from collections import OrderedDict
from threading import local

from rnnfast.cuda._bound import described, run

LEAST, MOST = 16, 4096  # launches of a graph
KEPT = 32  # graphs, and steps that came once
REFUSED = object()  # in the place of a graph: these steps cannot be captured


class _Known(local):
    """What each thread has done."""

    def __init__(self):
        self.graphs = OrderedDict()


class Replays:
    """run(work, start, ahead, count) of _bound, on CuPy's current stream.

    Each thread has graphs of its own, as it has its own handle of cuBLAS, with memory that the
    products of a graph may use.
    """

    def __init__(self, cupy):
        self._cupy, self._known = cupy, _Known()

    def __call__(self, work, start, ahead, count):
        launches, key = len(work) * count, None
        if LEAST <= launches <= MOST:
            key = described(work, start, ahead, count)
        stream = self._cupy.cuda.get_current_stream()
        if key is None or stream.is_capturing():
            return run(work, start, ahead, count)
        known = self.known()
        came_before, graph = key in known, known.pop(key, None)
        if came_before and graph is None:
            graph = self._recorded(work, start, ahead, count) or REFUSED
        known[key] = graph
        if len(known) > KEPT:
            known.popitem(last=False)
        if graph is None or graph is REFUSED:
            return run(work, start, ahead, count)
        return graph.launch(stream)

    def known(self):
        """What this thread has done, the last one last -> a graph; None until it comes again."""
        return self._known.graphs

    def _recorded(self, work, start, ahead, count):
        """A graph of these steps, or None where they cannot be captured."""
        with self._cupy.cuda.Stream(non_blocking=True) as stream:
            try:
                stream.begin_capture()
                try:
                    run(work, start, ahead, count)
                finally:
                    graph = stream.end_capture()
            except RuntimeError:
                return None  # where it runs as it is, it says what is wrong
        return graph

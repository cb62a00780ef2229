"""What the grid kernels share: blocks that run at once and meet at each step.

A group of samples belongs to the blocks that hold all units between them. What one block of a group
writes to the exchange buffer the others may read once `wait` has seen all of them `signal`.
"""

from rnnfast.cuda.product import up

COUNTER = 32  # ints between counters: a cache line each


def make_meeting(gpu):
    """signal(counters, group) and wait(counters, group, count); a whole block calls them."""
    cuda, arrive, arrived = gpu.cuda, gpu.arrive, gpu.arrived

    @gpu.device
    def signal(counters, group):
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            arrive(counters, group * COUNTER)

    @gpu.device
    def wait(counters, group, count):
        if cuda.threadIdx.x == 0:
            while arrived(counters, group * COUNTER) < count:
                pass
        cuda.syncthreads()

    return signal, wait


def exchange(call, plan, *slots):
    """Zeroed memory that the blocks share: the counters, and a buffer for each of `slots`.

    slots: (tile, how many); a buffer has `how many` times all rows of all groups, as the tile's
    product reads them.
    """
    sizes = [n * plan.groups * plan.rows * tile.stride for tile, n in slots]
    counters = up(plan.groups * COUNTER, 4)
    room = call.xp.zeros(counters + sum(sizes), "float32")
    buffers, start = [], counters
    for size in sizes:
        buffers.append(room[start : start + size])
        start += size
    return room[:counters].view("int32"), *buffers

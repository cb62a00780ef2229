"""The matrix product inside a grid-persistent kernel: a block's columns of W stay in shared memory.

    out[n, c] = sum over k of x[n, k] W[k, c]      n one of NR rows, c one of C columns of the block

The terms are split by k into `slices`, whose partial sums lie in shared memory afterwards: in FFMA
(precision "float32") a slice is a thread's every so-many-th four of k, for 4 columns and all rows;
on tensor cores ("tf32") it is a warp's. x comes from global memory, where other blocks wrote it,
chunk by chunk: rows of `stride` floats, the ones beyond K zero.

Shared memory, in floats: W | a chunk of x | partial sums; see `Tile`.
"""

from dataclasses import dataclass

WARP = 32
THREADS = 256
CHUNK = 512  # of k, at most, in shared memory at a time


def up(n, multiple):
    """n rounded up to a multiple."""
    return -(-n // multiple) * multiple


@dataclass(frozen=True)
class Tile:
    """Sizes of one product: K terms, columns of a block, rows at a time, and where things lie."""

    K: int
    columns: int
    rows: int
    precision: str  # "float32" or "tf32"

    @property
    def tf32(self):
        return self.precision == "tf32"

    @property
    def C(self):
        """Columns with padding: fours, or the 16 of a tensor core's tile."""
        return up(self.columns, 16 if self.tf32 else 4)

    @property
    def NR(self):
        return up(self.rows, 8) if self.tf32 else self.rows

    @property
    def chunk(self):
        chunks = -(-self.K // CHUNK)
        return up(-(-self.K // chunks), 8)

    @property
    def stride(self):
        """Floats between rows of x in global memory: K with padding."""
        return up(self.K, self.chunk)

    @property
    def row(self):
        """Floats between rows of x in shared memory; an odd number of fours spreads the banks."""
        return self.chunk + 4

    @property
    def slices(self):
        warps = THREADS // WARP
        return warps if self.tf32 else warps * (WARP // (self.C // 4))

    @property
    def weights(self):
        return self.stride * self.C

    @property
    def sums(self):
        """Floats between rows of partial sums."""
        return self.C + 4 if self.tf32 else self.C

    @property
    def room(self):
        """Floats of shared memory beside the weights."""
        return self.NR * self.row + self.slices * self.NR * self.sums


def make_product(gpu, tile):
    """Device functions of one tile: place, rounded, product, total."""
    return (_tensor_cores if tile.tf32 else _ffma)(gpu, tile)


def _total(gpu, tile):
    SLICES, STEP, ROW = tile.slices, tile.NR * tile.sums, tile.sums
    zero = gpu.zero

    @gpu.device
    def total(s, sums, n, c):
        """out[n, c], from the partial sums at s[sums]."""
        out = zero
        for i in range(SLICES):
            out += s[sums + i * STEP + n * ROW + c]
        return out

    return total


def _stage(gpu, tile, rounded):
    cuda, fetch4 = gpu.cuda, gpu.fetch4
    NR, CHUNK4, STRIDE, ROW, NT = tile.NR, tile.chunk // 4, tile.stride, tile.row, THREADS

    @gpu.device
    def stage(x, start, s, xs):
        """A chunk of x, from x[start] on, to s[xs]."""
        for e in range(cuda.threadIdx.x, NR * CHUNK4, NT):
            n = e // CHUNK4
            k = 4 * (e - n * CHUNK4)
            v = fetch4(x, start + n * STRIDE + k)
            for i in range(4):
                s[xs + n * ROW + k + i] = rounded(v[i])

    return stage


def _ffma(gpu, tile):
    cuda, load4, zero, float32 = gpu.cuda, gpu.load4, gpu.zero, gpu.float32
    C, NR, STRIDE, CHUNK, ROW, SUMS = (
        tile.C,
        tile.NR,
        tile.stride,
        tile.chunk,
        tile.row,
        tile.sums,
    )
    QUADS = C // 4
    LANES = WARP // QUADS  # slices of a warp
    SLICES = tile.slices
    NSUMS = 4 * NR

    @gpu.device
    def place(k, c):
        return k * C + c

    @gpu.device
    def rounded(v):
        return v

    stage = _stage(gpu, tile, rounded)

    @gpu.device
    def product(x, start, s, weights, xs, sums):
        acc = cuda.local.array(NSUMS, float32)
        lane = cuda.threadIdx.x % WARP
        c = 4 * (lane % QUADS)
        part = lane // QUADS
        slice_ = cuda.threadIdx.x // WARP * LANES + part
        for i in range(NSUMS):
            acc[i] = zero
        for k0 in range(0, STRIDE, CHUNK):
            stage(x, start + k0, s, xs)
            cuda.syncthreads()
            if part < LANES:
                for k in range(4 * slice_, CHUNK, 4 * SLICES):
                    at = weights + (k0 + k) * C + c
                    w0 = load4(s, at)
                    w1 = load4(s, at + C)
                    w2 = load4(s, at + 2 * C)
                    w3 = load4(s, at + 3 * C)
                    for n in range(NR):
                        v = load4(s, xs + n * ROW + k)
                        for i in range(4):
                            a = acc[4 * n + i] + v[0] * w0[i]
                            a += v[1] * w1[i]
                            a += v[2] * w2[i]
                            acc[4 * n + i] = a + v[3] * w3[i]
            cuda.syncthreads()
        if part < LANES:
            for n in range(NR):
                for i in range(4):
                    s[sums + (slice_ * NR + n) * SUMS + c + i] = acc[4 * n + i]
        cuda.syncthreads()

    return place, rounded, product, _total(gpu, tile)


def _tensor_cores(gpu, tile):
    """W^T is the left side (16 columns a tile), x^T the right one (8 rows a tile)."""
    cuda, load4, mma, rounded = gpu.cuda, gpu.load4, gpu.mma, gpu.to_tf32
    zero, float32 = gpu.zero, gpu.float32
    NR, STRIDE, CHUNK, ROW, SUMS = tile.NR, tile.stride, tile.chunk, tile.row, tile.sums
    M, N = tile.C // 16, NR // 8
    WARPS = THREADS // WARP
    NSUMS = 4 * M * N

    @gpu.device
    def place(k, c):
        """W in the order in which the lanes of a warp read it: a four for each lane and tile."""
        lane = 4 * (c % 8) + k % 4
        return ((k // 8 * M + c // 16) * WARP + lane) * 4 + c % 16 // 8 + 2 * (k % 8 // 4)

    stage = _stage(gpu, tile, rounded)

    @gpu.device
    def product(x, start, s, weights, xs, sums):
        acc = cuda.local.array(NSUMS, float32)
        lane = cuda.threadIdx.x % WARP
        warp = cuda.threadIdx.x // WARP
        g = lane // 4
        j = lane % 4
        for i in range(NSUMS):
            acc[i] = zero
        for k0 in range(0, STRIDE, CHUNK):
            stage(x, start + k0, s, xs)
            cuda.syncthreads()
            for k in range(8 * warp, CHUNK, 8 * WARPS):
                at = weights + (((k0 + k) // 8) * M * WARP + lane) * 4
                for n in range(N):
                    b0 = s[xs + (8 * n + g) * ROW + k + j]
                    b1 = s[xs + (8 * n + g) * ROW + k + j + 4]
                    for m in range(M):
                        a = load4(s, at + m * WARP * 4)
                        i = 4 * (m * N + n)
                        d = mma(
                            a[0],
                            a[1],
                            a[2],
                            a[3],
                            b0,
                            b1,
                            acc[i],
                            acc[i + 1],
                            acc[i + 2],
                            acc[i + 3],
                        )
                        acc[i] = d[0]
                        acc[i + 1] = d[1]
                        acc[i + 2] = d[2]
                        acc[i + 3] = d[3]
            cuda.syncthreads()
        for n in range(N):
            for m in range(M):
                i = 4 * (m * N + n)
                at = sums + (warp * NR + 8 * n + 2 * j) * SUMS + 16 * m + g
                s[at] = acc[i]
                s[at + SUMS] = acc[i + 1]
                s[at + 8] = acc[i + 2]
                s[at + SUMS + 8] = acc[i + 3]
        cuda.syncthreads()

    return place, rounded, product, _total(gpu, tile)

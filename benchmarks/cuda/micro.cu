// The pieces of a recurrence, one kernel each; micro.py launches and times them.
//
// What a block of the column does to meet the others, load and multiply, in the same instructions.
// Every kernel repeats its piece `repeats` times and writes the cycles of each block to `cycles`.
// A sum that depends on all that was read keeps the compiler from leaving the reading out: ptxas
// leaves out loads, or parts of them, whose result nothing needs, volatile or not.

__device__ __forceinline__ void arrive(int *p) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(p) : "memory");
}

__device__ __forceinline__ int arrived(const int *p) {
    int n;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(n) : "l"(p) : "memory");
    return n;
}

__device__ __forceinline__ float4 fetch4(const float *p) {
    float4 v;
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "l"(p) : "memory");
    return v;
}

__device__ __forceinline__ void publish(float *p, float x) {
    asm volatile("st.global.cg.f32 [%0], %1;" ::"l"(p), "f"(x) : "memory");
}

// sum must be a number that the compiler cannot know to be another than 0.123.
__device__ __forceinline__ void finish(long long start, float sum, long long *cycles) {
    __syncthreads();
    if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - start;
    if (sum == 0.123f) cycles[0] = 0;
}

// The packets of a block in round i: 16 bytes, three floats and the number of the round.
__device__ __forceinline__ void send_packets(float *to, int count, int i) {
    for (int e = threadIdx.x; e < count; e += blockDim.x)
        asm volatile("st.relaxed.gpu.global.v4.b32 [%0], {%1, %1, %1, %2};" ::"l"(to + 4 * e),
                     "f"((float)i), "r"(i)
                     : "memory");
}

extern "C" {

// As many parameters as a kernel of the column has.
__global__ void nothing(float *a, float *b, float *c, float *d, float *e, float *f, float *g, float *h,
                        float *i, float *j, int k, int l, int m, int n) {
    if (threadIdx.x > 5000) a[0] = b[0];
}

// Busy for so many cycles, so that what is launched behind it is queued when it begins.
__global__ void hold(long long repeats) {
    long long start = clock64();
    while (clock64() - start < repeats) {}
}

// The blocks of a group meet. With width > 0 each publishes that many floats before, and reads
// those of its whole group afterwards; width is a multiple of 4.
__global__ void meet(int *counters, float *x, int blocks, int width, int repeats, long long *cycles) {
    int group = blockIdx.x / blocks, part = blockIdx.x % blocks;
    float sum = 0;
    long long start = clock64();
    for (int i = 0; i < repeats; i++) {
        float *slot = x + ((i & 1) * gridDim.x + group * blocks) * width;
        for (int e = threadIdx.x; e < width; e += blockDim.x) publish(slot + part * width + e, i);
        __syncthreads();
        if (threadIdx.x == 0) {
            arrive(counters + 32 * group);
            while (arrived(counters + 32 * group) < (i + 1) * blocks) {}
        }
        __syncthreads();
        for (int e = 4 * threadIdx.x; e < blocks * width; e += 4 * blockDim.x) {
            float4 v = fetch4(slot + e);
            sum += v.x + v.y + v.z + v.w;
        }
    }
    finish(start, sum, cycles);
}

// The same exchange without a meeting, by packets. Two slots: who has the packets of a round knows
// that the round before was read.
__global__ void packets(float *x, int blocks, int width, int repeats, long long *cycles) {
    int group = blockIdx.x / blocks, part = blockIdx.x % blocks, own = width / 3;
    float sum = 0;
    long long start = clock64();
    for (int i = 1; i <= repeats; i++) {
        float *slot = x + 4 * ((i & 1) * gridDim.x + group * blocks) * own;
        send_packets(slot + 4 * part * own, own, i);
        for (int e = threadIdx.x; e < blocks * own; e += blockDim.x) {
            float a, b, c;
            int n;
            do {
                asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                             : "=f"(a), "=f"(b), "=f"(c), "=r"(n)
                             : "l"(slot + 4 * e)
                             : "memory");
            } while (n != i);
            sum += a + b + c;
        }
        __syncthreads();
    }
    finish(start, sum, cycles);
}

// The same, with `under way` loads of a thread at once; those whose packets are not there yet are
// repeated together.
__global__ void packets_at_once(float *x, int blocks, int width, int repeats, long long *cycles) {
    const int under_way = 8;
    int group = blockIdx.x / blocks, part = blockIdx.x % blocks, own = width / 3;
    float sum = 0;
    long long start = clock64();
    for (int i = 1; i <= repeats; i++) {
        float *slot = x + 4 * ((i & 1) * gridDim.x + group * blocks) * own;
        send_packets(slot + 4 * part * own, own, i);
        for (int e = threadIdx.x; e < blocks * own; e += under_way * blockDim.x) {
            float a[under_way], b[under_way], c[under_way];
            int n[under_way], missing = 0;
#pragma unroll
            for (int j = 0; j < under_way; j++)
                if (e + j * blockDim.x < blocks * own) missing |= 1 << j;
            while (missing) {
#pragma unroll
                for (int j = 0; j < under_way; j++)
                    if (missing >> j & 1)
                        asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                                     : "=f"(a[j]), "=f"(b[j]), "=f"(c[j]), "=r"(n[j])
                                     : "l"(slot + 4 * (e + j * blockDim.x))
                                     : "memory");
#pragma unroll
                for (int j = 0; j < under_way; j++)
                    if ((missing >> j & 1) && n[j] == i) {
                        missing &= ~(1 << j);
                        sum += a[j] + b[j] + c[j];
                    }
            }
        }
        __syncthreads();
    }
    finish(start, sum, cycles);
}

#if __CUDA_ARCH__ >= 900 // older GPUs have no clusters
// Blocks of a cluster push `width` floats each into the shared memory of all, then meet.
__device__ __forceinline__ void push(float *x, int width, int repeats, long long *cycles) {
    extern __shared__ float s[];
    unsigned own = (unsigned)__cvta_generic_to_shared(s), part, blocks;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(part));
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
    float sum = 0;
    for (int e = threadIdx.x; e < 2 * blocks * width; e += blockDim.x) s[e] = x[0];
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
    long long start = clock64();
    for (int i = 0; i < repeats; i++) {
        int slot = (i & 1) * blocks * width;
        for (int e = threadIdx.x; e < blocks * width; e += blockDim.x) {
            unsigned to = own + 4 * (slot + part * width + e % width);
            asm volatile(
                "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
                "st.shared::cluster.f32 [there], %2;\n}" ::"r"(to), "r"(e / width), "f"((float)i)
                : "memory");
        }
        asm volatile("barrier.cluster.arrive.release.aligned;\n"
                     "barrier.cluster.wait.acquire.aligned;" ::: "memory");
        for (int e = threadIdx.x; e < blocks * width; e += blockDim.x) sum += s[slot + e];
    }
    finish(start, sum, cycles);
}

__global__ void __cluster_dims__(4) push_4(float *x, int width, int repeats, long long *cycles) {
    push(x, width, repeats, cycles);
}

__global__ void __cluster_dims__(8) push_8(float *x, int width, int repeats, long long *cycles) {
    push(x, width, repeats, cycles);
}
#endif

// A flag goes from block 0 to another one and back.
__global__ void flag(int *x, int other, int repeats, long long *cycles) {
    int self = blockIdx.x, *mine = x + (self ? 32 : 0), *theirs = x + (self ? 0 : 32);
    if (threadIdx.x || (self && self != other)) return;
    long long start = clock64();
    for (int i = 1; i <= repeats; i++) {
        if (self == 0) arrive(mine);
        while (arrived(theirs) < i) {}
        if (self) arrive(mine);
    }
    cycles[self] = clock64() - start;
}

// Each block reads `floats` from L2, four loads of a thread under way at once; blocks read them
// `apart` floats from each other, 0: all the same. floats: a multiple of 16 * threads.
__global__ void read_l2(const float *x, int floats, int apart, int repeats, long long *cycles) {
    float sum = 0;
    const float *own = x + (long long)blockIdx.x * apart;
    long long start = clock64();
    for (int i = 0; i < repeats; i++)
        for (int e = 4 * threadIdx.x; e < floats; e += 16 * blockDim.x) {
            float4 v[4];
#pragma unroll
            for (int j = 0; j < 4; j++) v[j] = fetch4(own + e + 4 * j * blockDim.x);
#pragma unroll
            for (int j = 0; j < 4; j++) sum += v[j].x + v[j].y + v[j].z + v[j].w;
        }
    finish(start, sum, cycles);
}

// One load of L2 after the other: each says where the next one is.
__global__ void chase_l2(const int *x, int repeats, long long *cycles) {
    int at = 0;
    long long start = clock64();
    for (int i = 0; i < repeats; i++)
        asm volatile("ld.global.cg.s32 %0, [%1];" : "=r"(at) : "l"(x + at) : "memory");
    finish(start, __int_as_float(at), cycles);
}

// 16 loads of 128 bits from shared memory; the lanes' addresses are `apart` floats apart.
__global__ void read_shared(int apart, int repeats, long long *cycles) {
    extern __shared__ float s[];
    for (int e = threadIdx.x; e < 4096; e += blockDim.x) s[e] = e;
    __syncthreads();
    unsigned at = (unsigned)__cvta_generic_to_shared(s) + 4 * (threadIdx.x % 32) * apart;
    float sum = 0;
    long long start = clock64();
    for (int i = 0; i < repeats; i++)
#pragma unroll
        for (int j = 0; j < 16; j++) {
            float x, y, z, w;
            asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                         : "=f"(x), "=f"(y), "=f"(z), "=f"(w) : "r"(at + 512 * j));
            sum += x + y + z + w;
        }
    finish(start, sum, cycles);
}

// 16 independent FFMA.
__global__ void ffma(int repeats, long long *cycles) {
    float a[16], x = threadIdx.x, sum = 0;
#pragma unroll
    for (int j = 0; j < 16; j++) a[j] = j;
    long long start = clock64();
    for (int i = 0; i < repeats; i++)
#pragma unroll
        for (int j = 0; j < 16; j++) asm volatile("fma.rn.f32 %0, %1, %1, %0;" : "+f"(a[j]) : "f"(x));
#pragma unroll
    for (int j = 0; j < 16; j++) sum += a[j];
    finish(start, sum, cycles);
}

// 8 independent products of TF32 on a tensor core.
__global__ void mma(int repeats, long long *cycles) {
    float d[8][4], sum = 0;
    unsigned a = threadIdx.x << 13, b = 0x3f800000;
#pragma unroll
    for (int j = 0; j < 8; j++) d[j][0] = d[j][1] = d[j][2] = d[j][3] = 0;
    long long start = clock64();
    for (int i = 0; i < repeats; i++)
#pragma unroll
        for (int j = 0; j < 8; j++)
            asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, "
                         "{%4, %4, %4, %4}, {%5, %5}, {%0, %1, %2, %3};"
                         : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
                         : "r"(a), "r"(b));
#pragma unroll
    for (int j = 0; j < 8; j++) sum += d[j][0] + d[j][3];
    finish(start, sum, cycles);
}

}  // extern "C"

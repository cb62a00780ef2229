"""A GPU in software, for what the compiler makes of a kernel: its PTX.

    parse       the text of a kernel -> instructions, basic blocks, parameters, shared memory
    encode      -> Program: operations (instructions), where their operands lie (registers)
    run/        runs them, in C: operations, memory with checks, the scheduler, races, counts
    execute     compiles run/ once, launches; files that are kept
    gpu         PtxGpu, the runtime that stands in the place of a GPU's; arrays, in that of CuPy's
    texts       kernels that tests write in PTX
    counts      what a step of each kernel costs an H100; issue, what an instruction costs

PTX ISA: https://docs.nvidia.com/cuda/parallel-thread-execution/
"""

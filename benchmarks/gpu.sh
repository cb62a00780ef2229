#!/usr/bin/env bash
# All tests and benchmarks that need a GPU, in stages of a few minutes:
#
#     benchmarks/gpu.sh 1          150 s: results of all kernels, times of their parts, comparison with cuDNN
#     benchmarks/gpu.sh 2          200 s: the tests of the cuda column, compute-sanitizer
#     benchmarks/gpu.sh 3          200 s: BetterRnnlm on Penn Treebank, comparison with PyTorch; other plans
#     benchmarks/gpu.sh prepare    before, without a GPU: compiles the kernels of the stages into .carry
#     benchmarks/gpu.sh 1 --dry    few and small cases
#     benchmarks/gpu.sh 1 --budget 900    with another time limit, in seconds
#     benchmarks/gpu.sh 1 --archive a.tar.xz    also with all results in one file
#
# The results are written into the folder $OUT (default: benchmarks/results/gpu) during the run. PYTHON
# is the interpreter (default: .venv/bin/python, else python3). The script installs and downloads
# nothing. See benchmarks/README.md. Exit codes: 0 all passed; 1 not all passed, or no GPU; 2 wrong
# arguments.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-}
if [[ -z $python ]]; then
    python=python3
    [[ -x .venv/bin/python ]] && python=.venv/bin/python
fi
exec "$python" -m benchmarks.cuda.stages "$@"

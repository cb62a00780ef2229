#!/usr/bin/env bash
# Everything that needs a GPU, in stages for a machine that is at hand for minutes:
#
#     benchmarks/gpu.sh 1          150 s: is every kernel right, what do its pieces take, times beside cuDNN
#     benchmarks/gpu.sh 2          200 s: the tests of the cuda column, compute-sanitizer
#     benchmarks/gpu.sh 3          200 s: BetterRnnlm on Penn Treebank beside PyTorch, the race of plans
#     benchmarks/gpu.sh prepare    beforehand, without a GPU: compiles what the stages need into .carry
#     benchmarks/gpu.sh 1 --dry    few and small cases; --budget 900: other seconds
#
# Results go to $OUT (benchmarks/results/gpu) as they are measured. PYTHON is the interpreter
# (.venv/bin/python, else python3). Nothing is installed and nothing downloaded. See
# benchmarks/README.md. Exit code 0 if all passed, 1 if not or without a GPU, 2 for a wrong word.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-}
if [[ -z $python ]]; then
    python=python3
    [[ -x .venv/bin/python ]] && python=.venv/bin/python
fi
exec "$python" -m benchmarks.cuda.stages "$@"

#!/usr/bin/env bash
# Everything that needs a GPU, in one go, within nine minutes on an H100:
#
#     benchmarks/gpu.sh [tests] [sanitizer] [bench]        all three without a word
#
# It prints versions, runs the tests of the cuda column, compute-sanitizer on small cases and the GPU
# benchmarks. Results, as JSON, and the log of each part go to $OUT (benchmarks/results): gpu.json
# says what passed, cuda.json has the times. A part that fails or takes too long does not stop the
# next. Exit code 0 if all passed, 1 if not or without a GPU, 2 for a wrong word.
# PYTHON is the interpreter (.venv/bin/python, else python3), PERCENT=200 doubles the time limits.
# Once before: pip install -e '.[gpu]' torch
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

declare -A LIMIT=([tests]=180 [cases]=45 [memcheck]=45 [racecheck]=45 [bench]=220) # seconds
GRACE=10
for part in "${!LIMIT[@]}"; do
    LIMIT[$part]=$(((LIMIT[$part] * ${PERCENT:-100} + 99) / 100))
done

python=${PYTHON:-}
if [[ -z $python ]]; then
    python=python3
    [[ -x .venv/bin/python ]] && python=.venv/bin/python
fi
parts=("$@")
((${#parts[@]})) || parts=(tests sanitizer bench)
for part in "${parts[@]}"; do
    case $part in
        tests | sanitizer | bench) ;;
        *)
            echo "usage: benchmarks/gpu.sh [tests] [sanitizer] [bench], got $part" >&2
            exit 2
            ;;
    esac
done
out=${OUT:-benchmarks/results}
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT

# Without a GPU this says why, on one line, and nothing has been written.
if ! "$python" -m benchmarks.cuda.machine "$scratch/versions.json" > "$scratch/versions" 2> "$scratch/why"; then
    tail -n 1 "$scratch/why" >&2
    exit 1
fi
mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd)
cat "$scratch/versions"
command -v nvidia-smi > /dev/null && nvidia-smi
: > "$scratch/parts"
failed=0

note() { # name, exit code, seconds, what it says
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "${4//[$'\t\n']/ }" >> "$scratch/parts"
    (($2 == 0)) || failed=1
}

run() { # name, command...: within its limit, into its log, and a line for the summary
    local name=$1 log="$out/gpu-$1.log" begin=$SECONDS code says
    shift
    printf '\n=== %s\n' "$name"
    timeout -k "$GRACE" "${LIMIT[$name]}" "$@" 2>&1 | tee "$log"
    code=${PIPESTATUS[0]}
    says=$(grep -v '^[[:space:]]*$' "$log" | tail -n 1)
    ((code == 124 || code == 137)) && says="took longer than ${LIMIT[$name]} s; $says"
    note "$name" "$code" $((SECONDS - begin)) "$says"
}

run_tests() {
    local more=()
    # Compiling is most of the work, so processes help. -p: pytest-benchmark warns beside xdist.
    # -W: a warning of a driver or a library that nobody here has seen must not fail every test.
    if "$python" -c 'import xdist' 2> /dev/null; then
        local processes
        processes=$(nproc)
        more=(-n "$((processes < 8 ? processes : 8))" --dist worksteal)
    fi
    run tests "$python" -m pytest tests -k cuda -W default -p no:benchmark -p no:cacheprovider \
        "${more[@]}"
}

find_sanitizer() {
    local found
    command -v compute-sanitizer && return
    for found in "${CUDA_HOME:-/nowhere}" "${CUDA_PATH:-/nowhere}" /usr/local/cuda; do
        [[ -x $found/bin/compute-sanitizer ]] && echo "$found/bin/compute-sanitizer" && return
    done
    "$python" - << 'PYTHON'
import sys
from pathlib import Path

places = [p for folder in sys.path for p in Path(folder or ".").glob("nvidia/cu*/bin")]
found = [str(p / "compute-sanitizer") for p in places if (p / "compute-sanitizer").exists()]
print(found[-1] if found else "")
PYTHON
}

run_sanitizer() {
    local sanitizer tool
    run cases "$python" -m benchmarks.sanitize # without it: right, and all kernels compiled
    sanitizer=$(find_sanitizer)
    for tool in memcheck racecheck; do
        if [[ -z $sanitizer ]]; then
            note "$tool" 1 0 "compute-sanitizer was not found (pip install nvidia-cuda-sanitizer-api)"
        else
            run "$tool" "$sanitizer" --tool "$tool" --error-exitcode 77 --print-limit 20 \
                "$python" -m benchmarks.sanitize
        fi
    done
}

run_bench() {
    rm -f "$out/cuda.json" # an old one must not pass for this run's
    run bench "$python" -m pytest benchmarks/cuda -W default -p no:cacheprovider \
        --seconds "$((LIMIT[bench] * 6 / 7))" --benchmark-columns=median,rounds \
        --benchmark-json="$out/cuda.json"
    [[ -s $out/cuda.json ]] && "$python" -m benchmarks.cuda.report "$out/cuda.json" | tee "$out/cuda.md"
}

for part in "${parts[@]}"; do
    case $part in
        tests) run_tests ;;
        sanitizer) run_sanitizer ;;
        bench) run_bench ;;
    esac
done

printf '\n=== summary\n'
"$python" - "$scratch/versions.json" "$scratch/parts" "$out/gpu.json" << 'PYTHON'
import json
import sys

versions, parts, out = sys.argv[1:]
rows = []
with open(parts, encoding="utf-8", errors="replace") as file:
    for line in file:
        name, code, seconds, says = line.rstrip("\n").split("\t", 3)
        rows.append({"part": name, "exit_code": int(code), "seconds": int(seconds), "says": says})
        print(f"{name:<10} {'passed' if code == '0' else 'FAILED':<7} {seconds:>4} s  {says}")
with open(versions, encoding="utf-8") as file:
    about = json.load(file)
passed = all(row["exit_code"] == 0 for row in rows)
with open(out, "w", encoding="utf-8") as file:
    json.dump({"passed": passed, "parts": rows, "versions": about}, file, indent=1)
print("all passed" if passed else "NOT ALL PASSED", f"- {out}")
PYTHON
exit "$failed"

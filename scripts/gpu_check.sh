#!/usr/bin/env bash
# Measures on a GPU what no other machine can, in one command of at most eight minutes, and prints tables:
#
#     scripts/gpu_check.sh --out gpu.json                    # docs/measure/gpu.md has the parts and the fields
#     scripts/gpu_check.sh --rehearse --out rehearsal.json   # every part with tiny shapes, on a CPU
#
# On a machine without a network, collect the packages first, where there is one, and carry the folder along. Its Python is
# 3.12 and has torch, torchaudio, lightning, torchmetrics and transformers, which are left as they are; what it lacks is
# installed into a temporary folder:
#
#     scripts/gpu_check.sh --collect wheels                  # at most 64 MiB
#     scripts/gpu_check.sh --wheels wheels --out gpu.json
#
# Other options, such as `--minutes`, are those of `python -m benchmarks.gpu.check`.
#
# PYTHON  the interpreter (python3)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
# Safe: nothing is imported from the current folder, whose packages may have the names of ours.
export PYTHONSAFEPATH=1 PYTHONPATH="$root"

options=() wheels=
while [ $# -gt 0 ]; do
    case $1 in
        --collect) exec "$python" -m benchmarks.gpu.wheels collect "${2:?--collect needs a folder}" ;;
        --collect=*) exec "$python" -m benchmarks.gpu.wheels collect "${1#*=}" ;;
        --wheels) wheels=${2:?--wheels needs a folder}; shift ;;
        --wheels=*) wheels=${1#*=} ;;
        *) options+=("$1") ;;
    esac
    shift
done
if [ -n "$wheels" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m benchmarks.gpu.wheels install "$wheels" "$site"
    export PYTHONPATH="$root:$site"
fi
"$python" -m benchmarks.gpu.check "${options[@]}"

#!/usr/bin/env bash
# Tests every pair of Python and torch that pyproject.toml allows, each in a separate environment, and prints a table:
#
#     scripts/matrix.sh                     # all six; 20 to 60 minutes, mostly downloads, and 7 GB of disk for one at a time
#     PYTHONS=3.12 TORCHES=2.14.1 scripts/matrix.sh
#
# The newest torch is tested with the packages of requirements.lock, the oldest one with the lowest version of every direct
# dependency that pyproject.toml allows, so that both ends of its ranges are tested.
#
# PYTHONS  versions of Python (3.11 3.12 3.13), from the PATH or from pyenv
# TORCHES  versions of torch (2.11.0 2.14.1)
# WORK     folder for environments and logs (a temporary one); logs are kept, environments are removed
set -uo pipefail
cd "$(dirname "$0")/.."
export PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1
work=${WORK:-$(mktemp -d)}
mkdir -p "$work"
oldest=2.11.0
# The goldens, the formulas, the oracles that need a package (fastabx, flashlight-text), and the compiler.
tests="tests/golden tests/functional tests/evaluation/tasks/test_abx_task.py tests/parts/decoders/test_decoders.py
    tests/parts/encoders/test_log_mel.py tests/callbacks/test_inductor.py tests/contracts/test_every_part.py"

python_of() {
    local found
    for found in "$(command -v "python$1")" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        if [ -x "$found" ] && "$found" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            echo "$found"
            return
        fi
    done
    echo "Python $1 is not installed: install it, or remove it from PYTHONS." >&2
    return 1
}

# Exact versions for the environment, as constraints.
constraints_of() {
    if [ "$1" = "$oldest" ]; then
        printf 'torch==%s\ntorchaudio==%s\n' "$oldest" "$oldest" > "$work/oldest.txt"
        "$work/uv/bin/uv" pip compile --quiet --resolution lowest-direct --constraints "$work/oldest.txt" \
            pyproject.toml --output-file "$work/lowest.lock"
        echo "$work/lowest.lock"
    else
        echo requirements.lock
    fi
}

python3 -m venv "$work/uv" && "$work/uv/bin/pip" install uv || exit 1
failed=0
table="| Python | torch | torchaudio | other packages | doctor | fit | tests |"$'\n'"|---|---|---|---|---|---|---|"
for torch in ${TORCHES:-2.11.0 2.14.1}; do
    constraints=$(constraints_of "$torch") || exit 1
    for version in ${PYTHONS:-3.11 3.12 3.13}; do
        python=$(python_of "$version") || exit 1
        env="$work/$version-$torch" log="$work/$version-$torch.log"
        printf '=== Python %s, torch %s (%s)\n' "$version" "$torch" "$log" >&2
        "$python" -m venv "$env" &&
            "$env/bin/pip" install --constraint "$constraints" --editable ".[test]" > "$log" 2>&1 ||
            { echo "the installation failed: $log" >&2; failed=1; continue; }
        status() { "$@" >> "$log" 2>&1 && echo passes || echo "fails ($?)"; }
        doctor=$(status "$env/bin/w2vlab" doctor)
        # Two updates of the quickstart on real speech, and a validation.
        fit=$(status "$env/bin/w2vlab" fit --config configs/quickstart.yaml --trainer.max_steps=2 \
            --trainer.val_check_interval=2 --trainer.default_root_dir="$work/runs-$version-$torch" \
            --trainer.limit_val_batches=1)
        # shellcheck disable=SC2086  # several folders
        "$env/bin/python" -m pytest $tests >> "$log" 2>&1 || failed=1
        closing=$(grep -E '^=+ .*(passed|failed|error).* =+$' "$log" | tail -n 1 | tr -d '=' | sed 's/ in .*//; s/^ *//')
        [ "$doctor $fit" = "passes passes" ] || failed=1
        audio=$("$env/bin/python" -c 'from importlib.metadata import version; print(version("torchaudio"))')
        others=$([ "$torch" = "$oldest" ] && echo lowest || echo locked)
        table+=$'\n'"| $version | $torch | $audio | $others | $doctor | $fit | ${closing:-none} |"
        rm -rf "$env"
    done
done
printf '%s\n' "$table"
exit "$failed"

#!/usr/bin/env bash
# safetensors 0.8.0: `safetensors.numpy.save_file` writes other numbers than those of an array that is not contiguous.
#
# Packages   safetensors 0.8.0, numpy 2.4.6; seen on 2026-11-29, Linux x86-64, Python 3.11.
# Expected   `load_file` returns the arrays that `save_file` was given, or `save_file` raises, as that of
#            `safetensors.torch` does for a tensor that is not contiguous.
# Actual     A transposed weight matrix, or every second entry of a codebook, is written without an error, with the
#            numbers that follow each other in memory: the shape is right and the values are not. It happens if
#            weights change their layout between two frameworks.
# Seen       a matrix: equal
#            its transpose: 10 of 12 numbers differ
#            every second row: 3 of 6 numbers differ
#            a column of it: 3 of 4 numbers differ
# Workaround `numpy.ascontiguousarray` before `save_file`, or tensors of PyTorch.
#
# Downloads about 20 MB. Ends with status 0 as long as the behavior is as described here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
"$folder/env/bin/python" - "$folder" <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

PATH = Path(sys.argv[1]) / "weights.safetensors"
MATRIX = np.arange(12, dtype=np.float32).reshape(4, 3)


def differing(name, array):
    """Writes and reads one array, and returns how many of its numbers are others."""
    save_file({"weight": array}, PATH)
    found = load_file(PATH)["weight"]
    assert found.shape == array.shape
    count = int((found != array).sum())
    print(f"{name}: {f'{count} of {array.size} numbers differ' if count else 'equal'}")
    return count


print("safetensors", version("safetensors"), "numpy", np.__version__)
assert differing("a matrix", MATRIX) == 0, "contiguous arrays have changed"
assert differing("its transpose", MATRIX.T) > 0, "transposed arrays have changed"
assert differing("every second row", MATRIX[::2]) > 0, "rows with a step have changed"
assert differing("a column of it", MATRIX[:, 1]) > 0, "columns have changed"
PYTHON

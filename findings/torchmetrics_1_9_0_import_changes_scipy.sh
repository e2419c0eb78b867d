#!/usr/bin/env bash
# torchmetrics 1.9.0: importing it (and so importing lightning) imports `scipy.signal` and adds a function to it.
#
# Packages   torchmetrics 1.9.0, torch 2.14.1, scipy 1.17.1; seen on 2026-11-30, Linux x86-64, Python 3.11.
# Expected   SciPy has no `scipy.signal.hamming` (it is `scipy.signal.windows.hamming`), whatever else is imported; and a
#            package that does not use `scipy.signal` does not load it.
# Actual     Where SciPy is installed, `import torchmetrics` loads `scipy.signal` and sets `scipy.signal.hamming`. Code
#            with the removed name works or fails by what was imported before, and each start of a program that uses
#            Lightning also loads SciPy's signal and statistics packages.
# Seen       scipy alone: scipy.signal.hamming exists: False
#            after import torchmetrics: scipy.signal loaded: True, scipy.signal.hamming exists: True
# Workaround Use `scipy.signal.windows.hamming`; SciPy only in environments that need it.
#
# Downloads about 300 MB. Ends with status 0 as long as the behavior is as described here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.14.1 scipy==1.17.1
"$folder/env/bin/python" - <<'PYTHON'
import subprocess
import sys

ALONE = "import scipy.signal; print(hasattr(scipy.signal, 'hamming'))"
AFTER = """
import sys
import torchmetrics
print('scipy.signal' in sys.modules)
print(hasattr(sys.modules['scipy.signal'], 'hamming'))
"""


def printed(code):
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.split()


(alone,) = printed(ALONE)
loaded, added = printed(AFTER)
print(f"scipy alone: scipy.signal.hamming exists: {alone}")
print(f"after import torchmetrics: scipy.signal loaded: {loaded}, scipy.signal.hamming exists: {added}")
assert (alone, loaded, added) == ("False", "True", "True")
PYTHON

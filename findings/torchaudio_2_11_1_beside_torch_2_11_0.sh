#!/usr/bin/env bash
# torchaudio 2.11.1 can be installed with torch 2.11.0, but not imported.
#
# Packages   torch 2.11.0, torchaudio 2.11.1; seen on 2026-11-29, Linux x86-64, Python 3.11.
# Expected   torchaudio 2.11.1 declares `torch>=2.11`, so pip installs it with torch 2.11.0, `pip check` has no
#            complaint, and `import torchaudio` works, as torchaudio 2.11.0 does there.
# Actual     `import torchaudio` raises OSError: its library needs a function that torch 2.11.0 does not have.
#            A range such as `torch==2.11.*` with `torchaudio==2.11.*` therefore resolves to a pair that does not load.
# Seen       OSError: Could not load this library: .../torchaudio/lib/libtorchaudio.so, caused by
#            OSError: .../libtorchaudio.so: undefined symbol: torch_exception_get_what_without_backtrace
# Workaround torchaudio 2.11.0 with torch 2.11.0, or torchaudio 2.11.1 with torch 2.14.1.
#
# Downloads about 3 GB. Ends with status 0 as long as the behavior is as described here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.11.0 torchaudio==2.11.1
"$folder/env/bin/pip" check
"$folder/env/bin/python" - <<'PYTHON'
from importlib.metadata import requires, version

import torch

print("torch", torch.__version__, "torchaudio", version("torchaudio"), "asks for", requires("torchaudio"))
assert torch.__version__.startswith("2.11.0")
try:
    import torchaudio
except OSError as error:
    print(f"OSError: {error}, caused by {error.__cause__}")
    assert "torch_exception_get_what_without_backtrace" in str(error.__cause__)
else:
    raise SystemExit("torchaudio can be imported now: this finding has changed")
PYTHON

#!/usr/bin/env bash
# lhotse 1.33.0: `validate(cut, read_data=True)` refuses every cut with a temporal array, such as units or codes.
#
# Packages   lhotse 1.33.0, numpy 2.4.6, soundfile 0.14.0, urllib3 2.6.3; seen on 2026-11-30, Linux x86-64, Python 3.11.
# Expected   A cut whose array was written by `store_array` and reads back equal is valid.
# Actual     `validate` without `read_data` passes. With it there is an AssertionError without a text: the shape in the
#            manifest is a list, that of the array a tuple, and the two are compared.
# Seen       as made: AssertionError ''
#            read back: codes equal True, shape [4, 2]
#            read back, without read_data: valid
#            read back, with read_data: AssertionError ''
# Workaround Compare `cut.load_codes()` with the shape yourself; `validate` without `read_data` for the rest.
#
# Downloads about 60 MB. Ends with status 0 as long as the behavior is as described here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

python3 -m venv "$folder/env"
# lhotse imports torch where it is installed, and needs it for none of this.
"$folder/env/bin/pip" install --quiet lhotse==1.33.0 numpy==2.4.6 soundfile==0.14.0 urllib3==2.6.3
"$folder/env/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet, NumpyFilesWriter, Recording, validate

FOLDER = Path(sys.argv[1])
CODES = np.arange(8, dtype=np.int16).reshape(4, 2)

soundfile.write(FOLDER / "u1.wav", 0.1 * np.sin(np.arange(1280) / 5), 16000)
cut = Recording.from_file(FOLDER / "u1.wav").to_cut()
with NumpyFilesWriter(FOLDER / "codes") as writer:
    cut.codes = writer.store_array("u1", CODES, frame_shift=0.02, temporal_dim=0, start=0)


def verdict(cut, **options):
    try:
        validate(cut, **options)
    except AssertionError as error:
        return f"AssertionError {str(error)!r}"
    return "valid"


made = verdict(cut, read_data=True)
CutSet.from_cuts([cut]).to_file(FOLDER / "cuts.jsonl.gz")
read = CutSet.from_file(FOLDER / "cuts.jsonl.gz")[0]
equal, shape = bool(np.array_equal(read.load_codes(), CODES)), read.codes.array.shape
without, within = verdict(read), verdict(read, read_data=True)
print(f"as made: {made}")
print(f"read back: codes equal {equal}, shape {shape}")
print(f"read back, without read_data: {without}")
print(f"read back, with read_data: {within}")
refused = "AssertionError ''"
assert (made, equal, shape, without, within) == (refused, True, [4, 2], "valid", refused)
PYTHON

#!/usr/bin/env bash
# lhotse 1.33.0: a folder of Shar shards that has any other file, such as a README or a list of checksums, cannot be read.
#
# Packages   lhotse 1.33.0, torch 2.14.1, soundfile 0.14.0; seen on 2026-11-30, Linux x86-64, Python 3.11.
# Expected   `CutSet.from_shar(in_dir=FOLDER)` reads `cuts.*.jsonl.gz` and the numbered files of the fields, and leaves other
#            files alone: folders that are published have a README, a license or checksums.
# Actual     The name of every file up to its first dot is taken for a field, and an AssertionError says that the shards of
#            the field `README` are missing.
# Seen       the folder as written: 4 utterances
#            README.md: AssertionError: Expected 2 shards available for field 'README' but found 1
#            SHA256SUMS: AssertionError: Expected 2 shards available for field 'SHA256SUMS' but found 1
# Workaround Put other files beside the folder of the shards, or list the shards: `CutSet.from_shar(fields={...})`.
#
# Downloads about 300 MB. Ends with status 0 as long as the behavior is as described here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet lhotse==1.33.0 torch==2.14.1 soundfile==0.14.0 "urllib3>=2.5,<3"
"$folder/env/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet, Recording
from lhotse.shar import SharWriter

root = Path(sys.argv[1])
for number in range(4):
    noise = 0.1 * np.random.default_rng(number).standard_normal(8_000)
    soundfile.write(root / f"{number}.wav", noise, 16_000)
shards = root / "shards"
shards.mkdir()
with SharWriter(shards, fields={"recording": "wav"}, shard_size=2) as writer:
    for number in range(4):
        writer.write(Recording.from_file(root / f"{number}.wav").to_cut())


def count():
    return sum(1 for _ in CutSet.from_shar(in_dir=shards))


print(f"the folder as written: {count()} utterances")
assert count() == 4
for name in ("README.md", "SHA256SUMS"):
    (shards / name).write_text("about these shards\n")
    try:
        found = count()
    except AssertionError as error:
        print(f"{name}: AssertionError: {str(error).partition(':')[0]}")
        assert f"field '{name.partition('.')[0]}'" in str(error)
    else:
        raise SystemExit(f"{name}: no error, {found} utterances")
    (shards / name).unlink()
assert count() == 4
PYTHON

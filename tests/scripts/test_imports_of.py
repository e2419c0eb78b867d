"""What a file of the project imports, counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_an_update_reads_nothing_that_only_checkpoints_need() -> None:
    command = [sys.executable, "scripts/imports_of.py", "w2vlab/modules/masked_prediction.py"]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    *files, total = ((int(line.split()[0]), line.split(maxsplit=1)[1]) for line in output)
    names = {name for _, name in files}
    assert total == (sum(lines for lines, _ in files), f"lines in {len(files)} files")
    assert {"w2vlab/modules/masked_prediction.py", "w2vlab/modules/update.py", "w2vlab/losses/contrastive.py"} <= names
    assert not [name for name in names if "saved/" in name or name.endswith(("checkpointing.py", "flops.py", "ctc.py"))]

"""A fake run that starts quickly: it logs rows, and fails, waits or stops, depending on its parameter."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

options = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
kind, level = options["kind"], float(options.get("level", 1))
folder = Path(os.environ["W2VLAB_TRIAL_FOLDER"], "run")
folder.mkdir(exist_ok=True)
state = folder / "checkpoints" / "last.ckpt"
state.parent.mkdir(exist_ok=True)
begin = int(state.read_text()) if state.exists() else 0


def stop(number: int, frame: object) -> None:
    sys.stderr.write("stopped\n")
    sys.exit(128 + number)


signal.signal(signal.SIGTERM, stop)
sys.stdout.write(f"begins at {begin} with {os.environ.get('OMP_NUM_THREADS')} threads\n")
(folder / "processors").write_text(str(len(os.sched_getaffinity(0))))
for update in range(begin + 1, 6):
    with (folder / "metrics.jsonl").open("a") as rows:
        rows.write(json.dumps({"update": update, "val/loss/total": level / update, "val/accuracy": 0.5}) + "\n")
    state.write_text(str(update))
    if kind == "fails_once" and begin == 0 and update == 3:
        sys.exit("error: the disk was full")
    if kind == "dies_once" and begin == 0 and update == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "fails":
        sys.exit("error: this cannot work")
    if kind == "misused":
        sys.stderr.write("error: Unknown argument --kind\n")
        sys.exit(2)
    if kind == "waits" and update == 3:
        time.sleep(600)
    if kind == "waits_for_file" and update == 3:
        end = time.monotonic() + 300
        while not (folder.parents[1] / "go").exists() and time.monotonic() < end:
            time.sleep(0.02)

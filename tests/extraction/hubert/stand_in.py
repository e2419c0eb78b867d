"""Stands in for w2vlab: commands that leave the files of `cluster`, `encode`, `fit` and `evaluate` without computing.

The environment variable `STAND_IN` has one of them do something else when half of its work is done: `fail:fit1`,
`wait:encode2`, `deaf:encode2` (waits and ignores a signal), `silent:fit1` (status 0 without a result). Each appends its
name to `calls` in the folder of the chain. It imports no library, so that it starts quickly.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

kind, *words = sys.argv[1:]
value = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--") and "=" in word)
place = {"cluster": 2, "encode": 2, "evaluate": 0}.get(kind)
output = Path(value["trainer.default_root_dir"] if place is None else words[place])
iteration = next(part for part in output.parts if part.startswith("iteration"))
name = f"{kind}{iteration.removeprefix('iteration')}"
chain = Path(*output.parts[: output.parts.index(iteration)])
asked, _, asked_of = os.environ.get("STAND_IN", "").partition(":")


def leave(path: Path, content: object) -> None:
    """Writes a file at once, as all commands do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".unfinished").write_text(content if isinstance(content, str) else json.dumps(content))
    os.replace(path.with_suffix(".unfinished"), path)


def half_done() -> None:
    """Fails or waits, if that is asked for."""
    if asked_of != name:
        return
    if asked == "fail":
        sys.stderr.write("error: `lr` must be smaller.\n")
        sys.exit(1)
    if asked == "silent":
        sys.exit(0)
    if asked == "deaf":
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    (chain / "waits").touch()
    time.sleep(300)


def cluster() -> None:
    half_done()
    text = json.dumps({"__metadata__": {"w2vlab_centers": json.dumps({"inertia": 69.6})}}).encode()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(len(text).to_bytes(8, "little") + text)


def encode() -> None:
    (output / "plan").mkdir(parents=True, exist_ok=True)
    (output / "shard-0.parquet").touch()
    half_done()
    leave(
        output / "encoding.json",
        {"files": {"shard-0.parquet": 0}, "statistics": {"bits_per_second": {"frames": 210.5}}},
    )


def fit() -> None:
    resumed = "--ckpt_path=last" in words
    found = next(iter(output.glob("*/*/checkpoints/last.ckpt")), None)
    assert resumed == (found is not None)
    run = found.parents[1] if found else output / "w2vlab" / f"id{os.getpid()}"
    begin = int(found.read_text()) if found else 0
    leave(run / "run.json", {"status": "running"})

    def stop(number: int, frame: object) -> None:
        leave(run / "run.json", {"status": "stopped"})
        sys.stderr.write(f"stopped by {number}\n")
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, stop)
    for update in range(begin + 1, 5):
        with (run / "metrics.jsonl").open("a") as rows:
            validated = {"val/loss/total": 4 / update, "val/accuracy": update / 10} if update <= 2 else {}
            rows.write(json.dumps({"update": update, **validated}) + "\n")
        leave(run / "checkpoints" / "last.ckpt", str(update))
        if update == 2:
            half_done()
    leave(run / "run.json", {"status": "finished"})


def evaluate() -> None:
    assert output.is_file(), "the checkpoint exists"
    half_done()
    rows = [
        {"name": f"layer {layer}", "accuracy": 0.5 + layer / 10, "abx": {"within": 0.2 - layer / 50}}
        | {"accuracy_random": 0.3, "abx_random": {"within": 0.35}}
        for layer in (0, 1, 2)
    ]
    control = {"name": "MFCC (control)", "accuracy": 0.6, "abx": {"within": 0.17}, "abx_random": {}}
    content = {"table": [*rows, {**control, "accuracy_random": None}], "corpus": {"name": "toy"}}
    leave(output.parents[1] / "evaluation" / output.stem / "evaluation.json", content)


chain.mkdir(parents=True, exist_ok=True)
with (chain / "calls").open("a") as calls:
    calls.write(f"{name}{' resumes' if '--ckpt_path=last' in words else ''}\n")
assert not any(re.search(r"[*]", word) for word in words), "a pattern was not replaced"
sys.stdout.write(f"{name} works\n")
{"cluster": cluster, "encode": encode, "fit": fit, "evaluate": evaluate}[kind]()

"""Interrupts a run in every way, resumes it, and compares it with an uninterrupted run.

python -m benchmarks.resume --kills 20
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.runs import UPDATES, Run, compare, furthest, greatest_difference, run_uninterrupted, write_config

WAYS: dict[str, tuple[int | None, int]] = {
    "SIGKILL": (signal.SIGKILL, -9),
    "SIGTERM": (signal.SIGTERM, 143),
    "SIGINT": (signal.SIGINT, 130),
    "SIGUSR1": (signal.SIGUSR1, 138),
    "max_steps": (None, 0),
}
"""The signal of each way to end, and the exit status."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--accumulate", type=int, default=2, help="micro-batches of an update")
    parser.add_argument("--json", type=Path, help="where the table goes as JSON")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    flags = [f"--trainer.accumulate_grad_batches={options.accumulate}"]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config = write_config(root, batch_seconds=2)
        length = run_uninterrupted(root / "whole", config, *flags)
        print("| ended by | after (s) | at update | ended within (s) | status (expected) |\n|---|---|---|---|---|")
        ends: list[dict[str, Any]] = []
        results = []
        while True:
            folder = root / f"run-{len(results)}"
            end = None
            if len(ends) < options.kills:
                end = _end(folder, config, flags, list(WAYS)[len(ends) % len(WAYS)], draw, length)
            if end is not None:
                ends.append(end)
                print("| {way} | {after:.1f} | {update} | {ended} | {status} ({expected}) |".format(**end))
                continue
            with Run(folder, config, *flags) as run:
                run.finish()
            results.append(compare(folder, root / "whole"))
            print(f"went on to the end: {results[-1]}")
            if len(ends) >= options.kills:
                break
    if options.json:
        options.json.write_text(json.dumps({"ends": ends, "results": results}, indent=1))
    wrong = sum(end["ended"] is None or end["status"] != end["expected"] for end in ends)
    worst = greatest_difference(results)
    print(f"\n{len(ends)} ends, {wrong} with another status, greatest difference of a loss {worst}")


def _end(
    folder: Path, config: Path, flags: list[str], way: str, draw: random.Random, length: float
) -> dict[str, Any] | None:
    """Starts a run and stops it in one way, at a random time; returns None if the run ended before."""
    number, expected = WAYS[way]
    after = draw.uniform(0, length)
    if number is None:
        until = min(UPDATES, furthest(folder) + draw.randrange(1, 20))
        flags = [*flags, f"--trainer.max_steps={until}"]
    start = time.monotonic()
    with Run(folder, config, *flags) as run:
        if number is None:
            run.process.wait()
            after = time.monotonic() - start
        elif run.lives_until(start + after) and run.process.poll() is None:
            os.kill(run.process.pid, number)
        else:
            return None
        ended = run.ends()
    return {
        "way": way,
        "after": after,
        "update": furthest(folder),
        "ended": None if ended is None else round(ended, 1),
        "status": run.process.returncode,
        "expected": expected,
        "message": run.message(),
    }


if __name__ == "__main__":
    main()

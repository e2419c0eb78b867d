"""Repeatedly kills a random one of two processes of a run, and compares the result with an uninterrupted run.

python -m benchmarks.faults --kills 20
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the table goes as JSON")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config = write_config(root)
        length = run_uninterrupted(root / "whole", config, processes=2)
        print(
            "| killed | after (s) | at update | others ended after (s) | status | message |\n|---|---|---|---|---|---|"
        )
        kills: list[dict[str, Any]] = []
        results = []
        while len(kills) < options.kills or furthest(root / f"run-{len(results)}") < UPDATES:
            folder = root / f"run-{len(results)}"
            with Run(folder, config, processes=2) as run:
                if len(kills) < options.kills and (kill := _kill(run, draw, length)):
                    kills.append({**kill, "update": furthest(folder)})
                    print("| {rank} | {after:.1f} | {update} | {ended} | {status} | {message} |".format(**kills[-1]))
                else:
                    run.finish()
                    results.append(compare(folder, root / "whole"))
                    print(f"went on to the end: {results[-1]}")
                    if len(kills) >= options.kills:
                        break
    report = {"kills": kills, "results": results}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    hung = sum(kill["ended"] is None for kill in kills)
    print(f"\n{len(kills)} kills, {hung} hung, greatest difference of a loss {greatest_difference(results)}")


def _kill(run: Run, draw: random.Random, length: float) -> dict[str, Any] | None:
    """Kills one of the two at a random time; returns None if the run ended before."""
    rank, after = draw.randrange(2), draw.uniform(0, length)
    if not run.lives_until(time.monotonic() + after):
        return None
    victim = run.rank(rank)
    if victim is None:
        rank, victim = 0, run.process.pid  # the other one has not started yet
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return None
    ended = run.ends()
    return {
        "rank": rank,
        "after": after,
        "ended": None if ended is None else round(ended, 1),
        "status": run.process.returncode,
        "message": run.message(),
    }


if __name__ == "__main__":
    main()

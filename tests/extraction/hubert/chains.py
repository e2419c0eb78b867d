"""Chains of stand-in commands."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2vlab.extraction.hubert.changes import find_changes
from w2vlab.extraction.hubert.plan import Extras, Iteration, plan_steps
from w2vlab.extraction.hubert.record import ChainRecord
from w2vlab.extraction.hubert.running import run_steps
from w2vlab.extraction.hubert.step import Step

PROGRAM = [sys.executable, str(Path(__file__).with_name("stand_in.py"))]

RUN = {
    "data.corpus": "speech",
    "data.cache_dir": None,
    "data.exclude": "held_out.txt",
    "seed_everything": 3,
    "trainer.max_steps": 4,
}
"""Resolved options of a run."""


def iterations(number: int = 2, **changed: Any) -> list[Iteration]:
    """Returns iterations over MFCC and then layer 1; options of the runs may be changed."""
    run: Mapping[str, Any] = {**RUN, **changed}
    return [
        Iteration(
            number=one,
            source="mfcc" if one == 1 else None,
            layer=None if one == 1 else 1,
            k=10 * one,
            run_words=["--config", "toy.yaml"],
            run_options=run,
        )
        for one in range(1, number + 1)
    ]


def steps_in(folder: Path, number: int = 2, extras: Extras | None = None, **changed: Any) -> list[Step]:
    """Returns the steps of a chain."""
    return plan_steps(folder, iterations(number, **changed), extras or Extras())


def run(folder: Path, steps: list[Step] | None = None, redo: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    """Runs a chain as the command does; returns its signal and what it said."""
    said: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)
    record, steps = ChainRecord(folder), steps or steps_in(folder)
    changes = find_changes(steps, record, redo)
    changes.refuse(folder)
    changes.apply(record)
    return run_steps(steps, record, PROGRAM, said.append), said


def calls(folder: Path) -> list[str]:
    """Returns the commands that were run, in order."""
    return (folder / "calls").read_text().split("\n")[:-1]


if __name__ == "__main__":  # a chain in a process of its own
    run(Path(sys.argv[1]))

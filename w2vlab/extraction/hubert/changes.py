"""Which steps of an earlier chain are kept, repeated, or cannot be: their options have changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from w2vlab.extraction.hubert.record import ChainRecord
from w2vlab.extraction.hubert.step import Step
from w2vlab.registry import did_you_mean
from w2vlab.utils.comparable import describe_differences

CHANGED = "changed"
"""Word in place of names of steps: all steps whose options have changed."""

SET_ASIDE = "set_aside"
"""Folder, in that of the chain, of the files of repeated steps."""


@dataclass(frozen=True)
class Changes:
    """What is done with the steps of an earlier chain.

    Attributes:
        changed: The differences of each step whose options have changed since it was started, by its name.
        redone: Steps that start from the beginning.
    """

    changed: dict[str, list[str]]
    redone: list[Step]

    def refuse(self, folder: Path) -> None:
        """Raises an error if options have changed of steps that are not repeated.

        Raises:
            ValueError: The message has the steps and options.
        """
        redone = {step.name for step in self.redone}
        kept = {name: texts for name, texts in self.changed.items() if name not in redone}
        if not kept:
            return
        lines = "\n".join(f"  {name}: {', '.join(texts)}" for name, texts in kept.items())
        raise ValueError(
            f"The steps in {folder} must belong together, but these were run with other options:\n{lines}\n"
            f"Undo the change, use another --out, or repeat them and what follows with --redo={next(iter(kept))} "
            f"(their files are kept in {SET_ASIDE}/)."
        )

    def apply(self, record: ChainRecord) -> None:
        """Moves the files of the repeated steps to `set_aside`, and removes the steps from the record.

        Raises:
            OSError: A file cannot be moved.
        """
        for step in reversed(self.redone):  # an evaluation is in the folder of its run
            for path in step.files():
                _set_aside(record.folder, step.name, path)
            record.steps.pop(step.name, None)
        if self.redone:
            record.write()


def find_changes(steps: Sequence[Step], record: ChainRecord, redo: Sequence[str] = ()) -> Changes:
    """Compares the steps with those of an earlier chain in the same folder.

    Args:
        steps: All steps, each after those that it needs.
        record: The record of the folder.
        redo: Names of steps to repeat, or `changed`; those that need their results are repeated, too.

    Raises:
        ValueError: No step has that name, or the folder has files that no chain has written.
    """
    changed: dict[str, list[str]] = {}
    for step in steps:
        files = step.files()
        if not files:
            continue
        if step.name not in record.steps:
            raise ValueError(
                f"`out` must be a new folder, or that of an earlier chain, but {files[0]} is of neither. Move it away, "
                "or use another folder."
            )
        if texts := describe_differences(record.steps[step.name].options, step.options):
            changed[step.name] = texts
    names = [step.name for step in steps]
    for name in redo:
        if name != CHANGED and name not in names:
            raise ValueError(
                f"`redo` must be {CHANGED} or steps ({', '.join(names)}), but is {name}."
                f"{did_you_mean(name, [*names, CHANGED])}"
            )
    redone = {*redo} | (changed.keys() if CHANGED in redo else set())
    for step in steps:
        if redone.intersection(step.needs):
            redone.add(step.name)
    return Changes(changed, [step for step in steps if step.name in redone and step.name in record.steps])


def _set_aside(folder: Path, name: str, path: Path) -> None:
    (folder / SET_ASIDE).mkdir(exist_ok=True)
    number = 1
    while (target := folder / SET_ASIDE / f"{name}-{number}{path.suffix}").exists():
        number += 1
    os.replace(path, target)

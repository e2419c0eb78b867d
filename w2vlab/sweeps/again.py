"""Which trials of an earlier run of a sweep are begun anew or leave its record, and which must not simply go on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from w2vlab.files import METRICS, REPORT
from w2vlab.registry import did_you_mean
from w2vlab.sweeps.command import fit_options
from w2vlab.sweeps.plan import changes
from w2vlab.sweeps.trial import Trial, identity, newest

CHANGED, GONE = "changed", "gone"
"""Words in the place of names: trials whose options are not those they were run with, and those not in the file."""

SET_ASIDE = "set_aside"
"""Where the folders of trials go that are begun anew or dropped; no report of the sweep looks there."""

_MOST_TOLD = 5


@dataclass
class Again:
    """What becomes of trials that were run before.

    Attributes:
        repeated: Asked for: their folders are set aside, and they begin anew.
        lost: Finished, but their folders are gone: they begin anew.
        dropped: They leave the record, and their folders are set aside.
        changed: Their options are not those that they were run with, and nothing says what to do.
    """

    repeated: list[Trial] = field(default_factory=list)
    lost: list[Trial] = field(default_factory=list)
    dropped: list[Trial] = field(default_factory=list)
    changed: list[tuple[Trial, list[str]]] = field(default_factory=list)

    def refuse(self, folder: Path) -> None:
        """Refuses to go on where options have changed.

        Raises:
            ValueError: They have; the message names trials and options.
        """
        if not self.changed:
            return
        told = [f"  {trial.name}: {', '.join(texts)}" for trial, texts in self.changed[:_MOST_TOLD]]
        if more := len(self.changed) - _MOST_TOLD if len(self.changed) > _MOST_TOLD else 0:
            told.append(f"  and {more} more")
        raise ValueError(
            f"The trials in {folder} must not be mixed with others, but these were run with other options:\n"
            + "\n".join(told)
            + f"\nUndo the change, take another --folder, or begin them anew with --repeat={CHANGED} (what they have "
            f"left is kept in {SET_ASIDE}/)."
        )

    def carry_out(self, folder: Path, trials: Sequence[Trial]) -> list[Trial]:
        """Sets folders aside, and returns the trials that are left, those that begin anew as if never begun.

        Args:
            folder: Of the sweep.
            trials: All of them.
        """
        for trial in (*self.repeated, *self.dropped):
            _set_aside(folder, trial.name)
        for trial in (*self.repeated, *self.lost):
            trial.state, trial.failure, trial.value, trial.ran = "waiting", None, None, None
            trial.attempts, trial.seconds, trial.update, trial.history = 0, 0.0, 0, []
            trial.repeats += 1
        gone = [id(trial) for trial in self.dropped]
        return [trial for trial in trials if id(trial) not in gone]


def look_again(
    folder: Path,
    trials: Sequence[Trial],
    planned: Iterable[Trial],
    repeat: Sequence[str] = (),
    drop: Sequence[str] = (),
) -> Again:
    """Finds out what becomes of the trials of an earlier run; changes nothing.

    Args:
        folder: Of the sweep.
        trials: Those of the file and of the record together.
        planned: Those of the file.
        repeat: Names of trials to begin anew, with `*` for any letters, or `changed`.
        drop: Names of trials to take out of the record, or `gone`.

    Raises:
        ValueError: A name is that of no trial, or one that is to be dropped is still in the file.
    """
    known = {identity(trial.parameters) for trial in planned}
    gone = [trial for trial in trials if identity(trial.parameters) not in known]
    changed = [(trial, texts) for trial in trials if trial.begun and (texts := changes(trial.ran, trial.plan))]
    groups = {CHANGED: [trial for trial, _ in changed], GONE: gone}
    again = Again(
        repeated=[trial for trial in _chosen("repeat", repeat, trials, groups) if trial.begun],
        dropped=_chosen("drop", drop, trials, groups),
    )
    for trial in again.dropped:
        if trial not in gone:
            raise ValueError(
                f"`drop` must name trials that the file has no more, but {trial.name} is in it: take it out of the "
                "file, or begin it anew with --repeat."
            )
    for trial in again.repeated:
        if trial in gone:
            raise ValueError(f"`repeat` must name trials of the file, but {trial.name} is not in it any more.")
    handled = [*again.repeated, *again.dropped]
    for trial in trials:
        if trial.state not in ("finished", "stopped early") or trial in handled or not _is_lost(folder, trial):
            continue
        (again.dropped if trial in gone else again.lost).append(trial)
    handled += [*again.lost, *again.dropped]
    again.changed = [(trial, texts) for trial, texts in changed if trial not in handled]
    return again


def _chosen(
    option: str, patterns: Sequence[str], trials: Sequence[Trial], groups: dict[str, list[Trial]]
) -> list[Trial]:
    chosen: dict[str, Trial] = {}
    for pattern in patterns:
        found = groups.get(pattern)
        if found is None:
            found = [trial for trial in trials if fnmatchcase(trial.name, pattern)]
            if not found:
                names = [trial.name for trial in trials]
                raise ValueError(
                    f"`{option}` must be names of trials, with * for any letters, or {', '.join(groups)}, but there is "
                    f"no trial {pattern}.{did_you_mean(pattern, [*names, *groups])}"
                )
        chosen |= {trial.name: trial for trial in found}
    return list(chosen.values())


def _is_lost(folder: Path, trial: Trial) -> bool:
    """Tells whether nothing is left of a trial that was finished: its folder was deleted, or the run in it was."""
    place = folder / trial.name
    if not place.is_dir():
        return True
    plan = trial.ran or trial.plan
    is_run = plan is not None and fit_options(list(plan.command)) is not None
    return is_run and newest(place, METRICS) is None and newest(place, REPORT) is None


def _set_aside(folder: Path, name: str) -> None:
    if not (folder / name).is_dir():
        return
    (folder / SET_ASIDE).mkdir(exist_ok=True)
    number = 1
    while (place := folder / SET_ASIDE / f"{name}-{number}").exists():
        number += 1
    os.replace(folder / name, place)

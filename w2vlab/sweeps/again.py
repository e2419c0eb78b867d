"""Decides for the trials of an earlier run of a sweep whether they are repeated, removed, or cannot be resumed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from w2vlab.registry import did_you_mean
from w2vlab.sweeps.plan import describe_changes
from w2vlab.sweeps.running.command import fit_options
from w2vlab.sweeps.trial import Trial, canonical_parameters, find_newest
from w2vlab.utils.files import METRICS, REPORT

CHANGED, GONE = "changed", "gone"
"""Keywords in place of trial names: trials whose options have changed, and trials that are not in the file any more."""

SET_ASIDE = "set_aside"
"""Folder for the folders of repeated and removed trials; reports of the sweep ignore it."""

_MOST_LISTED = 5


@dataclass
class EarlierTrials:
    """The trials of an earlier run that are not simply resumed.

    Attributes:
        repeated: Trials that the user repeats: their folders are set aside, and they start from scratch.
        lost: Finished trials whose folders were deleted: they start from scratch.
        dropped: Trials that are removed from the record; their folders are set aside.
        changed: Trials whose options have changed since they were run, with the changes; an error unless repeated.
    """

    repeated: list[Trial] = field(default_factory=list)
    lost: list[Trial] = field(default_factory=list)
    dropped: list[Trial] = field(default_factory=list)
    changed: list[tuple[Trial, list[str]]] = field(default_factory=list)

    def refuse_changed(self, folder: Path) -> None:
        """Raises an error if options of trials have changed.

        Raises:
            ValueError: Options have changed; the message lists trials and options.
        """
        if not self.changed:
            return
        listed = [f"  {trial.name}: {', '.join(texts)}" for trial, texts in self.changed[:_MOST_LISTED]]
        if len(self.changed) > _MOST_LISTED:
            listed.append(f"  and {len(self.changed) - _MOST_LISTED} more")
        raise ValueError(
            f"The trials in {folder} must not be mixed with others, but these were run with other options:\n"
            + "\n".join(listed)
            + f"\nUndo the change, use another --folder, or repeat them with --repeat={CHANGED} (their files are kept "
            f"in {SET_ASIDE}/)."
        )

    def apply(self, folder: Path, trials: Sequence[Trial]) -> list[Trial]:
        """Sets folders aside, resets repeated and lost trials, and returns all trials except the dropped ones.

        Args:
            folder: Folder of the sweep.
            trials: All trials.
        """
        for trial in (*self.repeated, *self.dropped):
            _set_aside(folder, trial.name)
        for trial in (*self.repeated, *self.lost):
            trial.state, trial.failure, trial.value, trial.ran = "waiting", None, None, None
            trial.attempts, trial.seconds, trial.update, trial.history = 0, 0.0, 0, []
            trial.repeats += 1
        dropped = [id(trial) for trial in self.dropped]
        return [trial for trial in trials if id(trial) not in dropped]


def check_earlier_trials(
    folder: Path,
    trials: Sequence[Trial],
    planned: Iterable[Trial],
    repeat: Sequence[str] = (),
    drop: Sequence[str] = (),
) -> EarlierTrials:
    """Classifies the trials of an earlier run, without changing anything.

    Args:
        folder: Folder of the sweep.
        trials: The trials of the file and of the record.
        planned: The trials of the file.
        repeat: Names of trials to repeat from scratch, with the wildcard `*`, or `changed`.
        drop: Names of trials to remove from the record, with the wildcard `*`, or `gone`.

    Raises:
        ValueError: No trial has that name, or a trial to be dropped is still in the file.
    """
    known = {canonical_parameters(trial.parameters) for trial in planned}
    gone = [trial for trial in trials if canonical_parameters(trial.parameters) not in known]
    changed = [
        (trial, texts) for trial in trials if trial.started and (texts := describe_changes(trial.ran, trial.plan))
    ]
    groups = {CHANGED: [trial for trial, _ in changed], GONE: gone}
    earlier = EarlierTrials(
        repeated=[trial for trial in _select("repeat", repeat, trials, groups) if trial.started],
        dropped=_select("drop", drop, trials, groups),
    )
    for trial in earlier.dropped:
        if trial not in gone:
            raise ValueError(
                f"`drop` must name trials that are not in the file any more, but {trial.name} is in it: remove it from "
                "the file, or repeat it with --repeat."
            )
    for trial in earlier.repeated:
        if trial in gone:
            raise ValueError(f"`repeat` must name trials of the file, but {trial.name} is not in it any more.")
    handled = [*earlier.repeated, *earlier.dropped]
    for trial in trials:
        if trial.state not in ("finished", "stopped early") or trial in handled or not _is_lost(folder, trial):
            continue
        (earlier.dropped if trial in gone else earlier.lost).append(trial)
    handled += [*earlier.lost, *earlier.dropped]
    earlier.changed = [(trial, texts) for trial, texts in changed if trial not in handled]
    return earlier


def _select(
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
                    f"`{option}` must be names of trials, with the wildcard *, or {', '.join(groups)}, but there is "
                    f"no trial {pattern}.{did_you_mean(pattern, [*names, *groups])}"
                )
        chosen |= {trial.name: trial for trial in found}
    return list(chosen.values())


def _is_lost(folder: Path, trial: Trial) -> bool:
    """Returns whether the folder of a finished trial, or the run in it, was deleted."""
    trial_folder = folder / trial.name
    if not trial_folder.is_dir():
        return True
    plan = trial.ran or trial.plan
    is_run = plan is not None and fit_options(list(plan.command)) is not None
    return is_run and find_newest(trial_folder, METRICS) is None and find_newest(trial_folder, REPORT) is None


def _set_aside(folder: Path, name: str) -> None:
    if not (folder / name).is_dir():
        return
    (folder / SET_ASIDE).mkdir(exist_ok=True)
    number = 1
    while (target := folder / SET_ASIDE / f"{name}-{number}").exists():
        number += 1
    os.replace(folder / name, target)

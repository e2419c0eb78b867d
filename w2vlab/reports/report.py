"""From runs to one table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from w2vlab.comparable import depends_on_objective, text_of, unlike_objectives
from w2vlab.registry import did_you_mean
from w2vlab.reports.grouping import Group, Grouping, group, label
from w2vlab.reports.outcomes import EVALUATION, EVALUATION_SETTING, Outcome, choose
from w2vlab.reports.published import PUBLISHED, Published, published
from w2vlab.reports.run import Cost, Found, RunData
from w2vlab.reports.statistics import Difference, Mean, difference, mean_of
from w2vlab.wording import one_line

_COSTS = ("seconds", "audio_seconds", "updates", "peak_memory_gib")


@dataclass
class Line:
    """One group in the table.

    Attributes:
        group: Which.
        means: Of each outcome.
        differences: Of each outcome from the baseline; None of the baseline itself, and where it cannot be told.
        cost: Mean of its runs.
        published: Figure of a paper; empty without one.
    """

    group: Group
    means: list[Mean]
    differences: list[Difference | None]
    cost: Cost
    published: str = ""


@dataclass(kw_only=True)
class Report:
    """What is shown.

    Attributes:
        grouping: Groups and keys.
        outcomes: Columns.
        lines: Rows.
        baseline: Index of the line that the others are compared with.
        unlike: In what the groups differ that the meaning of a loss depends on; empty where they do not.
        published: The paper's; None without one.
        notes: What a reader must know beside the table.
    """

    grouping: Grouping
    outcomes: list[Outcome]
    lines: list[Line]
    baseline: int
    unlike: str = ""
    published: Published | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def num_runs(self) -> int:
        """How many runs count."""
        return sum(len(line.group.runs) for line in self.lines)


def make_report(
    found: Found,
    by: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    baseline: str | None = None,
    published_file: Path = PUBLISHED,
) -> Report:
    """Makes the table of everything that was found.

    Args:
        found: Runs and what there is to say of them.
        by: Keys to group by; by default what differs.
        metrics: Outcomes; by default those of evaluations, else of validations.
        baseline: The name of a group, or one of its labels; by default the first one.
        published_file: Where published rows are.

    Raises:
        ValueError: A key, a metric or the baseline is unknown.
    """
    notes = _leave_out(found)
    grouping = group(found, by)
    outcomes = choose(found.runs, metrics)
    place = _baseline(grouping, baseline)
    paper = next((p for sweep in found.sweeps if (p := published(sweep.name, published_file))), None)
    unlike, evaluated = _unlike(grouping), _unlike_evaluations(grouping)
    lines = _lines(grouping, outcomes, place, _incomparable(outcomes, bool(unlike), bool(evaluated)))
    if paper is not None:
        for line in lines:
            line.published = paper.text(line.group.parameters or {})
        if not any(line.published for line in lines):
            paper = None
    if unlike:
        shown = [outcome.metric for outcome in outcomes if depends_on_objective(outcome.metric)]
        if shown and len(lines) > 1:
            verb = "is no outcome" if len(shown) == 1 else "are no outcomes"
            notes.insert(
                0, f"{' and '.join(shown)} {verb} that these groups can be compared by: they differ in {unlike}."
            )
    if evaluated and len(lines) > 1 and any(outcome.metric.startswith(EVALUATION) for outcome in outcomes):
        notes.append(f"The evaluations cannot be compared: they differ in their {', '.join(evaluated)}.")
    notes += [
        f"{place.name}: in no mean with the others of these parameters, because it differs from them: {place.apart}."
        for place in grouping.groups
        if place.apart
    ]
    if grouping.also:
        notes.append(f"The groups differ also in: {', '.join(grouping.also)}.")
    notes += _not_numbers(found.runs, outcomes)
    notes += _unequal(lines)
    notes += [f"{name}: no result ({why})." for name, _, why in found.missing]
    if found.problems:
        notes += [f"Files that could not be read as a whole: {len(found.problems)}.", *found.problems]
    return Report(
        grouping=grouping,
        outcomes=outcomes,
        lines=lines,
        baseline=place,
        unlike=unlike,
        published=paper,
        notes=list(map(one_line, notes)),
    )


def _leave_out(found: Found) -> list[str]:
    """Leaves out runs that others have gone on from, and those without an end where others have one."""
    notes = []
    by_source = {str(Path(run.source).absolute()): run for run in found.runs}
    parts = []
    for run in found.runs:
        before = by_source.get(str(Path(run.continues).absolute())) if run.continues else None
        if before is not None and before is not run and _same_run(before, run):
            parts.append(before)
    if parts:
        found.runs[:] = [run for run in found.runs if not any(run is part for part in parts)]
        notes.append(f"Runs that another one went on from are part of that one: {_names(parts)}.")
    ended = [run for run in found.runs if run.finished is not False]
    unfinished = [run for run in found.runs if run.finished is False]
    if unfinished:
        told = "; ".join(f"{run.name} ({run.ended})" for run in unfinished)
        if ended:
            found.runs[:] = ended
            notes.append(f"Unfinished, and not in the table: {told}.")
        else:
            notes.append(f"None of the runs is finished: {told}.")
    return notes


def _same_run(one: RunData, other: RunData) -> bool:
    may_differ = ("ckpt_path", "new_run", "trainer.max_steps")
    first, second = (
        {k: v for k, v in run.options.items() if k not in may_differ and not k.startswith("trainer.logger")}
        for run in (one, other)
    )
    return first == second


def _baseline(grouping: Grouping, name: str | None) -> int:
    if name is None:
        return 0
    names = [place.name for place in grouping.groups]
    exact = [index for index, known in enumerate(names) if known == name]
    if len(found := exact or [i for i, place in enumerate(grouping.groups) if name in place.labels]) == 1:
        return found[0]
    problem = "fits several" if found else "is none"
    raise ValueError(
        f"`baseline` must be one of the groups, but {name!r} {problem}. Groups: {'; '.join(names)}."
        f"{'' if found else did_you_mean(name, names)}"
    )


def _incomparable(outcomes: Sequence[Outcome], unlike: bool, evaluated: bool) -> set[str]:
    """Returns the outcomes of which a difference between groups would mean nothing."""
    return {
        outcome.metric
        for outcome in outcomes
        if (unlike and depends_on_objective(outcome.metric)) or (evaluated and outcome.metric.startswith(EVALUATION))
    }


def _lines(grouping: Grouping, outcomes: Sequence[Outcome], baseline: int, incomparable: set[str]) -> list[Line]:
    means = [[mean_of(_finite(place, outcome)) for outcome in outcomes] for place in grouping.groups]
    lines = []
    for index, place in enumerate(grouping.groups):
        differences = [
            None if index == baseline or outcome.metric in incomparable else difference(own, other)
            for own, other, outcome in zip(means[index], means[baseline], outcomes, strict=True)
        ]
        lines.append(Line(place, means[index], differences, _mean_cost(place.runs)))
    return lines


def _finite(place: Group, outcome: Outcome) -> list[float]:
    values = (run.value(outcome.metric) for run in place.runs)
    return [value for value in values if value is not None and math.isfinite(value)]


def _mean_cost(runs: Sequence[RunData]) -> Cost:
    costs: dict[str, float | None] = {}
    for name in _COSTS:
        values = [value for run in runs if (value := getattr(run.cost, name)) is not None]
        costs[name] = sum(values) / len(values) if values else None
    return Cost(**costs)


def _unlike(grouping: Grouping) -> str:
    """Says in what groups differ that the meaning of their losses depends on; nothing where that is nothing."""
    return unlike_objectives(run.options for place in grouping.groups for run in place.runs)


def _unlike_evaluations(grouping: Grouping) -> list[str]:
    """Returns what the evaluations of groups do not have in common; what one does not say is left out."""
    known: dict[str, set[str]] = {}
    for run in (run for place in grouping.groups for run in place.runs):
        for name, value in run.measured_on.items():
            known.setdefault(name.removeprefix(EVALUATION_SETTING), set()).add(text_of(value))
    return [name for name, values in known.items() if len(values) > 1]


def _not_numbers(runs: Sequence[RunData], outcomes: Sequence[Outcome]) -> list[str]:
    broken: dict[str, list[str]] = {}
    absent: dict[str, list[str]] = {}
    for outcome in outcomes:
        values = [(run, run.value(outcome.metric)) for run in runs]
        if unmeasured := _names([run for run, value in values if value is None]):
            absent.setdefault(unmeasured, []).append(outcome.metric)
        if infinite := _names([run for run, value in values if value is not None and not math.isfinite(value)]):
            broken.setdefault(infinite, []).append(outcome.metric)
    notes = [f"No number, and not in the means: {', '.join(metrics)} of {names}." for names, metrics in broken.items()]
    for names, metrics in absent.items():
        hint = " (`w2vlab evaluate` does it)" if all(metric.startswith(EVALUATION) for metric in metrics) else ""
        notes.append(f"Not measured{hint}: {', '.join(metrics)} of {names}.")
    return notes


def _unequal(lines: Sequence[Line]) -> list[str]:
    notes = []
    updates = {run.cost.updates for line in lines for run in line.group.runs if run.cost.updates is not None}
    if len(updates) > 1:
        listed = ", ".join(f"{update:g}" for update in sorted(updates))
        notes.append(f"The runs had different numbers of updates: {listed}.")
    for line in lines:
        seeds = [label(run.seed) for run in line.group.runs if run.seed is not None]
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            notes.append(
                f"{line.group.name}: several runs with seed {', '.join(twice)}; they are no independent draws."
            )
    return notes


def _names(runs: Sequence[RunData]) -> str:
    return ", ".join(run.name for run in runs)


def as_plain(report: Report) -> dict[str, Any]:
    """Returns everything as plain data that is valid JSON."""

    def finite(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    return {
        "by": report.grouping.keys,
        "baseline": report.lines[report.baseline].group.name if report.lines else None,
        "groups": [
            {
                "name": line.group.name,
                "labels": list(line.group.labels),
                "runs": [
                    {"source": run.source, "seed": run.seed}
                    | {outcome.metric: finite(run.value(outcome.metric)) for outcome in report.outcomes}
                    for run in line.group.runs
                ],
                "outcomes": {
                    outcome.metric: {
                        "number": mean.number,
                        "mean": finite(mean.mean),
                        "deviation": mean.deviation,
                        "difference": None if found is None else found.value,
                        "low": None if found is None else found.low,
                        "high": None if found is None else found.high,
                    }
                    for outcome, mean, found in zip(report.outcomes, line.means, line.differences, strict=True)
                },
                "cost": {name: getattr(line.cost, name) for name in _COSTS},
                "published": line.published or None,
            }
            for line in report.lines
        ],
        "published": None
        if report.published is None
        else {"source": report.published.source, "outcome": report.published.outcome},
        "notes": report.notes,
    }

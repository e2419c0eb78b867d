"""The report of an ablation: groups of runs, their outcomes, differences and costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from w2vlab.registry import did_you_mean
from w2vlab.reports.corpora import notes_on_corpora
from w2vlab.reports.grouping import Group, Grouping, format_value, group_runs
from w2vlab.reports.outcomes import EVALUATION, EVALUATION_SETTING, Outcome, choose_outcomes
from w2vlab.reports.published import PUBLISHED, Published, load_published
from w2vlab.reports.run import Cost, Found, RunData
from w2vlab.reports.sources.reading import drop_superseded_runs
from w2vlab.reports.statistics import Difference, Mean, compare_means, compute_mean
from w2vlab.utils.comparable import canonical_text, depends_on_objective, describe_objective_differences
from w2vlab.utils.messages import one_line

COSTS = ("seconds", "audio_seconds", "updates", "peak_memory_gib")


@dataclass(kw_only=True)
class Line:
    """The row of one group in the table.

    Attributes:
        group: The group.
        means: Mean of each outcome.
        differences: Difference of each outcome from the baseline; None for the baseline itself, and if unknown.
        cost: Mean cost of its runs.
        published: Published result; empty without one.
    """

    group: Group
    means: list[Mean]
    differences: list[Difference | None]
    cost: Cost
    published: str = ""


@dataclass(kw_only=True)
class Report:
    """The report of an ablation.

    Attributes:
        grouping: Groups and keys.
        outcomes: The outcomes, one column each.
        lines: The rows.
        baseline: Index of the row that the others are compared with.
        objective_differences: Differences of the groups that make their losses incomparable, as text; empty without.
        published: Published results; None without.
        notes: Notes below the table.
    """

    grouping: Grouping
    outcomes: list[Outcome]
    lines: list[Line]
    baseline: int
    objective_differences: str = ""
    published: Published | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def num_runs(self) -> int:
        """Number of runs in the table."""
        return sum(len(line.group.runs) for line in self.lines)


def make_report(
    found: Found,
    by: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    baseline: str | None = None,
    published_file: Path = PUBLISHED,
) -> Report:
    """Makes the report of all runs.

    Args:
        found: The runs, trials without a result, and unreadable files.
        by: Keys to group by; by default the options that differ.
        metrics: Outcomes; by default those of evaluations, otherwise of validations.
        baseline: The name of a group, or one of its labels; by default the first group.
        published_file: The file of published results.

    Raises:
        ValueError: A key, a metric or the baseline is unknown.
    """
    notes = drop_superseded_runs(found)
    grouping = group_runs(found, by)
    outcomes = choose_outcomes(found.runs, metrics)
    baseline_index = _find_baseline(grouping, baseline)
    paper = next((p for sweep in found.sweeps if (p := load_published(sweep.name, published_file))), None)
    objectives = describe_objective_differences(run.options for group in grouping.groups for run in group.runs)
    evaluations = _differing_evaluation_settings(grouping)
    incomparable = _incomparable(outcomes, bool(objectives), bool(evaluations))
    lines = _make_lines(grouping, outcomes, baseline_index, incomparable)
    if paper is not None:
        for line in lines:
            line.published = paper.text(line.group.parameters or {})
        if not any(line.published for line in lines):
            paper = None
    if len(lines) > 1:
        notes = [*_notes_on_objectives(outcomes, objectives), *notes, *_notes_on_evaluations(outcomes, evaluations)]
    notes += _notes_on_grouping(grouping)
    notes += notes_on_corpora(grouping.groups)
    notes += _notes_on_missing_values(found.runs, outcomes)
    notes += _notes_on_unequal_runs(lines)
    notes += [f"{name}: no result ({reason})." for name, _, reason in found.missing]
    if found.problems:
        notes += [f"Files that could not be read completely: {len(found.problems)}.", *found.problems]
    return Report(
        grouping=grouping,
        outcomes=outcomes,
        lines=lines,
        baseline=baseline_index,
        objective_differences=objectives,
        published=paper,
        notes=list(map(one_line, notes)),
    )


def _notes_on_objectives(outcomes: Sequence[Outcome], differences: str) -> list[str]:
    names = [outcome.metric for outcome in outcomes if depends_on_objective(outcome.metric)]
    if not differences or not names:
        return []
    verb = "is" if len(names) == 1 else "are"
    return [f"{' and '.join(names)} {verb} not comparable between these groups: they differ in {differences}."]


def _notes_on_evaluations(outcomes: Sequence[Outcome], differences: Sequence[str]) -> list[str]:
    if not differences or not any(outcome.metric.startswith(EVALUATION) for outcome in outcomes):
        return []
    return [f"The evaluations are not comparable: they differ in their {', '.join(differences)}."]


def _notes_on_grouping(grouping: Grouping) -> list[str]:
    notes = [
        f"{group.name}: not averaged with the others of these parameters, because it differs in: {group.other_options}."
        for group in grouping.groups
        if group.other_options
    ]
    if grouping.redundant_keys:
        notes.append(f"The groups also differ in: {', '.join(grouping.redundant_keys)}.")
    return notes


def _find_baseline(grouping: Grouping, name: str | None) -> int:
    if name is None:
        return 0
    names = [group.name for group in grouping.groups]
    exact = [index for index, known in enumerate(names) if known == name]
    if len(found := exact or [i for i, group in enumerate(grouping.groups) if name in group.labels]) == 1:
        return found[0]
    problem = "matches several" if found else "matches none"
    raise ValueError(
        f"`baseline` must be one of the groups, but {name!r} {problem}. Groups: {'; '.join(names)}."
        f"{'' if found else did_you_mean(name, names)}"
    )


def _incomparable(outcomes: Sequence[Outcome], objectives_differ: bool, evaluations_differ: bool) -> set[str]:
    """Returns the metrics whose differences between groups are meaningless."""
    return {
        outcome.metric
        for outcome in outcomes
        if (objectives_differ and depends_on_objective(outcome.metric))
        or (evaluations_differ and outcome.metric.startswith(EVALUATION))
    }


def _make_lines(grouping: Grouping, outcomes: Sequence[Outcome], baseline: int, incomparable: set[str]) -> list[Line]:
    means = [[compute_mean(_finite_values(group, outcome)) for outcome in outcomes] for group in grouping.groups]
    lines = []
    for index, group in enumerate(grouping.groups):
        differences = [
            None if index == baseline or outcome.metric in incomparable else compare_means(own, other)
            for own, other, outcome in zip(means[index], means[baseline], outcomes, strict=True)
        ]
        lines.append(Line(group=group, means=means[index], differences=differences, cost=_mean_cost(group.runs)))
    return lines


def _finite_values(group: Group, outcome: Outcome) -> list[float]:
    values = (run.value(outcome.metric) for run in group.runs)
    return [value for value in values if value is not None and math.isfinite(value)]


def _mean_cost(runs: Sequence[RunData]) -> Cost:
    costs: dict[str, float | None] = {}
    for name in COSTS:
        values = [value for run in runs if (value := getattr(run.cost, name)) is not None]
        costs[name] = sum(values) / len(values) if values else None
    return Cost(**costs)


def _differing_evaluation_settings(grouping: Grouping) -> list[str]:
    """Returns the settings in which the evaluations of the runs differ; unknown settings are ignored."""
    known: dict[str, set[str]] = {}
    for run in (run for group in grouping.groups for run in group.runs):
        for name, value in run.measured_on.items():
            known.setdefault(name.removeprefix(EVALUATION_SETTING), set()).add(canonical_text(value))
    return [name for name, values in known.items() if len(values) > 1]


def _notes_on_missing_values(runs: Sequence[RunData], outcomes: Sequence[Outcome]) -> list[str]:
    broken: dict[str, list[str]] = {}
    absent: dict[str, list[str]] = {}
    for outcome in outcomes:
        values = [(run, run.value(outcome.metric)) for run in runs]
        if unmeasured := _names([run for run, value in values if value is None]):
            absent.setdefault(unmeasured, []).append(outcome.metric)
        if infinite := _names([run for run, value in values if value is not None and not math.isfinite(value)]):
            broken.setdefault(infinite, []).append(outcome.metric)
    notes = [f"Not finite, and not in the means: {', '.join(metrics)} of {names}." for names, metrics in broken.items()]
    for names, metrics in absent.items():
        hint = " (run `w2vlab evaluate`)" if all(metric.startswith(EVALUATION) for metric in metrics) else ""
        notes.append(f"Not measured{hint}: {', '.join(metrics)} of {names}.")
    return notes


def _notes_on_unequal_runs(lines: Sequence[Line]) -> list[str]:
    notes = []
    updates = {run.cost.updates for line in lines for run in line.group.runs if run.cost.updates is not None}
    if len(updates) > 1:
        listed = ", ".join(f"{update:g}" for update in sorted(updates))
        notes.append(f"The runs had different numbers of updates: {listed}.")
    for line in lines:
        seeds = [format_value(run.seed) for run in line.group.runs if run.seed is not None]
        repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if repeated:
            notes.append(
                f"{line.group.name}: several runs with seed {', '.join(repeated)}; they are not independent samples."
            )
    return notes


def _names(runs: Sequence[RunData]) -> str:
    return ", ".join(run.name for run in runs)

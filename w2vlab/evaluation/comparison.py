"""Compares checkpoints that were evaluated on the same utterances and ABX cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from w2vlab.evaluation.evaluate import RANDOM, Evaluation
from w2vlab.evaluation.tasks.intervals import jackknife_pnmi, jackknife_probe, subsample_abx
from w2vlab.evaluation.tasks.measure import SourceResult
from w2vlab.functional.measures.interval import Interval
from w2vlab.functional.measures.jackknife import JackknifeEstimate
from w2vlab.functional.measures.subsampling import SubsamplingEstimate

PROBE, PNMI = "phone probe", "PNMI, corrected"

OF_RANDOM = f", {RANDOM}"
"""End of the name of the same network with random weights, which a warm start did not begin with."""

Figure = JackknifeEstimate | SubsamplingEstimate


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One metric of one checkpoint.

    Attributes:
        measure: `phone probe`, `ABX within`, `ABX across` or `PNMI, corrected`.
        representation: Name of the representation; `codes` for PNMI.
        checkpoint: Name of the checkpoint or of a control.
        interval: The metric with its 95 % confidence interval, in [0, 1]; PNMI is `UnitQuality.pnmi_corrected`.
        difference: Difference to the first checkpoint, paired by utterances; None for the first checkpoint, or if it
            does not have this metric.
    """

    measure: str
    representation: str
    checkpoint: str
    interval: Interval
    difference: Interval | None


def compare(evaluations: Mapping[str, Evaluation]) -> list[Compared]:
    """Compares evaluations on the same corpus and tasks, including those of the same networks with random weights.

    Differences are paired, because intervals are computed by leaving out the same test utterances for all
    (`evaluation.tasks.intervals`).

    Args:
        evaluations: Evaluations by the names of their checkpoints; the others are compared with the first.

    Returns:
        One entry for each metric, representation and checkpoint.
    """
    found: dict[tuple[str, str], dict[str, Figure]] = {}
    for name, evaluation in evaluations.items():
        _collect_figures(found, name, evaluation.model, evaluation)
        if evaluation.random is not None:
            _collect_figures(found, f"{name}{OF_RANDOM}", evaluation.random, evaluation)
    first = next(iter(evaluations))
    if (mfcc := evaluations[first].mfcc) is not None:
        _collect_figures(found, "MFCC", mfcc, evaluations[first])
    compared = []
    for (measure, representation), values in found.items():
        reference = values.get(first)
        for name, value in values.items():
            difference = None if reference is None or name == first else _paired_difference(value, reference)
            compared.append(
                Compared(
                    measure=measure,
                    representation=representation,
                    checkpoint=name,
                    interval=value.interval,
                    difference=difference,
                )
            )
    return compared


def _paired_difference(value: Figure, reference: Figure) -> Interval:
    if isinstance(value, SubsamplingEstimate) and isinstance(reference, SubsamplingEstimate):
        return value.minus(reference)
    assert isinstance(value, JackknifeEstimate)
    assert isinstance(reference, JackknifeEstimate)
    return value.minus(reference)


def _collect_figures(
    found: dict[tuple[str, str], dict[str, Figure]], name: str, source: SourceResult, evaluation: Evaluation
) -> None:
    for measured in source.representations:
        if measured.probe is not None:
            found.setdefault((PROBE, measured.name), {})[name] = jackknife_probe(measured.probe)
        for task in evaluation.tasks:
            if task.speakers in measured.abx:
                value = subsample_abx(measured.abx[task.speakers])
                found.setdefault((f"ABX {task.speakers}", measured.name), {})[name] = value
    if source.unit_data is not None and source.unit_data.phones:
        found.setdefault((PNMI, "codes"), {})[name] = jackknife_pnmi(source.unit_data).bias_corrected()

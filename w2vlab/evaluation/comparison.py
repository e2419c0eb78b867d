"""Several checkpoints on the same utterances and cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from w2vlab.evaluation.evaluate import Evaluation
from w2vlab.evaluation.intervals import of_abx, of_pnmi, of_probe
from w2vlab.evaluation.measure import SourceResult
from w2vlab.functional.interval import Interval
from w2vlab.functional.jackknife import Jackknifed
from w2vlab.functional.subsampling import Subsampled

PROBE, PNMI = "phone probe", "PNMI, corrected"

Figure = Jackknifed | Subsampled


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One figure of one checkpoint.

    Attributes:
        measure: `phone probe`, `ABX within`, `ABX across` or `PNMI, corrected`.
        representation: Of what; `codes` for PNMI.
        checkpoint: Its name, or that of a control.
        interval: The figure with its 95 % interval, in [0, 1]; PNMI is `UnitQuality.pnmi_corrected`.
        difference: By how much it is more than that of the first checkpoint, on the same utterances; None for the
            first, or where the first has nothing of the kind.
    """

    measure: str
    representation: str
    checkpoint: str
    interval: Interval
    difference: Interval | None


def compare(evaluations: Mapping[str, Evaluation]) -> list[Compared]:
    """Lays evaluations of the same corpus and tasks side by side, each beside its network before training.

    Intervals come from test utterances that are left out, the same ones for all, so that differences are paired
    (`evaluation.intervals`).

    Args:
        evaluations: By the names of their checkpoints; the first is what the others are compared with.
    """
    found: dict[tuple[str, str], dict[str, Figure]] = {}
    for name, evaluation in evaluations.items():
        _collect(found, name, evaluation.model, evaluation)
        if evaluation.random is not None:
            _collect(found, f"{name}, before training", evaluation.random, evaluation)
    first = next(iter(evaluations))
    if (mfcc := evaluations[first].mfcc) is not None:
        _collect(found, "MFCC", mfcc, evaluations[first])
    compared = []
    for (measure, representation), values in found.items():
        reference = values.get(first)
        for name, value in values.items():
            difference = None if reference is None or name == first else _minus(value, reference)
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


def _minus(value: Figure, reference: Figure) -> Interval:
    if isinstance(value, Subsampled) and isinstance(reference, Subsampled):
        return value.minus(reference)
    assert isinstance(value, Jackknifed)
    assert isinstance(reference, Jackknifed)
    return value.minus(reference)


def _collect(
    found: dict[tuple[str, str], dict[str, Figure]], name: str, source: SourceResult, evaluation: Evaluation
) -> None:
    for measured in source.representations:
        if measured.probe is not None:
            found.setdefault((PROBE, measured.name), {})[name] = of_probe(measured.probe)
        for task in evaluation.tasks:
            if task.speakers in measured.abx:
                value = of_abx(measured.abx[task.speakers])
                found.setdefault((f"ABX {task.speakers}", measured.name), {})[name] = value
    if source.unit_data is not None and source.unit_data.phones:
        found.setdefault((PNMI, "codes"), {})[name] = of_pnmi(source.unit_data).corrected()

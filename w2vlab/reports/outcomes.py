"""The metrics that runs are compared by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from w2vlab.registry import did_you_mean
from w2vlab.reports.run import RunData

EVALUATION = "evaluation/"
"""Prefix of the names of metrics of `w2vlab evaluate`."""

EVALUATION_SETTING = "evaluation."
"""Prefix of the names of evaluation settings, such as the corpus."""

PROBE, ABX, PNMI = "evaluation/probe", "evaluation/abx_within", "evaluation/pnmi"
PNMI_CODEBOOK = "evaluation/pnmi_codebook"
LOSS, ACCURACY, PERPLEXITY = "val/loss/total", "val/accuracy", "val/codebook/perplexity_hard"
EXPLAINED = "val/explained_variance"


@dataclass(frozen=True)
class Outcome:
    """A metric that a report has a column for.

    Attributes:
        metric: Its name in the logs or in an evaluation.
        label: The head of its column.
        scale: Factor of displayed values.
        digits: Digits after the decimal point; None for four significant digits.
    """

    metric: str
    label: str
    scale: float = 1.0
    digits: int | None = None

    def text(self, value: float, sign: str = "") -> str:
        """Formats a value, or a difference with `sign` `"+"`."""
        return (
            f"{self.scale * value:{sign}.4g}" if self.digits is None else f"{self.scale * value:{sign}.{self.digits}f}"
        )


_KNOWN = {
    outcome.metric: outcome
    for outcome in (
        Outcome(PROBE, "phone probe %", 100, 1),
        Outcome(ABX, "ABX within %", 100, 1),
        Outcome("evaluation/abx_across", "ABX across %", 100, 1),
        Outcome(PNMI, "PNMI %", 100, 1),
        Outcome(PNMI_CODEBOOK, "PNMI a codebook %", 100, 1),
        Outcome(LOSS, LOSS, 1, 3),
        Outcome(ACCURACY, "val/accuracy %", 100, 1),
        Outcome(EXPLAINED, "variance explained %", 100, 1),
        Outcome(PERPLEXITY, "code perplexity", 1, 1),
        Outcome("val/wer", "WER %", 100, 1),
        Outcome("val/cer", "CER %", 100, 1),
        Outcome("val/per", "PER %", 100, 1),
    )
}

_EVALUATED = (PROBE, ABX, PNMI)
_RECOGNITION = (LOSS, "val/wer", "val/cer", "val/per")
_PRETRAINING = (LOSS, ACCURACY, EXPLAINED, PERPLEXITY)


def extract_outcomes(content: dict[str, Any]) -> dict[str, float]:
    """Returns the outcomes in the content of an `evaluation.json`, in [0, 1], without those that were not measured.

    They are the phone probe accuracy and the ABX error of the context, the mutual information of phones and the joint
    codes of all codebooks, and the mean of that of phones and the codes of one codebook.

    Raises:
        LookupError, TypeError, AttributeError, ValueError: The content is not that of an evaluation.
    """
    if not content:
        return {}
    context: dict[str, Any] = next((row for row in content["table"] if row["name"] == "context"), {})
    units = {unit["name"]: unit for unit in content["sources"].get("model", {}).get("units", [])}
    unit = units.get("joint", next(iter(units.values()), {}))
    single = [unit["pnmi"] for name, unit in units.items() if name != "joint" and unit.get("pnmi") is not None]
    abx = context.get("abx") or {}
    values = {
        PROBE: context.get("accuracy"),
        ABX: abx.get("within"),
        "evaluation/abx_across": abx.get("across"),
        PNMI: unit.get("pnmi"),
        PNMI_CODEBOOK: fmean(single) if single else unit.get("pnmi"),
    }
    for name, value in values.items():
        if value is not None and not 0 <= value <= 1:  # a TypeError if it is a string
            raise ValueError(f"`{name}` must be between 0 and 1, but is {value}")
    return {name: float(value) for name, value in values.items() if value is not None}


def choose_outcomes(runs: Sequence[RunData], names: Iterable[str] | None) -> list[Outcome]:
    """Returns the outcomes that a report has columns for.

    Args:
        runs: All runs.
        names: Metrics to show; by default those of evaluations, and those of validations if not all runs have an
            evaluation. If some runs have one codebook and others several, PNMI of a codebook is among them, because
            that of joint codes grows with the number of codebooks.

    Raises:
        ValueError: No run has logged one of `names`.
    """
    known = set().union(*(run.metrics() for run in runs))
    if names is None:
        recognises = any(name in known for name in _RECOGNITION[1:])
        validation = _RECOGNITION if recognises else _PRETRAINING
        all_evaluated = bool(runs) and all(run.evaluation for run in runs)
        evaluated = (*_EVALUATED, PNMI_CODEBOOK) if _numbers_of_codebooks_differ(runs) else _EVALUATED
        defaults = evaluated if all_evaluated else (*evaluated, *validation)
        names = [name for name in defaults if name in known]
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in known:
            near = did_you_mean(name, known)
            listed = "" if near else f" Logged metrics: {', '.join(sorted(known))}."
            raise ValueError(f"`metric` must be one that a run has logged, but is {name}.{near}{listed}")
    return [_KNOWN.get(name, Outcome(name, name)) for name in names]


def _numbers_of_codebooks_differ(runs: Sequence[RunData]) -> bool:
    """Returns whether some runs have one codebook, whose codes are the joint codes, and others have several."""
    with_codes = [run.evaluation for run in runs if PNMI in run.evaluation]
    return len({values[PNMI] == values.get(PNMI_CODEBOOK) for values in with_codes}) > 1

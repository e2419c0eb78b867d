"""What there is to see of a run, for its picture and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from w2vlab.callbacks.history import MetricHistory


@dataclass(frozen=True)
class Bar:
    """A share with its 95 % interval, in [0, 1].

    Attributes:
        name: Of what.
        value: The share.
        low: Where its interval begins.
        high: Where it ends.
    """

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Finding:
    """What was measured at the end of a run.

    Attributes:
        title: What the bars are.
        bars: What is drawn.
        rows: What stands in the table, by its names.
    """

    title: str
    bars: tuple[Bar, ...]
    rows: Mapping[str, str]


@dataclass(kw_only=True)
class RunView:
    """What the picture and the summary show.

    Attributes:
        title: Names the model, its quantizer and the update.
        train: Metrics of training, by update.
        validation: Metrics of the validations.
        num_candidates: Candidates 1 + K of a prediction; None before the first one.
        code_counts: How often each entry was chosen in the last validation, shape `(G, V)`; None without codebooks.
        num_codes: Entries of all codebooks, G V; 0 without codebooks.
        error_rates: What is counted by each error rate of a validation, by its name in the logs; empty in pretraining.
        guess_loss: The prediction loss, in nats, of a guess that tells no candidate from another; None where unknown.
        finding: What was measured at the end of the run; None before, or where nothing was.
    """

    title: str
    train: MetricHistory
    validation: MetricHistory
    num_candidates: int | None
    code_counts: Tensor | None
    num_codes: int
    error_rates: Mapping[str, str] = field(default_factory=dict)
    guess_loss: float | None = None
    finding: Finding | None = None

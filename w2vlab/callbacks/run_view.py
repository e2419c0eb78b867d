"""What there is to see of a run, for its picture and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from w2vlab.callbacks.history import MetricHistory


@dataclass
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
    """

    title: str
    train: MetricHistory
    validation: MetricHistory
    num_candidates: int | None
    code_counts: Tensor | None
    num_codes: int
    error_rates: Mapping[str, str] = field(default_factory=dict)

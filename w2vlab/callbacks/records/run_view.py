"""The data of a run's figure and summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from w2vlab.callbacks.history import MetricHistory
from w2vlab.callbacks.probes.finding import ProbeResult


@dataclass(kw_only=True)
class RunView:
    """The data that the figure and the summary show.

    Attributes:
        title: Title with the model, its quantizer and the update.
        train: Training metrics, by update.
        validation: Validation metrics, by update.
        num_candidates: Candidates 1 + K of a prediction, 0 in a regression; None before the first prediction. Of
            several losses, those of the first.
        code_counts: How often each entry was chosen in the last validation, shape `(G, V)`; None without codebooks.
        num_codes: Entries of all codebooks, G V; 0 without codebooks.
        error_rates: Unit of each error rate, such as "word", by its name in the logs; empty in pretraining.
        chance_loss: The prediction loss at chance level, in nats; None if unknown.
        probe: The result of the final probe; None before the end, or without a probe.
        losses: The names of several losses, in their order; empty for a single one.
        planned_shares: Planned share of each corpus of a mixture in the audio, in [0, 1]; empty without a mixture.
    """

    title: str
    train: MetricHistory
    validation: MetricHistory
    num_candidates: int | None
    code_counts: Tensor | None
    num_codes: int
    error_rates: Mapping[str, str] = field(default_factory=dict)
    chance_loss: float | None = None
    probe: ProbeResult | None = None
    losses: Sequence[str] = ()
    planned_shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_regression(self) -> bool:
        """Whether predictions are not told apart from others, so that there is no accuracy."""
        return self.num_candidates == 0 and not self.error_rates and not self.losses

    @property
    def accuracies(self) -> dict[str, str]:
        """The metric of each accuracy without its stage, by the loss; by "" of a single loss."""
        return {name: f"accuracy/{name}" for name in self.losses} or {"": "accuracy"}

    def candidates_of(self, loss: str) -> int:
        """Returns the candidates of a loss of `accuracies`; 0 if they are not known, or there are none."""
        return self.num_candidates or 0 if not self.losses or loss == self.losses[0] else 0

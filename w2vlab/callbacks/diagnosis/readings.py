"""The metrics and settings of a run that collapse signatures are computed from."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Trainer

from w2vlab.callbacks.diagnosis.cures import RunSettings
from w2vlab.interfaces import PredictionLoss, Teacher, UtteranceTargets
from w2vlab.losses import FuturePredictionLoss
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.utils.distributed import all_reduce_sum, world_size

Objective = Literal["cross_entropy", "logistic", "balanced_logistic"]
"""Objective over K + 1 candidates: one softmax, or one logistic loss each (balanced: distractors weigh 1/K each)."""


@dataclass(frozen=True)
class Reading:
    """Training metrics at one update; None for metrics that this run does not have.

    Attributes:
        update: Optimiser updates so far.
        loss: The prediction loss, in nats a prediction (a regression has another unit).
        accuracy: Share of predictions whose true target scored highest; None in a regression.
        perplexity: Perplexity of the codes, summed over the codebooks, in [G, G V].
        excluded: Share of distractors that equal the true target and are excluded (`excluded_negatives`).
        equal: Share of distractors that equal the true target and are not excluded (`equal_negatives`).
        masked: Share of frames that are masked.
        explained: Share of the variance of the targets that a regression explains.
        target_variance: Variance over time of what a teacher computes, as a share of its mean square.
        prediction_variance: The same of the predictions of a regression.
        teacher_distance: Distance of the teacher's averages from the weights that they follow, relative to these.
    """

    update: int
    loss: float
    accuracy: float | None = None
    perplexity: float | None = None
    excluded: float | None = None
    equal: float | None = None
    masked: float | None = None
    explained: float | None = None
    target_variance: float | None = None
    prediction_variance: float | None = None
    teacher_distance: float | None = None

    @property
    def right(self) -> float | None:
        """How much of the targets is predicted: the accuracy, or the share of their variance that is explained."""
        return self.explained if self.accuracy is None else self.accuracy

    @property
    def equal_share(self) -> float | None:
        """Share of distractors that equal the true target, whether they are excluded or not."""
        return self.equal if self.excluded is None else self.excluded


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """The constants of a run that metrics are compared with.

    Attributes:
        num_candidates: Candidates 1 + K of a prediction; 0 in a regression.
        objective: The objective over these candidates.
        num_codebooks: Codebooks G; 0 without a quantizer.
        codebook_size: Entries V of each codebook.
    """

    num_candidates: int
    objective: Objective = "cross_entropy"
    num_codebooks: int = 0
    codebook_size: int = 0

    def mean_candidates(self, reading: Reading) -> float:
        """Returns the mean number of candidates of a prediction, without excluded distractors."""
        return 1 + (self.num_candidates - 1) * (1 - (reading.excluded or 0.0))

    def chance_loss(self, reading: Reading) -> float:
        """Returns the loss at chance level, in nats: that of the best prediction that is equal for all candidates.

        With n candidates, the cross entropy is ln n. The logistic loss, with the probability 1/n for each, is
        `n ln n - (n - 1) ln (n - 1)`; balanced, with the probability one half, `2 ln 2`.
        """
        candidates = self.mean_candidates(reading)
        if self.objective == "balanced_logistic":
            return 2 * math.log(2)
        if self.objective == "logistic" and candidates > 1:
            return candidates * math.log(candidates) - (candidates - 1) * math.log(candidates - 1)
        return math.log(candidates)

    def perplexity_floor(self, share: float) -> float:
        """Returns the perplexity at a `share` of the range from G, one code for each codebook, to G V."""
        return self.num_codebooks * (1 + share * (self.codebook_size - 1))


def reduce_metrics(trainer: Trainer, module: PretrainingModule) -> dict[str, float]:
    """Returns the training metrics that signatures need, as means over the processes, in one all-reduce."""
    names = {
        "loss": f"loss/{module.loss.name}",
        "accuracy": "accuracy",
        "perplexity": "codebook/perplexity_hard",
        "perplexity_soft": "codebook/perplexity_soft",
        "excluded": "excluded_negatives",
        "equal": "equal_negatives",
        "masked": "masked_fraction",
        "explained": "explained_variance",
        "target_variance": "target_variance",
        "prediction_variance": "prediction_variance",
    }
    metrics = trainer.callback_metrics
    found = {short: metrics[f"train/{name}"] for short, name in names.items() if f"train/{name}" in metrics}
    stacked = torch.stack([value.detach().to(module.device, torch.float32) for value in found.values()])
    means = (all_reduce_sum(stacked) / world_size()).tolist()
    values = dict(zip(found, means, strict=True))
    if module.loss.first_weight > 0:
        values["loss"] /= module.loss.first_weight  # of several losses, the first is the one with the accuracy
    else:  # it is not trained, so that its accuracy is at chance
        for name in ("accuracy", "explained", "prediction_variance"):
            values.pop(name, None)
    teacher = teacher_of(module)
    if teacher is not None:
        apart, length = all_reduce_sum(teacher.squared_distance(module.context)).tolist()
        values["teacher_distance"] = math.sqrt(apart / length) if length else 0.0
    return values


def teacher_of(module: PretrainingModule) -> Teacher | None:
    """Returns the teacher of an objective; None if it has none."""
    teacher = getattr(module, "teacher", None)
    return teacher if isinstance(teacher, Teacher) else None


def make_reading(update: int, values: dict[str, float]) -> Reading:
    """Returns the values of `reduce_metrics` at one update as a `Reading`."""
    return Reading(update, **{name: value for name, value in values.items() if name != "perplexity_soft"})


def get_task_settings(module: PretrainingModule) -> TaskSettings:
    """Returns the task settings of a module; known after its first update."""
    quantizer = module.quantizer
    return TaskSettings(
        num_candidates=cast(int, module.num_candidates),
        objective=_objective(next(iter(module.loss.terms.values()))),
        num_codebooks=quantizer.num_codebooks,
        codebook_size=quantizer.codebook_size,
    )


def compute_chance_loss(module: object) -> float | None:
    """Returns the prediction loss at chance level; None if there is none, as in a regression or a sum of losses.

    It is not known before the first prediction either.
    """
    if not isinstance(module, PretrainingModule) or (module.num_candidates or 0) < 2 or len(module.loss.terms) > 1:
        return None
    return get_task_settings(module).chance_loss(Reading(0, 0.0, 0.0))


def _objective(loss: PredictionLoss) -> Objective:
    if isinstance(loss, FuturePredictionLoss) and loss.objective == "logistic":
        return "balanced_logistic" if loss.balanced_classes else "logistic"
    return "cross_entropy"


def get_run_settings(trainer: Trainer, module: PretrainingModule, values: dict[str, float]) -> RunSettings:
    """Returns the settings of this run that suggested fixes depend on."""
    group = trainer.optimizers[0].param_groups[0]
    quantizer = module.quantizer
    options = ((module.run_config or {}).get("model") or {}).get("init_args") or {}
    options_of_quantizer = inspect.signature(type(quantizer)).parameters
    teacher = teacher_of(module)
    temperatures = tuple(getattr(quantizer, f"temperature_{end}", None) for end in ("start", "end"))
    return RunSettings(
        learning_rate=float(group.get("initial_lr", group["lr"])),
        accumulate=trainer.accumulate_grad_batches,
        encoder=type(module.encoder).__name__,
        quantizer=type(quantizer).__name__,
        codebook_size=quantizer.codebook_size if "codebook_size" in options_of_quantizer else None,
        has_given_codes=isinstance(quantizer, UtteranceTargets),
        temperatures=None if None in temperatures else cast(tuple[float, float], temperatures),
        has_probabilities="perplexity_soft" in values,
        penalties={name: (type(p).__name__, float(cast(Any, p).weight)) for name, p in module.penalties.items()},
        default_penalties=bool(options) and options.get("penalties") is None,
        normalizes_waveform=getattr(module.encoder, "normalize_waveform", None),
        num_negatives=getattr(module.loss, "num_negatives", None),
        clips_gradients=trainer.gradient_clip_val is not None,
        half_precision=str(trainer.precision).startswith("16"),
        loss=type(module.loss).__name__,
        masking=type(getattr(module, "masking", None)).__name__,
        teacher_decay=None if teacher is None else teacher.scheduled_values(trainer.global_step).get("teacher_decay"),
        teacher_norm=getattr(teacher, "norm", None),
    )

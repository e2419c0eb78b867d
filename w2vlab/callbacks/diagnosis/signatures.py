"""Signatures of collapse and divergence, detected from logged metrics alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from w2vlab.callbacks.diagnosis.readings import Reading, TaskSettings
from w2vlab.callbacks.diagnosis.signature import Detection, Signature, halves, mean
from w2vlab.callbacks.diagnosis.teacher_signatures import ConstantPredictions, ConstantTargets, CopiedTargets


class NotFinite(Signature):
    """The loss is not finite: it is infinite or NaN in the last two readings."""

    name = "not_finite"
    needs_window = False
    implies = (
        *("collapsed", "uninformed", "few_codes", "equal_negatives", "always_right", "at_chance"),
        *("constant_targets", "constant_predictions", "copied_targets"),
    )

    def detect(self, readings: Sequence[Reading], task: TaskSettings) -> str | None:
        """Checks the last two readings."""
        if any(math.isfinite(reading.loss) for reading in readings[-2:]):
            return None
        return f"The loss is {readings[-1].loss}: weights or activations have overflowed."


@dataclass(frozen=True)
class Collapsed(Signature):
    """Every codebook uses one code, so that all distractors equal the true target and nothing can be learned.

    If such distractors are excluded, the loss is 0 and the accuracy 1; otherwise the loss is at chance level.

    Args:
        perplexity_share: Which perplexities count as a single code, as in `TaskSettings.perplexity_floor`.
        zero_loss: The largest loss, in nats, that counts as 0.
        all_negatives: The smallest share of equal distractors that counts as all of them.
    """

    perplexity_share: float
    zero_loss: float = 0.01
    all_negatives: float = 0.99
    name = "collapsed"
    implies = ("few_codes", "equal_negatives", "always_right", "at_chance", "uninformed", "constant_targets")

    def detect(self, readings: Sequence[Reading], task: TaskSettings) -> str | None:
        """Requires the pattern in all readings."""
        floor = task.perplexity_floor(self.perplexity_share)
        for reading in readings:
            if reading.perplexity is None or reading.perplexity > floor:
                return None
            if reading.loss > self.zero_loss and (reading.equal_share or 0.0) < self.all_negatives:
                return None
        last = readings[-1]
        negatives = "" if last.equal_share is None else f", {last.equal_share:.0%} of the distractors equal the target"
        return (
            f"The codebooks have collapsed: the perplexity is {last.perplexity:.2f}, with a minimum of "
            f"{task.num_codebooks}{negatives}, and the loss, {last.loss:.3g} nats, has no information left."
        )


@dataclass(frozen=True)
class Uninformed(Signature):
    """The loss stays at chance level: ln(K + 1), 4.615 nats or 6.658 bits for K = 100.

    Args:
        tolerance: Maximum root mean square distance from chance level over the window, in nats.
    """

    tolerance: float
    name = "uninformed"
    needs_patience = True
    implies = ("at_chance",)

    def detect(self, readings: Sequence[Reading], task: TaskSettings) -> str | None:
        """Computes the root mean square distance over the window."""
        if not task.num_candidates:
            return None
        distances = [reading.loss - task.chance_loss(reading) for reading in readings]
        distance = math.sqrt(mean([value * value for value in distances]))
        if not distance <= self.tolerance:
            return None
        level = task.chance_loss(readings[-1])
        formula = f"ln {task.mean_candidates(readings[-1]):.4g}, " if task.objective == "cross_entropy" else ""
        return (
            f"The model does not distinguish the candidates: the loss stays at {level:.3f} nats "
            f"({level / math.log(2):.3f} bits), {formula}chance level for {task.num_candidates} candidates."
        )


@dataclass(frozen=True)
class FewCodes(Signature):
    """The perplexity is at its minimum, G for all codebooks together, and does not recover.

    Args:
        perplexity_share: Which perplexities count as the minimum, as in `TaskSettings.perplexity_floor`.
        recovery: Ratio of the means of the later and the earlier half of the window above which it recovers.
    """

    perplexity_share: float
    recovery: float = 1.1
    name = "few_codes"
    implies = ("equal_negatives",)

    def detect(self, readings: Sequence[Reading], task: TaskSettings) -> str | None:
        """Requires the pattern in all readings."""
        values = [reading.perplexity for reading in readings if reading.perplexity is not None]
        floor = task.perplexity_floor(self.perplexity_share)
        if not values or max(values) > floor:
            return None
        earlier, later = halves(values)
        if later > self.recovery * earlier:
            return None
        return (
            f"Very few codes are used: the perplexity is {values[-1]:.2f}, with a minimum of {task.num_codebooks} and "
            f"a maximum of {task.num_codebooks * task.codebook_size}."
        )


@dataclass(frozen=True)
class EqualNegatives(Signature):
    """A rising share of distractors equals the true target, as before a collapse.

    Args:
        share: Minimum share of equal distractors, as the mean of the later half of the window.
        rise: Minimum difference to the earlier half of the window.
        nearly_all: Share from which on no rise is required.
    """

    share: float
    rise: float = 0.1
    nearly_all: float = 0.9
    name = "equal_negatives"
    implies = ("uninformed", "always_right", "at_chance")

    def detect(self, readings: Sequence[Reading], task: TaskSettings) -> str | None:
        """Compares the halves of the window."""
        values = [reading.equal_share for reading in readings if reading.equal_share is not None]
        if not values:
            return None
        earlier, later = halves(values)
        if later < self.share or later < min(earlier + self.rise, self.nearly_all):
            return None
        trend = f"up from {earlier:.0%}" if later >= earlier + self.rise else "not falling"
        return f"{later:.0%} of the distractors equal the true target ({trend}): the targets are collapsing."


@dataclass(frozen=True)
class AlwaysRight(Signature):
    """The accuracy stays at 1; in a regression, the share of the targets' variance that is explained.

    Args:
        accuracy: The smallest accuracy or share that counts as 1.
    """

    accuracy: float
    name = "always_right"
    implies = ("at_chance",)

    def detect(self, readings: Sequence[Reading], task: TaskSettings) -> str | None:
        """Requires the pattern in all readings."""
        rights = [right for reading in readings if (right := reading.right) is not None]
        if not rights or min(rights) < self.accuracy:
            return None
        last = readings[-1]
        if last.accuracy is None:
            return f"The predictions explain {last.right:.1%} of the variance of the targets: the input leaks them."
        return (
            f"Every prediction is correct (accuracy {last.accuracy:.3f}, loss {last.loss:.3g} nats): "
            "the targets are all equal, or the input leaks them."
        )


@dataclass(frozen=True)
class AtChance(Signature):
    """The accuracy stays at chance level, or below.

    Args:
        times: Multiple of chance level up to which the mean over the window counts as chance level.
    """

    times: float
    name = "at_chance"
    needs_patience = True

    def detect(self, readings: Sequence[Reading], task: TaskSettings) -> str | None:
        """Compares the mean over the window with chance level."""
        accuracies = [reading.accuracy for reading in readings if reading.accuracy is not None]
        if not accuracies:
            return None
        accuracy = mean(accuracies)
        chance = mean([1 / task.mean_candidates(reading) for reading in readings])
        if not accuracy <= self.times * chance:
            return None
        return f"The model is at chance level: its accuracy is {accuracy:.3f}, and chance is {chance:.3f}."


def make_signatures(
    *,
    loss_tolerance: float,
    chance_tolerance: float,
    perplexity_share: float,
    equal_share: float,
    pinned_accuracy: float,
    constant_share: float,
    copied_share: float,
) -> tuple[Signature, ...]:
    """Returns all signatures; each one comes before those that it implies.

    The arguments are the options of `CollapseWatchdog` of the same names.

    Raises:
        ValueError: A value is out of range.
    """
    if loss_tolerance <= 0:
        raise ValueError(f"`loss_tolerance` must be above 0, but is {loss_tolerance}.")
    if chance_tolerance < 1:
        raise ValueError(f"`chance_tolerance` must be at least 1, but is {chance_tolerance}.")
    shares = {
        "perplexity_share": perplexity_share,
        "equal_share": equal_share,
        "pinned_accuracy": pinned_accuracy,
        "constant_share": constant_share,
        "copied_share": copied_share,
    }
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ValueError(f"`{name}` must be between 0 and 1, but is {share}.")
    return (
        NotFinite(),
        Collapsed(perplexity_share),
        ConstantTargets(constant_share),
        CopiedTargets(copied_share),
        ConstantPredictions(constant_share),
        Uninformed(loss_tolerance),
        FewCodes(perplexity_share),
        EqualNegatives(equal_share),
        AlwaysRight(pinned_accuracy),
        AtChance(chance_tolerance),
    )


def diagnose(
    readings: Sequence[Reading], task: TaskSettings, signatures: Sequence[Signature], length: int, patience: int
) -> list[Detection]:
    """Returns the signatures of the last `length` readings, without those that another one implies.

    Args:
        readings: The readings, in the order of updates.
        task: The task settings of the run.
        signatures: The signatures to detect.
        length: Readings of a window.
        patience: Updates before which signatures with `needs_patience` are ignored.
    """
    if len(readings) < 2:
        return []
    recent = list(readings)[-length:]
    detections: list[Detection] = []
    for signature in signatures:
        if signature.needs_window and len(readings) < length:
            continue
        if signature.needs_patience and readings[-1].update < patience:
            continue
        message = signature.detect(recent, task)
        if message is not None:
            detections.append(Detection(signature.name, message, signature.implies))
    implied = {name for detection in detections for name in detection.implies}
    return [detection for detection in detections if detection.name not in implied]

"""Signatures of a collapse of what a teacher computes, and of a student that has nothing to learn from it.

The default thresholds lie between seeded runs of tiny models (`tests/callbacks/diagnosis/test_teacher_collapse.py`), in
windows of 50 updates after the first 100 of 300, three seeds: the variance of targets stayed below 0.007 in runs on
silence, and above 0.34 in healthy runs; that of predictions below 0.002 without a norm of the targets, with a decay of
0 and of 0.99, and above 0.98 in healthy runs; accuracy or explained variance were above 0.97 in all runs without masks,
and below 0.62 with masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from w2vlab.callbacks.diagnosis.readings import Reading, TaskSettings
from w2vlab.callbacks.diagnosis.signature import Signature, halves


@dataclass(frozen=True)
class ConstantTargets(Signature):
    """The teacher computes nearly the same for every frame of an utterance, and does not recover.

    In the first updates the variance can be low in healthy runs, too: a new network first learns the mean.

    Args:
        share: The largest variance of the targets over time, as a share of their mean square, that counts as none.
        recovery: Ratio of the means of the later and the earlier half of the window above which it recovers.
    """

    share: float
    recovery: float = 1.1
    name = "constant_targets"
    needs_patience = True
    implies = ("few_codes", "equal_negatives", "always_right", "at_chance", "uninformed", "constant_predictions")

    def detect(self, readings: Sequence[Reading], task: TaskSettings) -> str | None:
        """Requires the pattern in all readings."""
        values = [reading.target_variance for reading in readings if reading.target_variance is not None]
        if not values or max(values) > self.share:
            return None
        earlier, later = halves(values)
        if later > self.recovery * earlier > 0:
            return None
        return (
            f"The teacher's targets have collapsed: over the time of an utterance their variance is {values[-1]:.2%} "
            f"of their mean square.{_distance(readings[-1])}"
        )


@dataclass(frozen=True)
class ConstantPredictions(Signature):
    """The student predicts nearly the same for every frame of an utterance: the mean of its targets.

    Targets that are not normalized get smaller and smaller if the teacher follows the student at once; their variance
    remains a share of their mean square, but nothing is left to predict.

    Args:
        share: The largest variance of the predictions over time, as a share of their mean square, that counts as none.
    """

    share: float
    name = "constant_predictions"
    needs_patience = True

    def detect(self, readings: Sequence[Reading], task: TaskSettings) -> str | None:
        """Requires the pattern in all readings."""
        values = [reading.prediction_variance for reading in readings if reading.prediction_variance is not None]
        if not values or max(values) > self.share:
            return None
        return (
            f"The student predicts the same for all frames of an utterance: the variance of its predictions is "
            f"{values[-1]:.2%} of their mean square, the loss {readings[-1].loss:.3g}.{_distance(readings[-1])}"
        )


@dataclass(frozen=True)
class CopiedTargets(Signature):
    """No frame is masked, so that the student sees what the teacher sees, and its predictions are nearly right.

    Args:
        share: The smallest accuracy, or share of the targets' variance that is explained, that counts as copying.
    """

    share: float
    name = "copied_targets"
    implies = ("always_right",)

    def detect(self, readings: Sequence[Reading], task: TaskSettings) -> str | None:
        """Requires the pattern in all readings; only of a run with a teacher."""
        for reading in readings:
            if reading.teacher_distance is None or reading.masked != 0:
                return None
            if reading.right is None or reading.right < self.share:
                return None
        last = readings[-1]
        what = "codes are predicted" if last.accuracy is not None else "variance of the targets is explained"
        return f"The student copies its input: no frame is masked, and {last.right:.1%} of the {what}.{_distance(last)}"


def _distance(reading: Reading) -> str:
    """Returns a sentence if the teacher equals the student."""
    return " The teacher equals the student: its decay is 0." if reading.teacher_distance == 0 else ""

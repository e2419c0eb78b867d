"""What a signature of collapse is: a pattern in the readings of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from w2vlab.callbacks.diagnosis.readings import Reading, TaskSettings


@dataclass(frozen=True)
class Detection:
    """A signature that was detected.

    Attributes:
        name: Name of the signature.
        message: Description of the observed metrics, as a sentence.
        implies: Signatures that follow from this one.
    """

    name: str
    message: str
    implies: tuple[str, ...] = ()


class Signature(ABC):
    """A pattern in the metrics of a run that has collapsed or diverged.

    Attributes:
        name: Name in logs and files.
        needs_window: Whether detection needs a full window of readings; otherwise two are enough.
        needs_patience: Whether the pattern is normal at the start of a run.
        implies: Signatures that follow from this one, and are not reported in addition.
    """

    name: ClassVar[str]
    needs_window: ClassVar[bool] = True
    needs_patience: ClassVar[bool] = False
    implies: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def detect(self, readings: Sequence[Reading], task: TaskSettings) -> str | None:
        """Returns a message if `readings`, in the order of updates, have this signature; None if they do not."""


def mean(values: Sequence[float]) -> float:
    """Returns the mean."""
    return sum(values) / len(values)


def halves(values: Sequence[float]) -> tuple[float, float]:
    """Returns the means of the earlier and the later half; with an odd number, both include the middle value."""
    half = (len(values) + 1) // 2
    return mean(values[:half]), mean(values[-half:])

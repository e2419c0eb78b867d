"""What a run that goes wrong looks like in its logs; functions of logged values alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from w2vlab.callbacks.readings import Reading, Setting


@dataclass(frozen=True)
class Finding:
    """A signature that was seen.

    Attributes:
        name: Of the signature.
        words: What there is to see, as a sentence.
        explains: Signatures that follow from this one.
    """

    name: str
    words: str
    explains: tuple[str, ...] = ()


class Signature(ABC):
    """A way in which runs go wrong.

    Attributes:
        name: In logs and files.
        needs_window: Whether it takes a whole window to be told; otherwise two readings.
        needs_patience: Whether it is natural at the beginning of a run.
        explains: Signatures that follow from this one, and are not told beside it.
    """

    name: ClassVar[str]
    needs_window: ClassVar[bool] = True
    needs_patience: ClassVar[bool] = False
    explains: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def see(self, readings: Sequence[Reading], setting: Setting) -> str | None:
        """Says what `readings`, in the order of their updates, have of this signature; None where they have not."""


class NotFinite(Signature):
    """The loss is no number any more: the last two readings of it are infinite or NaN."""

    name = "not_finite"
    needs_window = False
    explains = ("collapsed", "uninformed", "few_codes", "equal_negatives", "always_right", "at_chance")

    def see(self, readings: Sequence[Reading], setting: Setting) -> str | None:
        """Looks at the last two."""
        if any(math.isfinite(reading.loss) for reading in readings[-2:]):
            return None
        return f"The loss is {readings[-1].loss}: weights or activations have overflowed."


@dataclass(frozen=True)
class Collapsed(Signature):
    """Every codebook uses one code, so all negatives equal the true target and nothing is left to learn.

    Where such negatives are excluded the loss is 0, with an accuracy of 1; where they are wrong answers, it is that of
    a guess.

    Args:
        perplexity_share: Which perplexities count as a single code, as in `Setting.perplexity_floor`.
        zero_loss: The largest loss, in nats, that counts as 0.
        all_negatives: The smallest share of equal negatives that counts as all of them.
    """

    perplexity_share: float
    zero_loss: float = 0.01
    all_negatives: float = 0.99
    name = "collapsed"
    explains = ("few_codes", "equal_negatives", "always_right", "at_chance", "uninformed")

    def see(self, readings: Sequence[Reading], setting: Setting) -> str | None:
        """Needs all readings."""
        floor = setting.perplexity_floor(self.perplexity_share)
        for reading in readings:
            if reading.perplexity is None or reading.perplexity > floor:
                return None
            if reading.loss > self.zero_loss and (reading.equal_share or 0.0) < self.all_negatives:
                return None
        last = readings[-1]
        negatives = "" if last.equal_share is None else f", {last.equal_share:.0%} of the negatives equal the target"
        return (
            f"The codebooks have collapsed: the perplexity is {last.perplexity:.2f} of at least {setting.num_codebooks}"
            f"{negatives}, and the loss, {last.loss:.3g} nats, has nothing left to teach."
        )


@dataclass(frozen=True)
class Uninformed(Signature):
    """The loss is pinned at that of a guess: ln(K + 1), 4.615 nats or 6.658 bits for K = 100.

    Args:
        tolerance: How far from it, in nats, as root mean square over the window.
    """

    tolerance: float
    name = "uninformed"
    needs_patience = True
    explains = ("at_chance",)

    def see(self, readings: Sequence[Reading], setting: Setting) -> str | None:
        """Measures the distance over the window."""
        distances = [reading.loss - setting.uninformed_loss(reading) for reading in readings]
        distance = math.sqrt(_mean([value * value for value in distances]))
        if not distance <= self.tolerance:
            return None
        level = setting.uninformed_loss(readings[-1])
        what = f"ln {setting.candidates(readings[-1]):.4g}, " if setting.objective == "cross_entropy" else ""
        return (
            f"The model tells nothing apart: the loss is pinned at {level:.3f} nats ({level / math.log(2):.3f} bits), "
            f"{what}what a guess among the {setting.num_candidates} candidates costs."
        )


@dataclass(frozen=True)
class FewCodes(Signature):
    """The perplexity has fallen to its floor, G in sum, and is not on its way up.

    Args:
        perplexity_share: Which perplexities count as the floor, as in `Setting.perplexity_floor`.
        recovery: A later half of the window that is so many times as high as the earlier one is on its way up.
    """

    perplexity_share: float
    recovery: float = 1.1
    name = "few_codes"
    explains = ("equal_negatives",)

    def see(self, readings: Sequence[Reading], setting: Setting) -> str | None:
        """Needs all readings."""
        values = [reading.perplexity for reading in readings if reading.perplexity is not None]
        floor = setting.perplexity_floor(self.perplexity_share)
        if not values or max(values) > floor:
            return None
        earlier, later = _halves(values)
        if later > self.recovery * earlier:
            return None
        return (
            f"Hardly any codes are used: the perplexity is {values[-1]:.2f}, of at least {setting.num_codebooks} and "
            f"at most {setting.num_codebooks * setting.codebook_size}."
        )


@dataclass(frozen=True)
class EqualNegatives(Signature):
    """More and more negatives equal the true target, as on the way to a collapse.

    Args:
        share: Share of the negatives from which on it matters, as mean of the window's later half.
        rise: How much more that is than in the earlier half; from `nearly_all` on, it need not rise any more.
        nearly_all: Share that is wrong by itself.
    """

    share: float
    rise: float = 0.1
    nearly_all: float = 0.9
    name = "equal_negatives"
    explains = ("uninformed", "always_right", "at_chance")

    def see(self, readings: Sequence[Reading], setting: Setting) -> str | None:
        """Compares the halves of the window."""
        values = [reading.equal_share for reading in readings if reading.equal_share is not None]
        if not values:
            return None
        earlier, later = _halves(values)
        if later < self.share or later < min(earlier + self.rise, self.nearly_all):
            return None
        how = f"rose from {earlier:.0%}" if later >= earlier + self.rise else "stays there"
        return f"{later:.0%} of the negatives equal the true target ({how}): the targets are becoming one."


@dataclass(frozen=True)
class AlwaysRight(Signature):
    """The accuracy is pinned at 1.

    Args:
        accuracy: The smallest accuracy that counts as 1.
    """

    accuracy: float
    name = "always_right"
    explains = ("at_chance",)

    def see(self, readings: Sequence[Reading], setting: Setting) -> str | None:
        """Needs all readings."""
        if min(reading.accuracy for reading in readings) < self.accuracy:
            return None
        return (
            f"Every prediction is right (accuracy {readings[-1].accuracy:.3f}, loss {readings[-1].loss:.3g} nats): "
            "the targets are all alike, or something gives them away."
        )


@dataclass(frozen=True)
class AtChance(Signature):
    """The accuracy is pinned at chance, or below.

    Args:
        times: How many times chance still counts as chance, as mean of the window.
    """

    times: float
    name = "at_chance"
    needs_patience = True

    def see(self, readings: Sequence[Reading], setting: Setting) -> str | None:
        """Compares the means over the window."""
        accuracy = _mean([reading.accuracy for reading in readings])
        chance = _mean([1 / setting.candidates(reading) for reading in readings])
        if not accuracy <= self.times * chance:
            return None
        return f"The model does no better than a guess: accuracy {accuracy:.3f}, and chance is {chance:.3f}."


def diagnose(
    readings: Sequence[Reading], setting: Setting, signatures: Sequence[Signature], length: int, patience: int
) -> list[Finding]:
    """Says what there is to see in the last `length` readings, without what follows from something else in the list.

    Args:
        readings: In the order of their updates.
        setting: What they are readings of.
        signatures: What to look for.
        length: Readings of a window.
        patience: Updates for which a model may be as one that knows nothing.
    """
    if len(readings) < 2:
        return []
    recent = list(readings)[-length:]
    findings: list[Finding] = []
    for signature in signatures:
        if signature.needs_window and len(readings) < length:
            continue
        if signature.needs_patience and readings[-1].update < patience:
            continue
        words = signature.see(recent, setting)
        if words is not None:
            findings.append(Finding(signature.name, words, signature.explains))
    explained = {name for finding in findings for name in finding.explains}
    return [finding for finding in findings if finding.name not in explained]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _halves(values: Sequence[float]) -> tuple[float, float]:
    """Returns the means of the earlier and the later half; of an odd number, both have the one in the middle."""
    half = (len(values) + 1) // 2
    return _mean(values[:half]), _mean(values[-half:])

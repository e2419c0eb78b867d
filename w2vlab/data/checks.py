"""Checks of the options of the data module."""

from __future__ import annotations

import math
import warnings

from w2vlab.types import SAMPLE_RATE, Seconds
from w2vlab.utils.messages import W2VLabWarning


def check(name: str, value: object, holds: bool, rule: str) -> None:
    """Raises an error if an option breaks a rule.

    Args:
        name: Name of the option.
        value: Its value.
        holds: Whether the value follows the rule.
        rule: The rule in words, after "must be".

    Raises:
        ValueError: `holds` is false.
    """
    if not holds:
        raise ValueError(f"`{name}` must be {rule}, but is {value}.")


def check_durations(min_seconds: Seconds, max_seconds: Seconds, batch_seconds: Seconds) -> None:
    """Checks that the limits of durations are positive, finite and in ascending order.

    Raises:
        ValueError: They are not.
    """
    check("min_seconds", min_seconds, min_seconds > 0, "positive")
    check("max_seconds", max_seconds, max_seconds >= min_seconds, f"at least `min_seconds`, {min_seconds}")
    for name, value in (("max_seconds", max_seconds), ("batch_seconds", batch_seconds)):
        check(name, value, value < math.inf, "finite")
    check("batch_seconds", batch_seconds, batch_seconds >= max_seconds, f"at least `max_seconds`, {max_seconds}")


def check_shares(alpha: float, max_uses: float | None, quadratic_seconds: Seconds | None) -> None:
    """Checks the options that decide how much of each corpus is in an epoch, and of each length in a batch.

    Raises:
        ValueError: One of them is out of range.
    """
    check("alpha", alpha, 0 <= alpha < math.inf, "at least 0 and finite")
    check("max_uses", max_uses, max_uses is None or 0 < max_uses < math.inf, "above 0 and finite, or null")
    positive = quadratic_seconds is None or 0 < quadratic_seconds < math.inf
    check("quadratic_seconds", quadratic_seconds, positive, "above 0 and finite, or null")


def warn_without_mixture(number: int, alpha: float, max_uses: float | None) -> None:
    """Warns of options of a mixture that have no effect on a single corpus.

    Args:
        number: Number of corpora to train on.
        alpha: See `SpeechDataModule`.
        max_uses: Likewise.
    """
    for name, is_set in (("alpha", alpha != 1), ("max_uses", max_uses is not None)):
        if is_set and number == 1:
            warnings.warn(f"`{name}` has no effect: `corpus` is a single one.", W2VLabWarning, stacklevel=3)


def check_fits_model(max_seconds: Seconds, min_samples: int, transcribed: bool, crop_to_shortest: bool) -> None:
    """Checks that crops are long enough for a model, and that transcribed utterances are not cropped.

    Args:
        max_seconds: Longest crop.
        min_samples: Fewest samples of an utterance at 16 kHz for the model.
        transcribed: Whether the model learns from transcripts.
        crop_to_shortest: Whether utterances are cropped to the shortest of their batch.

    Raises:
        ValueError: Crops are too short, or transcribed utterances would be cropped.
    """
    if transcribed and crop_to_shortest:
        raise ValueError(
            "`crop_to_shortest` must be false for a model that learns from transcripts, because a crop does not match "
            "its transcript, but is true."
        )
    needed = min_samples / SAMPLE_RATE
    check("max_seconds", max_seconds, max_seconds >= needed, f"at least {needed:.3f} for this model")

"""Crops the utterances of a batch: chooses a window of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from w2vlab.types import RandomAddress


@dataclass(frozen=True)
class Window:
    """A segment of an utterance, in samples at 16 kHz.

    Attributes:
        start: First sample.
        length: Number of samples.
    """

    start: int
    length: int


def choose_windows(
    num_samples: Sequence[int], max_samples: int, crop_to_shortest: bool, address: RandomAddress | None
) -> list[Window]:
    """Chooses a window of each utterance of a batch.

    Args:
        num_samples: Length of each utterance, B integers.
        max_samples: Longest window.
        crop_to_shortest: Whether all windows are as long as the shortest, so that the batch has no padding.
        address: Address of the generators that draw the starts; None takes the middle of each utterance.
    """
    lengths = [min(available, max_samples) for available in num_samples]
    if crop_to_shortest:
        lengths = [min(lengths)] * len(lengths)
    max_starts = [available - length for available, length in zip(num_samples, lengths, strict=True)]
    if address is None:
        starts = [max_start // 2 for max_start in max_starts]
    else:
        draws = zip(address.generators("crop"), max_starts, strict=True)
        starts = [int(generator.integers(max_start + 1)) for generator, max_start in draws]
    return [Window(start, length) for start, length in zip(starts, lengths, strict=True)]

"""Which window of each utterance a batch uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from w2vlab.types import RandomAddress


@dataclass(frozen=True)
class Window:
    """A stretch of an utterance, in samples at 16 kHz.

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
        max_samples: The longest window.
        crop_to_shortest: Whether all windows are as long as the shortest, so that the batch has no padding.
        address: Where the starts are drawn from; None takes the middle of each utterance.
    """
    lengths = [min(available, max_samples) for available in num_samples]
    if crop_to_shortest:
        lengths = [min(lengths)] * len(lengths)
    slack = [available - length for available, length in zip(num_samples, lengths, strict=True)]
    if address is None:
        starts = [spare // 2 for spare in slack]
    else:
        draws = zip(address.generators("crop"), slack, strict=True)
        starts = [int(generator.integers(spare + 1)) for generator, spare in draws]
    return [Window(start, length) for start, length in zip(starts, lengths, strict=True)]

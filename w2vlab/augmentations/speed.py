"""Faster and slower utterances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from w2vlab.interfaces import Augmentation
from w2vlab.interfaces.augmentations import Audio


class SpeedPerturbation(Augmentation):
    """Reads an utterance faster or slower, which changes its pitch, too.

    Windows are chosen in the faster or slower utterance, and only their audio is read. A window keeps its length if
    the utterance is long enough for it; otherwise it has all of the utterance, and if `data.crop_to_shortest` is set
    the other windows of the batch are cropped to it. No batch has more audio than without. An utterance that would be
    too short for the model keeps its speed.

    Args:
        factors: The speeds, each equally likely; above 1 an utterance is shorter and higher.

    Reference:
        Ko et al. 2015, https://doi.org/10.21437/Interspeech.2015-711; as sox's and lhotse's `speed`.
    """

    changes_speed = True

    def __init__(self, factors: tuple[float, ...] = (0.9, 1.0, 1.1)) -> None:
        if not factors or not all(0.25 <= factor <= 4 for factor in factors):
            raise ValueError(f"`factors` must be one or more speeds from 0.25 to 4, but is {list(factors)}.")
        self.factors = factors

    def draw_speed(self, generator: np.random.Generator) -> float:
        """Returns one of the factors."""
        return float(self.factors[generator.integers(len(self.factors))])

    def augment(self, utterances: Sequence[Audio], generators: Sequence[np.random.Generator]) -> list[Audio]:
        """Returns the utterances as they are: they have been read at their speeds."""
        return list(utterances)

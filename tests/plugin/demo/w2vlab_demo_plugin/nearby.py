"""Distractors that are close in time."""

from __future__ import annotations

import numpy as np
import torch

from w2vlab.interfaces import NegativeSampler
from w2vlab.types import LossInputs, Negatives, TargetSpec


class NearbyNegatives(NegativeSampler):
    """Draws distractors among the nearest targets of the same utterance.

    Args:
        targets: What the targets are; supplied by the loss, not by YAML.
        num_negatives: Distractors K of each prediction.
        reach: Targets before and after the frame to draw from.

    Reference:
        An example of a plugin; no paper.
    """

    purpose = "nearby"

    def __init__(self, targets: TargetSpec, num_negatives: int = 10, reach: int = 5) -> None:
        super().__init__()
        if reach < 1:
            raise ValueError(f"`reach` must be at least 1, but is {reach}.")
        self.num_negatives = num_negatives
        self.reach = reach

    def forward(self, inputs: LossInputs) -> Negatives:
        """Draws on the host, each utterance from its own generator."""
        indices = np.zeros((*inputs.context.shape[:2], self.num_negatives), dtype=np.int64)
        generators = inputs.address.generators(self.purpose)
        for row, (num_targets, generator) in enumerate(zip(inputs.num_targets, generators, strict=True)):
            for frame in range(num_targets):
                first, last = max(0, frame - self.reach), min(num_targets, frame + self.reach + 1)
                near = [other for other in range(first, last) if other != frame]
                indices[row, frame] = generator.choice(near, size=self.num_negatives)
        return Negatives(indices=torch.from_numpy(indices).to(inputs.context.device, non_blocking=True))

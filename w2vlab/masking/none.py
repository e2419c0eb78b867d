"""No masking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from w2vlab.interfaces import Masking
from w2vlab.types import Mask


class NoMasking(Masking):
    """Masks no frame and predicts every frame: the control experiment to masking.

    A model that sees its targets can copy them, so its accuracy is an upper bound and its contexts learn little.

    Reference:
        The control to Baevski et al. 2020, arXiv:2006.11477, Section 3.1.
    """

    def forward(self, num_frames: Sequence[int], generators: Sequence[np.random.Generator], num_channels: int) -> Mask:
        """Returns a mask that is False on all frames, with all frames as targets."""
        longest = max(num_frames)
        frames = torch.arange(longest).expand(len(num_frames), -1)  # (B, T)
        padding_mask = frames >= torch.tensor(list(num_frames))[:, None]
        return Mask(
            frames=torch.zeros_like(padding_mask),
            targets=frames.masked_fill(padding_mask, 0),
            num_targets=tuple(num_frames),
        )

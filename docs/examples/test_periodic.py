"""The masked frames as a plain loop, which the contract tests cannot know."""

from __future__ import annotations

import numpy as np
import pytest
from periodic import PeriodicMasking


@pytest.mark.parametrize("seed", range(5))
def test_every_period_has_one_masked_span(seed: int) -> None:
    """The same frames of each period, and the expected share."""
    masking = PeriodicMasking(length=3, period=7)
    mask = masking((70, 7), [np.random.default_rng(seed), np.random.default_rng(seed + 1)], num_channels=4)
    for row, frames in enumerate((70, 7)):
        hidden = mask.frames[row, :frames].tolist()
        assert sum(hidden) == 3 * frames // 7
        assert all(hidden[frame] == hidden[frame + 7] for frame in range(frames - 7))
        starts = [frame for frame in range(1, frames) if hidden[frame] and not hidden[frame - 1]]
        assert all(hidden[start : start + 3] == [True] * min(3, frames - start) for start in starts)
        assert mask.targets[row, : mask.num_targets[row]].tolist() == [t for t in range(frames) if hidden[t]]


def test_offsets_are_random() -> None:
    """Every offset of a period occurs."""
    masking = PeriodicMasking(length=3, period=7)
    drawn = {tuple(masking((14,), [np.random.default_rng(seed)], 4).targets[0].tolist()) for seed in range(50)}
    assert len(drawn) == 7

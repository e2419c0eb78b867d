"""Positions of frames, compared with the samples that they depend on."""

from __future__ import annotations

import numpy as np
import pytest

from w2vlab.frame_grid import FrameGrid

GRID = FrameGrid(stride=320, receptive_field=400)


def test_centres_are_the_middles_of_the_samples() -> None:
    for frame, centre in enumerate(GRID.centres(5)):
        samples = np.arange(frame * 320, frame * 320 + 400)
        assert centre == pytest.approx((samples.mean() + 0.5) / 16_000)
    assert GRID.frames_per_second == 50


def test_nearest_is_that_of_a_search() -> None:
    times = np.random.default_rng(0).uniform(-0.01, 0.25, 50)
    centres = GRID.centres(9)
    assert GRID.nearest(times, 9).tolist() == [int(np.abs(centres - time).argmin()) for time in times]


def test_between_is_that_of_a_search() -> None:
    draw = np.random.default_rng(1)
    centres = GRID.centres(9)
    for _ in range(100):
        start = draw.uniform(0, 0.2)
        end = start + draw.uniform(0, 0.1)
        inside = [n for n, centre in enumerate(centres) if start <= centre < end]
        expected = inside or [int(np.abs(centres - (start + end) / 2).argmin())]
        found = GRID.between(start, end, 9)
        assert list(range(9))[found] == expected


def test_a_time_on_the_grid_belongs_to_the_next_frame() -> None:
    cepstra = FrameGrid(160, 0)
    assert cepstra.between(0.3, 0.33, 100) == slice(30, 33)
    assert cepstra.between(0.1 + 0.2, 0.33, 100) == slice(30, 33)  # 0.30000000000000004

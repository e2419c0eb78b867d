"""Units in memory: aligned by time, against a loop; and messages that name the utterance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2vlab.frame_grid import FrameGrid
from w2vlab.types import RunError
from w2vlab.units.table import FRAMES_OFF, UnitTable

GRIDS = (FrameGrid(320, 400), FrameGrid(160, 400), FrameGrid(160, 0), FrameGrid(640, 1025), FrameGrid(321, 7))


def table_of(grid: FrameGrid, num_samples: int, num_codebooks: int = 2) -> UnitTable:
    """Returns a table of two utterances whose codes are the numbers of their frames."""
    frames = grid.num_frames(num_samples)
    codes = np.arange(frames)[:, None] + 1000 * np.arange(num_codebooks)
    return UnitTable(
        name="units.parquet",
        ids=["other.wav", "x.wav"],
        offsets=np.array([0, 3, 3 + frames]),
        frames=np.concatenate([np.full((3, num_codebooks), 9999), codes]).astype(np.int32),
        grid=grid,
        codebook_size=10_000,
    )


def middle_of(grid: FrameGrid, frame: int) -> float:
    """The middle of the samples of a frame."""
    return frame * grid.stride + grid.receptive_field / 2


@given(
    units=st.sampled_from(GRIDS),
    frames=st.sampled_from(GRIDS),
    num_samples=st.integers(3000, 20_000),
    data=st.data(),
)
def test_a_frame_has_the_unit_nearest_in_time(
    units: FrameGrid, frames: FrameGrid, num_samples: int, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, num_samples - 2000))
    window = data.draw(st.integers(2000, num_samples - first))
    table, number = table_of(units, num_samples), frames.num_frames(window)
    codes = table.at("x.wav", frames, first, number)
    assert codes.shape == (number, 2)
    last = units.num_frames(num_samples) - 1
    for frame in range(number):
        time = first + middle_of(frames, frame)
        # Of two that are equally near, the earlier one.
        nearest = min(range(last + 1), key=lambda unit: (abs(middle_of(units, unit) - time), unit))
        assert codes[frame].tolist() == [nearest, nearest + 1000]


def test_a_window_of_the_same_grid_has_its_own_units_when_it_begins_at_a_frame() -> None:
    grid = FrameGrid(320, 400)
    table = table_of(grid, 16_000)
    for first in range(30):
        assert table.at("x.wav", grid, 320 * first, 10)[:, 0].tolist() == list(range(first, first + 10))
    # A window that begins between frames: all of its frames are shifted alike, by less than half a frame.
    assert table.at("x.wav", grid, 320 * 5 + 159, 10)[:, 0].tolist() == list(range(5, 15))
    assert table.at("x.wav", grid, 320 * 5 + 161, 10)[:, 0].tolist() == list(range(6, 16))


def test_the_last_units_are_repeated_for_a_few_frames_and_no_more() -> None:
    grid = FrameGrid(320, 400)
    table = table_of(grid, 16_000)  # 49 frames
    assert table.at("x.wav", grid, 0, 49 + FRAMES_OFF)[:, 0].tolist() == [*range(49), *[48] * FRAMES_OFF]
    with pytest.raises(RunError, match=r"of x\.wav must reach 1\.04 s, but those in units\.parquet end at 0\.98 s"):
        table.at("x.wav", grid, 0, 49 + FRAMES_OFF + 1)
    with pytest.raises(RunError, match=r"units of x\.wav must reach 1\.99 s"):
        table.at("x.wav", grid, 16_000, 49)


def test_an_utterance_of_another_length_is_named_before_training() -> None:
    grid = FrameGrid(320, 400)
    table = table_of(grid, 16_000)
    for frames_off in range(-FRAMES_OFF, FRAMES_OFF + 1):
        table.check("x.wav", 16_000 + 320 * frames_off)
    with pytest.raises(
        RunError, match=r"units of x\.wav must be 99 frames of 20 ms \(2\.00 s\), but units\.parquet has 49 \(0\.98 s\)"
    ):
        table.check("x.wav", 32_000)


def test_an_utterance_that_is_not_there_is_named() -> None:
    table = table_of(FrameGrid(320, 400), 16_000)
    assert "x.wav" in table
    assert "y.wav" not in table
    assert len(table) == 2
    assert table.num_codebooks == 2
    for read in (table.codes, lambda name: table.check(name, 16_000), lambda name: table.at(name, table.grid, 0, 3)):
        with pytest.raises(RunError, match=r"units\.parquet must have the units of y\.wav, but has 2 other utterances"):
            read("y.wav")

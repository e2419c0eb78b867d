from __future__ import annotations

import numpy as np
import pytest

from w2vlab.data.labels.alignments import Alignment
from w2vlab.extraction.picture import draw_units
from w2vlab.frame_grid import FrameGrid
from w2vlab.types import RunError
from w2vlab.units.table import UnitTable

GRID = FrameGrid(320, 400)
PHONES = Alignment(("a", "b", "a"), np.array([0.0, 0.2, 0.5]), np.array([0.2, 0.5, 1.0]))


def table_of(codes: np.ndarray) -> UnitTable:
    return UnitTable(
        name="labels",
        ids=["x.wav", "unlabelled.wav"],
        offsets=np.array([0, len(codes), 2 * len(codes)]),
        frames=np.concatenate([codes, codes]).astype(np.int16),
        grid=GRID,
        codebook_size=10,
    )


@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_the_units_of_a_phone_have_its_colour(num_codebooks: int) -> None:
    """Units 3 and 5 are in `a`, 7 in `b`: in time they are drawn below them, and in the matrix each has its phone."""
    number = PHONES.phone_indices(GRID.centres(49))
    codes = np.repeat(np.array([3, 7, 5])[number][:, None], num_codebooks, axis=1)
    figure = draw_units(table_of(codes), {"x.wav": PHONES}, "x.wav", np.zeros(16_000, dtype=np.float32))
    spectrogram, phones, units, matrix, _ = figure.axes
    (first, second, third), runs = phones.patches, units.patches
    assert first.get_facecolor() == third.get_facecolor() != second.get_facecolor()
    assert [run.get_facecolor() for run in runs] == [part.get_facecolor() for part in phones.patches]
    # A run changes where the middle of a frame is in another phone.
    for run, part in zip(runs, phones.patches, strict=True):
        assert run.get_x() == pytest.approx(part.get_x(), abs=0.02)
    assert [text.get_text() for text in units.texts] == ["-".join([unit] * num_codebooks) for unit in "375"]
    assert [label.get_text() for label in matrix.get_yticklabels()] == ["a", "b"]  # the most frequent one first
    shares = np.asarray(matrix.images[0].get_array())
    assert shares.tolist() == [[100, 100, 0], [0, 0, 100]]
    assert "1 utterance" in matrix.get_title()
    assert spectrogram.get_xlim() == phones.get_xlim() == units.get_xlim() == (0, 1)


def test_an_utterance_without_phones_is_named() -> None:
    table = table_of(np.ones((49, 1)))
    waveform = np.zeros(16_000, dtype=np.float32)
    with pytest.raises(RunError, match=r"must have units and phones, but unlabelled\.wav of labels has not"):
        draw_units(table, {"x.wav": PHONES}, "unlabelled.wav", waveform)
    with pytest.raises(RunError, match=r"`utterance` must be of a corpus with phones, .* 0 of its 2 utterances have"):
        draw_units(table, {}, "x.wav", waveform)

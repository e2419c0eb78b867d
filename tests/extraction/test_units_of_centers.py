"""Units of k-means centers as a source of frames."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.contracts.tiny import audio_batch
from w2vlab.extraction.sources import Stream, open_source
from w2vlab.frame_grid import FrameGrid
from w2vlab.types import RunError
from w2vlab.units.centers import Centers, write_centers
from w2vlab.utils.messages import W2VLabWarning

LENGTHS = (9_000, 16_000)
MFCC_GRID = FrameGrid(160, 400)


def centers_file(
    folder: Path, stream: str = "mfcc", width: int = 39, grid: FrameGrid = MFCC_GRID, **rest: object
) -> Path:
    generator = torch.Generator().manual_seed(0)
    vectors = 20 * torch.randn(5, width, generator=generator)
    path = folder / "centers.safetensors"
    write_centers(Centers(vectors=vectors, grid=grid, stream=stream, provenance=rest), path)
    return path


def test_units_are_the_nearest_centers(tmp_path: Path) -> None:
    path = centers_file(tmp_path)
    source = open_source("mfcc", "units", centers=path)
    assert source.streams == (Stream(name="units", dim=1, codebook_size=5),)
    assert (source.grid, source.min_samples) == (MFCC_GRID, 400)
    assert source.provenance["centers"]["stream"] == "mfcc"
    assert source.provenance["centers"]["path"] == str(path)
    batch = audio_batch(LENGTHS)
    features = dict(open_source("mfcc", "features")(batch))
    vectors = open_centers(path)
    for name, frames in source(batch):
        expected = torch.cdist(features[name]["mfcc"], vectors).argmin(dim=1)
        assert torch.equal(frames["units"], expected[:, None])


def test_frames_that_are_not_finite_have_no_unit(tmp_path: Path) -> None:
    source = open_source("mfcc", "units", centers=centers_file(tmp_path))
    batch = audio_batch(LENGTHS)
    batch.waveform[1, 8_000] = float("nan")
    units = iter(source(batch))
    next(units)
    message = r"^The frames of .* must be finite, but \d+ of 98 are NaN or infinite\. .*--exclude\.$"
    with pytest.raises(RunError, match=message):
        next(units)


def open_centers(path: Path) -> torch.Tensor:
    from safetensors.torch import load_file

    return load_file(path)["vectors"]


@pytest.mark.parametrize(
    ("centers", "message"),
    [
        ({"stream": "layer 6"}, "^`source` must be what the centers were computed from, layer 6, but is mfcc"),
        (
            {"width": 13},
            r"^`centers` must be of frames like those of mfcc \(39 dimensions every 160 .* \(13 dimensions",
        ),
        (
            {"grid": FrameGrid(320, 400)},
            r"^`centers` must be of frames like those of mfcc .* every 320 samples from 400",
        ),
    ],
)
def test_centers_of_something_else(tmp_path: Path, centers: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_source("mfcc", "units", centers=centers_file(tmp_path, **centers))  # type: ignore[arg-type]


def test_another_file_than_the_clustered_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = centers_file(tmp_path, blake2b="1234")
    mfcc = open_source("mfcc", "features")
    monkeypatch.setattr("w2vlab.extraction.units_of_centers.open_source", lambda *_, **__: mfcc)
    mfcc.provenance = {"source": "mfcc", "blake2b": "5678"}
    with pytest.warns(W2VLabWarning, match="`centers` were computed from another file than mfcc"):
        open_source("mfcc", "units", centers=path)
    mfcc.provenance = {"source": "mfcc", "blake2b": "1234"}
    open_source("mfcc", "units", centers=path)

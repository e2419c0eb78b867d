"""Centers of k-means: nearest ones, and files."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from w2vlab.frame_grid import FrameGrid
from w2vlab.units import centers as centers_module
from w2vlab.units.centers import METADATA, Centers, read_centers, write_centers

GRID = FrameGrid(320, 400)


def make(vectors: object = ((0.0, 0.0), (2.0, 0.0), (0.0, 2.0)), **fields: object) -> Centers:
    return Centers(**{"vectors": torch.as_tensor(vectors), "grid": GRID, "stream": "layer 6", **fields})  # type: ignore[arg-type]


def test_the_nearest_center_is_that_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centers_module, "_DISTANCES_AT_ONCE", 60)  # several pieces
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(7, 5, generator=generator) + 100
    frames = torch.randn(40, 5, generator=generator) + 100
    expected = [
        min(range(7), key=lambda row: float((frame.double() - vectors[row].double()).square().sum()))
        for frame in frames
    ]
    assert make(vectors).nearest(frames).tolist() == expected


def test_of_equally_near_centers_the_first_is_taken() -> None:
    frames = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [3.0, 3.0]])
    assert make().nearest(frames).tolist() == [0, 0, 0, 1]


def test_no_frames_have_no_centers_and_another_width_is_refused() -> None:
    assert make().nearest(torch.empty(0, 2)).shape == (0,)
    with pytest.raises(ValueError, match=r"`centers` must have the 3 dimensions of the frames, but have 2 \(layer 6\)"):
        make().nearest(torch.zeros(4, 3))


def test_half_precision_frames_are_compared_in_float32() -> None:
    frames = torch.tensor([[0.9, 0.0], [1.1, 0.0]], dtype=torch.bfloat16)
    assert make().nearest(frames).tolist() == [0, 1]


def test_a_file_gives_the_same_centers_and_the_same_bytes(tmp_path: Path) -> None:
    written = make(
        np.array([[1.0, 2.0], [3.0, 4.0]]),
        counts=np.array([3, 0]),
        inertia=1.25,
        seed=7,
        provenance={"source": "mfcc", "k": 2},
    )
    write_centers(written, tmp_path / "new" / "centers.safetensors")
    write_centers(written, tmp_path / "again.safetensors")
    found = read_centers(tmp_path / "new" / "centers.safetensors")
    assert torch.equal(found.vectors, written.vectors)
    assert found.vectors.dtype == torch.float32
    assert found.counts is not None
    assert found.counts.tolist() == [3, 0]
    assert (found.grid, found.stream, found.inertia, found.seed) == (GRID, "layer 6", 1.25, 7)
    assert found.provenance == {"source": "mfcc", "k": 2}
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "new" / "centers.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vectors": torch.zeros(1, 3)}, r"`vectors` must be at least 2 centers in rows, but have the shape \(1, 3\)"),
        ({"vectors": torch.zeros(6)}, r"`vectors` must be at least 2 centers"),
        ({"vectors": torch.full((2, 2), torch.nan)}, "`vectors` must be finite"),
        ({"stream": ""}, "`stream` must name what was clustered"),
        ({"grid": FrameGrid(0, 400)}, "`grid` must have a positive stride"),
        ({"counts": torch.ones(2)}, "`counts` must be a number of frames for each of 3 centers"),
        ({"counts": torch.tensor([1, -1, 1])}, "`counts` must be a number of frames"),
        ({"inertia": float("nan")}, "`inertia` must be finite"),
    ],
)
def test_what_are_no_centers_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**fields)


def test_a_pickle_is_not_read_and_the_error_says_how_to_convert_it(tmp_path: Path) -> None:
    path = tmp_path / "km.joblib"
    path.write_bytes(pickle.dumps({"cluster_centers_": [1, 2]}))
    with pytest.raises(ValueError, match=r"must be a file that `w2vlab cluster` has written.*cluster_centers_"):
        read_centers(path)


def test_another_or_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="`centers` must be an existing file"):
        read_centers(path)
    save_file({"vectors": torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match="it is another safetensors file"):
        read_centers(path)
    write_centers(make(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(ValueError, match="`centers` must be a whole file"):
        read_centers(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "it is of version '2' of the format"),
        ({"stride": "20 ms"}, "`stride` in its metadata is missing, or of another type"),
        ({"provenance": None}, "`provenance` in its metadata is missing"),
        ({"stride": 0}, "`grid` must have a positive stride"),
    ],
)
def test_wrong_metadata_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    content = {"version": 1, "stride": 320, "receptive_field": 400, "stream": "x", "inertia": None, "seed": None}
    path = tmp_path / "x.safetensors"
    save_file({"vectors": torch.eye(2)}, path, {METADATA: json.dumps({**content, "provenance": {}, **change})})
    with pytest.raises(ValueError, match=message):
        read_centers(path)


def test_centers_that_are_not_finite_are_refused_when_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_centers(make(), path)
    broken = read_centers(path)
    broken.vectors[0, 0] = torch.inf
    write_centers(broken, path)
    with pytest.raises(ValueError, match=r"must be centers of `w2vlab cluster`, but .* is damaged: `vectors`"):
        read_centers(path)

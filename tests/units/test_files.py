"""Files of units behind a part: opened late, once a process, aligned by time, and checked before a training."""

from __future__ import annotations

import pickle
import warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.unit_files import write_units
from w2vlab.frame_grid import FrameGrid
from w2vlab.types import RunError
from w2vlab.units import files as module
from w2vlab.units.files import UnitFiles
from w2vlab.utils.messages import W2VLabWarning

MFCC, ENCODER = FrameGrid(160, 400), FrameGrid(320, 400)
OPTION = "model.quantizer.path"


def numbered(seconds: float, grid: FrameGrid, books: int = 1, first: int = 0) -> np.ndarray:
    """The number of each frame, so that a code says which frame it is of."""
    frames = grid.num_frames(round(16_000 * seconds))
    return (first + np.arange(frames))[:, None] + 1000 * np.arange(books)


@pytest.fixture
def path(tmp_path: Path) -> str:
    codes = {name: numbered(seconds, MFCC) for name, seconds in (("a", 1.0), ("b", 2.0))}
    return str(write_units(tmp_path / "units.parquet", codes, MFCC, 500))


def test_units_at_100_hz_give_an_encoder_at_50_hz_every_second_one(path: str) -> None:
    files = UnitFiles(OPTION, [path], 1, 500)
    codes = files.at(["b", "a"], [0, 0], ENCODER, [99, 49])
    assert codes.shape == (2, 99, 1)
    assert codes.dtype == np.int64
    assert codes[0, :, 0].tolist() == list(range(0, 198, 2))
    assert codes[1, :49, 0].tolist() == list(range(0, 98, 2))
    assert (codes[1, 49:] == 0).all()


@pytest.mark.parametrize(("start", "first"), [(0, 0), (79, 0), (80, 0), (81, 1), (160, 1), (161, 1), (8000, 50)])
def test_a_window_has_the_nearest_frames(path: str, start: int, first: int) -> None:
    codes = UnitFiles(OPTION, [path], 1, 500).at(["b"], [start], ENCODER, [20])
    assert codes[0, :, 0].tolist() == list(range(first, first + 40, 2))


def test_several_files_are_several_sets_of_labels(tmp_path: Path, path: str) -> None:
    """At their own rates, of their own sizes."""
    layer = {"a": numbered(1.0, ENCODER, 2, first=7), "b": numbered(2.0, ENCODER, 2)}
    other = str(write_units(tmp_path / "other.parquet", layer, ENCODER, 1100))
    codes = UnitFiles(OPTION, [path, other], 3, 1100).at(["a"], [320], ENCODER, [10])[0]
    assert codes[:, 0].tolist() == list(range(2, 22, 2))
    assert codes[:, 1].tolist() == list(range(8, 18))
    assert codes[:, 2].tolist() == list(range(1008, 1018))
    with pytest.raises(RunError, match=r"`model.quantizer.num_codebooks` must be 3, the codebooks of .*, but is 2"):
        UnitFiles(OPTION, [path, other], 2, 1100).at(["a"], [0], ENCODER, [10])


def test_a_file_is_opened_late_and_once(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read, original = [], module.read_units
    monkeypatch.setattr(module, "read_units", lambda *args: read.append(args) or original(*args))
    first = UnitFiles(OPTION, [path], 1, 500)
    copies = [deepcopy(first), pickle.loads(pickle.dumps(first)), UnitFiles(OPTION, [path], 1, 500)]
    assert read == []
    for files in (first, *copies, deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert files.tables[0] is first.tables[0]
    assert len(read) == 1
    write_units(Path(path), {"a": numbered(1.0, MFCC), "b": numbered(3.0, MFCC), "c": numbered(1.0, MFCC)}, MFCC, 500)
    assert len(UnitFiles(OPTION, [path], 1, 500).tables[0]) == 3, "it was written again"
    assert len(first.tables[0]) == 2, "a run keeps what it has begun with"


def test_a_path_may_begin_in_the_home_folder(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path(path).parent))
    assert len(UnitFiles(OPTION, [f"~/{Path(path).name}"], 1, 500).tables[0]) == 2


def test_a_hash_is_of_the_units_of_the_utterances_in_any_order_and_file(path: str, tmp_path: Path) -> None:
    def digest(where: Path | str, utterances: list[tuple[str, int]]) -> tuple[str, str] | None:
        return UnitFiles(OPTION, [str(where)], 1, 500).check(utterances)

    utterances, codes = [("a", 16_000), ("b", 32_000)], {"b": numbered(2.0, MFCC), "a": numbered(1.0, MFCC)}
    ids, units = digest(path, utterances) or ("", "")
    more = write_units(tmp_path / "more.parquet", {"c": numbered(1.0, MFCC), **codes}, MFCC, 500)
    assert digest(more, utterances[::-1]) == (ids, units)
    codes["a"][-1] -= 1
    other = digest(write_units(tmp_path / "other.parquet", codes, MFCC, 500), utterances)
    assert other is not None
    assert other[0] == ids
    assert other[1] != units
    assert (digest(path, utterances[:1]) or (ids,))[0] != ids
    assert digest(path, []) is None


def test_nothing_is_needed_to_make_one(tmp_path: Path) -> None:
    files = UnitFiles(OPTION, [str(tmp_path / "units")], 1, 100)
    message = r"`model.quantizer.path` must be a file or a folder of units, but .*units does not exist.*w2vlab encode"
    with pytest.raises(RunError, match=message):
        files.at(["a"], [0], ENCODER, [1])
    with pytest.raises(RunError, match=message):
        files.check([])


def test_codes_beyond_the_option_are_refused_and_fewer_are_a_warning(path: str) -> None:
    message = r"`model.quantizer.codebook_size` must be 500, the entries of a codebook of .*units.parquet, but is 100"
    with pytest.raises(RunError, match=message):
        UnitFiles(OPTION, [path], 1, 100).check([])
    with pytest.warns(W2VLabWarning, match=r"`codebook_size` is 504, but .*units.parquet has 500 entries"):
        UnitFiles(OPTION, [path], 1, 504).check([("a", 16_000)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        UnitFiles(OPTION, [path], 1, 500).check([("a", 16_000)])
        UnitFiles(OPTION, [path], 1, 504).check([])  # of a process that does not check the utterances


def test_a_file_that_does_not_say_where_its_frames_are_needs_the_stride(tmp_path: Path) -> None:
    path = str(write_units(tmp_path / "units.parquet", {"a": numbered(1.0, MFCC)}))
    with pytest.raises(RunError, match="`stride` must be given"):
        UnitFiles(OPTION, [path], 1, 500).check([])
    assert UnitFiles(OPTION, [path], 1, 500, stride=160).tables[0].grid == MFCC
    assert UnitFiles(OPTION, [path], 1, 500, stride=160, receptive_field=0).tables[0].grid == FrameGrid(160, 0)


def test_missing_utterances_are_counted_and_the_first_is_named(path: str) -> None:
    utterances = [("a", 16_000), ("x", 16_000), ("b", 32_000), ("y", 16_000)]
    message = (
        r"`model.quantizer.path` must have the units of all utterances .* has none of x; it lacks 2 of 4 utterances. "
        r"It has others, such as a. Encode the corpus of the training, with the same ids: `w2vlab encode "
    )
    with pytest.raises(RunError, match=message):
        UnitFiles(OPTION, [path], 1, 500).check(utterances)


def test_another_length_names_the_utterance_and_how_many_there_are(path: str) -> None:
    files = UnitFiles(OPTION, [path], 1, 500)
    files.check([("a", 16_000 + 300), ("b", 32_000 - 300)])  # of another decoder
    with pytest.raises(RunError, match=r"The units of a must be 198 frames of 10 ms .* has 98") as caught:
        files.check([("a", 32_000), ("b", 32_000)])
    assert "more of" not in str(caught.value)
    with pytest.raises(RunError, match=r"The units of a must be .*So do 1 more of 2 utterances"):
        files.check([("a", 32_000), ("b", 16_000)])

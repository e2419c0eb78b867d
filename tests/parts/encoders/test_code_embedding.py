"""Embeddings of the codes of a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.contracts.tiny import audio_batch
from tests.helpers.unit_files import write_units
from w2vlab.encoders import CodeEmbedding
from w2vlab.frame_grid import FrameGrid
from w2vlab.quantizers import FileTargets
from w2vlab.types import RunError

GRID = FrameGrid(160, 465)


@pytest.fixture
def codes() -> np.ndarray:
    return np.random.default_rng(0).integers(7, size=(50, 2))


@pytest.fixture
def path(codes: np.ndarray, tmp_path: Path) -> str:
    return str(write_units(tmp_path / "codes.parquet", {"utterance-0": codes}, GRID, 7))


def test_each_codebook_has_its_table_and_they_are_added_or_joined(codes: np.ndarray, path: str) -> None:
    added = CodeEmbedding(path, 2, 7, output_dim=6)
    joined = CodeEmbedding(path, 2, 7, output_dim=6, combine="concat")
    batch = audio_batch((465 + 49 * 160,))
    wide, narrow = added.embedding.weight, joined.embedding.weight  # (14, 6) and (14, 3)
    for frame, (one, other) in enumerate(codes):
        assert_close(added.of_batch(batch)[0, frame], wide[one] + wide[7 + other])
        assert_close(joined.of_batch(batch)[0, frame], torch.cat([narrow[one], narrow[7 + other]]))


def test_a_checkpoint_needs_no_file(path: str) -> None:
    state = CodeEmbedding(path, 2, 7, output_dim=6).state_dict()
    assert list(state) == ["embedding.weight"]
    CodeEmbedding("/nowhere", 2, 7, output_dim=6).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 320}, "`stride` must be that of .*codes.parquet, 160, but is 320"),
        ({"receptive_field": 400}, "`receptive_field` must be that of .*codes.parquet, 465, but is 400"),
        ({"num_codebooks": 1}, r"`model\.encoder\.num_codebooks` must be 2, the codebooks of .*, but is 1"),
        ({"codebook_size": 6}, r"`model\.encoder\.codebook_size` must be 7, the entries .*, but is 6"),
        ({"path": "/nowhere"}, r"`model\.encoder\.path` must be a file or a folder .*, but /nowhere does not exist"),
    ],
)
def test_a_file_of_other_codes_is_refused(options: dict, message: str, path: str) -> None:
    encoder = CodeEmbedding(**({"path": path, "num_codebooks": 2, "codebook_size": 7, "output_dim": 6} | options))
    with pytest.raises(RunError, match=message):
        encoder.of_batch(audio_batch((2000,)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": ""}, "`path` must be a file of codes, but is empty"),
        ({"combine": "concat", "output_dim": 7}, r"`output_dim` must be a multiple of `num_codebooks` \(2\) .* is 7"),
        ({"stride": 0}, "`stride` must be at least 1, but is 0"),
        ({"codebook_size": 0}, "`codebook_size` must be"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodeEmbedding(**options)


def test_a_table_of_the_combinations_that_occur_has_the_classes_of_the_targets(codes: np.ndarray, path: str) -> None:
    """Inputs and targets of the same file have the same vocabulary; what is rare shares the last entry."""
    encoder = CodeEmbedding(path, 2, 7, output_dim=6, joint_size=20)
    targets = FileTargets(6, path, 2, 7, joint_size=20)
    assert (targets.num_codebooks, targets.codebook_size) == (1, 21)
    assert encoder.embedding.weight.shape == (21, 6)
    batch = audio_batch((465 + 49 * 160,))
    classes = targets.of_utterances(batch, GRID, (50,)).codes[0, :, 0]
    assert_close(encoder.of_batch(batch)[0], encoder.embedding.weight[classes])
    same = {tuple(pair): int(entry) for pair, entry in zip(codes.tolist(), classes, strict=True)}
    assert sorted(set(same.values())) == list(range(21))
    assert np.bincount(classes)[:20].tolist() == sorted(np.bincount(classes)[:20], reverse=True)
    # A model that was trained on another file keeps its vocabulary.
    other = CodeEmbedding("/nowhere", 2, 7, output_dim=6, joint_size=20)
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other.joint.combinations, encoder.joint.combinations)


def test_a_joint_table_has_nothing_to_join(path: str) -> None:
    with pytest.raises(ValueError, match="`combine` must be sum if `joint_size` is given"):
        CodeEmbedding(path, 2, 7, output_dim=6, combine="concat", joint_size=20)
    with pytest.raises(ValueError, match="`joint_size` must be 0 for several files"):
        FileTargets(6, [path, path], 4, 7, joint_size=20)

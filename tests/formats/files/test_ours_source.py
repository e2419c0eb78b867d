"""A model of ours in a safetensors file is a source like its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tests.modules.finetuning.recognition import CONFIGS, VOCABULARY, fine_tune, pretrain
from w2vlab.formats.files.ours import write_ours_safetensors
from w2vlab.modules.opening import build_model_of
from w2vlab.modules.sources import read_source


def through_a_file(checkpoint: Path) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The model of a checkpoint, and the one of the safetensors file that is written from it."""
    source, path = read_source(checkpoint), checkpoint.with_name("any name")
    write_ours_safetensors(source, path)
    found = read_source(path)
    assert (found.config, found.missing, found.vocabulary) == (source.config, source.missing, source.vocabulary)
    return build_model_of(source, checkpoint), build_model_of(found, path)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_pretrained_models(tmp_path: Path, kind: str) -> None:
    pretrain(tmp_path / "model.ckpt", kind)
    before, after = through_a_file(tmp_path / "model.ckpt")
    assert_close(after.state_dict(), before.state_dict(), rtol=0, atol=0)


def test_fine_tuned_models(tmp_path: Path) -> None:
    pretrain(tmp_path / "model.ckpt")
    fine_tune(tmp_path / "tuned.ckpt", tmp_path / "model.ckpt")
    before, after = through_a_file(tmp_path / "tuned.ckpt")
    assert after.vocabulary == VOCABULARY
    assert_close(after.state_dict(), before.state_dict(), rtol=0, atol=0)


def test_options_are_refused(tmp_path: Path) -> None:
    pretrain(tmp_path / "model.ckpt", "future")
    write_ours_safetensors(read_source(tmp_path / "model.ckpt"), tmp_path / "file")
    with pytest.raises(ValueError, match=r"Options of a source must not be given for .* its files state everything"):
        read_source(tmp_path / "file", {"num_heads": 2})

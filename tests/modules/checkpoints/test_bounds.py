"""A configuration that describes a model without end ends in an error, before it fills the memory."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.modules.test_runs import rebuild, save
from w2vlab.modules import PretrainingModule
from w2vlab.modules.checkpoints import bounds
from w2vlab.modules.opening import build_model_of
from w2vlab.modules.sources import read_source


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return torch.load(save(rebuild(), tmp_path_factory.mktemp("sent") / "model.ckpt"), weights_only=True)


def sent(content: dict[str, Any], tmp_path: Path, **context: int) -> Path:
    """Writes the checkpoint with other options of its context network."""
    changed = deepcopy(content)
    changed["w2vlab_config"]["model"]["init_args"]["context"]["init_args"] |= context
    torch.save(changed, tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


def test_layers_without_end(content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "_MAX_TENSORS", 500)
    path = sent(content, tmp_path, num_layers=10**9)
    with pytest.raises(ValueError, match=r"cannot be built: it has more than 500 tensors"):
        PretrainingModule.load_from_checkpoint(path)
    with pytest.raises(ValueError, match=r"cannot be built: it has more than 500 tensors"):
        build_model_of(read_source(path), path)


def test_weights_that_the_memory_does_not_hold(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "_memory", lambda: 1 << 20)
    with pytest.raises(ValueError, match=r"its weights need more than the memory of this machine \(0 GiB\)"):
        PretrainingModule.load_from_checkpoint(sent(content, tmp_path, feedforward_dim=100_000))
    assert isinstance(PretrainingModule.load_from_checkpoint(sent(content, tmp_path)), PretrainingModule)


def test_the_memory_of_this_machine_is_known() -> None:
    assert bounds._memory() > 1 << 28


def test_weights_of_layers_that_the_configuration_lacks_are_named(content: dict[str, Any], tmp_path: Path) -> None:
    """Leaving them out would give other features without a word."""
    path = sent(content, tmp_path, num_layers=-1)
    with pytest.raises(ValueError, match=r"but has context.layers.\d.attention.qkv.weight and \d+ more, which"):
        build_model_of(read_source(path), path)

"""A warm start from a model of ours in every format that it can be exported to."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contracts.tiny import build_model
from tests.modules.training import fit, make_batches
from w2vlab.contexts import TransformerContext
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.interop.exporting import write
from w2vlab.losses import ContrastiveLoss
from w2vlab.modules import MaskedPrediction
from w2vlab.quantizers import GumbelQuantizer

ALL = {"mask_embedding", "encoder", "norm", "quantizer", "context", "loss"}


def model(seed: int, **arguments: Any) -> MaskedPrediction:
    torch.manual_seed(seed)
    found = build_model(
        MaskedPrediction,
        encoder=partial(ConvFeatureEncoder, layers=[(8, 10, 5), (8, 3, 2)]),
        context=partial(
            TransformerContext,
            **{"model_dim": 12, "num_layers": 2, "num_heads": 2, "feedforward_dim": 16},
            **{"position_kernel": 4, "position_groups": 2},
        ),
        quantizer=partial(GumbelQuantizer, codebook_size=5, output_dim=8),
        loss=partial(ContrastiveLoss, projection_dim=6, num_negatives=4),
        **arguments,
    )
    assert isinstance(found, MaskedPrediction)
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "ours.ckpt"
    ours = model(0)
    fit(ours, make_batches(2, 1, 2), 2)
    ours.trainer.save_checkpoint(path)
    return path


@pytest.mark.parametrize(
    ("format", "parts"),
    [
        ("huggingface", ALL),
        ("fairseq", ALL),
        ("safetensors", ALL),
        ("torchaudio", {"encoder", "norm", "context"}),
    ],
)
def test_every_format_of_the_door_is_a_source(trained: Path, tmp_path: Path, format: Any, parts: set[str]) -> None:
    out = tmp_path / "exported"
    write(trained, out, format)
    chosen = None if parts == ALL else ["encoder", "norm", "context"]
    if chosen is not None:
        with pytest.raises(ValueError, match="`init_from` must have a mask embedding"):
            model(1, init_from=str(out))
    ours = model(1, init_from=str(out), init_from_parts=chosen)
    assert ours.warm_start is not None
    assert {part.part for part in ours.warm_start.parts if part.loaded} == parts
    before = MaskedPrediction.load_from_checkpoint(trained).state_dict()
    for name, tensor in ours.state_dict().items():
        if name.partition(".")[0] in parts:
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)

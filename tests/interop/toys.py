"""Toy models with the layout of wav2vec 2.0, and their checkpoints."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from w2vlab.contexts import TransformerContext
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.interop.importing import make_checkpoint
from w2vlab.losses import ContrastiveLoss
from w2vlab.modules import CTCFineTuning, MaskedPrediction
from w2vlab.modules.checkpoints.plain import CONFIG
from w2vlab.modules.sources import read_source
from w2vlab.quantizers import GumbelQuantizer
from w2vlab.vocabulary import Units, Vocabulary

LAYERS = [(16, 10, 5), *((16, 3, 2),) * 4, *((16, 2, 2),) * 2]
"""Receptive field and stride are those of wav2vec 2.0: 400 and 320 samples."""


def toy_model(large: bool = False, **arguments: Any) -> MaskedPrediction:
    """BASE's layout (group norm, post-norm), or LARGE's (layer norm, pre-norm), in evaluation mode."""
    normalization = {"normalization": "layer", "bias": True, "normalize_waveform": True} if large else {}
    context = {
        "model_dim": 24,
        "num_layers": 3,
        "num_heads": 4,
        "feedforward_dim": 32,
        "position_kernel": 8,
        "position_groups": 4,
        "pre_norm": large,
        "layer_drop": 0.4,
    }
    torch.manual_seed(0)
    parts = {
        "encoder": partial(ConvFeatureEncoder, layers=LAYERS, **normalization),
        "context": partial(TransformerContext, **context),
        "quantizer": partial(GumbelQuantizer, codebook_size=5, output_dim=8),
        "loss": partial(ContrastiveLoss, projection_dim=6, num_negatives=4),
    }
    return MaskedPrediction(**{**parts, **arguments}).eval()


def save(model: MaskedPrediction, path: Path, **more: Any) -> Path:
    """Writes a checkpoint as a run does, with further keys."""
    torch.save({"state_dict": model.state_dict(), CONFIG: model.run_config, **more}, path)
    return path


def save_finetuned(
    model: MaskedPrediction, path: Path, units: Units = "characters", transcript: str = "a cab bed"
) -> Path:
    """Writes a checkpoint of a model that is fine-tuned from `model`."""
    pretrained = save(model, path.with_name(f"pretrained-{path.name}"))
    module = CTCFineTuning(str(pretrained), units=units)
    module.set_vocabulary(Vocabulary.of(units, [transcript]))
    torch.manual_seed(1)
    torch.nn.init.normal_(module.head.bias)
    torch.save(make_checkpoint(module.eval(), read_source(pretrained)), path)
    return path

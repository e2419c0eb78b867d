"""A toy of data2vec and one of DinoSR, with the layout of wav2vec 2.0."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from tests.interop.toys import LAYERS
from w2vlab.contexts import TransformerContext
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.losses import CodePredictionLoss
from w2vlab.modules import TeacherPrediction
from w2vlab.quantizers import EMAQuantizer
from w2vlab.teachers import EMATeacher

_CONTEXT = {
    "model_dim": 24,
    "num_layers": 3,
    "num_heads": 4,
    "feedforward_dim": 32,
    "position_kernel": 8,
    "position_groups": 4,
    "layer_drop": 0.4,
}


def toy_teacher(codes: bool = False, normalization: str = "first_group", **context: Any) -> TeacherPrediction:
    """A student of three layers, and a teacher of two layers that has other weights, in evaluation mode.

    Args:
        codes: A codebook of five entries for each layer of the teacher; the layers are averaged otherwise.
        normalization: That of the encoder.
        context: Further options of the student.
    """
    torch.manual_seed(0)
    parts: dict[str, Any] = {}
    if codes:
        quantizer = partial(EMAQuantizer, num_codebooks=2, codebook_size=5)
        parts = {"quantizer": quantizer, "loss": CodePredictionLoss}
    model = TeacherPrediction(
        encoder=partial(ConvFeatureEncoder, layers=LAYERS, normalization=normalization, bias=normalization == "layer"),
        context=partial(TransformerContext, **{**_CONTEXT, **context}),
        teacher=partial(EMATeacher, layers=2, combine="concatenate" if codes else "mean"),
        **parts,
    )
    for parameter in model.teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    if codes:
        torch.nn.init.normal_(model.quantizer.codebook.entries)
    return model.eval()

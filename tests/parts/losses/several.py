"""Models with several losses: w2v-BERT, HuBERT with losses at several layers, a teacher's codes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from tests.contracts.tiny import TINY, build_model, factory
from tests.modules.training import NoiselessGumbel, constant_rate, plain_sgd
from w2vlab.contexts import TransformerContext
from w2vlab.interfaces import LossTerm
from w2vlab.losses import CodePredictionLoss, ContrastiveLoss, DiversityPenalty, RegressionLoss
from w2vlab.masking import SpanMasking
from w2vlab.modules import MaskedPrediction, PretrainingModule, TeacherPrediction
from w2vlab.quantizers import EMAQuantizer, FileTargets
from w2vlab.teachers import EMATeacher

NUM_LAYERS = 3

contrastive = partial(ContrastiveLoss, projection_dim=6, num_negatives=4)
codes = CodePredictionLoss

W2V_BERT = {"contrastive": LossTerm(loss=contrastive, layer=2), "codes": LossTerm(loss=codes, weight=0.7)}
ILS = {
    name: LossTerm(loss=partial(codes, similarity="cosine", projection_dim=6), layer=layer)
    for name, layer in (("lower", 1), ("upper", -1))
}
BOTH = {"regression": LossTerm(loss=RegressionLoss), "codes": LossTerm(loss=codes, weight=0.5, layer=2)}


def model_of(loss: Any, cls: type[PretrainingModule] = MaskedPrediction, **parts: Any) -> PretrainingModule:
    """A model without noise, of three layers, trained with plain SGD."""
    torch.manual_seed(0)
    default = {
        "context": factory(TransformerContext, num_layers=NUM_LAYERS),
        "quantizer": partial(NoiselessGumbel, output_dim=8, num_codebooks=2, codebook_size=5),
        "masking": factory(SpanMasking, equalize="none"),
        "penalties": {"diversity": DiversityPenalty} if cls is MaskedPrediction else {},
        "optimizer": plain_sgd,
        "scheduler": constant_rate,
    }
    given = {"losses": loss} if isinstance(loss, dict) else {"loss": loss}
    return build_model(cls, **given, **(default | parts))


def w2v_bert(**parts: Any) -> PretrainingModule:
    return model_of(W2V_BERT, **parts)


def ils_hubert(**parts: Any) -> PretrainingModule:
    return model_of(ILS, quantizer=factory(FileTargets), **{"penalties": {}, **parts})


def teacher(**parts: Any) -> PretrainingModule:
    """Vectors of the teacher and codes of them."""
    own = {
        "teacher": partial(EMATeacher, layers=2, combine="concatenate"),
        "quantizer": partial(EMAQuantizer, num_codebooks=2, codebook_size=TINY["codebook_size"]),
    }
    return model_of(BOTH, TeacherPrediction, **(own | parts))


MODELS = {"w2v-BERT": w2v_bert, "ILS": ils_hubert, "teacher": teacher}

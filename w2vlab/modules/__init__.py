"""The pretraining objectives, as Lightning modules that assemble parts."""

from w2vlab.modules.future_prediction import FuturePrediction
from w2vlab.modules.masked_prediction import MaskedPrediction
from w2vlab.modules.pretraining import PretrainingModule

__all__ = ["FuturePrediction", "MaskedPrediction", "PretrainingModule"]

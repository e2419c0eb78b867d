"""Prediction losses and penalties."""

from w2vlab.losses.code_prediction import CodePredictionLoss
from w2vlab.losses.contrastive import ContrastiveLoss
from w2vlab.losses.future import FuturePredictionLoss
from w2vlab.losses.penalties import DiversityPenalty, FeaturePenalty
from w2vlab.losses.regression import RegressionLoss

__all__ = [
    "CodePredictionLoss",
    "ContrastiveLoss",
    "DiversityPenalty",
    "FeaturePenalty",
    "FuturePredictionLoss",
    "RegressionLoss",
]

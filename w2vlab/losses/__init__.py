"""Prediction losses and penalties."""

from w2vlab.losses.contrastive import ContrastiveLoss
from w2vlab.losses.future import FuturePredictionLoss
from w2vlab.losses.penalties import DiversityPenalty, FeaturePenalty

__all__ = ["ContrastiveLoss", "DiversityPenalty", "FeaturePenalty", "FuturePredictionLoss"]

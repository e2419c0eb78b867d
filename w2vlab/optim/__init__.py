"""The optimisers of the published models, and learning-rate schedules as functions of the update count."""

from w2vlab.optim.adamw import FineTuningAdamW, Wav2Vec2AdamW, Wav2VecAdamW
from w2vlab.optim.schedules import (
    CosineSchedule,
    InverseSquareRootSchedule,
    PolynomialSchedule,
    TriStageSchedule,
    UpdateSchedule,
)

__all__ = [
    "CosineSchedule",
    "FineTuningAdamW",
    "InverseSquareRootSchedule",
    "PolynomialSchedule",
    "TriStageSchedule",
    "UpdateSchedule",
    "Wav2Vec2AdamW",
    "Wav2VecAdamW",
]

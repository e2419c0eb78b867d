"""LightningModules: the pretraining objectives, and CTC fine-tuning."""

from w2vlab.modules.finetuning.ctc import CTCFineTuning
from w2vlab.modules.future_prediction import FuturePrediction
from w2vlab.modules.masked_prediction import MaskedPrediction
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.modules.teaching.prediction import TeacherPrediction
from w2vlab.modules.update import TrainedModule

__all__ = [
    "CTCFineTuning",
    "FuturePrediction",
    "MaskedPrediction",
    "PretrainingModule",
    "TeacherPrediction",
    "TrainedModule",
]

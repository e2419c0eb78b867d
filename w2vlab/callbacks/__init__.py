"""What runs beside the training: progress, report, checkpoints."""

from w2vlab.callbacks.checkpoint import RunCheckpoint
from w2vlab.callbacks.progress import TrainingProgress
from w2vlab.callbacks.report import RunReport

__all__ = ["RunCheckpoint", "RunReport", "TrainingProgress"]

"""The input of a model: the audio of a micro-batch, its random draws, and their address."""

from w2vlab.batch.audio import SAMPLE_RATE, AudioBatch, CleanAudio, Hertz, MicroBatch, Seconds
from w2vlab.batch.draws import Draws, Mask, RandomAddress
from w2vlab.batch.fused import join_draws, join_masks, join_micro_batches, rows_of, split_micro_batches

__all__ = [
    "SAMPLE_RATE",
    "AudioBatch",
    "CleanAudio",
    "Draws",
    "Hertz",
    "Mask",
    "MicroBatch",
    "RandomAddress",
    "Seconds",
    "join_draws",
    "join_masks",
    "join_micro_batches",
    "rows_of",
    "split_micro_batches",
]

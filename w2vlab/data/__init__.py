"""Data loading: scans a corpus, or downloads a sample corpus, and delivers batches of audio."""

from w2vlab.data.module import SpeechDataModule
from w2vlab.data.updates import WholeUpdates

__all__ = ["SpeechDataModule", "WholeUpdates"]

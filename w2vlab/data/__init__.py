"""Data loading: scans a corpus, or downloads a sample corpus, and delivers batches of audio."""

from w2vlab.data.batches.updates import WholeUpdates
from w2vlab.data.mixtures.sources import CorpusOptions
from w2vlab.data.module import SpeechDataModule

__all__ = ["CorpusOptions", "SpeechDataModule", "WholeUpdates"]

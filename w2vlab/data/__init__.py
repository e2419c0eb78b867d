"""From a corpus on disk, or the name of a sample one, to batches of audio."""

from w2vlab.data.module import SpeechDataModule
from w2vlab.data.updates import WholeUpdates

__all__ = ["SpeechDataModule", "WholeUpdates"]

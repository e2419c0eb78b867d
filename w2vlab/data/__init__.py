"""Data loading: scans a corpus, or downloads a sample corpus, and delivers batches of audio."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from w2vlab.data.batches.updates import WholeUpdates
    from w2vlab.data.mixtures.sources import CorpusOptions
    from w2vlab.data.module import SpeechDataModule

__all__ = ["CorpusOptions", "SpeechDataModule", "WholeUpdates"]


def __getattr__(name: str) -> Any:
    """Imports a class when it is first used, because processes that scan audio need neither PyTorch nor Lightning."""
    if name == "SpeechDataModule":
        from w2vlab.data.module import SpeechDataModule

        return SpeechDataModule
    if name == "CorpusOptions":
        from w2vlab.data.mixtures.sources import CorpusOptions

        return CorpusOptions
    if name == "WholeUpdates":
        from w2vlab.data.batches.updates import WholeUpdates

        return WholeUpdates
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Pretraining of wav2vec-family speech models from interchangeable parts."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from w2vlab.interop.loading import load

__version__ = "0.1.0"

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Imports `load` when it is first used, because PyTorch and Lightning take seconds to import."""
    if name == "load":
        from w2vlab.interop.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

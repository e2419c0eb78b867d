"""What a comparison needs of another program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Protocol

from torch import Tensor
from torch.nn import functional

from w2vlab.utils.messages import one_line
from w2vlab.vocabulary import Vocabulary


class UnavailableError(Exception):
    """Raised if the other program is not installed or broken; the message says so in a sentence."""


class Peer(Protocol):
    """A model that another program has loaded from the exported files.

    Attributes:
        name: The program, its version, and the class of the model.
    """

    name: str

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to know of the comparison, one sentence each; read after the last utterance."""

    def __call__(self, waveform: Tensor) -> dict[str, Tensor]:
        """Computes its outputs for one utterance.

        Args:
            waveform: At 16 kHz in [-1, 1], shape `(1, S)`.

        Returns:
            Some of the outputs of `interop.comparison.outputs.compute_outputs`, with the same shapes.
        """


def require(package: str) -> str:
    """Returns the name and version of an installed package.

    Raises:
        UnavailableError: It is not installed, or cannot be imported.
    """
    if find_spec(package) is None:
        raise UnavailableError(f"{package} is not installed (`pip install {package}`)")
    try:
        import_module(package)
    except Exception as error:  # of any kind, such as a library that was built for another torch
        raise UnavailableError(f"{package} cannot be imported ({one_line(str(error), 200)})") from error
    return f"{package} {version(package)}"


def waveform_eps(config: Mapping[str, Any]) -> float | None:
    """Returns the number that a model adds to the variance of a waveform; None if it does not normalize waveforms.

    Args:
        config: Configuration of the pretraining model, with all options.
    """
    options = config["init_args"]["encoder"].get("init_args") or {}
    return float(options.get("waveform_eps", 1e-5)) if options.get("normalize_waveform") else None


def normalized(waveform: Tensor, eps: float) -> Tensor:
    """Brings a waveform `(1, S)` to zero mean and unit variance, as the model does that was exported."""
    return functional.layer_norm(waveform, waveform.shape[1:], eps=eps)


def rows_of_units(vocabulary: Vocabulary, labels: Sequence[str]) -> list[int]:
    """Returns in which row another program has each entry of a vocabulary.

    Args:
        vocabulary: The units; other programs write a space as `|`, and have another name for the blank.
        labels: The unit of each row.

    Raises:
        ValueError: The labels are not those of the vocabulary.
    """
    rows = {label: row for row, label in enumerate(labels)}
    units = ["|" if entry == " " and " " not in rows else entry for entry in vocabulary.entries[1:]]
    blank = set(labels) - set(units)
    if len(rows) != len(vocabulary) or len(blank) != 1 or not set(units) <= set(rows):
        raise ValueError(f"The labels must be the {len(vocabulary)} units of the model, but are {', '.join(labels)}.")
    return [rows[blank.pop()], *(rows[unit] for unit in units)]

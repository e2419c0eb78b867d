"""Reads a model from any source: a checkpoint of ours, or a file or folder of another project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2vlab.formats import PublishedModel


def read_source(source: str | Path, options: Mapping[str, Any] | None = None, name: str = "source") -> PublishedModel:
    """Reads a model without building it.

    Args:
        source: Path of a file or a folder, or `hf:` and the name of a model on the Hugging Face Hub.
        options: What the file does not state, such as `num_heads` of a torchaudio state dictionary.
        name: Option with the source, for errors.

    Raises:
        ValueError: It cannot be read, or has something that w2vlab cannot express.
    """
    raise NotImplementedError

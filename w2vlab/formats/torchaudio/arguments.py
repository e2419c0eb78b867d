"""The arguments of `torchaudio.models.wav2vec2_model`, in a file beside a state dictionary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from w2vlab.formats.torchaudio.tables import DROPOUTS
from w2vlab.utils.files import write_atomically
from w2vlab.utils.plain_data import read_json
from w2vlab.vocabulary import Units

_MODEL = "torchaudio.models.wav2vec2_model"
"""Function that builds the model, and the mark of these files."""

_HOW_TO_LOAD = "model = torchaudio.models.wav2vec2_model(**arguments); model.load_state_dict(WEIGHTS); model.eval()"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What a state dictionary does not state; None for what is not known.

    Attributes:
        num_heads: Attention heads of a layer.
        pre_norm: Whether layers are normalized before each block.
        strides: Strides of the convolutions.
        normalize_waveform: Whether waveforms have zero mean and unit variance.
        waveform_eps: Added to that variance.
        labels: The units of `aux`, the blank first.
        units: What they are.
        dropouts: Probabilities by the names of torchaudio.
    """

    num_heads: int | None = None
    pre_norm: bool | None = None
    strides: list[int] | None = None
    normalize_waveform: bool | None = None
    waveform_eps: float | None = None
    labels: list[str] | None = None
    units: Units | None = None
    dropouts: dict[str, float] = field(default_factory=dict)


def arguments_path(path: Path) -> Path:
    """Returns the path of the arguments of a state dictionary at `path`."""
    return path.with_suffix(".json")


def write_arguments(
    path: Path,
    arguments: Mapping[str, Any],
    normalize_waveform: bool,
    waveform_eps: float,
    labels: list[str] | None,
    units: Units | None = None,
) -> None:
    """Writes the arguments beside a state dictionary.

    Args:
        path: Path of the state dictionary.
        arguments: Arguments of `wav2vec2_model`.
        normalize_waveform: Whether the model expects waveforms of zero mean and unit variance.
        waveform_eps: Added to that variance.
        labels: The units of `aux`, the blank first; None without it.
        units: What they are; phones may have one character each.

    Raises:
        OSError: The file cannot be written.
    """
    is_safetensors = path.suffix == ".safetensors"
    load = "safetensors.torch.load_file({!r})" if is_safetensors else "torch.load({!r}, weights_only=True)"
    content = {
        "model": _MODEL,
        "how_to_load": _HOW_TO_LOAD.replace("WEIGHTS", load.format(path.name)),
        "arguments": dict(arguments),
        "sample_rate": 16_000,
        "normalize_waveform": normalize_waveform,
        "waveform_eps": waveform_eps,
        "labels": labels,
        "units": units,
    }
    write_atomically(arguments_path(path), json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_arguments(path: Path) -> Arguments:
    """Reads the arguments beside a state dictionary; nothing is known without such a file.

    Args:
        path: Path of the state dictionary.

    Raises:
        ValueError: The file is one of these, but has a wrong value.
    """
    beside = arguments_path(path)
    if beside == path or not beside.is_file():
        return Arguments()
    try:
        content = read_json(beside)
    except (OSError, ValueError):  # of another program
        return Arguments()
    if not isinstance(content, dict) or content.get("model") != _MODEL:
        return Arguments()
    arguments = content.get("arguments")
    try:
        return _parsed(content, arguments if isinstance(arguments, dict) else {})
    except (KeyError, TypeError, ValueError, AssertionError):
        raise ValueError(
            f"{beside} must have the arguments of {_MODEL}, but has a wrong value, or one is missing. Remove it, and "
            "give the options."
        ) from None


def _parsed(content: Mapping[str, Any], arguments: Mapping[str, Any]) -> Arguments:
    labels = content.get("labels")
    assert labels is None or (isinstance(labels, list) and all(isinstance(label, str) and label for label in labels))
    found = Arguments(
        num_heads=arguments["encoder_num_heads"],
        pre_norm=arguments["encoder_layer_norm_first"],
        strides=[stride for _, _, stride in arguments["extractor_conv_layer_config"]],
        normalize_waveform=content["normalize_waveform"],
        waveform_eps=content["waveform_eps"],
        labels=labels,
        units=content.get("units"),
        dropouts={name: arguments[name] for name in DROPOUTS},
    )
    assert found.strides is not None
    assert all(type(value) is int and value > 0 for value in (found.num_heads, *found.strides))
    assert type(found.pre_norm) is bool
    assert type(found.normalize_waveform) is bool
    assert type(found.waveform_eps) is float
    assert 0 < found.waveform_eps < 1
    assert found.units in (None, "characters", "phones")
    assert all(type(value) in (int, float) and 0 <= value <= 1 for value in found.dropouts.values())
    return found

"""The preprocessor of a folder: whether waveforms are normalized, and their sample rate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2vlab.batch import SAMPLE_RATE
from w2vlab.formats.transformers.plain import read_mapping, write_mapping
from w2vlab.utils.messages import one_line

PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
"""Has the preprocessor as `feature_extractor` since transformers 5."""

_NUM_SHOWN = 80
"""Characters of a value that an error shows."""


def read_preprocessor(folder: Path) -> dict[str, Any] | None:
    """Returns the options of a folder's preprocessor; None if it has none.

    Where both files have them, `processor_config.json` counts, as in transformers.

    Raises:
        ValueError: A file is not JSON, the sample rate is not 16 kHz, or `do_normalize` is not true or false.
    """
    file, found = PROCESSOR, (read_mapping(folder / PROCESSOR) or {}).get("feature_extractor")
    if not isinstance(found, dict):
        file, found = PREPROCESSOR, read_mapping(folder / PREPROCESSOR)
    if found is None:
        return None
    rate, normalized = found.get("sampling_rate", SAMPLE_RATE), found.get("do_normalize", True)
    if rate != SAMPLE_RATE:
        raise ValueError(
            f"sampling_rate must be {SAMPLE_RATE}, but is {one_line(str(rate), _NUM_SHOWN)} ({file} of {folder}): "
            "w2vlab reads all audio at 16 kHz."
        )
    if not isinstance(normalized, bool):
        raise ValueError(
            f"do_normalize must be true or false, but is {one_line(str(normalized), _NUM_SHOWN)} ({file} of {folder})."
        )
    return found


def normalizes(preprocessor: Mapping[str, Any] | None, options: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Returns whether waveforms are normalized, and a note if the folder does not say so.

    Args:
        preprocessor: What `read_preprocessor` returned.
        options: Options of the model.
    """
    if preprocessor is not None:
        return preprocessor.get("do_normalize", True), []
    assumed = options["feat_extract_norm"] == "layer"
    state = "normalized, as all published models with layer norms need" if assumed else "left as they are"
    return assumed, [f"The folder has no {PREPROCESSOR}, so waveforms are {state}."]


def write_preprocessor(folder: Path, normalized: bool, layer_norm: bool, origin: Mapping[str, Any] | None) -> str:
    """Writes `preprocessor_config.json`.

    Args:
        folder: The folder.
        normalized: Whether waveforms are normalized.
        layer_norm: Whether all convolutions have a layer norm. Such models are given the attention mask; others were
            trained without.
        origin: Options of the preprocessor that the model came with.

    Returns:
        What was written, in a sentence.
    """
    options = {
        "do_normalize": normalized,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": layer_norm,
        "sampling_rate": SAMPLE_RATE,
    }
    write_mapping(folder / PREPROCESSOR, {**options, **(origin or {}), "do_normalize": normalized})
    return (
        f"{PREPROCESSOR}: do_normalize is {str(normalized).lower()}, return_attention_mask "
        f"{str((origin or options).get('return_attention_mask', layer_norm)).lower()}."
    )

"""A model of ours as one file in the safetensors format: weights by our names, everything else in the metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

from w2vlab.formats.files.tensors import is_safetensors, open_safetensors, write_safetensors
from w2vlab.formats.published import HEAD, Origin, PublishedModel
from w2vlab.utils.plain_data import MAX_BYTES, MAX_VALUES, parse_json
from w2vlab.vocabulary import Units, Vocabulary

METADATA = "w2vlab"
"""Key of our text in the metadata; a single one, so that the same model gives the same bytes."""

_FORMAT_VERSION = 1

_PARTS = ("quantizer", "loss", "mask_embedding", "target_encoder", "target_norm", "penalties", "teacher")
"""What `PublishedModel.missing` may have."""


def is_ours_safetensors(path: Path) -> bool:
    """Returns whether a file is one of `write_ours_safetensors`, whatever its name."""
    if not is_safetensors(path):
        return False
    try:
        _, metadata = open_safetensors(path)
    except ValueError:
        return False
    return METADATA in metadata


def write_ours_safetensors(model: PublishedModel, out: Path) -> list[str]:
    """Writes a model as one file without code, which every reader of safetensors opens.

    The key `w2vlab` of the metadata is JSON with the configuration of the model, the parts for which there are no
    weights, the vocabulary, and how the model was stored before it was imported.

    Args:
        model: The model.
        out: The file.

    Returns:
        What the file does not have, one sentence each: nothing.

    Raises:
        OSError: The file cannot be written.
    """
    content = {
        "version": _FORMAT_VERSION,
        "model": model.config,
        "missing": list(model.missing),
        "vocabulary": None if model.vocabulary is None else model.vocabulary.as_dict(),
        "origin": asdict(model.origin),
    }
    write_safetensors(model.weights, out, {METADATA: json.dumps(content, ensure_ascii=False)})
    return []


def read_ours_safetensors(path: Path, name: str = "source") -> PublishedModel:
    """Reads a file of `write_ours_safetensors`, which may come from an untrusted source.

    Args:
        path: The file.
        name: Option with the path, for errors.

    Returns:
        The model. Its configuration is plain data of bounded size, in which no class has been looked up.

    Raises:
        ValueError: The file is damaged, or is not one of these.
    """
    weights, metadata = open_safetensors(path, name)
    if METADATA not in metadata:
        raise ValueError(
            f"`{name}` must be a file that w2vlab has written, but {path} has no `{METADATA}` in its metadata."
        )
    content = _parse(metadata[METADATA], path)
    version = content.get("version")
    if version != _FORMAT_VERSION:
        raise ValueError(
            f"`version` of {path} must be {_FORMAT_VERSION}, but is {str(version)[:20]!r}: it was written by another "
            "version of w2vlab."
        )
    model, missing = content.get("model"), content.get("missing")
    if not isinstance(model, dict) or not isinstance(missing, list) or not set(map(str, missing)) <= set(_PARTS):
        raise _error(path, "`model` is not a mapping of options, or `missing` not a list of parts")
    vocabulary = content.get("vocabulary")
    return PublishedModel(
        config=model,
        weights=weights,
        missing=tuple(missing),
        vocabulary=None if vocabulary is None else _vocabulary(vocabulary, HEAD[0] in weights, path),
        origin=_origin(content.get("origin"), path),
    )


def _parse(text: str, path: Path) -> dict[str, Any]:
    if len(text) > MAX_BYTES:
        raise _error(path, f"it has more than {MAX_BYTES:,} characters")
    try:
        content = parse_json(text)
    except ValueError as error:
        raise _error(path, str(error)) from error
    if not isinstance(content, dict) or _num_values(content) > MAX_VALUES:
        raise _error(path, f"it is not a mapping of at most {MAX_VALUES:,} values")
    return content


def _num_values(value: Any) -> int:
    """Returns the number of values in lists and mappings, whose depth `parse_json` has limited."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_num_values, inner))


def _vocabulary(plain: Any, has_head: bool, path: Path) -> Vocabulary:
    try:
        vocabulary = Vocabulary.from_dict(plain)
    except ValueError as error:
        raise _error(path, str(error)) from error
    if vocabulary.units not in get_args(Units) or not has_head:
        raise _error(path, f"its vocabulary has no units of {', '.join(get_args(Units))}, or it has no linear layer")
    return vocabulary


_IS_VALID: dict[str, Callable[[Any], bool]] = {
    "format": lambda value: isinstance(value, str),
    "architecture": lambda value: isinstance(value, str),
    "options": lambda value: isinstance(value, dict),
    "dtypes": lambda value: isinstance(value, dict) and all(isinstance(dtype, str) for dtype in value.values()),
    "notes": lambda value: isinstance(value, list) and all(isinstance(note, str) for note in value),
    "training_notes": lambda value: isinstance(value, list) and all(isinstance(note, str) for note in value),
}


def _origin(plain: Any, path: Path) -> Origin:
    known = [field.name for field in fields(Origin)]
    if not isinstance(plain, dict) or not all(name in plain and _IS_VALID[name](plain[name]) for name in known):
        raise _error(path, "`origin` does not say how the model was stored")
    return Origin(**{name: plain[name] for name in known})


def _error(path: Path, why: str) -> ValueError:
    return ValueError(f"`{METADATA}` in the metadata of {path} must describe a model of w2vlab, but does not: {why}.")

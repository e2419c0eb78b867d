"""Finds out what a file or a folder is, by its content and not by its name, and reads it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from w2vlab.formats.files.hub import PREFIX, hub_folder, is_hub_name, may_be_hub_name, snapshot_of
from w2vlab.formats.published import PublishedModel
from w2vlab.utils.messages import one_line

_MARKS_OF_LIGHTNING = (b"pytorch-lightning_version", b"w2vlab_config", b"w2vlab_pretrained")
"""Keys of a checkpoint of a trainer; PyTorch writes them, uncompressed, at the start of the file."""

_STARTS_OF_PYTORCH = (b"PK", b"\x80")
"""A zip archive, or a pickle in the format before it."""

_MAX_INSPECTED_BYTES = 1 << 20

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_NUM_SHOWN = 500
"""Characters of a path that an error shows."""

_NUM_LISTED = 3
"""Number of keys that an error lists."""

_READ = (
    "a checkpoint of w2vlab or fairseq, a folder of transformers, a state dictionary of torchaudio, or a safetensors "
    "file of w2vlab"
)


def located(source: str | Path, name: str = "source") -> Path:
    """Returns the file or the folder of a source: that of a model of the Hub is downloaded if necessary.

    Args:
        source: A path, or `hf:` and the name of a model on the Hugging Face Hub.
        name: Option with the source, for errors.

    Raises:
        ValueError: Nothing is there.
    """
    if is_hub_name(source):
        return hub_folder(str(source), name)
    shown = one_line(str(source), _NUM_SHOWN)
    if _CONTROL.search(str(source)):  # every later error shows the path
        raise ValueError(f"`{name}` must be a path without control characters, but is {shown}.")
    path = Path(source)
    try:
        if path.is_dir():
            return snapshot_of(path)
        found = path.is_file()  # opening a pipe would block until a process writes to it
        if found:
            with path.open("rb") as file:
                file.read(1)
    except OSError as error:
        raise ValueError(f"`{name}` must be a file that can be read, but {shown} cannot ({error.strerror}).") from error
    if not found:
        hint = f" A model of the Hugging Face Hub is {PREFIX}{shown}." if may_be_hub_name(source) else ""
        raise ValueError(
            f"`{name}` must be an existing checkpoint file, or a folder of transformers, but is {shown}.{hint}"
        )
    return path


def is_of_lightning(path: Path) -> bool:
    """Returns whether a file is a checkpoint of a trainer, as those of w2vlab are."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(_MAX_INSPECTED_BYTES)
    return start.startswith(_STARTS_OF_PYTORCH) and any(mark in start for mark in _MARKS_OF_LIGHTNING)


def read_foreign(path: Path, options: Mapping[str, Any] | None = None, name: str = "source") -> PublishedModel:
    """Reads a model that is not a checkpoint of a trainer.

    Args:
        path: The file or folder, as `located` returns it.
        options: What the file does not state; and `ignore`, the tensors that are left out, by their names or those of
            their modules.
        name: Option with the path, for errors.

    Raises:
        ValueError: It cannot be read, is none of the formats, or has something that w2vlab cannot express.
    """
    # Imported here, because most runs start from new weights and read no other format.
    from w2vlab.formats.fairseq import is_fairseq, read_fairseq
    from w2vlab.formats.files.ours import is_ours_safetensors, read_ours_safetensors
    from w2vlab.formats.files.pickles import read_pickle
    from w2vlab.formats.files.tensors import is_safetensors, open_safetensors
    from w2vlab.formats.names import without
    from w2vlab.formats.torchaudio import is_torchaudio, read_torchaudio
    from w2vlab.formats.transformers import is_transformers, read_transformers
    from w2vlab.formats.transformers.options import CONFIG

    given = options
    options = dict(options or {})
    ignore = _names_to_ignore(options)
    if path.is_dir():
        if not os.path.lexists(path / CONFIG):  # one that is damaged has an error of its own
            raise ValueError(f"`{name}` must be {_READ}, but {path} is a folder without transformers' `{CONFIG}`.")
        _check_no_options(options, path)
        return read_transformers(path, name, ignore)
    tensors: Mapping[str, Tensor]
    if is_ours_safetensors(path):
        _check_no_options(given, path)
        return read_ours_safetensors(path, name)
    if is_safetensors(path):
        tensors, _ = open_safetensors(path, name)
    else:
        content = read_pickle(path, name)
        if is_fairseq(content):
            return read_fairseq({**content, "model": without(content["model"], ignore)}, path, options)
        if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
            raise ValueError(f"`{name}` must be {_READ}, but {path} has {_described(content)}.")
        tensors = content
    if is_torchaudio(tensors):
        return read_torchaudio(without(tensors, ignore), path, options)
    if is_transformers(path):  # weights beside their configuration
        _check_no_options(options, path)
        return read_transformers(path, name, ignore)
    raise ValueError(
        f"`{name}` must be {_READ}, but {path} has {_described(tensors)}. Weights of transformers need the "
        "`config.json` of their folder."
    )


def _names_to_ignore(options: dict[str, Any]) -> tuple[str, ...]:
    """Takes `ignore` out of the options."""
    names = options.pop("ignore", None)
    if names is None:
        return ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"`ignore` must be a list of names of tensors, but is {one_line(repr(names), _NUM_SHOWN)}.")
    return tuple(names)


def _check_no_options(options: Mapping[str, Any] | None, path: Path) -> None:
    """Refuses options for a format that states everything."""
    if options:
        raise ValueError(
            f"Options of a source must not be given for {path}, because its files state everything, but are "
            f"{', '.join(options)}."
        )


def _described(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    if not content:
        return "nothing"
    names = [one_line(str(key), 100) for key in list(content)[:_NUM_LISTED]]
    return f"{', '.join(names)}{' and others' if len(content) > _NUM_LISTED else ''}"

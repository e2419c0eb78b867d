"""Reading checkpoints that may be damaged."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

LAST = ModelCheckpoint.CHECKPOINT_NAME_LAST + ModelCheckpoint.FILE_EXTENSION
"""The name of the checkpoint to resume from."""

PREVIOUS = "-previous"
"""Suffix of the name of a last checkpoint after a newer one has replaced it."""

PRETRAINED = "w2vlab_pretrained"
"""Where a checkpoint of further training holds the configuration of the model that it began with."""

_TRAINING_STATE = ("global_step", "loops", "optimizer_states", "lr_schedulers", "pytorch-lightning_version")
"""What Lightning restores beside the weights."""

_REFUSED = "refused"

_LOOKED_AT, _PICKLES = 1 << 20, 5
"""Bytes of a foreign file that are inspected, and most pickles in them."""

_ENCRYPTED = 1
"""The bit of a zip entry's flags by which it would need a password."""

_FOLDER = 0x10
"""The bit of a zip entry's attributes by which it is a folder."""


def read_checkpoint(
    path: str | Path, map_location: Any = "cpu", *, check: bool = True, name: str = "ckpt_path"
) -> dict[str, Any]:
    """Reads a checkpoint without running any code in it.

    Tensors stay in the file until they are used, so whoever wants the configuration alone reads little else.

    Args:
        path: A file that the trainer wrote.
        map_location: Where its tensors go, as in `torch.load`.
        check: Whether to look through the whole file for damage first.
        name: The option that named the file, for errors.

    Raises:
        ValueError: The file is missing, damaged, refused because it would run code, or no checkpoint.
    """
    if not Path(path).is_file():
        raise ValueError(f"`{name}` must be a checkpoint file, but {path} is none.")
    if check and (damage := damage_of(path)):
        raise unreadable(path, damage, name)
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True, mmap=True)
    except Exception as error:  # torch reports damage as RuntimeError, EOFError, UnpicklingError, KeyError, …
        raise unreadable(path, damage_of(path) or _why_not_loaded(path, error), name) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"`{name}` must be a checkpoint of a training run, but {path} holds no `state_dict`.")
    return checkpoint


def damage_of(path: str | Path) -> str | None:
    """Compares a checkpoint with its own checksums, as PyTorch does not; returns what is wrong, or None.

    PyTorch stores every entry as it is. An entry that claims to be compressed, encrypted or longer than the file is
    damage too, and is not unpacked: the time taken is bounded by the size of the file.
    """
    path = Path(path)
    if not path.is_file():  # to open a pipe would wait for somebody who writes
        return "it is no regular file" if path.exists() else "it is missing"
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as file:
            for entry in file.infolist():
                if not _is_stored(entry) or entry.header_offset + entry.file_size > size:
                    return f"the entry of {entry.filename} in its table is wrong"
            bad = file.testzip()
    except zipfile.BadZipFile as error:
        whole = "its table of contents, at the end, is missing or damaged: it may be truncated"
        return (whole if "not a zip" in str(error) else _in_a_line(error)) if _begins_as_zip(path) else _of_no_zip(path)
    except Exception as error:  # whatever a damaged table leads to: zlib.error, RuntimeError, struct.error, …
        return _in_a_line(error)
    return None if bad is None else f"the checksum of {bad} is wrong"


def _is_stored(entry: zipfile.ZipInfo) -> bool:
    """Tells whether an entry is such as PyTorch writes. Of a folder it would return whatever is in memory."""
    folder = entry.external_attr & _FOLDER or entry.is_dir()
    whole = entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
    return whole and not folder and not entry.flag_bits & _ENCRYPTED


def why_unusable(path: str | Path, training: bool = True) -> str | None:
    """Reads a checkpoint as the trainer does, and returns why a run cannot resume from it; None if it can.

    Args:
        path: The file.
        training: Whether training is to be resumed; to validate, the weights are enough.
    """
    damage = damage_of(path)
    if damage is not None:
        return damage if damage.startswith(_REFUSED) else f"damaged: {damage}"
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        why = _why_not_loaded(path, error)
        return why if why.startswith(_REFUSED) else f"damaged: {why}"
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        return "no checkpoint of a training run: it holds no `state_dict`"
    missing = [key for key in _TRAINING_STATE if key not in checkpoint] if training else []
    return f"without the state of a training run: it holds no `{missing[0]}`" if missing else None


def _why_not_loaded(path: str | Path, error: Exception) -> str:
    """Tells a pickle that is refused because it would run code from one that is broken."""
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # it is broken, or no file of PyTorch
        unsafe = []
    return _refusal(unsafe) if unsafe else _in_a_line(error)


def _of_no_zip(path: Path) -> str:
    """Says what a file is that does not begin as a checkpoint does; lists a pickle's operations and runs none."""
    called: list[str] = []
    words: list[str] = []
    try:
        with path.open("rb") as file:
            begin = io.BytesIO(file.read(_LOOKED_AT))
        for _ in range(_PICKLES):
            for operation, argument, _ in pickletools.genops(begin):
                if operation.name in ("GLOBAL", "INST"):
                    called.append(str(argument).replace(" ", "."))
                elif operation.name == "STACK_GLOBAL":
                    called.append(".".join(words[-2:]))
                elif isinstance(argument, str):
                    words.append(argument)
    except Exception:  # it is truncated, or not a pickle
        pass
    foreign = [name for name in called if not name.startswith(("torch.", "collections."))]
    return _refusal(foreign) if foreign else "it is not in the zip format of PyTorch"


def _refusal(names: Iterable[str]) -> str:
    return f"{_REFUSED}: to read it would run {', '.join(sorted(names)[:3])}"


def _begins_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _in_a_line(error: Exception) -> str:
    """Returns the kind of an error with its first line, without the advice that follows in PyTorch's."""
    first = (str(error).splitlines() or [""])[0][:120].strip()
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def previous_of(path: str | Path) -> Path:
    """Returns the path of the checkpoint that `path` replaced."""
    path = Path(path)
    return path.with_name(f"{path.stem}{PREVIOUS}{path.suffix}")


def unreadable(path: str | Path, why: str, name: str = "ckpt_path") -> ValueError:
    """Returns the error that says so, with an older checkpoint where there is one."""
    previous = previous_of(path)
    advice = f"Use the one before it, {previous}." if previous.is_file() else "Use an older one."
    rule = "a checkpoint of plain tensors and numbers" if why.startswith(_REFUSED) else "a whole checkpoint"
    return ValueError(f"`{name}` must be {rule}, but {path} cannot be read ({why}). {advice}")

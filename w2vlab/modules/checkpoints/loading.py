"""Loads checkpoints that may be damaged or untrusted."""

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
"""File name of the latest checkpoint, from which a run resumes."""

PREVIOUS = "-previous"
"""Suffix of the previous latest checkpoint."""

PRETRAINED = "w2vlab_pretrained"
"""Key of the configuration of the pretrained model, in a checkpoint of a fine-tuning."""

VOCABULARY = "w2vlab_vocabulary"
"""Key of the vocabulary, in a checkpoint of a fine-tuning."""

_TRAINING_STATE = ("global_step", "loops", "optimizer_states", "lr_schedulers", "pytorch-lightning_version")
"""Keys that Lightning restores besides the weights."""

_REFUSED = "refused"

_MAX_INSPECTED_BYTES, _MAX_PICKLES = 1 << 20, 5
"""Limits of the inspection of a file that is not a zip archive: bytes, and pickles in them."""

_ENCRYPTED = 1
"""Flag of an encrypted zip entry."""

_FOLDER = 0x10
"""Attribute bit of a zip entry that is a folder."""


def read_checkpoint(
    path: str | Path, map_location: Any = "cpu", *, check: bool = True, name: str = "ckpt_path"
) -> dict[str, Any]:
    """Loads a checkpoint without running code in it.

    The tensors are memory-mapped, so that reading only the configuration is fast.

    Args:
        path: Path of the checkpoint.
        map_location: Device of the tensors, as in `torch.load`.
        check: Whether to verify the checksums of the whole file first.
        name: Option with the path, for errors.

    Returns:
        The checkpoint.

    Raises:
        ValueError: The file is missing, damaged, not a checkpoint, or refused because loading it would run code.
    """
    if not Path(path).is_file():
        raise ValueError(f"`{name}` must be an existing checkpoint file, but is {path}.")
    if check and (damage := find_damage(path)):
        raise unreadable_error(path, damage, name)
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True, mmap=True)
    except Exception as error:  # torch reports damage as RuntimeError, EOFError, UnpicklingError, KeyError, …
        raise unreadable_error(path, find_damage(path) or _load_failure(path, error), name) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"`{name}` must be a checkpoint of a training run, but {path} has no `state_dict`.")
    return checkpoint


def find_damage(path: str | Path) -> str | None:
    """Verifies the checksums of a checkpoint, which `torch.load` does not.

    PyTorch stores entries uncompressed. An entry that is declared as compressed, encrypted or longer than the file also
    counts as damaged and is not read, so that the time is bounded by the size of the file.

    Returns:
        A description of the damage; None if there is no damage.
    """
    path = Path(path)
    if not path.is_file():  # opening a pipe would block until a process writes to it
        return "it is not a regular file" if path.exists() else "it is missing"
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as file:
            for entry in file.infolist():
                if not _is_stored(entry) or entry.header_offset + entry.file_size > size:
                    return f"the entry of {entry.filename} in its table of contents is invalid"
            bad = file.testzip()
    except zipfile.BadZipFile as error:
        if not _starts_as_zip(path):
            return _describe_non_zip(path)
        if "not a zip" in str(error):
            return "its table of contents, at the end, is missing or damaged: it may be truncated"
        return _one_line(error)
    except Exception as error:  # a damaged table raises zlib.error, RuntimeError, struct.error, …
        return _one_line(error)
    return None if bad is None else f"the checksum of {bad} does not match"


def _is_stored(entry: zipfile.ZipInfo) -> bool:
    """Returns whether an entry is a file that is neither compressed nor encrypted, as PyTorch writes.

    For a folder, PyTorch would return uninitialized memory.
    """
    folder = entry.external_attr & _FOLDER or entry.is_dir()
    whole = entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
    return whole and not folder and not entry.flag_bits & _ENCRYPTED


def why_unusable(path: str | Path, training: bool = True) -> str | None:
    """Checks that a run can resume from a checkpoint, by loading it as the trainer does.

    Args:
        path: Path of the checkpoint.
        training: Whether the training state is required; validation needs only the weights.

    Returns:
        The reason why the checkpoint cannot be used; None if it can.
    """
    damage = find_damage(path)
    if damage is not None:
        return damage if damage.startswith(_REFUSED) else f"damaged: {damage}"
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        why = _load_failure(path, error)
        return why if why.startswith(_REFUSED) else f"damaged: {why}"
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        return "not a checkpoint of a training run: it has no `state_dict`"
    missing = [key for key in _TRAINING_STATE if key not in checkpoint] if training else []
    return f"without training state: it has no `{missing[0]}`" if missing else None


def _load_failure(path: str | Path, error: Exception) -> str:
    """Returns why `torch.load` failed: the pickle would run code, or the file is broken."""
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # broken, or not a file of PyTorch
        unsafe = []
    return _refusal(unsafe) if unsafe else _one_line(error)


def _describe_non_zip(path: Path) -> str:
    """Describes a file that is not a zip archive; the operations of a pickle are listed and not executed."""
    callables: list[str] = []
    strings: list[str] = []
    try:
        with path.open("rb") as file:
            start = io.BytesIO(file.read(_MAX_INSPECTED_BYTES))
        for _ in range(_MAX_PICKLES):
            for operation, argument, _ in pickletools.genops(start):
                if operation.name in ("GLOBAL", "INST"):
                    callables.append(str(argument).replace(" ", "."))
                elif operation.name == "STACK_GLOBAL":
                    callables.append(".".join(strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
    except Exception:  # truncated, or not a pickle
        pass
    unsafe = [name for name in callables if not name.startswith(("torch.", "collections."))]
    return _refusal(unsafe) if unsafe else "it is not in the zip format of PyTorch"


def _refusal(names: Iterable[str]) -> str:
    return f"{_REFUSED}: loading it would run {', '.join(sorted(names)[:3])}"


def _starts_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _one_line(error: Exception) -> str:
    """Returns the type and the first line of an error, without the advice of PyTorch that follows."""
    first = (str(error).splitlines() or [""])[0][:120].strip()
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def previous_of(path: str | Path) -> Path:
    """Returns the path of the checkpoint that `path` replaced."""
    path = Path(path)
    return path.with_name(f"{path.stem}{PREVIOUS}{path.suffix}")


def unreadable_error(path: str | Path, why: str, name: str = "ckpt_path") -> ValueError:
    """Returns the error for a checkpoint that cannot be loaded; it suggests the previous one if that exists."""
    previous = previous_of(path)
    advice = f"Use the previous one, {previous}." if previous.is_file() else "Use an older one."
    rule = "a checkpoint of plain tensors and numbers" if why.startswith(_REFUSED) else "a whole checkpoint"
    return ValueError(f"`{name}` must be {rule}, but {path} cannot be read ({why}). {advice}")

"""Reading checkpoints that may be damaged."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

LAST = ModelCheckpoint.CHECKPOINT_NAME_LAST + ModelCheckpoint.FILE_EXTENSION
"""The name of the checkpoint to go on from."""

PREVIOUS = "-previous"
"""What the name of a last checkpoint has behind it, once there is a newer one."""

PRETRAINED = "w2vlab_pretrained"
"""Where a checkpoint of further training holds the configuration of the model that it began with."""


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
        ValueError: The file is missing, damaged, or no checkpoint.
    """
    if not Path(path).is_file():
        raise ValueError(f"`{name}` must be a checkpoint file, but {path} is none.")
    if check and (damage := damage_of(path)):
        raise damaged(path, damage, name)
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True, mmap=True)
    except Exception as error:  # torch reports damage as RuntimeError, EOFError, UnpicklingError, KeyError, …
        raise damaged(path, type(error).__name__, name) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"`{name}` must be a checkpoint of a training run, but {path} holds no `state_dict`.")
    return checkpoint


def damage_of(path: str | Path) -> str | None:
    """Compares a checkpoint with its own checksums, as PyTorch does not; returns what is wrong, or None."""
    try:
        with zipfile.ZipFile(path) as file:
            bad = file.testzip()
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        return str(error) or type(error).__name__
    return None if bad is None else f"the checksum of {bad} is wrong"


def previous_of(path: str | Path) -> Path:
    """Returns where the checkpoint is kept that `path` replaced."""
    path = Path(path)
    return path.with_name(f"{path.stem}{PREVIOUS}{path.suffix}")


def damaged(path: str | Path, damage: str, name: str = "ckpt_path") -> ValueError:
    """Returns the error that says so."""
    previous = previous_of(path)
    advice = f"Use the one before it, {previous}." if previous.is_file() else "Use an older one."
    return ValueError(
        f"`{name}` must be a whole checkpoint, but {path} cannot be read ({damage}); it may be truncated. {advice}"
    )

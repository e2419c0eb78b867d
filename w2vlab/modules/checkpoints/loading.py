"""Loads checkpoints that may be damaged or untrusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from w2vlab.formats.files.archives import REFUSED, find_damage, first_line, refusal

__all__ = [
    "LAST",
    "PRETRAINED",
    "PREVIOUS",
    "find_damage",
    "previous_of",
    "read_checkpoint",
    "unreadable_error",
    "why_unusable",
]

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
        return damage if damage.startswith(REFUSED) else f"damaged: {damage}"
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        why = _load_failure(path, error)
        return why if why.startswith(REFUSED) else f"damaged: {why}"
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
    return refusal(unsafe) if unsafe else first_line(error)


def previous_of(path: str | Path) -> Path:
    """Returns the path of the checkpoint that `path` replaced."""
    path = Path(path)
    return path.with_name(f"{path.stem}{PREVIOUS}{path.suffix}")


def unreadable_error(path: str | Path, why: str, name: str = "ckpt_path") -> ValueError:
    """Returns the error for a checkpoint that cannot be loaded; it suggests the previous one if that exists."""
    previous = previous_of(path)
    advice = f"Use the previous one, {previous}." if previous.is_file() else "Use an older one."
    rule = "a checkpoint of plain tensors and numbers" if why.startswith(REFUSED) else "a whole checkpoint"
    return ValueError(f"`{name}` must be {rule}, but {path} cannot be read ({why}). {advice}")

"""Reading checkpoints that may be damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Reads a checkpoint without running any code in it.

    Args:
        path: A file that the trainer wrote.
        map_location: Where its tensors go, as in `torch.load`.

    Raises:
        ValueError: The file is missing, truncated, or no checkpoint.
    """
    if not Path(path).is_file():
        raise ValueError(f"`ckpt_path` must be a checkpoint file, but {path} is none.")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch reports damage as RuntimeError, EOFError, UnpicklingError, KeyError, …
        raise ValueError(
            f"`ckpt_path` must be a whole checkpoint, but {path} cannot be read ({type(error).__name__}); it may be "
            "truncated. Use an older one."
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"`ckpt_path` must be a checkpoint of a training run, but {path} holds no `state_dict`.")
    return checkpoint

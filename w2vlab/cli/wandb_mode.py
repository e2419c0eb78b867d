"""What the environment says of Weights & Biases."""

from __future__ import annotations

import os

ONLINE, OFFLINE, DISABLED = "online", "offline", "disabled"

_MODES = {ONLINE: ONLINE, "run": ONLINE, "shared": ONLINE, OFFLINE: OFFLINE, "dryrun": OFFLINE, DISABLED: DISABLED}
"""Values of `WANDB_MODE`, some of which are older names."""


def mode_of_environment() -> str | None:
    """Returns what `WANDB_MODE` asks for: online, offline or disabled; None where it is not set.

    Raises:
        ValueError: It has no value that Weights & Biases knows.
    """
    mode = os.environ.get("WANDB_MODE", "")
    if mode and mode not in _MODES:
        raise ValueError(f"`WANDB_MODE` must be online, offline or disabled, but is {mode}.")
    return _MODES.get(mode)

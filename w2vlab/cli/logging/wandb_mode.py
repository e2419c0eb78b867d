"""Mode and login of Weights & Biases in the environment."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

ONLINE, OFFLINE, DISABLED = "online", "offline", "disabled"

_MODES = {ONLINE: ONLINE, "run": ONLINE, "shared": ONLINE, OFFLINE: OFFLINE, "dryrun": OFFLINE, DISABLED: DISABLED}
"""Values of `WANDB_MODE`, some of which are older names."""


def mode_of_environment() -> str | None:
    """Returns the mode of `WANDB_MODE`: online, offline or disabled; None if it is not set.

    Raises:
        ValueError: It has no value that Weights & Biases knows.
    """
    mode = os.environ.get("WANDB_MODE", "")
    if not mode:
        os.environ.pop("WANDB_MODE", None)  # `wandb` refuses an empty value, with which scripts unset a variable
    elif mode not in _MODES:
        raise ValueError(f"`WANDB_MODE` must be online, offline or disabled, but is {mode}.")
    return _MODES.get(mode)


def login_of(environment: Mapping[str, str], server: str) -> str | None:
    """Returns the source of the API key; None without a key."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if environment.get(name):
            return name
    named = environment.get("NETRC")
    files = [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in files:
        try:
            if netrc.netrc(str(file)).authenticators(urlsplit(server).netloc):
                return "netrc"
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue
    return None

"""Weights & Biases, as far as it is known without asking its server."""

from __future__ import annotations

import os
from collections.abc import Mapping

from w2vlab.cli.doctor.finding import Finding, note, ok
from w2vlab.cli.logging.wandb_mode import login_of

_SERVER = "https://api.wandb.ai"
_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")


def check_wandb(environment: Mapping[str, str] = os.environ) -> Finding:
    """Checks environment and login; keys are searched for, and never shown.

    Args:
        environment: The variables of the environment.
    """
    names = sorted(name for name in environment if name.startswith("WANDB_"))
    server = environment.get("WANDB_BASE_URL", _SERVER)
    mode = environment.get("WANDB_MODE")
    text = f"WANDB_MODE={mode}" if mode else "runs stay offline unless a logger asks for more"
    source = login_of(environment, server)
    text += f"; logged in ({source})" if source else "; not logged in"
    if names:
        text += f"; set: {', '.join(names)}"
    if mode is not None and mode not in _MODES:
        return note("W&B", text, f"WANDB_MODE must be one of {', '.join(_MODES[:4])}.")
    if mode in ("online", "shared") and not source:
        return note("W&B", text, "For runs that go to the server: wandb login, or export WANDB_API_KEY=KEY")
    return ok("W&B", text)

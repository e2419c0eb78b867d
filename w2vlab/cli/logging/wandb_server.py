"""Whether to use the server of Weights & Biases, and whether it can be reached."""

from __future__ import annotations

import logging
import os
import re
import ssl
from http.client import HTTPException
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_info

from w2vlab.cli.logging.wandb_mode import DISABLED, OFFLINE, ONLINE, login_of, mode_of_environment
from w2vlab.types import Seconds

_PATIENCE: Seconds = 10

_log = logging.getLogger(__name__)


def follow_wandb_mode(trainer: Namespace) -> None:
    """Sets the mode of the loggers of a run to `WANDB_MODE`, if that is set; it overrides their option `offline`.

    Args:
        trainer: The trainer's options; changed in place.

    Raises:
        ValueError: The variable has no value that Weights & Biases knows.
    """
    loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    chosen = [logger for logger in loggers if _is_wandb(logger)]
    if not chosen or (mode := mode_of_environment()) is None:
        return
    if mode == DISABLED:
        rank_zero_info("WANDB_MODE is disabled: no run in Weights & Biases.")
        rest = [logger for logger in loggers if not _is_wandb(logger)]
        trainer.logger = rest or False
        return
    for logger in chosen:
        if bool(logger.init_args.get("offline")) != (mode == OFFLINE):
            rank_zero_info(f"WANDB_MODE is {mode}: so is the run in Weights & Biases.")
            logger.init_args.offline = mode == OFFLINE


def mode_for_tables(asked: str | None) -> Literal["online", "offline", "disabled"]:
    """Returns the mode in which to log tables of an evaluation, whose results are in files already.

    So neither a wrong `WANDB_MODE` nor a server that cannot be reached is an error: both are logged as warnings.

    Args:
        asked: `offline`, `online` or `off`; None for the mode of `WANDB_MODE`, else offline.
    """
    try:
        mode = asked or mode_of_environment() or OFFLINE
        if mode == ONLINE and (why := why_unreachable()) is not None:
            _log.warning("Weights & Biases cannot be reached (%s): the tables are logged offline.", why)
            mode = OFFLINE
    except Exception as problem:
        _log.warning("Weights & Biases has no copy: %s: %s.", type(problem).__name__, problem)
        mode = DISABLED
    return "online" if mode == ONLINE else "offline" if mode == OFFLINE else "disabled"


def _is_wandb(logger: Any) -> bool:
    return isinstance(logger, Namespace) and str(logger.get("class_path")).endswith("WandbLogger")


def why_unreachable(settings: Any = None) -> str | None:
    """Sends a request to the server, with a timeout of seconds; `wandb.init` tries for 90 s.

    Args:
        settings: Settings for `wandb.init`, which override those of the environment.

    Returns:
        Why it cannot be reached; None if it answers, if only `wandb` can talk to it, or if it would refuse the run for
        lack of a login.
    """
    import wandb

    url = str(getattr(settings, "base_url", None) or wandb.setup().settings.base_url)
    if not url.startswith(("http://", "https://")) or login_of(os.environ, url) is None:
        return None
    try:
        with urlopen(Request(url, method="HEAD"), timeout=_PATIENCE):
            return None
    except (HTTPError, HTTPException):
        return None  # it answers
    except OSError as problem:
        reason = getattr(problem, "reason", problem)
        return None if isinstance(reason, ssl.SSLError) else f"{url}: {reason}"
    except ValueError:
        return None


def problem_of_account(problem: Exception) -> str | None:
    """Returns what to do if the server refuses an account; None for any other error."""
    from wandb.errors import AuthenticationError, UsageError

    if not isinstance(problem, AuthenticationError | UsageError) and not re.search(
        r"\b40[134]\b|permission denied|not found", str(problem), re.IGNORECASE
    ):
        return None
    reason = str(problem).strip().split(". ")[0].rstrip(".")  # what follows is advice
    return (
        f"Weights & Biases refuses the run: {reason}. Log in with `wandb login` or WANDB_API_KEY, or log offline with "
        "WANDB_MODE=offline."
    )

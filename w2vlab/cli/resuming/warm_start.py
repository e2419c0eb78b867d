"""A run that resumes keeps what its checkpoint says about its warm start."""

from __future__ import annotations

import logging
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

_OPTIONS = ("init_from", "init_from_parts")

_log = logging.getLogger(__name__)


def keep_warm_start(model: Namespace, saved: dict[str, Any] | None) -> None:
    """Sets the warm start of a run that resumes to that of the run that wrote the checkpoint.

    The source is not read again, because the weights are those of the checkpoint. An option that was typed and differs
    has no effect, which is logged.

    Args:
        model: Options of the model; changed in place.
        saved: Options of the run that wrote the checkpoint; None if unknown.
    """
    options = model.get("init_args") or {}
    if saved is None:
        return
    before = (saved.get("model") or {}).get("init_args") or {}
    for name in _OPTIONS:
        if name not in options or options[name] == before.get(name):
            continue
        if options[name] is not None:
            _warn(name, options[name], before.get(name))
        options[name] = before.get(name)


@rank_zero_only
def _warn(name: str, now: Any, before: Any) -> None:
    _log.warning(
        "model.%s %s has no effect, because this run resumes with the weights of the checkpoint, whose run had %s. "
        "Without --ckpt_path it starts a new run.",
        name,
        now,
        before,
    )

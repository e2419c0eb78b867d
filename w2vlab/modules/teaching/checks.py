"""Checks of models with a teacher, and of their checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from w2vlab.interfaces import Quantizer, UtteranceTargets


def check_quantizer(quantizer: Quantizer) -> None:
    """Checks that a quantizer quantizes what it is given.

    Raises:
        ValueError: It reads a file.
    """
    if isinstance(quantizer, UtteranceTargets):
        raise ValueError(
            "`quantizer` must quantize what the teacher computes under TeacherPrediction, but is "
            f"{type(quantizer).__name__}, which reads a file. Use it under MaskedPrediction."
        )


def check_has_teacher(checkpoint: Mapping[str, Any]) -> None:
    """Checks that a checkpoint has the weights of a teacher.

    Raises:
        ValueError: It has none.
    """
    if not any(name.startswith("teacher.") for name in checkpoint["state_dict"]):
        raise ValueError(
            "`ckpt_path` must be a checkpoint with a teacher, as those of TeacherPrediction, but has none. Start a new "
            "run from its weights, with which the teacher starts, too: --model.init_from in place of --ckpt_path."
        )


def tell_what_is_left_out(quantizer: Quantizer, losses: Iterable[str]) -> None:
    """Logs which losses of a quantizer have no effect, because its vectors and what it quantizes have no gradient."""
    rank_zero_info(
        f"{', '.join(losses)} of {type(quantizer).__name__} is left out of the loss: it trains what is quantized, and "
        "a teacher has no gradient."
    )

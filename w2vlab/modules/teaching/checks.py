"""Checks of models with a teacher, and of their checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from w2vlab.interfaces import Quantizer, Teacher, UtteranceTargets


def check_quantizer(quantizer: Quantizer, teacher: Teacher) -> None:
    """Checks that a quantizer quantizes what it is given, and divides it between layers.

    Raises:
        ValueError: It reads a file, or a codebook would have parts of two layers.
    """
    if isinstance(quantizer, UtteranceTargets):
        raise ValueError(
            "`quantizer` must quantize what the teacher computes under TeacherPrediction, but is "
            f"{type(quantizer).__name__}, which reads a file. Use it under MaskedPrediction."
        )
    codebooks, layers = quantizer.num_codebooks, teacher.num_layers
    if codebooks and codebooks % layers and layers % codebooks:
        raise ValueError(
            f"`num_codebooks` must be a multiple of the {layers} layers of the teacher for {type(quantizer).__name__}, "
            f"but is {codebooks}: a codebook would have parts of two layers. Set it to {layers}, one for each."
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

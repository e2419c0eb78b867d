"""Whether micro-batches of a model can be computed as one batch with the numbers of each one apart."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_PARTS = ("encoder", "target_encoder", "context", "teacher", "quantizer", "input_quantizer")

_OWN_METHODS = ("draw", "forward", "prepare", "encode", "compute_loss", "objective_terms")


def why_not_fused(module: nn.Module) -> str | None:
    """Returns why micro-batches must be computed one after another; None if they can be computed as one batch.

    Args:
        module: A `TrainedModule`, on its device.
    """
    own: Any = type(module)
    name = own.__name__
    fuses = next(one for one in own.__mro__ if "fuses_micro_batches" in vars(one))
    if not fuses.fuses_micro_batches:
        return f"{name} computes each micro-batch by itself"
    for method in _OWN_METHODS:
        if getattr(own, method) is not getattr(fuses, method):
            return f"{name} has its own `{method}`, but does not set `fuses_micro_batches`"
    device = getattr(module, "device", None)
    if device is not None and device.type not in ("cpu", "cuda"):
        return f"noise of several micro-batches is drawn on CPUs and on GPUs of CUDA alone, and the device is {device}"
    for part in _PARTS:
        found = getattr(module, part, None)
        if found is not None and not found.utterances_are_independent:
            return (
                f"`model.{part}` ({type(found).__name__}) does not declare that its utterances are independent of "
                "padding and of each other, or draws noise for a whole batch"
            )
        if found is not None and any(isinstance(inner, _BatchNorm) for inner in found.modules()):
            return f"`model.{part}` ({type(found).__name__}) has a batch norm, whose statistics are of a micro-batch"
    return None


def has_compiled_regions(module: nn.Module) -> bool:
    """Returns whether `torch.compile` computes a part of a model."""
    return any(inner._compiled_call_impl is not None for inner in module.modules())

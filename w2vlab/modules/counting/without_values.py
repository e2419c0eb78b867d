"""Runs a model on fake tensors, which have shapes but no values, so that large models need a second and no memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from w2vlab.contexts.layer_drop import LayerDropStack
from w2vlab.interfaces import OfUtterances
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import AudioBatch, RandomAddress

NOT_WITHOUT_VALUES = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
"""Exceptions of parts that have to read the value of a tensor."""


@contextmanager
def without_values(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Enables fake tensors in this context, and yields one for each parameter and buffer, by name.

    They are CPU tensors on any device, so that the counts do not depend on it.
    """
    state = dict([*model.named_parameters(), *model.named_buffers()])
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", requires_grad=tensor.requires_grad)
            for name, tensor in state.items()
        }


def objective_without_values(
    model: PretrainingModule, state: dict[str, Tensor], batch_size: int, num_samples: int
) -> Tensor:
    """Returns the objective `()` of a micro-batch of equally long utterances.

    Args:
        model: The model.
        state: Parameters and buffers by name, from `without_values`.
        batch_size: Utterances B.
        num_samples: Samples S of each.
    """
    ids = tuple(f"utterance-{number}" for number in range(batch_size))
    batch = AudioBatch(waveform=torch.zeros(batch_size, num_samples), num_samples=(num_samples,) * batch_size, ids=ids)
    with Overridden({F.scaled_dot_product_attention: _fused_attention}), without_files(model):
        output = functional_call(model, state, (batch, RandomAddress(seed=model.seed, update=0, ids=ids)))
        return torch.stack(list(model.objective_terms(output).values())).sum()


@contextmanager
def without_files(model: nn.Module) -> Iterator[None]:
    """Lets parts that read what belongs to utterances draw it at random, because the utterances are invented."""
    readers = [module for module in model.modules() if isinstance(module, OfUtterances)]
    before = [reader.dry_run for reader in readers]
    for reader in readers:
        reader.dry_run = True
    try:
        yield
    finally:
        for reader, value in zip(readers, before, strict=True):
            reader.dry_run = value


class Overridden(TorchFunctionMode):
    """Replaces functions in this context: those of PyTorch, and others that support `__torch_function__`.

    Args:
        replacements: The replacement of each function.
    """

    def __init__(self, replacements: Mapping[Callable[..., Any], Callable[..., Any]]) -> None:
        super().__init__()
        self.replacements = replacements

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.replacements.get(func, func)(*args, **(kwargs or {}))


def _fused_attention(*args: Any, **kwargs: Any) -> Tensor:
    """Computes attention in one kernel, as on a GPU; with dropout a CPU uses several, and stores their outputs."""
    return F.scaled_dot_product_attention(*args, **kwargs | {"dropout_p": 0.0})


@contextmanager
def all_layers(model: nn.Module, checkpointing: bool = True, dropped: bool = False) -> Iterator[None]:
    """Drops no layer, or all if `dropped`; without `checkpointing`, layers store their activations."""
    stacks = [module for module in model.modules() if isinstance(module, LayerDropStack)]
    before = [(stack.dropped, stack.activation_checkpointing) for stack in stacks]
    for stack in stacks:
        stack.dropped = (dropped,) * len(stack)
        stack.activation_checkpointing = stack.activation_checkpointing and checkpointing
    try:
        yield
    finally:
        for stack, (dropped_before, checkpointing_before) in zip(stacks, before, strict=True):
            stack.dropped, stack.activation_checkpointing = dropped_before, checkpointing_before


def skeleton(model: PretrainingModule) -> PretrainingModule:
    """Copies a model in float32 with parameters and buffers on the meta device, so that the copy takes no memory.

    Parts that learn from statistics may keep tensors without values, so that only a copy should be counted.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(_empty(parameter), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = _empty(buffer)
    copied = copy.deepcopy(model, memo)
    for module in copied.modules():
        vars(module).pop("_compiled_call_impl", None)  # of `Module.compile`: it would run the original model
    return copied


def _empty(tensor: Tensor) -> Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=dtype, device="meta")

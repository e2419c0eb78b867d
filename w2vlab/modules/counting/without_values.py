"""A model computed on tensors that have shapes and no values, so that the largest one takes a second and no memory."""

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
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import AudioBatch, RandomAddress

NOT_WITHOUT_VALUES = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
"""What a part raises that has to read a value, on tensors without any."""


@contextmanager
def without_values(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Computes on tensors without values inside; yields such ones for all parameters and buffers, by their names.

    They are those of a CPU, wherever the model is: what is counted must not depend on the device.
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
        state: What to compute it with, by name: of `without_values`.
        batch_size: Utterances B.
        num_samples: Samples S of each.
    """
    ids = tuple(f"utterance-{number}" for number in range(batch_size))
    batch = AudioBatch(waveform=torch.zeros(batch_size, num_samples), num_samples=(num_samples,) * batch_size, ids=ids)
    with Overridden({F.scaled_dot_product_attention: _fused_attention}):
        output = functional_call(model, state, (batch, RandomAddress(seed=model.seed, update=0, ids=ids)))
        return torch.stack(list(model.objective_terms(output).values())).sum()


class Overridden(TorchFunctionMode):
    """Has other functions called inside in place of some of PyTorch's, or of those that can be overridden as they can.

    Args:
        others: What is called in place of each.
    """

    def __init__(self, others: Mapping[Callable[..., Any], Callable[..., Any]]) -> None:
        super().__init__()
        self.others = others

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.others.get(func, func)(*args, **(kwargs or {}))


def _fused_attention(*args: Any, **kwargs: Any) -> Tensor:
    """Is one kernel, as on a GPU; a CPU computes dropout of the weights in steps, and keeps them all."""
    return F.scaled_dot_product_attention(*args, **kwargs | {"dropout_p": 0.0})


@contextmanager
def all_layers(model: nn.Module, checkpointing: bool = True, dropped: bool = False) -> Iterator[None]:
    """Drops no layer, or every one if `dropped`, and stores activations inside of layers unless `checkpointing`."""
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
    """Copies a model in float32, but for the values of its parameters and buffers, which take no memory in the copy.

    Parts that learn by statistics may keep what is computed without values; in a copy that does no harm.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(_empty(parameter), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = _empty(buffer)
    copied = copy.deepcopy(model, memo)
    for module in copied.modules():
        vars(module).pop("_compiled_call_impl", None)  # `Module.compile`: it would compute the model that was copied
    return copied


def _empty(tensor: Tensor) -> Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=dtype, device="meta")

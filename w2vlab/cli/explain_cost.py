"""What a run costs: operations and memory, counted on tensors without values, and time at a given speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_flop_count

from w2vlab.cli.explain_flow import NOT_WITHOUT_VALUES, without_values
from w2vlab.contexts.layer_drop import LayerDropStack
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import AudioBatch, RandomAddress, Seconds

_BYTES = 4
"""Of a parameter and of its gradient: mixed precision keeps both in float32."""


@dataclass
class Memory:
    """What a device has to hold, in bytes, without workspace of kernels and of communication.

    Attributes:
        parameters: Parameters, in float32.
        gradients: Their gradients.
        optimizer: State of the optimiser.
        activations: What the forward pass of a micro-batch keeps for the backward pass.
        total: The sum.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    total: int


@dataclass
class Cost:
    """What a run costs. All micro-batches are taken to be of the greatest length, and no layer to be left out.

    Attributes:
        flops: Floating-point operations of the forward and the backward pass of an update, over all processes, in
            matrix products and convolutions; a product and its sum are two. What is computed again, as by activation
            checkpointing, is not counted. None where a part has to read values.
        run_flops: Of all updates; None where their number is open.
        memory: Of each device; None where a part has to read values.
        speed: Seconds of audio that a device trains on in a second, as given.
        device_hours: Hours of all devices together at that speed; None where something is open.
        hours: The same, divided by the number of devices.
    """

    flops: int | None
    run_flops: int | None
    memory: Memory | None
    speed: float | None = None
    device_hours: float | None = None
    hours: float | None = None


def count_cost(
    model: PretrainingModule,
    batch_size: int,
    num_samples: int,
    micro_batches: int,
    updates: int | None,
    half_precision: bool,
    shards: int,
) -> Cost:
    """Counts a training step on tensors without values.

    Args:
        model: The model; it cannot be used afterwards.
        batch_size: Utterances B of a micro-batch.
        num_samples: Samples S of each.
        micro_batches: Micro-batches of an update over all processes.
        updates: Updates of the run; None for open.
        half_precision: Whether the trainer computes in 16 bits where it can.
        shards: Devices that share parameters, gradients and the state of the optimiser.
    """
    optimizer = optimizer_bytes(model)
    model.train()
    try:
        flops = micro_batches * _flops(model, batch_size, num_samples)
        activations = _kept_bytes(model, batch_size, num_samples, half_precision)
    except NOT_WITHOUT_VALUES:
        return Cost(None, None, None)
    parameters = sum(p.numel() for p in model.parameters()) * _BYTES // shards
    gradients = sum(p.numel() for p in model.parameters() if p.requires_grad) * _BYTES // shards
    optimizer //= shards
    memory = Memory(parameters, gradients, optimizer, activations, parameters + gradients + optimizer + activations)
    return Cost(flops, None if updates is None else flops * updates, memory)


def add_time(cost: Cost, speed: float, audio_seconds: Seconds | None, devices: int) -> None:
    """Adds the time that `audio_seconds` of training take `devices`, each at `speed` seconds of audio a second."""
    cost.speed = speed
    if audio_seconds is not None:
        cost.device_hours = audio_seconds / speed / 3600
        cost.hours = cost.device_hours / devices


def optimizer_bytes(model: PretrainingModule) -> int:
    """Returns the size of the optimiser's state for all parameters, from what it keeps of a small one."""
    probe = nn.Parameter(torch.zeros(64, 16))
    probe.grad = torch.zeros_like(probe)
    optimizer = model.make_optimizer([probe])
    optimizer.step()
    state = [value for value in optimizer.state[probe].values() if isinstance(value, Tensor) and value.numel() > 1]
    size = sum(value.numel() * value.element_size() for value in state)
    return size * sum(p.numel() for p in model.parameters() if p.requires_grad) // probe.numel()


def _flops(model: PretrainingModule, batch_size: int, num_samples: int) -> int:
    """Counts forward and backward pass of a micro-batch."""
    with _all_layers(model, checkpointing=False), without_values(model) as state:
        with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
            _objective(model, state, batch_size, num_samples).backward()  # type: ignore[no-untyped-call]
        return int(counter.get_total_flops())


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return 2 * _attention(query, key, value)


def _convolution_backward(
    gradient: Any, value: Any, weight: Any, *options: Any, out_shape: Any = None, **__: Any
) -> int:
    """Counts each of the two gradients like the forward pass; PyTorch's formula forgets the groups of one of them."""
    transposed, output_mask = options[4], options[7]
    return int(sum(output_mask[:2])) * conv_flop_count(value, weight, gradient, transposed=transposed)


_FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.aten.convolution_backward: _convolution_backward,
}
"""What PyTorch does not count, or counts otherwise than as twice the forward pass."""


def _kept_bytes(model: PretrainingModule, batch_size: int, num_samples: int, half_precision: bool) -> int:
    """Adds up the storages that a forward pass keeps for the backward pass, but for the parameters."""
    kept: dict[int, tuple[Tensor, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = tensor, storage.nbytes()
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16) if half_precision else nullcontext()
    with _all_layers(model), without_values(model) as state:
        with autocast, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = _objective(model, state, batch_size, num_samples)
        for tensor in state.values():
            kept.pop(tensor.untyped_storage()._cdata, None)
        del loss
        return sum(size for _, size in kept.values())


def _objective(model: PretrainingModule, state: dict[str, Tensor], batch_size: int, num_samples: int) -> Tensor:
    ids = tuple(f"utterance-{number}" for number in range(batch_size))
    batch = AudioBatch(torch.zeros(batch_size, num_samples), (num_samples,) * batch_size, ids)
    with _FusedAttention():
        output = functional_call(model, state, (batch, RandomAddress(model.seed, 0, ids)))
        return torch.stack(list(model.objective_terms(output).values())).sum()


class _FusedAttention(TorchFunctionMode):
    """Has attention be one kernel, as on a GPU; a CPU computes dropout of its weights in steps, and keeps them all."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


@contextmanager
def _all_layers(model: nn.Module, checkpointing: bool = True) -> Iterator[None]:
    """Leaves no layer out, and keeps what is inside of them where `checkpointing` is false."""
    stacks = [module for module in model.modules() if isinstance(module, LayerDropStack)]
    before = [(stack.dropped, stack.activation_checkpointing) for stack in stacks]
    for stack in stacks:
        stack.dropped = (False,) * len(stack)
        stack.activation_checkpointing = stack.activation_checkpointing and checkpointing
    try:
        yield
    finally:
        for stack, (dropped, activation_checkpointing) in zip(stacks, before, strict=True):
            stack.dropped, stack.activation_checkpointing = dropped, activation_checkpointing

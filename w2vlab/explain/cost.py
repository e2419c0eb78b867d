"""Estimates the cost of a run: operations and memory, counted on tensors without values, and time at a given speed."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from w2vlab.modules.counting.flops import count_flops
from w2vlab.modules.counting.without_values import (
    NOT_WITHOUT_VALUES,
    all_layers,
    objective_without_values,
    without_values,
)
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import Seconds

_BYTES = 4
"""Bytes of a parameter and of its gradient; mixed precision keeps both in float32."""


@dataclass(kw_only=True)
class Memory:
    """Memory of a device, in bytes, without workspace of kernels and of communication.

    Attributes:
        parameters: Parameters, in float32.
        gradients: Their gradients.
        optimizer: State of the optimizer.
        activations: Tensors that the forward pass of a micro-batch saves for the backward pass.
        total: The sum.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    total: int


@dataclass
class Cost:
    """The cost of a run. All micro-batches are assumed to have the greatest length, and no layer is dropped.

    Attributes:
        flops: Floating-point operations of the forward and the backward pass of an update, over all processes, in
            matrix products and convolutions; a multiply-add counts as two. Recomputation, such as that of activation
            checkpointing, is not counted. None if a part reads the values of tensors.
        run_flops: Operations of all updates; None if their number is not limited.
        memory: Memory of each device; None if a part reads the values of tensors.
        speed: Speed of each device, in seconds of audio per second; None if unknown.
        device_hours: Device-hours at that speed; None if it is unknown.
        hours: Hours of the run: device-hours divided by the number of devices.
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
        updates: Updates of the run; None if not limited.
        half_precision: Whether the trainer uses mixed precision.
        shards: Devices over which parameters, gradients and the state of the optimizer are sharded.

    Returns:
        The cost, without time.
    """
    optimizer = optimizer_bytes(model)
    model.train()
    try:
        flops = micro_batches * count_flops(model, batch_size, num_samples)
        activations = _activation_bytes(model, batch_size, num_samples, half_precision)
    except NOT_WITHOUT_VALUES:
        return Cost(None, None, None)
    parameters = sum(p.numel() for p in model.parameters()) * _BYTES // shards
    gradients = sum(p.numel() for p in model.parameters() if p.requires_grad) * _BYTES // shards
    optimizer //= shards
    memory = Memory(
        parameters=parameters,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        total=parameters + gradients + optimizer + activations,
    )
    return Cost(flops, None if updates is None else flops * updates, memory)


def add_time(cost: Cost, speed: float, audio_seconds: Seconds | None, devices: int) -> None:
    """Adds the training time to `cost`, which is changed in place.

    Args:
        cost: The cost.
        speed: Speed of each device, in seconds of audio per second.
        audio_seconds: Audio of the whole run; None if the number of updates is not limited.
        devices: Number of devices.
    """
    cost.speed = speed
    if audio_seconds is not None:
        cost.device_hours = audio_seconds / speed / 3600
        cost.hours = cost.device_hours / devices


def optimizer_bytes(model: PretrainingModule) -> int:
    """Returns the bytes of the optimizer state of all parameters, extrapolated from that of a small parameter."""
    probe = nn.Parameter(torch.zeros(64, 16))
    probe.grad = torch.zeros_like(probe)
    optimizer = model.make_optimizer([probe])
    optimizer.step()
    state = [value for value in optimizer.state[probe].values() if isinstance(value, Tensor) and value.numel() > 1]
    size = sum(value.numel() * value.element_size() for value in state)
    return size * sum(p.numel() for p in model.parameters() if p.requires_grad) // probe.numel()


def _activation_bytes(model: PretrainingModule, batch_size: int, num_samples: int, half_precision: bool) -> int:
    """Returns the bytes of storages that a forward pass saves for the backward pass, without parameters."""
    saved: dict[int, tuple[Tensor, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = tensor, storage.nbytes()
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16) if half_precision else nullcontext()
    with all_layers(model), without_values(model) as state:
        with autocast, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = objective_without_values(model, state, batch_size, num_samples)
        for tensor in state.values():
            saved.pop(tensor.untyped_storage()._cdata, None)
        del loss
        return sum(size for _, size in saved.values())

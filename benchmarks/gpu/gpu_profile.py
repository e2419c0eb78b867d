"""Where the time of a training step goes, by part of the model and kind of operation.

A trace of some updates has each operation of the host with the kernels that it launched. An operation belongs to
the part whose forward pass it is in; one of the backward pass to the part of the forward operation with the same
sequence number, which autograd gives to both. Without a GPU the time of an operation is that of the host, so that
the same code is tested.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.gpu.gpu_measures import Step, count_calls, finish

PREFIX = "part: "

REST, OPTIMIZER = "quantizer, masking, projections, penalties, sums", "optimizer"
LAYERS = "layers"
ATTENTION, LINEAR, OTHER = "attention", "linear layers", "norms, residuals, dropouts, GELU"
COPIES = "copies of weights"

ROWS = ("encoder", "positional convolution", ATTENTION, LINEAR, OTHER, "loss", REST, OPTIMIZER, COPIES)
"""The rows of a table; those of the layers of the Transformer are kinds of operations."""

KINDS = (
    (ATTENTION, re.compile(r"attention|flash|fmha|sdpa|softmax", re.IGNORECASE)),
    (
        LINEAR,
        re.compile(r"linear|addmm|\bmm\b|bmm|matmul|gemm|nvjet|cutlass|xmma|cublas|_Conv1d|triton_tem", re.IGNORECASE),
    ),
)
"""Kinds of operations and kernels by their names; Inductor's own kernels have the names of what they compute."""

_USER_SCOPE = 7
"""The scope of `record_function`, in PyTorch's `RecordScope`."""

COPY = re.compile(r"aten::(_to_copy|copy_)$|triton_poi_fused__to_copy(_(t|view|transpose|permute))*_\d+$")
"""Copies; in a compiled graph those that no other operation takes part in."""


@contextmanager
def parts_recorded(parts: Mapping[str, nn.Module]) -> Iterator[None]:
    """Marks the forward pass of each part in a trace.

    Modules that are compiled themselves cannot be marked: a hook would be compiled into them.
    """
    open_: list[Any] = []

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            open_.append(record_function(PREFIX + name))
            open_[-1].__enter__()

        return hook

    def leave(*_: Any) -> None:
        open_.pop().__exit__(None, None, None)

    with ExitStack() as stack:
        for name, module in parts.items():
            stack.callback(module.register_forward_pre_hook(enter(name)).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        yield


def parts_of(model: Any) -> dict[str, nn.Module]:
    """Returns the marked parts of a model of ours, or of transformers'."""
    if hasattr(model, "wav2vec2"):
        inner = model.wav2vec2
        return {
            "encoder": inner.feature_extractor,
            "positional convolution": inner.encoder.pos_conv_embed,
            **{f"{LAYERS} {number}": layer for number, layer in enumerate(inner.encoder.layers)},
        }
    return {
        "encoder": model.encoder,
        "positional convolution": model.context.positions,
        LAYERS: model.context.layers,
        "loss": model.loss,
    }


def profile_by_part(model: Any, step: Step, updates: int, device: torch.device) -> dict[str, Any]:
    """Returns the milliseconds of an update by part as `tabulate` does, and the calls of `count_calls` on a GPU."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with parts_recorded(parts_of(model)):
        step()
        finish(device)
        with profile(activities=activities, record_shapes=True, acc_events=True) as trace:
            for _ in range(updates):
                step()
            finish(device)
    shapes = {tuple(parameter.shape) for parameter in model.parameters() if parameter.ndim > 1}
    events = list(trace.events() or ())
    found = tabulate(events, shapes, updates, device.type == "cuda")
    return found | {"calls": count_calls(events, updates)} if device.type == "cuda" else found


def gaps(found: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Returns the milliseconds of an update, of `seconds` without the profiler, in which no kernel was running."""
    busy = found["busy_milliseconds"]
    return {
        "milliseconds_of_update": 1000 * seconds,
        "idle_milliseconds": None if busy is None else max(0.0, 1000 * seconds - busy),
    }


def tabulate(
    events: Sequence[Any], weight_shapes: set[tuple[int, ...]], updates: int, on_device: bool
) -> dict[str, Any]:
    """Sums the events of a trace.

    Args:
        events: The events, with the attributes of `torch.autograd.profiler_util.FunctionEvent`.
        weight_shapes: Shapes of the matrices among the parameters; a copy of such a shape is one of a weight.
        updates: Updates in the trace.
        on_device: Whether times are those of kernels; otherwise those of the host.

    Returns:
        `milliseconds` by part, `backward_milliseconds` of it, `busy_milliseconds` in which a kernel was running,
        and the ten `longest` kernels; each of an update.
    """
    on_host = [event for event in events if event.device_type == DeviceType.CPU]
    # A range of the host is on the device, too, as long as all of its kernels, with the gaps between them.
    ranges = {event.name for event in on_host if event.scope == _USER_SCOPE}
    regions = _regions(on_host)
    total, backward = dict.fromkeys(ROWS, 0.0), dict.fromkeys(ROWS, 0.0)
    kernels: dict[str, float] = {}
    for event in on_host:
        spent = [(name, time) for name, time in _spent(event, on_device) if name not in ranges]
        if not spent:
            continue
        chain = list(_ancestors(event))
        region = next((regions[id(above)] for above in reversed(chain) if id(above) in regions), None)
        is_backward = any(_is_backward(above) for above in chain)
        for name, microseconds in spent:
            row = _row(region, [name, *(above.name for above in chain)], chain, weight_shapes)
            total[row] += microseconds
            backward[row] += microseconds * is_backward
            kernels[name] = kernels.get(name, 0.0) + microseconds
    longest = sorted(kernels.items(), key=lambda item: -item[1])[:10]
    factor = 1 / 1000 / updates
    on_gpu = [event for event in events if event.device_type == DeviceType.CUDA and event.name not in ranges]
    busy = _busy(on_gpu) if on_device else None
    return {
        "milliseconds": {name: value * factor for name, value in total.items()},
        "backward_milliseconds": {name: value * factor for name, value in backward.items()},
        "busy_milliseconds": None if busy is None else busy * factor,
        "longest": {name[:120]: value * factor for name, value in longest},
    }


def _regions(events: Sequence[Any]) -> dict[int, str]:
    """Returns the part of each event that names it: the marks, the optimizer, and the nodes of the backward pass."""
    found, of_node = {}, {}
    for event in sorted(events, key=lambda event: event.time_range.start):
        name = _region_by_name(event.name)
        if name is not None:
            found[id(event)] = name
        elif event.sequence_nr >= 0 and not any(_is_backward(above) for above in _ancestors(event)):
            region = next((found[id(above)] for above in _ancestors(event) if id(above) in found), REST)
            # The last one that begins with a number made the node: others only read the next number.
            of_node[event.thread, event.sequence_nr] = region
    for event in events:
        if _is_backward(event) and (event.fwd_thread, event.sequence_nr) in of_node:
            found[id(event)] = of_node[event.fwd_thread, event.sequence_nr]
    return found


def _region_by_name(name: str) -> str | None:
    if name.startswith(PREFIX):
        part = name.removeprefix(PREFIX)
        return LAYERS if part.startswith(LAYERS) else part
    return OPTIMIZER if name.startswith("Optimizer.step") else None


def _is_backward(event: Any) -> bool:
    return str(event.name).startswith("autograd::engine::evaluate_function")


def _ancestors(event: Any) -> Iterator[Any]:
    """Yields an event and all that it is inside of, innermost first."""
    while event is not None:
        yield event
        event = event.cpu_parent


def _spent(event: Any, on_device: bool) -> list[tuple[str, float]]:
    """Returns the kernels of an event with their microseconds, or the event with those of the host."""
    if on_device:
        return [(kernel.name, kernel.duration) for kernel in event.kernels]
    spent = event.self_cpu_time_total
    return [(event.name, spent)] if spent > 0 and str(event.name).startswith("aten::") else []


def _row(region: str | None, names: Sequence[str], chain: Sequence[Any], weight_shapes: set[tuple[int, ...]]) -> str:
    if region != OPTIMIZER and _copies_weight(names, chain, weight_shapes):
        return COPIES
    if region != LAYERS:
        return region or REST
    if names[0].startswith("triton_") and not names[0].startswith("triton_tem"):  # a template is a matrix product
        return OTHER
    for kind, pattern in KINDS:
        if any(pattern.search(name) for name in names if not name.startswith("autograd::")):
            return kind
    return OTHER


def _copies_weight(names: Sequence[str], chain: Sequence[Any], weight_shapes: set[tuple[int, ...]]) -> bool:
    if not any(COPY.search(name) for name in names):
        return False
    shapes = (tuple(shape) for event in chain for shape in event.input_shapes or () if _is_shape(shape))
    return names[0].startswith("triton") or any(shape in weight_shapes for shape in shapes)


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list | tuple) and all(isinstance(size, int) for size in shape)


def _busy(events: Sequence[Any]) -> float:
    """Returns the microseconds in which any of the events of the device was running."""
    spans = sorted((event.time_range.start, event.time_range.end) for event in events)
    total, until = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total

"""The profile by part: kernels of both passes belong to the part that launched them."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks.gpu import gpu_profile
from benchmarks.gpu.gpu_contenders import ours
from benchmarks.peers import LAYOUTS, audio, build_ours

Kernel = namedtuple("Kernel", ["name", "device", "duration"])
Span = namedtuple("Span", ["start", "end"])


@dataclass(eq=False)
class Event:
    """An event of a trace, with the attributes that are read."""

    name: str
    start: float = 0.0
    end: float = 0.0
    parent: Event | None = None
    sequence_nr: int = -1
    thread: int = 1
    fwd_thread: int = 0
    kernels: list[Kernel] = field(default_factory=list)
    scope: int = 0
    device_type: DeviceType = DeviceType.CPU
    input_shapes: list[Any] = field(default_factory=list)
    self_cpu_time_total: float = 0.0

    @property
    def time_range(self) -> Span:
        return Span(self.start, self.end)

    @property
    def cpu_parent(self) -> Event | None:
        return self.parent


def kernel(name: str, start: float, end: float) -> Event:
    return Event(name, start, end, device_type=DeviceType.CUDA)


def trace() -> list[Event]:
    """An encoder, a layer and the optimizer; the backward pass is in another thread."""
    encoder = Event("part: encoder", 0, 10, scope=7)
    convolution = Event("aten::conv2d", 1, 5, encoder, sequence_nr=0, kernels=[Kernel("cudnn_conv", 0, 100)])
    layer = Event("part: layers 3", 10, 30, scope=7)
    cast = Event("aten::_to_copy", 11, 12, layer, sequence_nr=1, input_shapes=[[8, 4], []])
    copy = Event("aten::copy_", 11, 12, cast, kernels=[Kernel("elementwise", 0, 10)])
    activations = Event(
        "aten::_to_copy", 13, 14, layer, input_shapes=[[2, 5, 4]], kernels=[Kernel("elementwise", 0, 3)]
    )
    product = Event("aten::addmm", 14, 16, layer, sequence_nr=2, kernels=[Kernel("nvjet_hsh", 0, 40)])
    attention = Event(
        "aten::_flash_attention_forward", 16, 18, layer, sequence_nr=3, kernels=[Kernel("pytorch_flash", 0, 30)]
    )
    norm = Event("triton_per_fused_addmm_native_layer_norm_2", 18, 19, layer)
    norm.kernels = [Kernel(norm.name, 0, 20)]
    outside = Event(
        "aten::mean", 31, 32, sequence_nr=4, kernels=[Kernel("reduce", 0, 7), Kernel("part: layers 3", 0, 999)]
    )
    node = Event("autograd::engine::evaluate_function: AddmmBackward0", 40, 50, sequence_nr=2, thread=2, fwd_thread=1)
    inner = Event("AddmmBackward0", 41, 49, node, sequence_nr=2, thread=2, fwd_thread=1, scope=1)
    gradient = Event("aten::mm", 42, 44, inner, sequence_nr=0, thread=2, kernels=[Kernel("nvjet_tst", 0, 80)])
    node_of_encoder = Event(
        "autograd::engine::evaluate_function: ConvolutionBackward0", 50, 60, sequence_nr=0, thread=2
    )
    node_of_encoder.fwd_thread = 1
    of_encoder = Event("aten::convolution_backward", 51, 52, node_of_encoder, kernels=[Kernel("cudnn_dgrad", 0, 200)])
    step = Event("Optimizer.step#AdamW.step", 70, 80, scope=7)
    adam = Event("aten::_fused_adamw_", 71, 72, step, kernels=[Kernel("adam", 0, 50)])
    on_device = [kernel("a", 0, 100), kernel("b", 90, 130), kernel("c", 200, 210), kernel("part: layers 3", 0, 10_000)]
    found = [encoder, convolution, layer, cast, copy, activations, product, attention, norm, outside]
    return [*found, node, inner, gradient, node_of_encoder, of_encoder, step, adam, *on_device]


def test_kernels_belong_to_the_part_that_launched_them() -> None:
    found = gpu_profile.tabulate(trace(), {(8, 4)}, 2, on_device=True)
    assert {name: 2000 * value for name, value in found["milliseconds"].items()} == pytest.approx(
        {
            "encoder": 300,
            "positional convolution": 0,
            "attention": 30,
            "linear layers": 120,
            "norms, residuals, dropouts, GELU": 23,
            "loss": 0,
            "quantizer, masking, projections, penalties, sums": 7,
            "optimizer": 50,
            "copies of weights": 10,
        }
    )
    backward = {name: 2000 * value for name, value in found["backward_milliseconds"].items() if value}
    assert backward == pytest.approx({"encoder": 200, "linear layers": 80})
    assert 2000 * found["busy_milliseconds"] == pytest.approx(140)  # overlapping kernels count once
    assert list(found["longest"])[:2] == ["cudnn_dgrad", "cudnn_conv"]
    assert gpu_profile.gaps(found, 0.001) == pytest.approx({"milliseconds_of_update": 1.0, "idle_milliseconds": 0.93})


def test_a_compiled_copy_of_a_weight_is_known_by_its_name() -> None:
    layer = Event("part: layers", 0, 10, scope=7)
    names = ["triton_poi_fused__to_copy_0", "triton_poi_fused__to_copy_native_dropout_1", "triton_tem_fused_mm_2"]
    events = [Event(name, 1, 2, layer, kernels=[Kernel(name, 0, 1)]) for name in names]
    found = gpu_profile.tabulate([layer, *events], set(), 1, on_device=True)["milliseconds"]
    assert {name for name, value in found.items() if value} == {
        "copies of weights",
        "norms, residuals, dropouts, GELU",
        "linear layers",
    }


def test_a_step_is_divided_among_all_parts() -> None:
    torch.manual_seed(0)
    model = build_ours(LAYOUTS["tiny"]).train()
    step = ours(model, [audio(2, 1.0)], torch.bfloat16)
    hooks = [len(module._forward_hooks) for module in model.modules()]
    found = gpu_profile.profile_by_part(model, step, 1, torch.device("cpu"))
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert set(found["milliseconds"]) == set(gpu_profile.ROWS)
    for row, milliseconds in found["milliseconds"].items():
        assert milliseconds > 0
        assert 0 <= found["backward_milliseconds"][row] <= milliseconds
        assert (found["backward_milliseconds"][row] > 0) == (row != "optimizer")
    assert found["busy_milliseconds"] is None
    assert gpu_profile.gaps(found, 1.0)["idle_milliseconds"] is None

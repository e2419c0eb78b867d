"""The record of PyTorch's operations, against work whose parts are known."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from w2vlab.callbacks.speed import operations
from w2vlab.callbacks.speed.operations import Recorder, host_seconds, is_operation, operation_cost


class Event:
    """A begin or an end, at a time in microseconds."""

    def __init__(self, kind: str, name: str, time: float) -> None:
        self._kind, self._name, self.time = kind, name, time

    def kind(self) -> str:
        return self._kind

    def name(self) -> str:
        return self._name

    def cpu_elapsed_us(self, other: Event) -> float:
        return other.time - self.time


@pytest.fixture
def cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation on one element takes 2 µs, and its record 1 µs."""
    monkeypatch.setattr(operations, "operation_cost", lambda: operations.Cost(launch=2e-6, recording=1e-6))


@pytest.mark.usefixtures("cost")
def test_kernels_are_what_operations_take_beyond_one_element() -> None:
    events = [
        Event("mark", "__start_profile", 0),
        Event("push", "aten::linear", 10),
        Event("push", "aten::addmm", 11),  # 80 µs, of which 78 in the kernel
        Event("pop", "", 91),
        Event("pop", "", 93),  # linear itself takes 3 µs, 1 of them beyond that of one element
        Event("push", "autograd::engine::evaluate_function: AddmmBackward0", 100),
        Event("push", "AddmmBackward0", 105),
        Event("push", "aten::mm", 110),  # 20 µs, 18 in the kernel
        Event("memory_alloc", "", 111),
        Event("pop", "", 130),
        Event("pop", "", 140),
        Event("pop", "", 150),
        Event("mark", "__stop_profile", 200),
    ]
    total = 200 - 5 * 1
    assert host_seconds(events) == pytest.approx((1e-6 * (total - 78 - 1 - 18), 1e-6 * total))


def test_what_is_an_operation() -> None:
    assert is_operation("aten::mm")
    assert is_operation("torchaudio::rnnt_loss")
    assert not is_operation("torch::autograd::AccumulateGrad")
    assert not is_operation("autograd::engine::evaluate_function: MmBackward0")
    assert not is_operation("Optimizer.step#AdamW.step")


def test_kernels_and_waiting_in_python_are_told_apart() -> None:
    left, right = torch.randn(700, 700), torch.randn(700, 700)

    def record(pause: float) -> tuple[float, float]:
        Recorder.start()
        for _ in range(10):
            left @ right
        time.sleep(pause)
        return host_seconds(Recorder.stop())

    host, total = min(record(0.0) for _ in range(3))
    assert host < 0.3 * total
    host, total = record(1.0)
    assert 1.0 <= host < total


def test_recording_changes_nothing_and_ends() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 1))
    inputs = torch.randn(4, 8)

    def gradients() -> list[torch.Tensor]:
        layers.zero_grad()
        torch.manual_seed(1)
        layers(inputs).sum().backward()
        return [parameter.grad.clone() for parameter in layers.parameters() if parameter.grad is not None]

    expected = gradients()
    assert Recorder.available()
    Recorder.start()
    assert not Recorder.available()
    found = gradients()
    names = {event.name() for event in Recorder.stop()}
    assert Recorder.available()
    assert all(map(torch.equal, found, expected))
    assert {"aten::addmm", "aten::mm"} <= names


def test_the_cost_of_an_operation() -> None:
    cost = operation_cost()
    assert 0 < cost.launch < 1e-3
    assert 0 <= cost.recording < 1e-3
    assert operation_cost() is cost

"""The share of the host: on a CPU by a record of operations, on a GPU by events, which are fakes here."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.clock import Clock
from w2vlab.callbacks.speed import host
from w2vlab.callbacks.speed.host import CpuHost, GpuHost, host_meter
from w2vlab.callbacks.speed.operations import Recorder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(host, "time", clock)
    return clock


class Device:
    """Computes what is launched one after another, beside the host."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.free = 0.0

    def launch(self, seconds: float) -> None:
        self.free = max(self.free, self.clock.now) + seconds


class Event:
    """Passed when all that was launched before it is computed."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def record(self) -> None:
        self.at = self.device.free

    def query(self) -> bool:
        return self.at <= self.device.clock.now


def run_on_a_gpu(clock: Clock, monkeypatch: Any, launching: float, computing: float, reading: float = 0.0) -> Any:
    """Returns the shares of data and host of 50 micro-batches of 100 operations, the last 5 after the backward pass."""
    device = Device(clock)
    monkeypatch.setattr(GpuHost, "_event", lambda self: Event(device))
    meter, data, by_host, read = GpuHost(), 0.0, 0.0, 0.0
    for _ in range(50):
        # Workers have read the next batch `reading` after the last one was taken.
        waited = max(0.0, read + reading - clock.now)
        clock.now += waited
        read = clock.now
        clock.now += 0.0002
        meter.start(0, 1)
        for number in range(100):
            clock.now += launching / 100
            device.launch(computing / 100)
            if number == 94:
                meter.launched()
            if number >= 95 and device.free > clock.now + 1000 * computing / 100:
                clock.now = device.free - 1000 * computing / 100  # the queue is full
        one = meter.end(waited)
        data, by_host = data + one[0], by_host + one[1]
    return data / clock.now, by_host / clock.now


def test_a_gpu_that_waits_for_launches(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    data, by_host = run_on_a_gpu(clock, monkeypatch, launching=0.047, computing=0.030)
    assert data == 0
    assert by_host > 0.95


def test_a_gpu_that_is_behind_the_host(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    data, by_host = run_on_a_gpu(clock, monkeypatch, launching=0.047, computing=0.080)
    assert data == 0
    assert by_host < 0.05


def test_a_gpu_that_waits_for_data(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    data, by_host = run_on_a_gpu(clock, monkeypatch, launching=0.030, computing=0.050, reading=0.4)
    assert data > 0.8
    assert by_host < 0.05


def test_waiting_beside_a_busy_gpu_costs_nothing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    data, by_host = run_on_a_gpu(clock, monkeypatch, launching=0.030, computing=0.100, reading=0.060)
    assert data < 0.05
    assert by_host < 0.05


def test_work_between_micro_batches_is_that_of_the_host(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(clock)
    monkeypatch.setattr(GpuHost, "_event", lambda self: Event(device))
    meter = GpuHost()
    found = []
    for _ in range(3):
        meter.start(0, 1)
        device.launch(1.0)
        meter.launched()
        found.append(meter.end(0.0))
        clock.now += 10.0  # a checkpoint is saved
    assert found == [(0.0, 0.0, 0.0), (0.0, 10.0, 0.0), (0.0, 10.0, 0.0)]
    meter.restart()  # after a validation
    meter.start(0, 1)
    device.launch(1.0)
    meter.launched()
    assert meter.end(0.0) == (0.0, 0.0, 0.0)


def recorded(monkeypatch: pytest.MonkeyPatch, seconds: list[float], total: float = 1.0) -> list[str]:
    """Makes records have these times of the host, of `total`; returns a log of their starts and stops."""
    log: list[str] = []
    values = iter(seconds)
    monkeypatch.setattr(host, "operation_cost", lambda: None)
    monkeypatch.setattr(host, "host_seconds", lambda events: (next(values), total))
    monkeypatch.setattr(Recorder, "start", staticmethod(lambda: log.append("start")))
    monkeypatch.setattr(Recorder, "stop", staticmethod(lambda: log.append("stop") or []))
    return log


def test_first_middle_and_last_of_an_update_are_recorded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    log = recorded(monkeypatch, [0.5, 0.1, 0.9])
    meter = CpuHost(updates=1)
    starts = []
    for update in range(4):
        for number in range(6):
            before = log.count("start")
            meter.start(number, 6)
            meter.end(0.0)
            if log.count("start") > before:
                starts.append((update, number))
        assert math.isnan(meter.share) == (update == 0)
    assert starts == [(1, 0), (1, 1), (1, 5)]
    assert meter.share == pytest.approx((0.5 + 4 * 0.1 + 0.9) / 6)
    assert log.count("stop") == 3


@pytest.mark.parametrize(("of", "seconds", "mean"), [(1, [0.4], 0.4), (2, [0.4, 0.6], 0.5), (3, [0.3, 0.1, 0.2], 0.2)])
def test_short_updates(of: int, seconds: list[float], mean: float, clock: Clock, monkeypatch: Any) -> None:
    recorded(monkeypatch, seconds, total=2.0)
    meter = CpuHost(updates=1)
    for _ in range(2):
        for number in range(of):
            meter.start(number, of)
            meter.end(0.0)
    assert meter.share == pytest.approx(mean / 2)


def test_between_micro_batches_without_waiting(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, [])
    meter = CpuHost(updates=0)
    meter.start(0, 1)
    assert meter.end(0.0) == (0.0, 0.0, 0.0)
    clock.now += 5.0
    meter.start(0, 1)
    clock.now += 4.0
    assert meter.end(3.0) == (3.0, 2.0, 4.0)


def test_a_median_of_updates(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, [0.9, 0.2, 0.3])
    meter = CpuHost(updates=3)
    shares = []
    for _ in range(5):
        meter.start(0, 1)
        meter.end(0.0)
        shares.append(meter.share)
    assert shares == pytest.approx([math.nan, math.nan, math.nan, 0.3, 0.3], nan_ok=True)


def test_an_interrupted_recording_ends() -> None:
    meter = CpuHost()
    for _ in range(2):
        meter.start(0, 1)
        time.sleep(0)
        if Recorder.available():
            meter.end(0.0)
    assert not Recorder.available()
    meter.stop()
    assert Recorder.available()


def test_where_the_host_cannot_be_told_apart() -> None:
    model, cpu = nn.Linear(2, 2), torch.device("cpu")
    assert isinstance(host_meter(model, cpu, False), CpuHost)
    assert host_meter(model, torch.device("cuda", 0), True) is None
    assert host_meter(model, torch.device("mps"), False) is None
    model.compile(backend="eager")
    assert host_meter(model, cpu, False) is None

"""The measured steps of a tiny model, in this process and in one of its own."""

from __future__ import annotations

from functools import partial

import pytest

from tests.contracts.tiny import build_model
from tests.processes.isolated import in_a_process_of_its_own
from w2vlab.explain.batch_size.cost_model import BatchShape
from w2vlab.explain.batch_size.fitting_memory import OutOfMemory
from w2vlab.explain.batch_size.machines import CpuMachine
from w2vlab.explain.batch_size.steps import TrialSettings
from w2vlab.explain.speed.steps import measure_steps, model_flops
from w2vlab.modules import FuturePrediction, MaskedPrediction

GIB = 2**30
CPU = {"accelerator": "cpu", "devices": 1}


def tiny() -> MaskedPrediction:
    return build_model(MaskedPrediction)


@in_a_process_of_its_own
def test_steps_on_a_machine() -> None:
    machine = CpuMachine(TrialSettings(tiny, trainer=CPU, accumulate=2), 8 * GIB)
    passed: list[float] = []
    shape = BatchShape(3, 0.2)
    measured = machine.call(partial(measure_steps, machine.settings, shape, 8.0), passed.append)
    assert measured.shape == shape
    assert 3 <= len(measured.times) <= 24
    assert len(passed) == 2 + 1 + len(measured.times)
    assert measured.host is not None
    assert 0 < measured.host < 1
    assert measured.rate > 1e8
    assert (measured.dtype, measured.device, measured.asynchronous) == ("float32", "cpu", False)
    machine.memory = 2**20
    with pytest.raises(OutOfMemory):
        machine.call(partial(measure_steps, machine.settings, shape, 8.0), passed.append)


@in_a_process_of_its_own
def test_steps_that_take_long_are_measured_with_fewer_utterances() -> None:
    settings = TrialSettings(tiny, trainer=CPU)
    measured = measure_steps(settings, BatchShape(1000, 0.2), 0.0, lambda seconds: None)
    assert measured.shape == BatchShape(1, 0.2)
    assert len(measured.times) == 1
    assert measured.host is not None
    assert 0 < measured.host < 1


def test_operations_grow_with_the_batch() -> None:
    flops = [model_flops(build_model(FuturePrediction), BatchShape(n, 0.1)) for n in (1, 4)]
    assert 3 * flops[0] < flops[1] < 6 * flops[0]

"""Training steps on noise, in this process and in one that may end."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest
import torch

from tests.contracts.tiny import build_model
from tests.processes.isolated import in_a_process_of_its_own
from w2vlab.explain.batch_size.cost_model import BatchShape
from w2vlab.explain.batch_size.fitting_memory import OutOfMemory
from w2vlab.explain.batch_size.machines import CpuMachine, GpuMachine
from w2vlab.explain.batch_size.steps import TrialSettings, run_updates
from w2vlab.losses import CodePredictionLoss
from w2vlab.modules import FuturePrediction, MaskedPrediction
from w2vlab.quantizers import FileTargets
from w2vlab.types import RunError

SHAPES = [BatchShape(2, 0.1), BatchShape(1, 0.3), BatchShape(3, 0.2)]
GIB = 2**30
CPU = {"accelerator": "cpu", "devices": 1}


def tiny():
    return build_model(MaskedPrediction)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def ended():
    os._exit(3)


def wrong():
    raise ValueError("`model_dim` must be a multiple of `num_heads`.")


def settings(build=tiny, **options):
    return TrialSettings(build_model=build, trainer=options.pop("trainer", CPU), **options)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_update_trains_on_its_batch(accumulate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, times, seen, steps = tiny(), [], [], []
    compute = model.compute_loss
    monkeypatch.setattr(
        model, "compute_loss", lambda batch, draws: seen.append(batch.waveform.shape) or compute(batch, draws)
    )
    monkeypatch.setattr(
        model, "optimizer_step", lambda *a, **k: steps.append(1) or type(model).optimizer_step(model, *a, **k)
    )
    before = [parameter.detach().clone() for parameter in model.parameters()]
    run_updates(settings(accumulate=accumulate), model, SHAPES, times.append)
    assert len(times) == 3
    assert min(times) > 0
    assert len(steps) == 3
    wanted = [(shape.utterances, round(shape.seconds * 16_000)) for shape in SHAPES for _ in range(accumulate)]
    assert list(map(tuple, seen)) == wanted
    assert any(not torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    assert list(tmp_path.iterdir()) == []


def test_an_objective_without_masks_is_measured():
    times = []
    run_updates(settings(), build_model(FuturePrediction), SHAPES, times.append)
    assert len(times) == 3


def test_no_layer_is_dropped():
    model = tiny()
    model.context.layers.layer_drop = 0.9
    run_updates(settings(), model, SHAPES[:1], lambda seconds: None)
    assert not any(model.context.layers.dropped)


def test_the_precision_is_that_of_the_trainer(monkeypatch):
    model, enabled = tiny(), []
    compute = model.compute_loss
    monkeypatch.setattr(
        model,
        "compute_loss",
        lambda batch, draws: enabled.append(torch.is_autocast_enabled("cpu")) or compute(batch, draws),
    )
    run_updates(settings(trainer={**CPU, "precision": "bf16-mixed"}), model, SHAPES[:1], lambda seconds: None)
    assert enabled == [True]


def test_units_of_utterances_need_no_file():
    quantizer = partial(FileTargets, path="nowhere", num_codebooks=1, codebook_size=5)
    model = build_model(
        MaskedPrediction, quantizer=quantizer, loss=partial(CodePredictionLoss, similarity="cosine"), penalties={}
    )
    times = []
    run_updates(settings(), model, SHAPES[:1], times.append)
    assert len(times) == 1


def test_memory_that_runs_out_in_this_process_is_an_error_of_its_own(monkeypatch):
    model = tiny()

    def compute(batch, draws):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")

    monkeypatch.setattr(model, "compute_loss", compute)
    with pytest.raises(OutOfMemory, match="can't allocate memory"):
        run_updates(settings(), model, SHAPES, lambda seconds: None)
    monkeypatch.undo()
    times = []
    run_updates(settings(), model, SHAPES, times.append)  # smaller batches can be tried with the same model
    assert len(times) == 3


@in_a_process_of_its_own
def test_another_process_measures_times_and_memory():
    # Autograd then starts threads for the devices of a fake GPU, after which a fork of this process has no gradients.
    torch._C._ensureCUDADeviceGuardSet()
    torch.ones(1, requires_grad=True).sum().backward()
    done = []
    updates = CpuMachine(settings(), memory=64 * GIB).run(SHAPES, done.append)
    assert len(updates.times) == len(done) == 3
    assert min(updates.times) > 0
    assert 0.05 * GIB < updates.peak < 8 * GIB


def test_a_process_that_takes_too_much_memory_is_ended():
    with pytest.raises(OutOfMemory):
        CpuMachine(settings(), memory=10 * 2**20).run(SHAPES)


def test_a_process_that_the_system_kills_has_run_out_of_memory():
    with pytest.raises(OutOfMemory, match="killed by the system"):
        CpuMachine(settings(killed), memory=64 * GIB).run(SHAPES)


def test_a_process_that_ends_is_an_error():
    with pytest.raises(RunError, match="ended with status 3"):
        CpuMachine(settings(ended), memory=64 * GIB).run(SHAPES)


def test_an_error_in_the_process_is_that_of_the_trial():
    with pytest.raises(ValueError, match="must be a multiple of") as found:
        CpuMachine(settings(wrong), memory=64 * GIB).run(SHAPES)
    assert "in wrong" in found.value.__notes__[0]


def test_a_gpu_is_limited_to_the_memory_that_it_may_take(monkeypatch):
    limits = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7 * GIB, 8 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *limit: limits.append(limit))
    machine = GpuMachine(settings(), memory=6 * GIB, device=torch.device("cuda:1"))  # whose trainer is on the CPU
    assert limits == [(0.75, torch.device("cuda:1"))]
    steps = []
    assert len(machine.run(SHAPES, steps.append).times) == len(steps) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_runs_out_of_the_memory_that_it_may_take():
    machine = GpuMachine(
        settings(trainer={"accelerator": "gpu", "devices": 1}), memory=GIB, device=torch.device("cuda:0")
    )
    updates = machine.run(SHAPES)
    assert len(updates.times) == 3
    assert 0 < updates.peak < GIB
    with pytest.raises(OutOfMemory):
        machine.run([BatchShape(20_000, 1.0)])
    assert len(machine.run(SHAPES).times) == 3

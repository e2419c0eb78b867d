"""Weights that are cast once an update: how often, and never stale."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from tests.modules.training import NoiselessGumbel, fit, make_batches, make_model, parameters_of
from w2vlab.functional.kernels import (
    Conv1d,
    Linear,
    free_copies,
    keep_copies,
    plain_kernels,
    weights,
    weights_cast_once,
)
from w2vlab.functional.kernels.recompute import GELU
from w2vlab.modules import MaskedPrediction


@pytest.fixture(autouse=True)
def nothing_is_kept() -> Iterator[None]:
    yield
    assert not weights._copies


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Conv1d(8, 16, 3, 2), GELU(recompute=True), Linear(16, 16), Linear(16, 4))


def outputs(model: nn.Module, frames: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        found: Tensor = model(frames)
    return found


def gradients(model: nn.Module, frames: Tensor) -> list[Tensor]:
    model.zero_grad()
    outputs(model, frames).float().square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


FRAMES = torch.randn(2, 21, 8, generator=torch.Generator().manual_seed(1))


def test_outputs_and_gradients_are_those_of_a_cast_in_each_forward_pass() -> None:
    model = network()
    expected, wanted = outputs(model, FRAMES), gradients(model, FRAMES)
    with weights_cast_once():
        for _ in range(2):
            assert torch.equal(outputs(model, FRAMES), expected)
            found = gradients(model, FRAMES)
            assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
            assert {tensor.dtype for tensor in found} == {torch.float32}


def casts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Records the shape of each parameter that is cast for a copy."""
    found: list[tuple[int, ...]] = []

    class Recorded(weights._Copy):
        def __init__(self, of: object, version: int, data: Tensor, copy: Tensor) -> None:
            super().__init__(of, version, data, copy)  # type: ignore[arg-type]
            found.append(tuple(copy.shape))

    monkeypatch.setattr(weights, "_Copy", Recorded)
    return found


def test_each_weight_is_cast_once_over_micro_batches_and_recomputation(monkeypatch: pytest.MonkeyPatch) -> None:
    found, model = casts(monkeypatch), network()
    with weights_cast_once():
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                output = checkpoint(model, FRAMES, use_reentrant=False)
            output.float().sum().backward()
        assert sorted(found) == [(4, 16), (16, 8, 3), (16, 16)]
        with torch.inference_mode():
            outputs(model, FRAMES)
        gradients(model, FRAMES)
        assert len(found) == 3, "a validation uses them, too"


def test_a_copy_that_is_made_in_inference_mode_can_be_trained_with() -> None:
    model = network()
    wanted = gradients(model, FRAMES)
    with weights_cast_once():
        with torch.inference_mode():
            outputs(model, FRAMES)
        assert all(torch.equal(*pair) for pair in zip(gradients(model, FRAMES), wanted, strict=True))


def step(optimizer: Callable[..., torch.optim.Optimizer], **options: object) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer(model.parameters(), lr=0.1, **options).step()

    return change


@torch.no_grad()
def average(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.lerp_(torch.ones_like(parameter), 0.5)


def load(model: nn.Module) -> None:
    model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})


def load_and_assign(model: nn.Module) -> None:
    model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()}, assign=True)


def assign_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data + 1


def transpose(model: nn.Module) -> None:
    model[2].weight.data = model[2].weight.data.t()


def replace(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Conv1d | Linear):
            module.weight = nn.Parameter(module.weight.detach() + 1)


def initialise(model: nn.Module) -> None:
    for parameter in model.parameters():
        nn.init.normal_(parameter)


@pytest.mark.parametrize(
    "change",
    [
        step(torch.optim.AdamW, fused=True),
        step(torch.optim.AdamW, foreach=True),
        step(torch.optim.AdamW, foreach=False),
        step(torch.optim.SGD, fused=True),
        average,
        load,
        load_and_assign,
        assign_data,
        transpose,
        replace,
        initialise,
    ],
    ids=[
        "fused",
        "foreach",
        "for_loop",
        "fused_sgd",
        "average",
        "load",
        "assign",
        "data",
        "transpose",
        "replace",
        "initialise",
    ],
)
def test_a_changed_weight_is_cast_again(change: Callable[[nn.Module], None]) -> None:
    model = network()
    with weights_cast_once():
        before = outputs(model, FRAMES)
        change(model)
        found = outputs(model, FRAMES)
    assert torch.equal(found, outputs(model, FRAMES))
    assert not torch.equal(found, before)


def test_a_weight_that_moves_within_its_memory_is_cast_again() -> None:
    model = network()
    versions = torch.randn(2, 16, 16)  # of one weight, in the same memory
    model[2].weight.data = versions[0]
    with weights_cast_once():
        before = outputs(model, FRAMES)
        model[2].weight.data = versions[1]
        found = outputs(model, FRAMES)
    assert torch.equal(found, outputs(model, FRAMES))
    assert not torch.equal(found, before)


def test_no_copy_outlives_its_owner() -> None:
    """So that even a change that PyTorch does not count is seen by the next update."""
    model = network()
    owner, other = nn.Module(), nn.Module()
    keep_copies(owner)
    keep_copies(owner)
    keep_copies(other)
    outputs(model, FRAMES)
    free_copies(owner)
    assert weights._copies, "another one keeps them"
    free_copies(other)
    assert not weights._copies
    free_copies(other)
    for parameter in model.parameters():
        parameter.data.add_(1)
    expected = F.linear(F.gelu(model[0](FRAMES)), *model[2].parameters())
    assert_close(outputs(model[:3], FRAMES).float(), expected, rtol=0.05, atol=0.5)


def test_an_owner_that_is_gone_keeps_nothing() -> None:
    model, owner = network(), nn.Module()
    keep_copies(owner)
    del owner
    gc.collect()
    outputs(model, FRAMES)
    assert not weights._copies


def test_a_new_parameter_at_the_place_of_another_is_cast() -> None:
    with weights_cast_once():
        for number in range(20):  # some of them get the id of the one before
            layer = Linear(3, 3, bias=False)
            nn.init.constant_(layer.weight, number)
            assert_close(outputs(layer, torch.ones(1, 3)), torch.full((1, 3), 3.0 * number).bfloat16())
            del layer


def test_a_computed_weight_has_no_copy() -> None:
    layer = weight_norm(Linear(8, 8), dim=0)
    with weights_cast_once():
        expected = outputs(layer, FRAMES)
        assert not weights._copies
        with torch.no_grad():
            layer.parametrizations.weight.original0.mul_(2)
        assert not torch.equal(outputs(layer, FRAMES), expected)


def test_without_autocast_and_with_plain_kernels_nothing_is_copied() -> None:
    model = network()
    with weights_cast_once():
        model(FRAMES)
        model.double()(FRAMES.double())
        with plain_kernels():
            outputs(model.float(), FRAMES)
        assert not weights._copies


def test_a_compiled_model_has_no_graph_breaks_and_no_copies() -> None:
    model = nn.Sequential(Linear(8, 8), Conv1d(8, 8, 2))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with weights_cast_once():
        found = outputs(compiled, FRAMES)
        assert not weights._copies
    assert_close(found, outputs(model, FRAMES), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_update_of_several_micro_batches_casts_each_weight_once(
    checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses and weights are those of a run that casts in each forward pass, with a fused optimizer."""
    runs, found = [], casts(monkeypatch)
    for kept in (False, True):
        model = make_model(MaskedPrediction, NoiselessGumbel)
        model.context.layers.activation_checkpointing = checkpointing
        model.make_optimizer = partial(torch.optim.AdamW, lr=0.01, fused=True)
        if not kept:
            monkeypatch.setattr("w2vlab.modules.update.keep_copies", lambda owner: None)
        record = fit(model, make_batches(3, 4, 2), 3, accumulate=4, precision="bf16-mixed")
        runs.append((record.losses, parameters_of(model)))
        monkeypatch.undo()
        found = casts(monkeypatch) if not kept else found
    (expected, weights_before), (losses, weights_after) = runs
    assert losses == expected
    assert all(torch.equal(tensor, weights_before[name]) for name, tensor in weights_after.items())
    copied = sum(isinstance(module, Linear | Conv1d) for module in model.modules()) - 1  # not that of the waveform
    assert len(found) == 3 * copied
    assert not weights._copies


@pytest.mark.parametrize("sharded", [False, True])
def test_a_single_micro_batch_and_sharded_weights_have_no_copies(
    sharded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would cost memory, and gain nothing or keep what is to be freed."""
    found = casts(monkeypatch)
    if sharded:
        monkeypatch.setattr(SingleDeviceStrategy, "shards_weights", True, raising=False)
    accumulate = 2 if sharded else 1
    fit(make_model(MaskedPrediction, NoiselessGumbel), make_batches(1, 2, 2), 1, accumulate, precision="bf16-mixed")
    assert not found

"""LayerDrop: dropped layers, their cost, and that all processes drop the same layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from tests.contracts.tiny import build, build_model, factory
from tests.ddp.processes import in_two_processes
from tests.modules.training import constant_rate, fit, make_batches, parameters_of, plain_sgd
from w2vlab.contexts import ConformerContext, TransformerContext
from w2vlab.contexts.layer_drop import LayerDropStack
from w2vlab.functional.gradients import with_zero_gradients
from w2vlab.interfaces import StepDependent
from w2vlab.masking import SpanMasking
from w2vlab.modules import MaskedPrediction
from w2vlab.quantizers import KMeansQuantizer

both = pytest.mark.parametrize("cls", [TransformerContext, ConformerContext])


class Affine(nn.Module):
    """A layer that counts how often it is run."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, dtype=torch.float64)
        self.runs = 0

    def forward(self, frames: Tensor, padding_mask: Tensor | None) -> Tensor:
        self.runs += 1
        return frames + self.linear(frames).tanh()


def stack_of(num_layers: int, layer_drop: float) -> LayerDropStack:
    torch.manual_seed(0)
    return LayerDropStack([Affine() for _ in range(num_layers)], layer_drop)


def dropped_at(stack: LayerDropStack, update: int, seed: int = 0) -> tuple[bool, ...]:
    stack.set_update(update, seed)
    return stack.dropped


def update_with(stack: LayerDropStack, rule) -> int:
    """The first update whose draw fulfils `rule`."""
    return next(update for update in range(1000) if rule(dropped_at(stack, update)))


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_each_layer_is_left_out_at_the_rate_it_says(rate: float) -> None:
    """12 layers over 5,000 updates, each within six standard errors; and two layers are independent of each other."""
    stack = stack_of(12, rate)
    draws = torch.tensor([dropped_at(stack, update, seed=1) for update in range(5000)]).double()
    bound = 6 * (rate * (1 - rate) / 5000) ** 0.5
    assert ((draws.mean(0) - rate).abs() < bound).all()
    both_dropped = (draws[:, 0] * draws[:, 1]).mean()
    assert abs(both_dropped - rate**2) < 6 * (rate**2 * (1 - rate**2) / 5000) ** 0.5


def test_seed_and_update_decide_which_layers() -> None:
    """So a resumed run, another process and another micro-batch leave out the same."""
    stack, other = stack_of(12, 0.5), stack_of(12, 0.5)
    draws = [dropped_at(stack, update, seed=3) for update in range(20)]
    assert [dropped_at(other, update, seed=3) for update in reversed(range(20))] == draws[::-1]
    assert len(set(draws)) > 15
    assert [dropped_at(stack, update, seed=4) for update in range(20)] != draws
    assert stack.scheduled_values(7) == {}


def test_a_layer_left_out_is_not_run() -> None:
    stack = stack_of(8, 0.5)
    stack.set_update(update_with(stack, lambda dropped: 2 < sum(dropped) < 6))
    frames = torch.randn(2, 3, 4, dtype=torch.float64)
    expected = frames
    for layer, dropped in zip(stack, stack.dropped, strict=True):
        expected = expected if dropped else expected + layer.linear(expected).tanh()
    assert_close(stack(frames, None), expected)
    assert [layer.runs for layer in stack] == [int(not dropped) for dropped in stack.dropped]


def test_gradients_are_those_of_the_layers_that_are_left_and_zero_elsewhere() -> None:
    stack = stack_of(6, 0.5)
    stack.set_update(update_with(stack, lambda dropped: sum(dropped) == 3))
    frames = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    stack(frames, None).square().sum().backward()
    left = LayerDropStack([layer for layer, dropped in zip(stack, stack.dropped, strict=True) if not dropped])
    parameters = [*left.parameters(), frames]
    expected = torch.autograd.grad(left(frames, None).square().sum(), parameters)
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert_close(parameter.grad, gradient)
    for layer, dropped in zip(stack, stack.dropped, strict=True):
        for parameter in layer.parameters():
            assert parameter.grad is not None
            assert bool((parameter.grad == 0).all()) is dropped


def test_all_layers_can_be_left_out() -> None:
    stack = stack_of(3, 0.9)
    stack.set_update(update_with(stack, all))
    frames = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    output = stack(frames, None)
    assert torch.equal(output, frames)
    output.sum().backward()
    assert torch.equal(frames.grad, torch.ones_like(frames))
    assert all((parameter.grad == 0).all() for parameter in stack.parameters())


def test_nothing_is_left_out_in_evaluation() -> None:
    stack = stack_of(6, 0.9).eval()
    stack.set_update(update_with(stack, all))
    frames = torch.randn(2, 3, 4, dtype=torch.float64)
    assert not torch.equal(stack(frames, None), frames)
    assert all(layer.runs == 1 for layer in stack)


def test_gradients_accumulate_and_optimise() -> None:
    """Zeros are added to existing gradients; frozen parameters and inputs without gradient are left alone."""
    value = torch.randn(3)
    learned, frozen = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2), requires_grad=False)
    learned.grad = torch.tensor([1.0, 2.0])
    for _ in range(2):
        output = with_zero_gradients(value, [learned, frozen])
        assert torch.equal(output, value)
        output.sum().backward()
    assert torch.equal(learned.grad, torch.tensor([1.0, 2.0]))
    assert frozen.grad is None
    learned.grad = None
    with_zero_gradients(value, [learned]).sum().backward()
    torch.optim.AdamW([learned], lr=0.1, weight_decay=0.1).step()
    assert_close(learned.detach(), torch.full((2,), 0.99))  # the decay alone: 1 - 0.1 * 0.1


def test_with_zero_gradients_has_the_right_gradient() -> None:
    value = torch.randn(3, dtype=torch.float64, requires_grad=True)
    parameter = torch.ones(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda value, parameter: with_zero_gradients(value, [parameter]), (value, parameter)
    )


@both
def test_the_model_passes_seed_and_update_to_its_context(cls: type) -> None:
    model = build_model(MaskedPrediction, context=factory(cls, num_layers=12, layer_drop=0.5), seed=5)
    assert isinstance(model.context.layers, StepDependent)
    reference = stack_of(12, 0.5)
    for update in (0, 7):
        model.set_update(update)
        assert model.context.layers.dropped == dropped_at(reference, update, seed=5)


@both
def test_it_costs_as_much_as_the_remaining_layers(cls: type) -> None:
    """Counted, forward and backward; with k of L layers left out, exactly what a network of L - k layers costs."""
    stack = build(cls, num_layers=6, layer_drop=0.5)
    stack.layers.set_update(update_with(stack.layers, lambda dropped: 0 < sum(dropped) < 6))
    left = build(cls, num_layers=6 - sum(stack.layers.dropped), layer_drop=0.0)
    assert flops(stack) == flops(left) < flops(stack.eval())


def flops(network: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(2, 9, 8)).sum().backward()
    return counter.get_total_flops()


@both
@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_that_cannot_be(cls: type, rate: float) -> None:
    with pytest.raises(ValueError, match=f"`layer_drop` must be at least 0 and below 1, but is {rate}"):
        build(cls, layer_drop=rate)


def test_accumulation_changes_nothing() -> None:
    """Three updates of 1 x 4 and of 2 x 2 utterances: the micro-batches of an update leave out the same layers."""
    results = []
    for micro_batches in (1, 2):
        torch.manual_seed(0)
        model = build_model(
            MaskedPrediction,
            context=factory(TransformerContext, num_layers=4, layer_drop=0.5),
            masking=factory(SpanMasking, equalize="none"),
            quantizer=factory(KMeansQuantizer),
            penalties={},
            optimizer=plain_sgd,
            scheduler=constant_rate,
        )
        fit(model, make_batches(3, micro_batches, 4 // micro_batches), 3, micro_batches, precision="64-true")
        results.append(parameters_of(model))
    for name, expected in results[0].items():
        assert_close(results[1][name], expected, rtol=1e-8, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


def train(rows: slice) -> list[Tensor]:
    """Four updates of two micro-batches each on a share of the utterances, in DDP where there is one."""
    torch.manual_seed(0)
    network = build(TransformerContext, num_layers=4, layer_drop=0.5).double()
    distributed = dist.is_initialized()
    model = DistributedDataParallel(network) if distributed else network
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    frames = torch.randn(4, 2, 4, 7, 8, dtype=torch.float64)  # updates, micro-batches, utterances, T, D
    for update, micro_batches in enumerate(frames):
        network.layers.set_update(update, seed=2)
        model.require_backward_grad_sync = False
        model(micro_batches[0, rows]).square().mean().backward()
        model.require_backward_grad_sync = True
        model(micro_batches[1, rows]).square().mean().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach() for parameter in network.parameters()]


def run(folder: Path) -> list[torch.Tensor]:
    first = 2 * dist.get_rank()
    return train(slice(first, first + 2))


def test_two_processes_do_as_one(tmp_path: Path) -> None:
    """Without a search for unused parameters: DDP finds a gradient of each, and both processes drop the same layers."""
    expected = train(slice(0, 4))
    for found in in_two_processes(run, tmp_path):
        for parameter, alone in zip(found, expected, strict=True):
            # An update of AdamW is 0.01, and a gradient of 1e-11 has the rounding of a sum of other parts in it.
            assert_close(parameter, alone, rtol=1e-8, atol=1e-9)

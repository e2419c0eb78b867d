"""What prediction losses promise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contracts.tiny import (
    WIDTH,
    OnlyFloat64,
    address,
    assert_gradients_finite,
    build,
    classes,
    padding_mask,
)
from w2vlab.types import LossOutput, PredictionTask, QuantizerOutput

losses = pytest.mark.parametrize("cls", classes("loss"), ids=lambda cls: cls.__name__)

LENGTHS = (12, 7, 9)
OVERLAP = 2


def make_task(
    lengths: tuple[int, ...] = LENGTHS, dtype: torch.dtype = torch.float32, update: int = 0
) -> PredictionTask:
    torch.manual_seed(5)
    context = torch.randn(len(lengths), max(lengths), WIDTH).to(dtype)
    quantized = torch.randn(len(lengths), max(lengths), WIDTH).to(dtype)
    return as_task(context, quantized, lengths, update)


def as_task(
    context: Tensor, quantized: Tensor, lengths: tuple[int, ...], update: int = 0, first: int = 0
) -> PredictionTask:
    context, quantized = context.detach().clone().requires_grad_(), quantized.detach().clone().requires_grad_()
    targets = QuantizerOutput(quantized, torch.zeros(*quantized.shape[:2], 0, dtype=torch.int64))
    return PredictionTask(context, targets, lengths, address(len(lengths), update, first), OVERLAP)


@losses
def test_loss_is_a_sum_with_its_counts(cls: type) -> None:
    loss = build(cls)
    output: LossOutput = loss(make_task())
    assert isinstance(cls.name, str)
    assert output.total.shape == ()
    assert output.total > 0
    assert output.total.dtype == torch.float32
    assert len(output.counts) == len(LENGTHS)
    assert all(isinstance(count, int) and count > 0 for count in output.counts)
    assert 0 <= int(output.num_correct) <= sum(output.counts)
    assert output.num_candidates >= 2
    assert all(value.shape == () for value in output.metrics.values())


@losses
def test_loss_ignores_padding(cls: type) -> None:
    loss = build(cls)
    task = make_task()
    output = loss(task)
    parts = []
    for row, length in enumerate(LENGTHS):
        part = slice(row, row + 1), slice(length)
        parts.append(loss(as_task(task.context[part], task.targets.quantized[part], (length,), first=row)))
    assert_close(output.total, torch.stack([part.total for part in parts]).sum())
    assert output.counts == tuple(part.counts[0] for part in parts)
    assert output.num_correct == sum(int(part.num_correct) for part in parts)


@losses
def test_no_gradient_reaches_padding(cls: type) -> None:
    task = make_task()
    build(cls)(task).total.backward()
    assert (task.context.grad[padding_mask(LENGTHS)] == 0).all()
    assert (task.targets.quantized.grad[padding_mask(LENGTHS)] == 0).all()


@losses
def test_loss_teaches_contexts_targets_and_its_own_parameters(cls: type) -> None:
    loss, task = build(cls), make_task()
    loss(task).total.backward()
    assert_gradients_finite(loss, task.context, task.targets.quantized)


@losses
def test_draws_of_a_loss_follow_from_its_address(cls: type) -> None:
    loss = build(cls)
    assert torch.equal(loss(make_task()).total, loss(make_task()).total)
    assert loss(make_task()).total != loss(make_task(update=1)).total


@losses
def test_fewest_frames_of_a_loss(cls: type) -> None:
    loss = build(cls)
    fewest = loss.min_frames(OVERLAP)
    assert sum(loss(make_task((fewest,))).counts) >= 1
    with pytest.raises(ValueError, match="An utterance must have"):
        loss(make_task((fewest - 1,)))


@losses
def test_loss_state_dict_holds_all_that_was_learned(cls: type) -> None:
    loss, other = build(cls), build(cls)
    other.load_state_dict(loss.state_dict(), strict=True)
    assert torch.equal(loss(make_task()).total, other(make_task()).total)


@losses
def test_loss_is_float32_in_bfloat16(cls: type) -> None:
    loss, task = build(cls), make_task(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        output = loss(task)
    assert output.total.dtype == torch.float32
    assert output.total.isfinite()
    output.total.backward()
    assert_gradients_finite(loss, task.context, task.targets.quantized)
    exact = loss(make_task())
    assert_close(output.total, exact.total, rtol=0.05, atol=0)


@losses
def test_loss_in_float64_stays_in_float64(cls: type) -> None:
    loss = build(cls).double()
    with OnlyFloat64():
        output = loss(make_task(dtype=torch.float64))
        output.total.backward()
    assert output.total.dtype == torch.float64

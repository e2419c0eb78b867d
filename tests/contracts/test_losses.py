"""The contract of prediction losses."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from tests.contracts.tiny import (
    SPEC,
    WIDTH,
    OnlyFloat64,
    address,
    assert_gradients_finite,
    build,
    classes,
    padding_mask,
)
from w2vlab.functional.codebooks import lookup_entries
from w2vlab.interfaces import PredictionLoss
from w2vlab.types import LossInputs, LossOutput, QuantizerOutput, RandomAddress

losses = pytest.mark.parametrize("cls", classes("loss"), ids=lambda cls: cls.__name__)

LENGTHS = (12, 7, 9)
OVERLAP = 2


def make_inputs(lengths: tuple[int, ...] = LENGTHS, dtype: torch.dtype = torch.float32, update: int = 0) -> LossInputs:
    torch.manual_seed(5)
    shape = len(lengths), max(lengths)
    context, quantized = (torch.randn(*shape, WIDTH).to(dtype) for _ in range(2))
    codes = torch.randint(0, SPEC.codebook_size, (*shape, SPEC.num_codebooks))
    entries = torch.randn(SPEC.num_codebooks, SPEC.codebook_size, WIDTH // SPEC.num_codebooks).to(dtype)
    return LossInputs(
        context=context.requires_grad_(),
        targets=QuantizerOutput(quantized=quantized.requires_grad_(), codes=codes),
        num_targets=lengths,
        address=address(len(lengths), update),
        first_ahead=OVERLAP,
        lookup=partial(lookup_entries, entries=entries),
    )


def only(inputs: LossInputs, row: int) -> LossInputs:
    """The inputs of one utterance, without padding."""
    part = slice(row, row + 1), slice(inputs.num_targets[row])
    targets = QuantizerOutput(quantized=inputs.targets.quantized[part], codes=inputs.targets.codes[part])
    return replace(
        inputs,
        context=inputs.context[part],
        targets=targets,
        num_targets=(inputs.num_targets[row],),
        address=address(1, first=row),
    )


class NothingRead(TorchDispatchMode):
    """Fails at the first operation for which a program on the host would have to wait for a device."""

    READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in self.READS, f"{func} waits for the device"
        if func.overloadpacket.__name__ in ("index", "index_put", "index_put_"):
            chosen = [index.dtype for index in args[1] if index is not None]
            assert torch.bool not in chosen, "indexing by a boolean mask waits for the device"
        return func(*args, **(kwargs or {}))


def assert_teaches(loss: PredictionLoss, inputs: LossInputs) -> None:
    """Gradient reaches everything that learns from this loss, and what does not is still in its graph."""
    quantized = inputs.targets.quantized
    if loss.teaches_targets:
        assert_gradients_finite(loss, inputs.context, quantized)
    else:
        assert_gradients_finite(loss, inputs.context)
        assert quantized.grad is not None
        assert (quantized.grad == 0).all()


@losses
def test_loss_is_a_sum_with_its_counts(cls: type) -> None:
    loss = build(cls)
    output: LossOutput = loss(make_inputs())
    assert isinstance(cls.name, str)
    assert output.total.shape == ()
    assert output.total > 0
    assert output.total.dtype == torch.float32
    assert len(output.num_predictions) == len(LENGTHS)
    assert all(isinstance(count, int) and count > 0 for count in output.num_predictions)
    assert 0 <= int(output.num_correct) <= sum(output.num_predictions)
    assert output.num_candidates >= 2 or output.num_candidates == 0 == int(output.num_correct)
    assert all(0 <= output.share(name) <= 1 and output.share(name).shape == () for name in output.shares)


@losses
def test_number_of_predictions_is_known_before_they_are_made(cls: type) -> None:
    loss, inputs = build(cls), make_inputs()
    assert loss.num_predictions(inputs.num_targets, inputs.first_ahead) == loss(inputs).num_predictions
    ahead = make_inputs()
    ahead.first_ahead = 2
    assert loss.num_predictions(ahead.num_targets, 2) == loss(ahead).num_predictions


@losses
def test_loss_ignores_padding(cls: type) -> None:
    loss = build(cls)
    inputs = make_inputs()
    output = loss(inputs)
    parts = [loss(only(inputs, row)) for row in range(len(LENGTHS))]
    assert_close(output.total, torch.stack([part.total for part in parts]).sum())
    assert output.num_predictions == tuple(part.num_predictions[0] for part in parts)
    assert output.num_correct == sum(int(part.num_correct) for part in parts)


@losses
def test_no_gradient_reaches_padding(cls: type) -> None:
    inputs = make_inputs()
    build(cls)(inputs).total.backward()
    assert (inputs.context.grad[padding_mask(LENGTHS)] == 0).all()
    assert (inputs.targets.quantized.grad[padding_mask(LENGTHS)] == 0).all()


@losses
def test_targets_are_outside_the_receptive_field_of_contexts(cls: type) -> None:
    """The last contexts, with nothing far enough ahead of them, make no prediction."""
    inputs = make_inputs()
    build(cls)(inputs).total.backward()
    for row, frames in enumerate(LENGTHS):
        asked = inputs.context.grad[row, :frames].abs().sum(dim=-1) > 0
        assert asked.tolist() == [True] * (frames - OVERLAP) + [False] * OVERLAP


@losses
def test_loss_teaches_contexts_targets_and_its_own_parameters(cls: type) -> None:
    loss, inputs = build(cls), make_inputs()
    loss(inputs).total.backward()
    assert_teaches(loss, inputs)


@losses
def test_draws_of_a_loss_follow_from_its_address(cls: type, monkeypatch: pytest.MonkeyPatch) -> None:
    purposes: list[str] = []
    generators = RandomAddress.generators

    def record(self: RandomAddress, purpose: str) -> list[np.random.Generator]:
        purposes.append(purpose)
        return generators(self, purpose)

    monkeypatch.setattr(RandomAddress, "generators", record)
    loss = build(cls)
    first, again, later = (loss(make_inputs(update=update)).total for update in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, later) is not bool(purposes)


@losses
def test_a_loss_never_waits_for_the_device(cls: type) -> None:
    loss, inputs = build(cls), make_inputs()
    with NothingRead():
        loss(inputs).total.backward()


@losses
def test_fewest_frames_of_a_loss(cls: type) -> None:
    loss = build(cls)
    fewest = loss.min_frames(OVERLAP)
    assert sum(loss(make_inputs((fewest,))).num_predictions) >= 1
    with pytest.raises(ValueError, match="An utterance must have"):
        loss(make_inputs((fewest - 1,)))


@losses
def test_loss_state_dict_holds_all_that_was_learned(cls: type) -> None:
    loss, other = build(cls), build(cls)
    other.load_state_dict(loss.state_dict(), strict=True)
    assert torch.equal(loss(make_inputs()).total, other(make_inputs()).total)


@losses
def test_loss_is_float32_in_bfloat16(cls: type) -> None:
    loss, inputs = build(cls), make_inputs(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        output = loss(inputs)
    assert output.total.dtype == torch.float32
    assert output.total.isfinite()
    output.total.backward()
    assert_teaches(loss, inputs)
    exact = loss(make_inputs())
    assert_close(output.total, exact.total, rtol=0.05, atol=0)


@losses
def test_loss_in_float64_stays_in_float64(cls: type) -> None:
    loss = build(cls).double()
    with OnlyFloat64():
        output = loss(make_inputs(dtype=torch.float64))
        output.total.backward()
    assert output.total.dtype == torch.float64

"""The update does not depend on how a batch is cut into micro-batches."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from tests.contracts.tiny import address, build_model
from tests.modules.training import (
    MODELS,
    NoiselessGumbel,
    constant_rate,
    fit,
    make_batches,
    make_model,
    parameters_of,
    plain_sgd,
)
from w2vlab.modules import MaskedPrediction, PretrainingModule
from w2vlab.quantizers import IdentityQuantizer, KMeansQuantizer


def train(cls: type[PretrainingModule], quantizer: type, micro_batches: int, size: int) -> dict[str, torch.Tensor]:
    model = make_model(cls, quantizer)
    batches = make_batches(3, micro_batches, size)
    fit(model, batches, updates=3, accumulate=micro_batches, precision="64-true")
    return parameters_of(model)


@pytest.mark.parametrize("quantizer", [IdentityQuantizer, KMeansQuantizer, NoiselessGumbel], ids=lambda q: q.__name__)
@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_update_does_not_depend_on_accumulation(cls: type[PretrainingModule], quantizer: type) -> None:
    """1 x 8, 2 x 4 and 4 x 2 utterances, in float64 so that rounding is out of the way.

    The diversity penalty is left out: it is a function of the mean assignment of a micro-batch, and so not a sum over
    utterances. The masks have different numbers of targets, so that a mean of means would be found out.
    """
    start = parameters_of(make_model(cls, quantizer).double())
    whole = train(cls, quantizer, 1, 8)
    for micro_batches, size in [(2, 4), (4, 2)]:
        cut = train(cls, quantizer, micro_batches, size)
        for name, parameter in whole.items():
            assert_close(cut[name], parameter, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")
    moved = [name for name, parameter in whole.items() if not torch.equal(parameter, start[name])]
    assert len(moved) == len(whole), "every parameter was trained, or the comparison says nothing"


def test_masks_differ_in_their_number_of_targets() -> None:
    """The premise of the test above."""
    model = make_model(MaskedPrediction, IdentityQuantizer)
    output = model(make_batches(1, 1, 8)[0], address(8))
    assert len(set(output.prediction.counts)) > 1


@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_gradient_is_that_of_the_mean_over_predictions(cls: type[PretrainingModule]) -> None:
    """By hand: three micro-batches of unlike size, two an update, so that the last update has one alone."""
    model, by_hand = make_model(cls, KMeansQuantizer), make_model(cls, KMeansQuantizer)
    batches = [*make_batches(1, 1, 3), *make_batches(1, 1, 2, samples=(300, 350)), *make_batches(1, 1, 4)]
    record = fit(model, batches, updates=2, accumulate=2)

    optimizer = plain_sgd(by_hand.parameters())
    for update, cut in enumerate([batches[:2], batches[2:]]):
        total, predictions = torch.zeros(()), 0
        for batch in cut:
            spot = address(len(batch), update)
            output = by_hand(batch, type(spot)(by_hand.seed, update, batch.ids))
            total = total + sum(by_hand.objective_terms(output).values())
            predictions += sum(output.prediction.counts)
        optimizer.zero_grad()
        (total / predictions).backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in by_hand.parameters()])
        optimizer.step()
    for (name, actual), expected in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        assert_close(actual, expected, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    assert record.metrics[-1]["train/gradient_norm"] == pytest.approx(float(norm), rel=1e-4)


def test_clipping_comes_after_normalisation() -> None:
    """A clip far above the norm of the mean gradient, and far below that of the sum, must change nothing."""
    batches = make_batches(1, 1, 8)
    plain, clipped = (make_model(MaskedPrediction, IdentityQuantizer) for _ in range(2))
    norm = fit(plain, batches, updates=1).metrics[-1]["train/gradient_norm"]
    fit(clipped, batches, updates=1, gradient_clip_val=2 * norm)
    for first, second in zip(plain.parameters(), clipped.parameters(), strict=True):
        assert torch.equal(first, second)


def test_temperature_is_a_function_of_the_update_not_of_forwards() -> None:
    """A defect of another implementation: under accumulation its temperature fell as many times as fast."""
    model = build_model(
        MaskedPrediction,
        quantizer=partial(NoiselessGumbel, codebook_size=5, output_dim=8, temperature_decay=0.5, temperature_end=0.1),
        optimizer=plain_sgd,
        scheduler=constant_rate,
    )
    record = fit(model, make_batches(3, 2, 2), 3, accumulate=2, validation=make_batches(1, 1, 2), val_check_interval=1)
    assert record.temperatures == pytest.approx([2.0, 2.0, 1.0, 1.0, 0.5, 0.5])
    assert model.quantizer.temperature_at(100) == 0.1

"""The update does not depend on how a batch is cut into micro-batches."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.testing import assert_close

from tests.contracts.tiny import address, build_model
from tests.modules.training import (
    MODELS,
    Gradients,
    NoiselessGumbel,
    constant_rate,
    fit,
    gradients_by_hand,
    loader,
    make_batches,
    make_model,
    make_trainer,
    plain_sgd,
    with_updates,
)
from w2vlab.modules import MaskedPrediction, PretrainingModule
from w2vlab.quantizers import EMAQuantizer, IdentityQuantizer, KMeansQuantizer

UPDATES = 5


QUANTIZERS = (IdentityQuantizer, KMeansQuantizer, EMAQuantizer, NoiselessGumbel)


def train(
    cls: type[PretrainingModule], quantizer: type, micro_batches: int, size: int, **options: Any
) -> dict[str, torch.Tensor]:
    """Five updates of eight utterances, two of them shorter; the state afterwards, moving averages included."""
    diversity = quantizer is NoiselessGumbel
    model = make_model(cls, quantizer, diversity=diversity)
    batches = with_updates(make_batches(UPDATES, micro_batches, size, samples=(400, 310)), micro_batches)
    fit(model, batches, updates=UPDATES, accumulate=micro_batches, **options)
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda q: q.__name__)
@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_update_does_not_depend_on_accumulation(cls: type[PretrainingModule], quantizer: type) -> None:
    """1 x 8, 2 x 4 and 4 x 2 utterances, in float64 so that rounding is out of the way, with the diversity penalty.

    The masks have different numbers of targets, so that a mean of means would be found out.
    """
    start = {name: value.double() for name, value in make_model(cls, quantizer).state_dict().items()}
    whole = train(cls, quantizer, 1, 8, precision="64-true")
    for micro_batches, size in [(2, 4), (4, 2)]:
        cut = train(cls, quantizer, micro_batches, size, precision="64-true")
        for name, value in whole.items():
            assert_close(cut[name], value, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")
    still = [name for name, value in whole.items() if value.is_floating_point() and torch.equal(value, start[name])]
    assert still in ([], ["quantizer.temperature"]), "everything was trained, or the comparison says nothing"


@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_float32_differs_by_rounding_only(cls: type[PretrainingModule]) -> None:
    whole, cut = (train(cls, NoiselessGumbel, *layout) for layout in ((1, 8), (4, 2)))
    for name, value in whole.items():
        assert_close(cut[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_diversity_of_each_micro_batch_is_another_objective() -> None:
    """The published average over each GPU, for comparison: it must differ, or the tests above compare nothing."""
    states = []
    for whole_update in (True, False):
        model = make_model(MaskedPrediction, NoiselessGumbel, diversity=True)
        model.penalties["diversity"].whole_update = whole_update
        fit(model, with_updates(make_batches(1, 4, 2), 4), updates=1, accumulate=4, precision="64-true")
        states.append(torch.cat([parameter.detach().flatten() for parameter in model.quantizer.scores.parameters()]))
    assert not torch.allclose(*states, rtol=1e-6)


def test_batches_without_their_update_are_refused() -> None:
    """How many predictions the later micro-batches have is not known then, and the loss could not be divided."""
    model = make_model(MaskedPrediction, IdentityQuantizer)
    with pytest.raises(ValueError, match=r"must be 1 for a loader whose batches .*, but is 2.*WholeUpdates\(loader"):
        make_trainer(1, accumulate=2).fit(model, loader(make_batches(1, 2, 2)))


@pytest.mark.parametrize(
    ("held", "accumulate", "message"),
    [
        (4, 2, "`accumulate_grad_batches` must be 4, as many .*, but is 2"),
        (
            2,
            4,
            "Micro-batch 3 .* must be that of .*the first of the next update.*`WholeUpdates` must be given",
        ),
    ],
)
def test_updates_of_another_size_are_refused(held: int, accumulate: int, message: str) -> None:
    """Or the loss would be divided by the predictions of other batches."""
    model = make_model(MaskedPrediction, IdentityQuantizer)
    with pytest.raises(ValueError, match=message):
        make_trainer(1, accumulate).fit(model, loader(make_batches(1, 4, 2), held))


def test_batches_in_another_order_are_refused() -> None:
    model = make_model(MaskedPrediction, IdentityQuantizer)
    first, second, third = make_batches(1, 3, 2)
    with pytest.raises(ValueError, match=r"Micro-batch 2 .* \(utterance-2, utterance-3\), but has utterance-4, utter"):
        make_trainer(1, 2).fit(model, loader([replace(first, update=(first, second)), third]))


def test_statistics_ahead_have_the_noise_of_the_step() -> None:
    """With dropout and Gumbel noise on: the summed assignments are those that the forward passes then have."""
    model = build_model(MaskedPrediction, feature_dropout=0.5, optimizer=plain_sgd, scheduler=constant_rate)
    batches = with_updates(make_batches(1, 3, 2, samples=(400, 310)), 3)
    seen: list[torch.Tensor] = []
    ahead: list[torch.Tensor] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            pl_module.keep_step = True

        def on_before_backward(self, trainer, pl_module, loss) -> None:
            output = pl_module.step.output
            penalty = pl_module.penalties["diversity"]
            seen.append(penalty.statistics(output.targets, output.target_padding_mask).detach())
            ahead.append(pl_module._statistics.statistics["diversity"])

    fit(model, batches, updates=1, accumulate=3, callbacks=[Watch()])
    assert len(seen) == 3
    assert_close(sum(seen).double(), ahead[0].double(), rtol=1e-5, atol=1e-6)


def test_gradients_are_kept_from_the_first_backward_pass_to_the_optimizer_step() -> None:
    model = make_model(MaskedPrediction, IdentityQuantizer)
    with_gradient: list[bool] = []

    def note(*_: object) -> None:
        with_gradient.append(any(parameter.grad is not None for parameter in model.parameters()))

    class AtTheEnds(pl.Callback):
        def on_before_optimizer_step(self, *_: object) -> None:
            note()

        def on_train_batch_end(self, *_: object) -> None:
            note()

    model.encoder.register_forward_hook(note)
    fit(model, make_batches(2, 2, 2), updates=2, accumulate=2, callbacks=[AtTheEnds()])
    # Of an update: two forward passes, each followed by the end of its batch, and the step before the second end.
    assert with_gradient == [False, True, True, True, False] * 2


def test_masks_are_drawn_once() -> None:
    """For the counts, for the statistics of the diversity penalty and for the forward pass."""
    model = make_model(MaskedPrediction, NoiselessGumbel, diversity=True)
    drawn: list[int] = []
    model.masking.register_forward_hook(lambda *arguments: drawn.append(model.global_step))
    fit(model, make_batches(2, 3, 2), updates=2, accumulate=3)
    assert drawn == [0] * 3 + [1] * 3


def test_a_mask_that_is_given_is_the_one_that_is_drawn() -> None:
    model = make_model(MaskedPrediction, IdentityQuantizer)
    batch = make_batches(1, 1, 3)[0]
    drawn, given = (model(batch, address(3), mask) for mask in (None, model.draw_mask(batch.num_samples, address(3))))
    assert torch.equal(drawn.prediction.total, given.prediction.total)
    assert torch.equal(drawn.mask.frames, given.mask.frames)


def test_masks_differ_in_their_number_of_targets() -> None:
    """The premise of the test above."""
    model = make_model(MaskedPrediction, IdentityQuantizer)
    output = model(make_batches(1, 1, 8)[0], address(8))
    assert len(set(output.prediction.num_predictions)) > 1


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
            output = by_hand(batch, replace(spot, seed=by_hand.seed, ids=batch.ids))
            total = total + sum(by_hand.objective_terms(output).values())
            predictions += sum(output.prediction.num_predictions)
        optimizer.zero_grad()
        (total / predictions).backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in by_hand.parameters()])
        optimizer.step()
    for (name, actual), expected in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        assert_close(actual, expected, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    assert record.metrics[-1]["train/gradient_norm"] == pytest.approx(float(norm), rel=1e-4)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_gradients_are_those_of_one_division(cls: type[PretrainingModule], accumulate: int) -> None:
    """The loss of every micro-batch is divided before its backward pass; by hand, the sum of all of them is, once."""
    batches = make_batches(1, accumulate, 8 // accumulate, samples=(400, 310))
    gradients = Gradients()
    model = make_model(cls, NoiselessGumbel, diversity=True)
    fit(model, batches, updates=1, accumulate=accumulate, callbacks=[gradients], precision="64-true")
    expected = gradients_by_hand(make_model(cls, NoiselessGumbel, diversity=True), batches)
    assert_close(gradients.found, expected, rtol=1e-12, atol=1e-14)


def test_an_epoch_that_ends_within_an_update_divides_by_the_remaining_predictions() -> None:
    """`limit_train_batches` cuts the second update to one of its two micro-batches."""
    batches = make_batches(2, 2, 3, samples=(400, 310))
    gradients = Gradients()
    model = make_model(MaskedPrediction, NoiselessGumbel, diversity=True)
    model.make_optimizer = partial(torch.optim.SGD, lr=0.0)
    options = {"limit_train_batches": 3, "max_epochs": 1, "precision": "64-true"}
    fit(model, batches, updates=2, accumulate=2, callbacks=[gradients], **options)
    expected = gradients_by_hand(make_model(MaskedPrediction, NoiselessGumbel, diversity=True), batches[2:3], update=1)
    assert_close(gradients.found, expected, rtol=1e-12, atol=1e-14)


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


def test_nothing_is_computed_ahead_where_there_is_nothing_to_sum_up() -> None:
    """A quantizer without probabilities: the first update finds out, and no other one tries."""
    model = make_model(MaskedPrediction, EMAQuantizer, diversity=True)
    prepared: list[int] = []
    prepare = model.prepare
    model.prepare = lambda *arguments: prepared.append(model.global_step) or prepare(*arguments)
    with pytest.warns(UserWarning, match="DiversityPenalty has no effect"):
        fit(model, with_updates(make_batches(2, 3, 2), 3), updates=2, accumulate=3)
    assert prepared == [0] * 4 + [1] * 3

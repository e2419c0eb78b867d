"""Several masked copies of an utterance: an update is the mean over all of them, with one pass of the teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contracts.tiny import address, audio_batch, factory
from tests.modules.teaching.toys import dinosr, teacher_model
from tests.modules.training import Gradients, fit, make_batches
from w2vlab.losses import CodePredictionLoss, ContrastiveLoss, DiversityPenalty, FeaturePenalty
from w2vlab.masking import ChannelMasking, SpanMasking
from w2vlab.modules import TeacherPrediction
from w2vlab.modules.drawing.copies import address_of_copies
from w2vlab.quantizers import EMAQuantizer, GumbelQuantizer
from w2vlab.types import RandomAddress

COPIES = 3

CASES: dict[str, dict[str, Any]] = {
    "data2vec": {},
    "DinoSR": {"codes": True},
    "feature penalty": {"penalties": {"feature": FeaturePenalty}},
    "distractors": {"loss": factory(ContrastiveLoss)},
    "diversity": {
        "quantizer": factory(GumbelQuantizer, noise=False),
        "loss": factory(ContrastiveLoss),
        "penalties": {"diversity": DiversityPenalty},
    },
    "all frames": {"quantizer": factory(EMAQuantizer), "loss": factory(CodePredictionLoss, unmasked_weight=0.5)},
    "channels": {"masking": lambda: ChannelMasking(frames=factory(SpanMasking), channel_length=3)},
    "equal numbers": {"masking": factory(SpanMasking, equalize="fewest")},
}


def address_of(copy: int) -> RandomAddress:
    """That of one copy by hand."""
    whole = address(3)
    return replace(whole, ids=tuple(f"{name}/copy {copy}" if copy else name for name in whole.ids))


def gradients(model: TeacherPrediction) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_the_mean_over_the_copies(case: str) -> None:
    """By hand, in float64: R forward passes of one mask each, their sums added and divided by all predictions."""
    batch = audio_batch((420, 300, 360)).to(torch.float64)
    one, several = (teacher_model(noise=False, **CASES[case], masked_copies=n).double() for n in (1, COPIES))
    total, count, statistics = torch.zeros((), dtype=torch.float64), 0, 0
    for copy in range(COPIES):
        output = one(batch, address_of(copy))
        terms = one.objective_terms(output)
        if case == "diversity":  # of the assignments of all copies together, as of a whole update
            del terms["diversity"]
            statistics = statistics + one.penalties["diversity"].statistics(output.targets, output.target_padding_mask)
        total, count = total + sum(terms.values()), count + sum(output.prediction.num_predictions)
    mean = total / count
    if case == "diversity":
        mean = mean + one.penalties["diversity"].weight * one.penalties["diversity"].evaluate(statistics)
    mean.backward()

    draws = several.draw(batch, address(3))
    output = several(batch, draws.address, draws.mask)
    assert sum(output.prediction.num_predictions) == draws.num_predictions == count
    (sum(several.objective_terms(output).values()) / count).backward()
    expected = gradients(one)
    assert expected.keys() == gradients(several).keys()
    for name, value in gradients(several).items():
        assert_close(value, expected[name], rtol=1e-11, atol=1e-13, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("case", ["data2vec", "channels", "equal numbers"])
def test_the_first_copy_is_drawn_as_without_others(case: str) -> None:
    """Bit by bit, and each further copy differs; all follow from the id of the utterance alone."""
    batch = audio_batch((420, 300, 360))
    one, several = (teacher_model(**CASES[case], masked_copies=n) for n in (1, COPIES))
    alone, all_of_them = (model.draw(batch, address(3)) for model in (one, several))
    assert alone.mask is not None
    assert all_of_them.mask is not None
    assert torch.equal(all_of_them.mask.frames[::COPIES], alone.mask.frames)
    assert all_of_them.mask.num_targets[::COPIES] == alone.mask.num_targets
    for row, number in enumerate(alone.mask.num_targets):
        assert torch.equal(all_of_them.mask.targets[row * COPIES, :number], alone.mask.targets[row, :number])
        masks = all_of_them.mask.frames[row * COPIES : (row + 1) * COPIES]
        assert len(masks.unique(dim=0)) == COPIES
    if alone.mask.channels is not None:
        assert torch.equal(all_of_them.mask.channels[::COPIES], alone.mask.channels)
    ids = address_of_copies(address(3), COPIES).ids
    assert ids[::COPIES] == address(3).ids
    assert len(set(ids)) == 3 * COPIES


def test_encoder_and_teacher_compute_an_utterance_once() -> None:
    model = teacher_model(masked_copies=COPIES)
    seen: dict[str, list[int]] = {"encoder": [], "teacher": [], "context": []}
    model.encoder.register_forward_hook(lambda *call: seen["encoder"].append(len(call[2])))
    model.teacher.network.layers[0].register_forward_hook(lambda *call: seen["teacher"].append(len(call[1][0])))
    model.context.layers[0].register_forward_hook(lambda *call: seen["context"].append(len(call[1][0])))
    output = model(audio_batch((420, 300)), address(2))
    assert seen == {"encoder": [2], "teacher": [2], "context": [2 * COPIES]}
    assert output.num_frames == tuple(n for n in map(model.encoder.num_frames, (420, 300)) for _ in range(COPIES))


def test_shares_and_counts_are_those_of_all_copies() -> None:
    """The share of masked frames is that of one copy on average, and not R times that."""
    batches = make_batches(1, 1, 8)
    one, several = (fit(teacher_model(masked_copies=n), batches, 1).metrics[0] for n in (1, 6))
    assert several["train/masked_fraction"] == pytest.approx(one["train/masked_fraction"], abs=0.1)
    assert several["train/target_variance"] == pytest.approx(one["train/target_variance"], rel=1e-5)
    assert 0 < several["train/masked_fraction"] < 1


def test_a_validation_has_one_copy() -> None:
    """So that runs with other numbers of copies can be compared: the same values, bit by bit."""
    batches = make_batches(1, 1, 4)
    found = []
    for copies in (1, COPIES):
        model = teacher_model(masked_copies=copies)
        model.make_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.0)
        record = fit(model, batches, 1, validation=batches, val_check_interval=1)
        found.append({name: value for name, value in record.metrics[-1].items() if name.startswith("val/")})
    assert found[0] == found[1]


def test_workers_draw_the_same() -> None:
    """The draws that come with a batch are used, and are those of the step."""
    model = dinosr(masked_copies=COPIES)
    drawer = model.make_drawer()
    assert drawer is not None
    batch = audio_batch((420, 300, 360))
    own = RandomAddress(seed=model.seed, update=4, ids=batch.ids)
    made, expected = drawer(batch, 4), model.draw(batch, own)
    assert made is not None
    assert made.mask is not None
    assert expected.mask is not None
    assert torch.equal(made.mask.frames, expected.mask.frames)
    assert torch.equal(made.mask.targets, expected.mask.targets)
    assert made.num_predictions == expected.num_predictions
    assert model.draws_of(replace(batch, draws=made), own) is made
    assert teacher_model(masked_copies=2).draws_of(replace(batch, draws=made), own) is None
    validation = model.make_drawer(training=False)
    assert validation is not None
    drawn = validation(batch, 0)
    assert drawn is not None
    assert drawn.mask is not None
    assert len(drawn.mask.frames) == 3


def test_the_trainer_gets_the_same_gradient_as_by_hand() -> None:
    """With accumulation: two micro-batches of two utterances, and R forward passes of all four by hand."""
    model, by_hand = (dinosr(noise=False, masked_copies=n) for n in (2, 1))
    batches, found = make_batches(1, 2, 2, samples=(400, 310)), Gradients()
    found.on_before_optimizer_step = lambda trainer, module, optimizer: found.found.update(gradients(module))
    fit(model, batches, 1, 2, callbacks=[found], precision="64-true")
    by_hand.double().set_update(0)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for batch in batches:
        for copy in range(2):
            ids = tuple(f"{name}/copy {copy}" if copy else name for name in batch.ids)
            output = by_hand(batch.to(torch.float64), RandomAddress(seed=by_hand.seed, update=0, ids=ids))
            total = total + sum(by_hand.objective_terms(output).values())
            count += sum(output.prediction.num_predictions)
    (total / count).backward()
    for name, value in gradients(by_hand).items():
        assert_close(found.found[name], value, rtol=1e-11, atol=1e-13)

"""What is drawn without the model is what the model draws, and anything else is not used."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from tests.contracts.tiny import audio_batch, build_model, classes, factory
from w2vlab.interfaces import NegativeSampler, StepDependent
from w2vlab.losses import ContrastiveLoss
from w2vlab.masking import SpanMasking
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.negatives import SameUtteranceNegatives
from w2vlab.quantizers import GumbelQuantizer
from w2vlab.types import AudioBatch, Draws, LossInputs, Mask, Negatives, RandomAddress, TargetSpec

UPDATE = 3
BATCH = audio_batch((400, 310, 400))


def address_of(model: PretrainingModule, batch: AudioBatch = BATCH, stream: str = "train") -> RandomAddress:
    return RandomAddress(seed=model.seed, update=UPDATE, ids=batch.ids, stream=stream)


def contrastive(model: type = MaskedPrediction, sampler: Any = None, **parts: Any) -> PretrainingModule:
    torch.manual_seed(0)
    negatives = factory(SameUtteranceNegatives) if sampler is None else sampler
    loss = partial(ContrastiveLoss, projection_dim=6, negatives=negatives)
    return build_model(model, quantizer=factory(GumbelQuantizer), loss=loss, **parts)


def made(model: PretrainingModule, batch: AudioBatch = BATCH) -> Draws:
    """As a worker process makes them that was not forked."""
    drawer = pickle.loads(pickle.dumps(model.make_drawer()))
    draws = drawer(batch, UPDATE)
    assert draws is not None
    return draws


def loss_of(model: PretrainingModule, batch: AudioBatch, mask: Mask | None) -> torch.Tensor:
    torch.manual_seed(1)
    return model(batch, address_of(model), mask).prediction.total


def assert_same_masks(found: Mask | None, expected: Mask | None) -> None:
    if found is None or expected is None:
        assert found is expected
        return
    assert torch.equal(found.frames, expected.frames)
    assert torch.equal(found.targets, expected.targets)
    assert found.num_targets == expected.num_targets
    assert (found.channels is None) == (expected.channels is None)
    assert found.channels is None or torch.equal(found.channels, expected.channels)


def assert_all_is_drawn_ahead(model: PretrainingModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward pass with the draws is bit-equal to the one that draws, and draws nothing."""
    draws, own = made(model), model.draw(BATCH, address_of(model))
    assert own.made_for is None
    assert draws.num_predictions == own.num_predictions
    assert_same_masks(draws.mask, own.mask)
    expected = loss_of(model, BATCH, own.mask)
    monkeypatch.setattr(RandomAddress, "generators", lambda self, purpose: pytest.fail(f"{purpose} are drawn"))
    batch = replace(BATCH, draws=draws).to(torch.device("cpu"))
    assert model.draw(batch, address_of(model)) is batch.draws
    assert batch.draws is not None
    assert torch.equal(loss_of(model, batch, batch.draws.mask), expected)


@pytest.mark.parametrize("cls", classes("masking"), ids=lambda cls: cls.__name__)
def test_every_masking(cls: type, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_all_is_drawn_ahead(contrastive(masking=factory(cls)), monkeypatch)


@pytest.mark.parametrize(
    "options",
    [
        {"equalize": "most"},
        {"equalize": "none", "rounding": "batch", "count_from": "shortest", "extra_spans": 1},
        {"length_distribution": "poisson", "edge_frames": 1},
        {"length_distribution": "normal", "length_spread": 1.0, "overlap": False, "frame_dropout": 0.3},
    ],
    ids=str,
)
def test_variants_of_spans(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert_all_is_drawn_ahead(contrastive(masking=factory(SpanMasking, **options)), monkeypatch)


@pytest.mark.parametrize("model", [MaskedPrediction, FuturePrediction])
@pytest.mark.parametrize("cls", classes("negatives"), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("source", ["targets", "anywhere"])
def test_every_sampler(cls: type, model: type, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"negatives_from": source} if issubclass(cls, SameUtteranceNegatives) else {}
    assert_all_is_drawn_ahead(contrastive(model, factory(cls, **options)), monkeypatch)


def test_several_samplers_of_a_kind_in_rows_of_all_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    build = partial(
        ContrastiveLoss,
        projection_dim=6,
        num_negatives=3,
        num_other_negatives=2,
        num_codebook_negatives=2,
        negatives_from="anywhere",
    )
    model = build_model(MaskedPrediction, quantizer=factory(GumbelQuantizer), loss=build)
    assert_all_is_drawn_ahead(model, monkeypatch)


@pytest.mark.parametrize("model", [MaskedPrediction, FuturePrediction])
@pytest.mark.parametrize("cls", classes("loss"), ids=lambda cls: cls.__name__)
def test_every_loss(cls: type, model: type, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_all_is_drawn_ahead(build_model(model, quantizer=factory(GumbelQuantizer), loss=factory(cls)), monkeypatch)


@pytest.mark.parametrize("cls", classes("encoder"), ids=lambda cls: cls.__name__)
def test_every_encoder(cls: type) -> None:
    """Without its weights it has the same numbers of frames."""
    model = contrastive(encoder=factory(cls))
    draws, own = made(model), model.draw(BATCH, address_of(model))
    assert_same_masks(draws.mask, own.mask)
    assert draws.num_predictions == own.num_predictions


def test_distractors_are_sent_in_few_bytes() -> None:
    model = contrastive(sampler=partial(SameUtteranceNegatives, num_negatives=100))
    (indices,) = made(model).negatives[model.loss.negatives.key]
    assert indices.dtype == torch.int16


DIFFERENCES: dict[str, Callable[[PretrainingModule, AudioBatch], AudioBatch]] = {
    "update": lambda model, batch: batch,
    "seed": lambda model, batch: setattr(model, "seed", 100) or batch,
    "utterances": lambda model, batch: replace(batch, ids=("a", "b", "c")),
    "lengths": lambda model, batch: replace(batch, num_samples=(400, 300, 400)),
    "masking": lambda model, batch: setattr(model.masking, "probability", 0.3) or batch,
    "list": lambda model, batch: model.masking.widths.append(2) or batch,
    "table": lambda model, batch: model.masking.table.update(b=[2]) or batch,
    "sampler": lambda model, batch: setattr(model.loss.negatives, "num_negatives", 3) or batch,
    "mode": lambda model, batch: model.loss.eval() and batch,
}


@pytest.mark.parametrize("what", DIFFERENCES)
def test_draws_for_anything_else_are_not_used(what: str) -> None:
    model = contrastive()
    model.masking.widths, model.masking.table = [1], {"a": [1]}
    batch = replace(BATCH, draws=made(model))
    assert model.draws_of(batch, address_of(model, batch)) is not None
    batch = DIFFERENCES[what](model, batch)
    address = replace(address_of(model, batch), update=UPDATE + (what == "update"))
    found = model.draw(batch, address)
    assert model.draws_of(batch, address) is None
    assert found.made_for is None
    assert_same_masks(found.mask, model.draw(replace(batch, draws=None), address).mask)


def test_distractors_of_another_mask_are_not_used() -> None:
    model = contrastive()
    batch, mask = replace(BATCH, draws=made(model)), model.draw_mask(BATCH.num_samples, address_of(model, stream="x"))
    assert torch.equal(loss_of(model, batch, mask), loss_of(model, BATCH, mask))


class Forwards(NegativeSampler):
    """A sampler of another project, which knows nothing of draws ahead."""

    def __init__(self, targets: TargetSpec) -> None:
        super().__init__()
        self.num_negatives = 2

    def forward(self, inputs: LossInputs) -> Negatives:
        indices = torch.zeros(*inputs.context.shape[:2], 2, dtype=torch.int64)
        for row, generator in enumerate(inputs.address.generators("forwards")):
            indices[row] = int(generator.integers(inputs.num_targets[row]))
        return Negatives(indices=indices)


def test_a_sampler_that_only_draws_in_the_step() -> None:
    model = contrastive(sampler=Forwards)
    draws = made(model)
    assert draws.negatives == {}
    assert torch.equal(loss_of(model, replace(BATCH, draws=draws), draws.mask), loss_of(model, BATCH, draws.mask))


class Curriculum(SpanMasking, StepDependent):
    def set_update(self, update: int, seed: int = 0) -> None:
        self.probability = 0.3

    def scheduled_values(self, update: int) -> dict[str, float]:
        return {}


class Learned(SpanMasking):
    def __init__(self) -> None:
        super().__init__(length=3)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, *inputs: Any) -> Mask:
        self.probability = 0.5 * self.weight.item()
        return super().forward(*inputs)


class OwnMasks(MaskedPrediction):
    def draw_mask(self, *inputs: Any) -> Mask | None:
        return super().draw_mask(*inputs)


def test_what_needs_the_model_is_drawn_by_it() -> None:
    assert contrastive(masking=Curriculum).make_drawer() is None
    assert contrastive(OwnMasks).make_drawer() is None
    learned = contrastive(masking=Learned).make_drawer()
    assert learned is not None
    assert learned(BATCH, UPDATE) is None


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_parts_that_cannot_be_pickled_need_forked_workers(start_method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none: start_method)
    model = contrastive()
    model.masking.note = lambda: None
    assert (model.make_drawer() is None) == (start_method == "spawn")


def test_an_utterance_that_is_too_short_is_an_error_of_the_step() -> None:
    model = contrastive()
    short = audio_batch((40, 400))
    drawer = model.make_drawer()
    assert drawer is not None
    assert drawer(short, UPDATE) is None
    with pytest.raises(ValueError, match="An utterance must have at least"):
        model.draw(short, address_of(model, short))


def test_what_draws_has_no_tensors() -> None:
    """So that nothing of a GPU comes into a process that is forked."""
    model = contrastive()
    drawer = model.make_drawer()
    assert drawer is not None
    for part in (drawer._encoder, drawer._masking, drawer._loss):
        assert part is not None
        assert not [*part.parameters(), *part.buffers()]
    assert len(pickle.dumps(drawer)) < 20_000
    assert all(parameter is not None for parameter in model.loss.parameters())

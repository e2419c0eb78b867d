"""The contract of negative samplers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.contracts.test_losses import LENGTHS, NothingRead, make_inputs
from tests.contracts.test_pairings import assert_trains
from tests.contracts.tiny import build, build_model, classes, factory
from w2vlab.interfaces import NegativeSampler
from w2vlab.losses import ContrastiveLoss
from w2vlab.modules import FuturePrediction, MaskedPrediction
from w2vlab.quantizers import GumbelQuantizer
from w2vlab.types import AllFrames, LossInputs, Negatives, RandomAddress

samplers = pytest.mark.parametrize("cls", classes("negatives"), ids=lambda cls: cls.__name__)

NUM_FRAMES = tuple(2 * length for length in LENGTHS)


def with_all_frames(inputs: LossInputs) -> LossInputs:
    """The same targets as every other frame of utterances twice as long."""
    positions = 2 * torch.arange(max(LENGTHS)).expand(len(LENGTHS), -1)
    targets = inputs.targets.at(torch.arange(2 * max(LENGTHS)).expand(len(LENGTHS), -1) // 2)
    return replace(inputs, all_frames=AllFrames(targets=targets, num_frames=NUM_FRAMES, positions=positions))


def assert_valid(drawn: Negatives, inputs: LossInputs, num_negatives: int) -> None:
    """Every distractor is a frame without padding or a further vector, and no frame is its own."""
    num_candidates = inputs.num_targets if inputs.all_frames is None else inputs.all_frames.num_frames
    further = 0 if drawn.vectors is None else drawn.vectors.shape[1]
    assert drawn.indices.shape == (len(LENGTHS), max(LENGTHS), num_negatives)
    assert drawn.indices.dtype == torch.int64
    assert drawn.vectors is None or drawn.vectors.shape[::2] == inputs.candidates.shape[::2]
    size = inputs.candidates.shape[1]
    for row, num_targets in enumerate(inputs.num_targets):
        indices = drawn.indices[row, :num_targets]
        own = torch.full_like(indices, row)
        utterances = own if drawn.utterances is None else drawn.utterances[row, :num_targets]
        valid = indices < torch.tensor(num_candidates)[utterances]
        valid |= (indices >= size) & (indices < size + further)
        assert valid.all()
        assert not ((utterances == row) & (indices == inputs.positions[row, :num_targets, None])).any()


@samplers
@pytest.mark.parametrize("all_frames", [False, True])
def test_distractors_are_candidates_other_than_the_target(cls: type[NegativeSampler], all_frames: bool) -> None:
    sampler = build(cls)
    for update in range(20):
        inputs = make_inputs(update=update)
        inputs = with_all_frames(inputs) if all_frames else inputs
        assert_valid(sampler(inputs), inputs, sampler.num_negatives)


@samplers
def test_draws_of_a_sampler_follow_from_its_address_and_purpose(
    cls: type[NegativeSampler], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = build(cls)
    first, again, later = (sampler(make_inputs(update=update)) for update in (0, 0, 1))
    assert torch.equal(first.indices, again.indices)
    assert not torch.equal(first.indices, later.indices)
    generators = RandomAddress.generators
    monkeypatch.setattr(RandomAddress, "generators", lambda self, purpose: generators(self, f"other {purpose}"))
    assert not torch.equal(sampler(make_inputs()).indices, first.indices)


@samplers
def test_a_sampler_never_waits_for_the_device(cls: type[NegativeSampler]) -> None:
    sampler, inputs = build(cls), make_inputs()
    with NothingRead():
        sampler(inputs)


@samplers
def test_a_sampler_has_no_state(cls: type[NegativeSampler]) -> None:
    """A sampler is swapped without a change of the checkpoint."""
    assert build(cls).state_dict() == {}


@samplers
@pytest.mark.parametrize("model", [MaskedPrediction, FuturePrediction])
def test_sampler_under_loss_and_model(model: type, cls: type[NegativeSampler]) -> None:
    torch.manual_seed(0)
    loss = partial(ContrastiveLoss, projection_dim=6, negatives=factory(cls))
    assert_trains(build_model(model, quantizer=factory(GumbelQuantizer), loss=loss))

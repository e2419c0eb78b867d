"""The negative samplers: each against its definition as a plain loop, and the loss's shorthands for them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parts.losses.test_contrastive import NUM_FRAMES, NUM_TARGETS, SOURCES, SPEC, Toy, loss_of
from w2vlab.interfaces import NegativeSampler
from w2vlab.losses import ContrastiveLoss
from w2vlab.negatives import (
    CodebookNegatives,
    CombinedNegatives,
    OtherUtterancesNegatives,
    SameUtteranceNegatives,
)
from w2vlab.types import LossInputs, Negatives, TargetSpec

Same = partial(SameUtteranceNegatives, num_negatives=3)
Other = partial(OtherUtterancesNegatives, num_negatives=2)
Codewords = partial(CodebookNegatives, num_negatives=4)
anywhere_or_not = pytest.mark.parametrize("negatives_from", ["targets", "anywhere"])


def inputs_for(sampler: NegativeSampler) -> LossInputs:
    """The inputs as a module gives them: with all frames only if these are needed."""
    inputs = Toy().inputs
    return inputs if sampler.uses_every_frame else replace(inputs, all_frames=None)


def candidates_of(inputs: LossInputs, row: int, negatives_from: str) -> list[int]:
    """The candidates of an utterance, as indices into `LossInputs.candidates`."""
    if negatives_from == "anywhere":
        return list(range(NUM_FRAMES[row]))
    return inputs.positions[row, : NUM_TARGETS[row]].tolist()


@anywhere_or_not
@pytest.mark.parametrize("with_all_frames", [False, True])
def test_same_utterance_is_drawn_uniformly_without_the_frame_itself(negatives_from: Any, with_all_frames: bool) -> None:
    sampler = SameUtteranceNegatives(SPEC, 6, negatives_from)
    inputs = Toy().inputs if with_all_frames else inputs_for(sampler)
    drawn = sampler(inputs)
    assert drawn.utterances is drawn.vectors is None
    for row, generator in enumerate(inputs.address.generators("negatives")):
        candidates = candidates_of(inputs, row, negatives_from)
        draws = generator.integers(0, len(candidates) - 1, size=(NUM_TARGETS[row], 6))
        for frame in range(NUM_TARGETS[row]):
            others = [index for index in candidates if index != inputs.positions[row, frame]]
            assert drawn.indices[row, frame].tolist() == [others[draw] for draw in draws[frame]]


@anywhere_or_not
@pytest.mark.parametrize("with_all_frames", [False, True])
def test_other_utterances_are_drawn_uniformly_over_all_their_frames(negatives_from: Any, with_all_frames: bool) -> None:
    sampler = OtherUtterancesNegatives(SPEC, 6, negatives_from)
    inputs = Toy().inputs if with_all_frames else inputs_for(sampler)
    drawn = sampler(inputs)
    for row, generator in enumerate(inputs.address.generators("other_negatives")):
        others = [(u, i) for u in range(3) if u != row for i in candidates_of(inputs, u, negatives_from)]
        draws = generator.integers(0, len(others), size=(NUM_TARGETS[row], 6))
        for frame in range(NUM_TARGETS[row]):
            pairs = zip(drawn.utterances[row, frame].tolist(), drawn.indices[row, frame].tolist(), strict=True)
            assert list(pairs) == [others[draw] for draw in draws[frame]]


def test_codewords_are_a_pool_of_random_codes_for_each_utterance() -> None:
    sampler = CodebookNegatives(SPEC, 6)
    inputs = inputs_for(sampler)
    drawn = sampler(inputs)
    for row, generator in enumerate(inputs.address.generators("codewords")):
        codes = generator.integers(0, SPEC.codebook_size, size=(NUM_TARGETS[row], SPEC.num_codebooks))
        picks = generator.integers(0, NUM_TARGETS[row], size=(NUM_TARGETS[row], 6))
        for frame in range(NUM_TARGETS[row]):
            for number in range(6):
                vector = drawn.vectors[row, drawn.indices[row, frame, number] - inputs.candidates.shape[1]]
                code = torch.from_numpy(codes[picks[frame, number]])
                assert torch.equal(vector, inputs.lookup(code))


def vectors_of(drawn: Negatives, inputs: LossInputs) -> Tensor:
    """The vectors of distractors `(B, M, K, E)`."""
    rows = torch.arange(len(drawn.indices))[:, None, None]
    extended = [inputs.candidates] if drawn.vectors is None else [inputs.candidates, drawn.vectors]
    return torch.cat(extended, dim=1)[rows if drawn.utterances is None else drawn.utterances, drawn.indices]


COMBINATIONS: dict[str, list[Any]] = {
    "same, other": [Same, Other],
    "codewords, other, same": [Codewords, Other, Same],
    "targets, anywhere": [Same, partial(Other, negatives_from="anywhere")],
    "anywhere, targets": [partial(Same, negatives_from="anywhere"), Other],
    "nested": [Same, partial(CombinedNegatives, samplers=[Codewords, Other])],
}


@pytest.mark.parametrize("samplers", COMBINATIONS.values(), ids=COMBINATIONS)
def test_a_combination_draws_the_same_as_its_samplers(samplers: list[Any]) -> None:
    combined = CombinedNegatives(SPEC, samplers)
    inputs = inputs_for(combined)
    parts = [build(SPEC) for build in samplers]
    alone = torch.cat([vectors_of(sampler(inputs), inputs) for sampler in parts], dim=2)
    assert combined.num_negatives == sum(sampler.num_negatives for sampler in parts)
    assert torch.equal(vectors_of(combined(inputs), inputs), alone)


@pytest.mark.parametrize("sampler", [Same, Other, Codewords])
def test_two_samplers_of_a_kind_draw_independently(sampler: Any) -> None:
    nested = [sampler, partial(CombinedNegatives, samplers=[sampler])]
    for samplers in ([sampler, sampler], nested):
        combined = CombinedNegatives(SPEC, samplers)
        inputs = inputs_for(combined)
        vectors = vectors_of(combined(inputs), inputs)
        first, second = vectors[0, : NUM_TARGETS[0]].chunk(2, dim=1)
        assert torch.equal(first, vectors_of(sampler(SPEC)(inputs), inputs)[0, : NUM_TARGETS[0]])
        assert not torch.equal(first, second)


def test_the_default_combination_is_the_papers() -> None:
    same, other = CombinedNegatives(SPEC).samplers
    assert (type(same), same.num_negatives) == (SameUtteranceNegatives, 50)
    assert (type(other), other.num_negatives) == (OtherUtterancesNegatives, 50)


EXPLICIT: dict[str, Any] = {
    "own": partial(SameUtteranceNegatives, num_negatives=6),
    "other": partial(OtherUtterancesNegatives, num_negatives=5),
    "own and other": partial(CombinedNegatives, samplers=[Same, partial(Other, num_negatives=3)]),
    "codebook": partial(CodebookNegatives, num_negatives=5),
    "own and codebook": partial(CombinedNegatives, samplers=[Same, Codewords]),
    "all": partial(CombinedNegatives, samplers=[Same, Codewords, Other]),
    "anywhere": partial(SameUtteranceNegatives, num_negatives=6, negatives_from="anywhere"),
    "other anywhere": partial(OtherUtterancesNegatives, num_negatives=5, negatives_from="anywhere"),
    "all anywhere": partial(
        CombinedNegatives,
        samplers=[partial(Same, negatives_from="anywhere"), Codewords, partial(Other, negatives_from="anywhere")],
    ),
}
"""The sampler that each of the loss's shorthands in `SOURCES` describes."""


@pytest.mark.parametrize("name", SOURCES)
def test_shorthands_of_the_loss_are_samplers_bit_for_bit(name: str) -> None:
    short, explicit = loss_of(SOURCES[name]), loss_of({"negatives": EXPLICIT[name]})
    assert short.uses_every_frame == explicit.uses_every_frame
    inputs = inputs_for(short.negatives)
    for ours, theirs in zip(short.score(inputs), explicit.score(inputs), strict=True):
        assert torch.equal(ours, theirs)
    totals = short(inputs).total, explicit(inputs).total
    assert torch.equal(*totals)
    by_short = torch.autograd.grad(totals[0], [inputs.context, *short.parameters()], retain_graph=True)
    by_explicit = torch.autograd.grad(totals[1], [inputs.context, *explicit.parameters()])
    assert all(map(torch.equal, by_short, by_explicit))
    assert list(short.state_dict()) == list(explicit.state_dict())


DRAWN = {
    "own": [(1, 3), (1, 3), (1, 3), (1, 3), (1, 2), (1, 2)],
    "own and other": [(1, 3), (1, 3), (1, 3), (2, 4), (2, 4), (2, 3)],
    "all": [(1, 3), (1, 3), (1, 3), (1, 10), (1, 10), (1, 8), (1, 10), (2, 4), (2, 4)],
    "anywhere": [(1, 7), (1, 7), (1, 7), (1, 5), (1, 4), (1, 4)],
    "other anywhere": [(2, 8), (2, 7), (2, 6), (0, 0), (2, 4)],
    "all anywhere": [(1, 7), (1, 7), (1, 7), (1, 14), (1, 14), (1, 12), (1, 14), (2, 8), (2, 7)],
}
"""The draws of runs from before there were samplers: one prediction's distractors as (utterance, index)."""


@pytest.mark.parametrize("name", DRAWN)
def test_draws_are_those_of_runs_before_there_were_samplers(name: str) -> None:
    sampler = loss_of(SOURCES[name]).negatives
    drawn = sampler(inputs_for(sampler))
    utterances = torch.ones_like(drawn.indices) if drawn.utterances is None else drawn.utterances
    assert list(zip(utterances[1, 0].tolist(), drawn.indices[1, 0].tolist(), strict=True)) == DRAWN[name]


@pytest.mark.parametrize(
    ("name", "default", "value"),
    [
        ("num_negatives", 100, 50),
        ("num_other_negatives", 0, 5),
        ("num_codebook_negatives", 0, 5),
        ("negatives_from", "targets", "anywhere"),
    ],
)
def test_a_shorthand_beside_a_sampler_is_refused(name: str, default: Any, value: Any) -> None:
    message = f"`{name}` must be {default}, its default, if `negatives` is given, but is {value}. Set the sampler's own"
    with pytest.raises(ValueError, match=message):
        loss_of({"negatives": SameUtteranceNegatives}, **{name: value})


def test_num_negatives_of_the_loss_is_none_if_a_sampler_is_given() -> None:
    assert loss_of({}).num_negatives == 100
    assert loss_of({"negatives": Codewords}).num_negatives is None


@pytest.mark.parametrize("sampler", [SameUtteranceNegatives, OtherUtterancesNegatives, CodebookNegatives])
def test_a_sampler_without_negatives_is_refused(sampler: Any) -> None:
    with pytest.raises(ValueError, match="`num_negatives` must be at least 1, but is 0"):
        sampler(SPEC, num_negatives=0)


def test_a_combination_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="`samplers` must be at least one sampler, but is an empty list"):
        CombinedNegatives(SPEC, [])


def test_codewords_need_codebooks() -> None:
    with pytest.raises(ValueError, match="`quantizer` must have codebooks to draw codewords from"):
        ContrastiveLoss(4, TargetSpec(dim=6, num_codebooks=0, codebook_size=0), negatives=CodebookNegatives)

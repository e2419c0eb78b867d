"""Negatives: bounds, distributions, and the known defects of other implementations.

Every statistical bound is six standard errors wide or more, so that a correct draw fails with odds below 1e-8; the
seeds are fixed besides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from w2vlab.functional.negatives import (
    draw_codewords,
    draw_from_other_utterances,
    draw_ranks,
    narrow,
    skip_own,
)
from w2vlab.types import RandomAddress

counts = st.integers(2, 30)
batches = st.lists(counts, min_size=2, max_size=6)


def generators_of(rows: int, update: int = 0, first: int = 0) -> list[np.random.Generator]:
    address = RandomAddress(seed=3, update=update, ids=tuple(f"u{first + row}" for row in range(rows)))
    return address.generators("negatives")


def negatives_among(lengths: tuple[int, ...], count: int, generators: Any) -> torch.Tensor:
    size = max(lengths)
    return skip_own(draw_ranks(lengths, lengths, size, count, generators), torch.arange(size))


def negatives_of(lengths: tuple[int, ...], count: int, update: int = 0, first: int = 0) -> torch.Tensor:
    return negatives_among(lengths, count, generators_of(len(lengths), update, first))


class EveryDraw:
    """In place of a generator: gives a frame each number of the range in turn, so that a test sees every draw."""

    def integers(self, low: int, high: int, size: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(np.resize(np.arange(low, high), size[-1]), size)


@settings(deadline=None)
@given(lengths=st.lists(counts, min_size=1, max_size=6), num_negatives=st.integers(1, 20), update=st.integers(0, 5))
def test_negatives_are_other_frames_of_the_same_utterance(lengths: list[int], num_negatives: int, update: int) -> None:
    negatives = negatives_of(tuple(lengths), num_negatives, update)
    assert negatives.shape == (len(lengths), max(lengths), num_negatives)
    for row, length in enumerate(lengths):
        drawn = negatives[row, :length]
        assert (drawn != torch.arange(length)[:, None]).all()
        assert ((drawn >= 0) & (drawn < length)).all()
        assert (negatives[row, length:] == 0).all()


def test_the_numbers_of_a_saved_run_stay() -> None:
    """What its generator gives, frame by frame: a change here would change every run that is resumed."""
    lengths = (5, 3)
    negatives = negatives_of(lengths, 4)
    for row, generator in enumerate(generators_of(2)):
        drawn = generator.integers(0, lengths[row] - 1, size=(lengths[row], 4))
        for frame in range(lengths[row]):
            others = [index for index in range(lengths[row]) if index != frame]
            assert negatives[row, frame].tolist() == [others[rank] for rank in drawn[frame]]
    assert negatives[0, :2].tolist() == [[1, 3, 3, 1], [4, 0, 3, 4]]


@settings(deadline=None)
@given(candidates=counts, data=st.data())
def test_skipping_the_own_frame_reaches_every_other_once(candidates: int, data: st.DataObject) -> None:
    own = data.draw(st.integers(0, candidates - 1))
    indices = skip_own(torch.arange(candidates - 1)[None, None], torch.tensor([[own]]))
    assert indices[0, 0].tolist() == [index for index in range(candidates) if index != own]


@settings(deadline=None)
@given(num_frames=counts, num_candidates=counts, num_negatives=st.integers(1, 20))
def test_ranks_are_among_the_other_candidates(num_frames: int, num_candidates: int, num_negatives: int) -> None:
    ranks = draw_ranks((num_frames,), (num_candidates,), num_frames + 2, num_negatives, generators_of(1))
    assert ranks.shape == (1, num_frames + 2, num_negatives)
    assert ((ranks >= 0) & (ranks < num_candidates - 1)).all()
    assert (ranks[:, num_frames:] == 0).all()


def test_negatives_are_uniform_over_the_others() -> None:
    frames, draws = 8, 20_000
    negatives = negatives_of((frames,), draws)[0]  # (frames, draws)
    counts = torch.stack([torch.bincount(row, minlength=frames) for row in negatives]).double()
    expected = draws / (frames - 1)
    statistic = ((counts - expected) ** 2 / expected)[~torch.eye(frames, dtype=torch.bool)].sum()
    # Chi-square with 8 * 6 = 48 degrees of freedom; it exceeds 128 with odds of 3e-9.
    assert statistic < 128


def test_negatives_of_utterances_and_updates_differ_and_repeat() -> None:
    both = negatives_of((30, 30), 10)
    assert torch.equal(both, negatives_of((30, 30), 10))
    assert torch.equal(both[1], negatives_of((30,), 10, first=1)[0])
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(both, negatives_of((30, 30), 10, update=1))
    agreement = (both[0] == both[1]).double().mean()
    # Independent draws agree with odds of 1/29 or less; 300 of them in more than 12 % with odds below 1e-9.
    assert agreement < 0.12


def test_a_single_frame_has_no_distractors() -> None:
    with pytest.raises(ValueError, match="at least 2 frames to draw negatives from, but has 1"):
        negatives_of((5, 1), 3)


def flat_places(row: int, candidates: int, row_size: int) -> set[int]:
    """Where the candidates of one utterance are among those of the whole batch."""
    return set(range(row * row_size, row * row_size + candidates))


@settings(deadline=None)
@given(num_candidates=batches, filling=st.integers(0, 4), data=st.data())
def test_other_utterances_are_drawn_from_whole_and_no_filling(
    num_candidates: list[int], filling: int, data: st.DataObject
) -> None:
    """Of the draws there are, each reaches another place, and together they reach every frame of every other."""
    num_frames = [data.draw(st.integers(1, count)) for count in num_candidates]
    row_size, total = max(num_candidates) + filling, sum(num_candidates)
    generators = [EveryDraw()] * len(num_frames)
    size = max(num_frames)
    indices = draw_from_other_utterances(num_frames, num_candidates, size, row_size, total, generators)
    assert indices.shape == (len(num_frames), size, total)
    for row, frames in enumerate(num_frames):
        others = set().union(*(flat_places(r, count, row_size) for r, count in enumerate(num_candidates) if r != row))
        for frame in range(frames):
            drawn = indices[row, frame, : total - num_candidates[row]].tolist()
            assert len(set(drawn)) == len(drawn)
            assert set(drawn) == others
        assert (indices[row, frames:] == 0).all()


def test_other_utterances_are_drawn_from_alike() -> None:
    lengths, draws = (3, 6, 4), 20_000
    indices = draw_from_other_utterances(lengths, lengths, 6, 6, draws, generators_of(3))
    counts = torch.bincount(indices[1, 0], minlength=18).double()
    possible = [*range(3), *range(12, 16)]
    expected = draws / len(possible)
    # Chi-square with 6 degrees of freedom; it exceeds 52 with odds below 2e-9.
    assert ((counts[possible] - expected) ** 2 / expected).sum() < 52
    assert counts[possible].sum() == draws


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    num_negatives=st.integers(1, 20),
    num_codebooks=st.integers(1, 3),
    codebook_size=st.integers(2, 9),
)
def test_codewords_are_valid_and_an_utterance_draws_from_its_own_pool(
    lengths: list[int], num_negatives: int, num_codebooks: int, codebook_size: int
) -> None:
    size = max(lengths)
    codes, picks = draw_codewords(
        lengths, size, num_negatives, num_codebooks, codebook_size, generators_of(len(lengths))
    )
    assert codes.shape == (len(lengths), size, num_codebooks)
    assert picks.shape == (len(lengths), size, num_negatives)
    assert ((codes >= 0) & (codes < codebook_size)).all()
    for row, length in enumerate(lengths):
        assert (picks[row, :length] < length).all(), "a codeword that is filling"
        assert (picks[row] >= 0).all()
        alone = draw_codewords(
            (length,), length, num_negatives, num_codebooks, codebook_size, generators_of(1, first=row)
        )
        assert torch.equal(codes[row, :length], alone[0][0])
        assert torch.equal(picks[row, :length], alone[1][0])


def test_every_codeword_is_as_likely_as_any_other() -> None:
    frames = 40_000
    codes, picks = draw_codewords((frames,), frames, 1, 2, 4, generators_of(1))
    counts = torch.bincount(codes[0, :, 0] * 4 + codes[0, :, 1], minlength=16).double()
    expected = frames / 16
    # Chi-square with 15 degrees of freedom; it exceeds 74 with odds below 2e-9.
    assert ((counts - expected) ** 2 / expected).sum() < 74
    # The picks are uniform over the pool: the mean of 40,000 is within six standard errors.
    assert picks.double().mean() / frames == pytest.approx(0.5, abs=6 * 12**-0.5 / frames**0.5)


def test_b2_negatives_come_from_the_own_utterance_only() -> None:
    """SpeechBrain moves to a row by T - 1 in place of T frames, so that later rows reach into the one before."""
    rows, frames, num_negatives = 8, 100, 50
    tags = torch.arange(rows)[:, None].expand(rows, frames).flatten()  # which utterance a frame is of
    own = torch.arange(frames)[:, None]
    negatives = negatives_of((frames,) * rows, num_negatives)
    for row in range(rows):
        assert (tags[row * frames + negatives[row]] == row).all()
        assert (negatives[row] != own).all()
    # The defect, over all draws: 7 % of the last row's come from another utterance, 1 % are the true target.
    last = rows - 1
    every = torch.arange(frames - 1).expand(frames, -1)
    wrong = last * (frames - 1) + skip_own(every[None], torch.arange(frames))[0]
    assert (tags[wrong] != last).double().mean() == pytest.approx(0.07, abs=0.005)
    assert (wrong == last * frames + own).double().mean() == pytest.approx(0.01, abs=0.002)


def test_b4_the_true_target_is_never_drawn_from_another_utterance() -> None:
    """fairseq excludes a frame's index within its row from indices into the batch: right in the first row only."""
    rows, frames = 8, 100
    lengths = (frames,) * rows
    indices = draw_from_other_utterances(lengths, lengths, frames, frames, rows * frames, [EveryDraw()] * rows)
    places = torch.arange(rows * frames).view(rows, frames, 1)
    assert not (indices == places).any()
    # The defect, over all draws: each row but the first reaches the true target of every frame.
    every = torch.arange(rows * frames - 1).expand(rows, frames, -1)
    wrong = skip_own(every, torch.arange(frames))
    assert (wrong == places).any(dim=2).all(dim=1).tolist() == [False] + [True] * (rows - 1)


def test_b8_no_target_is_its_own_negative_in_wav2vec() -> None:
    """fairseq's wav2vec draws K negatives of T frames as one row of K T, and reads it once by K and once by T."""
    frames, num_negatives = 64, 10
    negatives = negatives_among((frames,), frames - 1, [EveryDraw()])  # all draws there are
    assert not (negatives[0] == torch.arange(frames)[:, None]).any()
    # The defect, over all draws: a column excludes another frame than the one that it is used for.
    columns = torch.arange(num_negatives * frames)
    drawn = torch.arange(frames - 1).expand(len(columns), -1)
    wrong = skip_own(drawn[None], columns[None] // num_negatives)[0]
    rate = (wrong == (columns % frames)[:, None]).double().mean()
    assert rate == pytest.approx(1 / frames, rel=0.02)


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(2**15 - 1, torch.int16), (2**15, torch.int32), (2**31 - 1, torch.int32), (2**31, torch.int64)],
)
def test_the_narrowest_integers_that_hold_all(largest: int, dtype: torch.dtype) -> None:
    integers = torch.tensor([[0, largest]])
    assert narrow(integers).dtype == dtype
    assert torch.equal(narrow(integers).long(), integers)
    assert narrow(integers[:, :0]).shape == (1, 0)

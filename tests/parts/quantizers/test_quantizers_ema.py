"""Codebooks that learn by moving averages: the published update, revival, and independence of the layout."""

from __future__ import annotations

import math
from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from vector_quantize_pytorch import VectorQuantize

from tests.modules.training import MODELS, fit, make_batches, make_model
from w2vlab.functional.codebooks import count_codes, perplexity, sum_by_code
from w2vlab.quantizers import EMAQuantizer
from w2vlab.quantizers.ema_codebook import EMACodebook

GROUPS, SIZE, WIDTH = 2, 6, 4
REVIVES_OFTEN = {"decay": 0.5, "revive_below": 0.8}


def make_codebook(decay: float = 0.9, revive_below: float = 0.0, size: int = SIZE, placed: bool = True) -> EMACodebook:
    """Float64; `placed` at random, with counts as if all entries had been chosen equally often."""
    torch.manual_seed(0)
    codebook = EMACodebook(GROUPS, size, WIDTH, decay, revive_below, 1e-5).double()
    if placed:
        place(codebook, torch.randn(GROUPS, size, WIDTH, dtype=torch.float64), torch.ones(GROUPS, size))
    return codebook


def place(codebook: EMACodebook, entries: Tensor, counts: Tensor) -> None:
    codebook.entries.copy_(entries)
    codebook.counts.copy_(counts)
    codebook.sums.copy_(entries * counts[..., None])
    codebook.initialized.fill_(True)


def draw(seed: int, rows: int = 8, frames: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, frames, GROUPS, WIDTH, generator=generator, dtype=torch.float64)


def update(codebook: EMACodebook, number: int, *micro_batches: Tensor) -> None:
    for vectors in micro_batches:
        codebook.set_update(number, seed=3)
        codebook(vectors)
    codebook.finish_update(number)


def assert_same_state(first: torch.nn.Module, second: torch.nn.Module) -> None:
    for name, expected in first.state_dict().items():
        assert_close(second.state_dict()[name], expected, rtol=1e-10, atol=1e-12)


def test_counts_and_sums_by_code_leave_padding_out() -> None:
    vectors, codes = draw(0), torch.randint(SIZE, (8, 5, GROUPS))
    padding = torch.rand(8, 5) < 0.4
    vectors[padding] = math.nan
    counts, sums = sum_by_code(vectors, codes, SIZE, padding)
    expected_counts, expected_sums = np.zeros((GROUPS, SIZE)), np.zeros((GROUPS, SIZE, WIDTH))
    for row, frame, group in np.ndindex(8, 5, GROUPS):
        if not padding[row, frame]:
            expected_counts[group, codes[row, frame, group]] += 1
            expected_sums[group, codes[row, frame, group]] += vectors[row, frame, group].numpy()
    assert_close(counts, torch.from_numpy(expected_counts))
    assert_close(sums, torch.from_numpy(expected_sums))
    assert torch.equal(counts, count_codes(codes, SIZE, padding).double())


def test_update_is_the_published_formula() -> None:
    """Three updates of two micro-batches, no revival."""
    codebook, decay = make_codebook(), 0.9
    entries, counts = codebook.entries.numpy().copy(), np.ones((GROUPS, SIZE))
    sums = entries.copy()
    for number in range(3):
        batches = draw(2 * number), draw(2 * number + 1)
        seen, summed = np.zeros((GROUPS, SIZE)), np.zeros((GROUPS, SIZE, WIDTH))
        for row, frame, group in np.ndindex(16, 5, GROUPS):
            vector = torch.cat(batches)[row, frame, group].numpy()
            code = int(np.argmin([math.dist(vector, entry) for entry in entries[group]]))
            seen[group, code] += 1
            summed[group, code] += vector
        counts = decay * counts + (1 - decay) * seen
        sums = decay * sums + (1 - decay) * summed
        for group, code in np.ndindex(GROUPS, SIZE):
            total = counts[group].sum()
            smoothed = (counts[group, code] + 1e-5) / (total + SIZE * 1e-5) * total
            entries[group, code] = sums[group, code] / smoothed
        update(codebook, number, *batches)
        assert_close(codebook.entries, torch.from_numpy(entries), rtol=1e-10, atol=1e-12)
        assert_close(codebook.counts, torch.from_numpy(counts), rtol=1e-10, atol=1e-12)


def test_update_is_that_of_another_implementation() -> None:
    torch.manual_seed(0)
    quantizer = EMAQuantizer(GROUPS * WIDTH, GROUPS, SIZE, decay=0.8, gamma=0.25, revive_below=0.0)
    reference = VectorQuantize(
        dim=GROUPS * WIDTH,
        codebook_size=SIZE,
        heads=GROUPS,
        codebook_dim=WIDTH,
        separate_codebook_per_head=True,
        decay=0.8,
        threshold_ema_dead_code=0,
        commitment_weight=0.25,
        rotation_trick=False,
    )
    place(quantizer.codebook, reference._codebook.embed, reference._codebook.cluster_size)
    assert torch.equal(quantizer.codebook.sums, reference._codebook.embed_avg)
    for number in range(4):
        latents = draw(number).float().flatten(2).requires_grad_()
        quantized, codes, loss = reference(latents)
        output = quantizer(latents)
        assert torch.equal(output.codes, codes)
        assert_close(output.quantized, quantized)
        assert_close(output.losses["commitment"].mean(), loss.squeeze())
        expected = torch.autograd.grad(quantized.sin().sum() + loss.sum(), latents)[0]
        actual = torch.autograd.grad(output.quantized.sin().sum() + output.losses["commitment"].mean(), latents)[0]
        assert_close(actual, expected)
        quantizer.codebook.finish_update(number)
        assert_close(quantizer.codebook.counts, reference._codebook.cluster_size)
        assert_close(quantizer.codebook.entries, reference._codebook.embed, rtol=1e-4, atol=1e-5)


def rows_of(vectors: Tensor, group: int) -> set[tuple[float, ...]]:
    return {tuple(round(value, 9) for value in row.tolist()) for row in vectors[:, :, group].flatten(0, 1)}


def test_dead_entries_come_alive_at_latents_of_the_update_and_count_as_the_average() -> None:
    codebook = make_codebook(decay=0.9, revive_below=0.1)
    entries, counts = codebook.entries.clone(), torch.full((GROUPS, SIZE), 8.0, dtype=torch.float64)
    dead = torch.zeros(GROUPS, SIZE, dtype=torch.bool)
    dead[0, [1, 4]] = dead[1, 5] = True
    entries[dead] = 1e3  # out of reach
    counts[dead] = 0.5
    place(codebook, entries, counts)
    vectors = draw(0)
    update(codebook, 0, vectors)
    moved = (codebook.entries - entries).norm(dim=-1) > 100
    assert torch.equal(moved, dead)
    # Laplace smoothing moves them by a relative 1e-5 over the count, at most.
    for group, code in dead.nonzero().tolist():
        nearest = (vectors[:, :, group] - codebook.entries[group, code]).norm(dim=-1).min()
        assert nearest < 1e-4
    assert_close(codebook.counts[dead], torch.full((3,), 40 / SIZE, dtype=torch.float64))
    assert (codebook.counts[~dead] > 0.7).all()
    codes = codebook(vectors)
    assert (count_codes(codes, SIZE)[dead] > 0).all()


def test_an_entry_is_dead_below_a_share_of_the_average_count() -> None:
    """Entry 0's moving count is just above or below the threshold; with 0 nothing is ever revived."""
    for share, revived in [(0.099, True), (0.101, False)]:
        codebook = make_codebook(decay=0.9, revive_below=0.1)
        entries = codebook.entries.clone()
        entries[:, 0] = 1e3
        counts = torch.ones(GROUPS, SIZE, dtype=torch.float64)
        vectors = draw(0)
        # The mean moving count after the update is (0.9 (5 + c) + 0.1 * 40) / 6; entry 0's is 0.9 c.
        counts[:, 0] = share * (0.9 * 5 + 4) / (0.9 * (6 - share))
        place(codebook, entries, counts)
        update(codebook, 0, vectors)
        assert torch.equal(codebook.entries[:, 0, 0] < 100, torch.full((GROUPS,), revived))
    codebook = make_codebook(decay=0.0, revive_below=0.0)
    entries = codebook.entries.clone()
    entries[:, 0] = 1e3
    place(codebook, entries, torch.ones(GROUPS, SIZE))
    update(codebook, 0, draw(0))
    assert_close(codebook.counts[:, 0], torch.zeros(GROUPS, dtype=torch.float64))


def test_first_update_places_all_entries_at_latents() -> None:
    codebook = make_codebook(placed=False)
    assert not codebook.initialized.any()
    vectors = draw(0)
    update(codebook, 0, vectors[:3], vectors[3:])
    assert codebook.initialized.all()
    assert_close(codebook.counts, torch.full((GROUPS, SIZE), 40 / SIZE, dtype=torch.float64))
    for group in range(GROUPS):
        placed = rows_of(codebook.entries.transpose(0, 1)[None], group)
        assert len(placed) == SIZE
        assert placed <= rows_of(vectors, group)


def test_entries_stay_uninitialized_if_there_are_fewer_latents() -> None:
    codebook = make_codebook(placed=False, size=7)
    before = codebook.entries.clone()
    padding = torch.tensor([[False, False, True, True, True], [False, True, True, True, True]])
    codebook(draw(0, rows=2), padding)
    codebook.finish_update(0)
    assert codebook.initialized.sum(1).tolist() == [3, 3]
    assert torch.equal(codebook.entries[:, 3:], before[:, 3:])
    assert codebook.entries.isfinite().all()
    update(codebook, 1, draw(1, rows=1, frames=2))
    assert codebook.initialized.sum(1).tolist() == [5, 5]
    update(codebook, 2, draw(2))
    assert codebook.initialized.all()
    assert codebook.entries.isfinite().all()


def test_only_filling_changes_no_entry() -> None:
    codebook = make_codebook(revive_below=0.1)
    before = codebook.entries.clone()
    codebook(draw(0), torch.ones(8, 5, dtype=torch.bool))
    codebook.finish_update(0)
    assert_close(codebook.entries, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_every_latent_is_equally_likely_to_be_a_candidate(scale: float) -> None:
    """20 latents for 5 entries, 600 times: each is taken a quarter of the times, within six standard errors."""
    vectors = scale * draw(0, rows=2, frames=10)
    taken = torch.zeros(20, GROUPS)
    for number in range(600):
        codebook = make_codebook(placed=False, size=5)
        update(codebook, number, vectors)
        distance = torch.cdist(vectors.flatten(0, 1).transpose(0, 1), codebook.entries)  # (G, 20, 5)
        taken += (distance < 1e-6 * scale).any(-1).t()
    assert taken.sum(0).tolist() == [3000, 3000]
    assert ((taken / 600 - 0.25).abs() < 6 * math.sqrt(0.25 * 0.75 / 600)).all()


def test_other_latents_are_offered_at_another_update_or_seed() -> None:
    chosen = set()
    for seed in range(3):
        for number in range(3):
            codebook = make_codebook(placed=False)
            codebook.set_update(number, seed)
            codebook(draw(0))
            codebook.finish_update(number)
            chosen.add(tuple(codebook.entries.flatten().tolist()))
    assert len(chosen) == 9


def test_collapse_recovers() -> None:
    """All latents choose one entry; with revival each cluster soon has its own entries, without it never does."""
    torch.manual_seed(0)
    centres = 5 * torch.randn(4, GROUPS, WIDTH, dtype=torch.float64)
    used = {}
    for revive_below in (0.0, 0.05):
        codebook = make_codebook(revive_below=revive_below, size=4)
        entries = torch.full((GROUPS, 4, WIDTH), 1e4, dtype=torch.float64)
        entries[:, 0] = 0
        counts = torch.ones(GROUPS, 4)
        counts[:, 0] = 400
        place(codebook, entries, counts)
        for number in range(60):
            vectors = centres[torch.randint(4, (8, 50))] + 0.1 * torch.randn(8, 50, GROUPS, WIDTH, dtype=torch.float64)
            codes = codebook(vectors)
            if number == 0:
                assert (codes == 0).all()
            codebook.set_update(number)
            codebook.finish_update(number)
        shares = count_codes(codes, 4) / codes[..., 0].numel()
        used[revive_below] = perplexity(shares)
    assert_close(used[0.0], torch.ones(GROUPS))
    assert (used[0.05] > 2.5).all()


@settings(deadline=None, max_examples=25)
@given(cuts=st.sets(st.integers(1, 7)), order=st.permutations(range(8)), placed=st.booleans())
def test_learning_does_not_depend_on_the_layout(cuts, order, placed) -> None:
    """8 utterances at once, or in any order and any micro-batches, with revival."""
    whole = make_codebook(**REVIVES_OFTEN, placed=placed)
    cut = deepcopy(whole)
    bounds = [0, *sorted(cuts), 8]
    for number in range(3):
        vectors = draw(number)
        update(whole, number, vectors)
        shuffled = vectors[list(order)]
        update(cut, number, *(shuffled[a:b] for a, b in pairwise(bounds)))
    assert_same_state(whole, cut)


def test_every_update_of_the_layout_test_revives() -> None:
    """The premise of the test above."""
    codebook = make_codebook(**REVIVES_OFTEN)
    for number in range(3):
        update(codebook, number, draw(number))
        assert (codebook.counts == 40 / SIZE).any()


def test_moving_averages_resume_from_a_checkpoint() -> None:
    whole = make_codebook(**REVIVES_OFTEN, placed=False)
    for number in range(4):
        if number == 2:
            resumed = make_codebook(**REVIVES_OFTEN, placed=False)
            resumed.load_state_dict(whole.state_dict())
        update(whole, number, draw(number))
        if number >= 2:
            update(resumed, number, draw(number))
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)


def test_learns_in_float32_from_bfloat16() -> None:
    torch.manual_seed(0)
    exact = EMAQuantizer(GROUPS * WIDTH, GROUPS, SIZE, decay=0.5)
    half = deepcopy(exact)
    for number in range(3):
        latents = draw(number).flatten(2).bfloat16()
        exact(latents.float())
        with torch.autocast("cpu", torch.bfloat16):
            output = half(latents)
        assert output.quantized.dtype == torch.bfloat16
        exact.codebook.finish_update(number)
        half.codebook.finish_update(number)
    for name, value in exact.state_dict().items():
        assert torch.equal(half.state_dict()[name], value)
        assert value.dtype in (torch.float32, torch.bool)


@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_training_does_not_depend_on_accumulation(cls: type) -> None:
    """Through the trainer: 1 x 8, 2 x 4 and 4 x 2 utterances, with equal codebooks and parameters."""
    states = []
    for micro_batches, size in [(1, 8), (2, 4), (4, 2)]:
        model = make_model(cls, EMAQuantizer)
        start = model.quantizer.codebook.entries.double()
        batches = make_batches(3, micro_batches, size)
        fit(model, batches, updates=3, accumulate=micro_batches, precision="64-true")
        states.append(model)
        assert model.quantizer.codebook.initialized.all()
        assert not torch.equal(model.quantizer.codebook.entries, start)
    for other in states[1:]:
        assert_same_state(states[0], other)

"""Codebooks of DinoSR: random entries, counts of unused entries that stay, no smoothing and no revival."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from w2vlab.quantizers import EMAQuantizer
from w2vlab.quantizers.ema_codebook import EMACodebook

GROUPS, SIZE, WIDTH = 2, 40, 5
DINOSR: dict[str, Any] = {"decay": 0.9, "revive_below": 0.0, "eps": 0.0, "start": "random", "keep_unused": True}


def make_codebook(**options: Any) -> EMACodebook:
    torch.manual_seed(0)
    return EMACodebook(GROUPS, SIZE, WIDTH, **{**DINOSR, **options})


def draw(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 9, GROUPS, WIDTH, generator=generator, dtype=torch.float64)


def state(codebook: EMACodebook) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in codebook.state_dict().items()}


def test_random_entries_have_variance_1_over_the_codebook() -> None:
    codebook = make_codebook()
    assert_close(codebook.entries.mean(dim=1), torch.zeros(GROUPS, WIDTH), rtol=0, atol=1e-6)
    assert_close(codebook.entries.var(dim=1, correction=0), torch.ones(GROUPS, WIDTH), rtol=1e-4, atol=0)
    assert torch.equal(codebook.sums, codebook.entries)
    assert torch.equal(codebook.counts, torch.ones(GROUPS, SIZE))
    assert codebook.initialized.all()


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_updates_are_those_of_a_plain_loop(micro_batches: int) -> None:
    """In float64: s <- decay s + (1 - decay) sum, n <- decay n + (1 - decay) count, entry = s / n, for chosen entries.

    The codes of an update are those of the entries before it.
    """
    codebook = make_codebook().double()
    sums, counts = codebook.sums.numpy().copy(), np.ones((GROUPS, SIZE))
    never = np.ones((GROUPS, SIZE), dtype=bool)
    for number in range(4):
        entries = sums / counts[..., None]
        seen, summed = np.zeros((GROUPS, SIZE)), np.zeros((GROUPS, SIZE, WIDTH))
        for part in range(micro_batches):
            vectors = draw(10 * number + part)
            codebook.set_update(number)
            codes = codebook(vectors)
            for row, frame, group in np.ndindex(2, 9, GROUPS):
                vector = vectors[row, frame, group].numpy()
                code = np.square(entries[group] - vector).sum(axis=1).argmin()
                assert codes[row, frame, group] == code
                seen[group, code] += 1
                summed[group, code] += vector
        codebook.finish_update(number)
        chosen = seen > 0
        never &= ~chosen
        counts[chosen] = 0.9 * counts[chosen] + 0.1 * seen[chosen]
        sums[chosen] = 0.9 * sums[chosen] + 0.1 * summed[chosen]
        for name, expected in {"counts": counts, "sums": sums, "entries": sums / counts[..., None]}.items():
            assert_close(getattr(codebook, name), torch.from_numpy(expected), rtol=1e-12, atol=1e-12, msg=name)
    assert never.any()
    assert not never.all()


def test_a_skipped_update_changes_nothing() -> None:
    codebook = make_codebook().double()
    before = state(codebook)
    codebook(draw(0))
    codebook.finish_update(0, skipped=torch.tensor(True))
    assert all(torch.equal(value, before[name]) for name, value in state(codebook).items())


def test_without_keep_unused_counts_decay() -> None:
    codebook = make_codebook(eps=1e-5, keep_unused=False).double()
    codes = codebook(draw(0))
    codebook.finish_update(0)
    unused = torch.ones(SIZE, dtype=torch.bool)
    unused[codes[..., 0].flatten()] = False
    assert unused.any()
    assert_close(codebook.counts[0, unused], torch.full((int(unused.sum()),), 0.9, dtype=torch.float64))


def test_random_entries_can_be_revived() -> None:
    """Far from all latents, so that none chooses them."""
    codebook = make_codebook(revive_below=0.5, eps=1e-5, keep_unused=False).double()
    codebook.entries += 1000
    codebook.sums += 1000
    vectors = draw(0)
    for number in range(20):
        codebook.set_update(number)
        codebook(vectors)
        codebook.finish_update(number)
    assert codebook.entries.norm(dim=-1).median() < 10


def test_a_codebook_that_revives_nothing_collects_no_latents() -> None:
    codebook = make_codebook()
    codebook(draw(0).float())
    assert codebook._counts is not None
    assert codebook._candidates is None


def test_the_quantizer_passes_its_options_on() -> None:
    quantizer = EMAQuantizer(GROUPS * WIDTH, num_codebooks=GROUPS, codebook_size=SIZE, **DINOSR)
    assert torch.equal(quantizer.codebook.counts, torch.ones(GROUPS, SIZE))
    assert quantizer.codebook.keep_unused
    assert not quantizer.codebook.revives


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0.0, "keep_unused": False}, "`eps` must be above 0, but is 0.0. With `keep_unused`, .* it can be 0"),
        ({"eps": -1e-5}, "`eps` must be above 0, but is -1e-05"),
        ({"start": "zeros"}, "`start` must be one of 'latents', 'random', but is zeros"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_codebook(**options)

"""Residual, finite scalar and random-projection quantizers against the published formulas as loops."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from vector_quantize_pytorch import ResidualVQ

from tests.contracts.tiny import WIDTH, build, classes
from w2vlab.functional.codebooks import count_codes, perplexity
from w2vlab.interfaces import UtteranceTargets
from w2vlab.quantizers import (
    EMAQuantizer,
    FiniteScalarQuantizer,
    GumbelQuantizer,
    KMeansQuantizer,
    RandomProjectionQuantizer,
    ResidualQuantizer,
)

with_codebooks = pytest.mark.parametrize(
    "cls",
    [cls for cls in classes("quantizer") if build(cls).num_codebooks and not issubclass(cls, UtteranceTargets)],
    ids=lambda cls: cls.__name__,
)


def perplexities(codes: Tensor, codebook_size: int) -> Tensor:
    counts = count_codes(codes, codebook_size)
    return perplexity(counts / counts.sum(1, keepdim=True))


@with_codebooks
def test_full_collapse_has_a_perplexity_of_one_a_codebook(cls: type) -> None:
    quantizer = build(cls).eval()
    codes = quantizer(torch.randn(1, 1, WIDTH).expand(3, 7, -1)).codes
    assert_close(perplexities(codes, quantizer.codebook_size).sum(), torch.tensor(float(quantizer.num_codebooks)))


def test_uniform_codes_have_a_perplexity_of_all_entries() -> None:
    """Each entry's own vector as a latent, as often as any other."""
    quantizer = EMAQuantizer(6, num_codebooks=2, codebook_size=9).eval()
    every = torch.arange(9)[:, None].expand(9, 2)
    output = quantizer(quantizer.lookup(every)[None].repeat(4, 1, 1))
    assert torch.equal(output.codes[0], every)
    assert_close(perplexities(output.codes, 9), torch.full((2,), 9.0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("cls", [GumbelQuantizer, KMeansQuantizer, EMAQuantizer, RandomProjectionQuantizer])
def test_product_quantizers_use_each_codebook_for_its_own_part_of_the_vector(cls: type) -> None:
    quantizer = build(cls).eval()
    codes = torch.zeros(1, quantizer.num_codebooks, dtype=torch.int64)
    changed = codes.clone()
    changed[0, -1] = 1
    different = quantizer.lookup(codes)[0] != quantizer.lookup(changed)[0]
    width = quantizer.output_dim // quantizer.num_codebooks
    assert not different[:-width].any()
    assert different[-width:].any()


# --- residual ---------------------------------------------------------------------------------------------------------


def learn(quantizer: torch.nn.Module, latents: Tensor, updates: int) -> None:
    quantizer.train()
    for update in range(updates):
        for codebook in quantizer.codebooks:
            codebook.set_update(update)
        quantizer(latents)
        for codebook in quantizer.codebooks:
            codebook.finish_update(update)


def test_residual_quantization_is_a_loop_over_residuals() -> None:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(4, num_codebooks=3, codebook_size=6, gamma=0.5).double().eval()
    for codebook in quantizer.codebooks:
        codebook.entries.normal_()
    latents = torch.randn(2, 5, 4, dtype=torch.float64)
    output = quantizer(latents)
    for row, frame in np.ndindex(2, 5):
        left, total, errors = latents[row, frame].numpy().copy(), np.zeros(4), []
        for stage, codebook in enumerate(quantizer.codebooks):
            entries = codebook.entries[0].numpy()
            code = int(np.argmin([math.dist(left, entry) for entry in entries]))
            assert output.codes[row, frame, stage] == code
            left, total = left - entries[code], total + entries[code]
            errors.append(np.mean(left**2))
        assert_close(output.quantized[row, frame], torch.from_numpy(total))
        assert output.losses["commitment"][row, frame].item() == pytest.approx(0.5 * np.mean(errors))


def test_residual_quantizer_agrees_with_another_implementation() -> None:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(8, num_codebooks=4, codebook_size=12).eval()
    reference = ResidualVQ(dim=8, num_quantizers=4, codebook_size=12).eval()
    for codebook, layer in zip(quantizer.codebooks, reference.layers, strict=True):
        codebook.entries.normal_()
        layer._codebook.embed.copy_(codebook.entries)
    latents = torch.randn(3, 20, 8)
    quantized, codes, _ = reference(latents)
    output = quantizer(latents)
    assert torch.equal(output.codes, codes)
    assert_close(output.quantized, quantized)


def test_commitment_draws_latents_to_every_partial_sum() -> None:
    """With R_k the residual after codebook k: the gradient is gamma times the mean over k of 2 R_k / C."""
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(4, num_codebooks=3, codebook_size=6, gamma=0.5).double()
    latents = torch.randn(1, 5, 4, dtype=torch.float64, requires_grad=True)
    output = quantizer(latents)
    gradient = torch.autograd.grad(output.losses["commitment"].sum(), latents, retain_graph=True)[0]
    left, expected = latents.detach(), torch.zeros(1, 5, 4, dtype=torch.float64)
    for stage, codebook in enumerate(quantizer.codebooks):
        left = left - codebook.entries[0, output.codes[..., stage]]
        expected += 0.5 * 2 * left / 4 / 3
    assert_close(gradient, expected)
    upstream = torch.randn_like(latents)
    assert torch.equal(torch.autograd.grad((output.quantized * upstream).sum(), latents)[0], upstream)


def test_error_falls_with_every_learned_stage() -> None:
    torch.manual_seed(0)
    latents = 3 + torch.randn(4, 200, 6)
    quantizer = ResidualQuantizer(6, num_codebooks=4, codebook_size=16, decay=0.8)
    learn(quantizer, latents, 40)
    codes = quantizer.eval()(latents).codes
    total, errors = torch.zeros_like(latents), [latents.square().mean()]
    for stage, codebook in enumerate(quantizer.codebooks):
        total = total + codebook.entries[0, codes[..., stage]]
        errors.append((latents - total).square().mean())
    for before, after in pairwise(errors):
        assert after < 0.75 * before
    assert (perplexities(codes, 16) > 8).all()


def test_a_stage_is_placed_one_update_after_the_one_before_it() -> None:
    quantizer = ResidualQuantizer(4, num_codebooks=3, codebook_size=5)
    latents = torch.randn(2, 10, 4)
    for update in range(4):
        assert [bool(codebook.initialized.all()) for codebook in quantizer.codebooks] == [n < update for n in range(3)]
        assert [bool(codebook.initialized.any()) for codebook in quantizer.codebooks] == [n < update for n in range(3)]
        learn(quantizer, latents, 1)


# --- finite scalar ----------------------------------------------------------------------------------------------------


def published_rounding(value: float, levels: int) -> tuple[int, float, float]:
    """Level, its value in [-1, 1], and the derivative of the bound, as in Appendix A.1 of the paper."""
    half = (levels - 1) * (1 + 1e-3) / 2
    offset = 0.5 if levels % 2 == 0 else 0.0
    bounded = math.tanh(value + math.atanh(offset / half)) * half - offset
    level = round(bounded)
    slope = (1 - math.tanh(value + math.atanh(offset / half)) ** 2) * half / (levels // 2)
    return level + levels // 2, level / (levels // 2), slope


def test_finite_scalar_quantization_is_the_published_formula() -> None:
    torch.manual_seed(0)
    levels = [8, 5, 3]
    quantizer = FiniteScalarQuantizer(7, levels, num_codebooks=2).double()
    latents = 3 * torch.randn(2, 20, 7, dtype=torch.float64, requires_grad=True)
    latents.retain_grad()
    upstream = torch.randn(2, 20, 7, dtype=torch.float64)
    output = quantizer(latents)
    (output.quantized * upstream).sum().backward()
    weight_in, weight_out = quantizer.project_in.weight, quantizer.project_out.weight.detach()
    scalars = quantizer.project_in(latents).detach()
    seen = set()
    for row, frame in np.ndindex(2, 20):
        values, slopes = torch.zeros(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
        for group in range(2):
            code, basis = 0, 1
            for index, size in enumerate(levels):
                place = 3 * group + index
                level, value, slope = published_rounding(scalars[row, frame, place].item(), size)
                assert 0 <= level < size
                code, basis = code + level * basis, basis * size
                values[place], slopes[place] = value, slope
            assert output.codes[row, frame, group] == code
            seen.add(code)
        expected = weight_out @ values + quantizer.project_out.bias.detach()
        assert_close(output.quantized[row, frame].detach(), expected, rtol=1e-5, atol=1e-6)
        gradient = weight_in.detach().T @ (slopes * (weight_out.T @ upstream[row, frame]))
        assert_close(latents.grad[row, frame], gradient, rtol=1e-5, atol=1e-6)
    assert len(seen) > 20, "the comparison saw many codes"


@pytest.mark.parametrize(("levels", "num_codebooks"), [([8, 5, 5, 5], 1), ([3, 4], 2), ([7], 3)])
def test_codes_of_a_finite_scalar_quantizer_have_distinct_vectors(levels, num_codebooks) -> None:
    quantizer = FiniteScalarQuantizer(6, levels, num_codebooks).eval()
    assert quantizer.codebook_size == math.prod(levels)
    every = torch.arange(quantizer.codebook_size)[:, None].expand(-1, num_codebooks)
    assert len(quantizer.lookup(every).unique(dim=0)) == quantizer.codebook_size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_vector_of_a_code_is_bit_identical_in_batches_of_any_shape(dtype: torch.dtype) -> None:
    """A contrastive loss leaves negatives out that equal the true target, and so must know them."""
    torch.manual_seed(0)
    quantizer = FiniteScalarQuantizer(96, [8, 5, 5, 5], num_codebooks=3)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = quantizer(torch.randn(7, 33, 96, dtype=dtype))
        for vectors, codes in [
            (output.quantized, output.codes),
            (output.quantized[3, 5], output.codes[3, 5]),
            (output.quantized[:, ::2], output.codes[:, ::2]),
        ]:
            assert torch.equal(quantizer.lookup(codes).to(vectors.dtype), vectors)


def test_finite_scalar_quantizer_has_parameters_alone_on_the_meta_device() -> None:
    with torch.device("meta"):
        quantizer = FiniteScalarQuantizer(6, [8, 5])
    assert sum(parameter.numel() for parameter in quantizer.parameters()) == 6 * 2 + 2 + 2 * 6 + 6
    assert all(parameter.is_meta for parameter in quantizer.parameters())
    assert quantizer.codebook_size == 40


def test_the_library_is_imported_only_if_it_is_used() -> None:
    program = "import sys, w2vlab.quantizers; sys.exit('vector_quantize_pytorch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- random projection ------------------------------------------------------------------------------------------------


def test_random_projection_is_the_published_formula() -> None:
    """The entry with the smallest distance between the unit vectors of A x and of the entry."""
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(6, num_codebooks=2, codebook_size=30, code_dim=3).double()
    latents = torch.randn(2, 25, 6, dtype=torch.float64)
    output = quantizer(latents)
    projection, entries = quantizer.projection.numpy(), quantizer.entries.numpy()
    for row, frame, group in np.ndindex(2, 25, 2):
        x = latents[row, frame].numpy()
        x = (x - x.mean()) / x.std()
        projected = projection[group] @ x
        projected /= np.linalg.norm(projected)
        code = int(np.argmin([math.dist(projected, entry / np.linalg.norm(entry)) for entry in entries[group]]))
        assert output.codes[row, frame, group] == code
        assert_close(output.quantized[row, frame, 3 * group : 3 * group + 3], torch.from_numpy(entries[group, code]))


def test_frames_that_are_normalized_already_keep_their_level() -> None:
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(6, codebook_size=30, code_dim=3, normalize=False).double()
    latents = torch.randn(2, 25, 6, dtype=torch.float64)
    directions = torch.nn.functional.normalize(latents @ quantizer.projection[0].T, dim=-1)
    distances = torch.cdist(directions, quantizer.entries)
    assert torch.equal(quantizer(latents).codes[..., 0], distances.argmin(-1))
    assert not torch.equal(quantizer(latents + 1).codes, quantizer(latents).codes)


def test_random_projection_is_frozen_and_of_unit_entries() -> None:
    quantizer = RandomProjectionQuantizer(64)
    assert list(quantizer.parameters()) == []
    assert set(quantizer.state_dict()) == {"projection", "entries"}
    assert_close(quantizer.entries.norm(dim=-1), torch.ones(1, 8192))
    bound = math.sqrt(6 / (64 + 16))  # Glorot and Bengio's, uniform
    assert bound * 0.95 < quantizer.projection.abs().max() <= bound


def test_gradient_passes_the_frozen_projection() -> None:
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(6, num_codebooks=2, codebook_size=9, code_dim=3).double()
    latents = torch.randn(1, 4, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(1, 4, 6, dtype=torch.float64)
    (actual,) = torch.autograd.grad((quantizer(latents).quantized * upstream).sum(), latents)
    centered = latents - latents.mean(-1, keepdim=True)
    normalized = centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    projected = torch.stack([normalized @ matrix.T for matrix in quantizer.projection], dim=2)  # (1, 4, 2, 3)
    directions = (projected / projected.norm(dim=-1, keepdim=True)).flatten(-2)
    (expected,) = torch.autograd.grad((directions * upstream).sum(), latents)
    assert_close(actual, expected)


@settings(deadline=None)
@given(scale=st.floats(0.1, 1e3), shift=st.floats(-100, 100), seed=st.integers(0, 99))
def test_codes_of_a_random_projection_do_not_depend_on_scale_and_shift(scale, shift, seed) -> None:
    torch.manual_seed(seed)
    quantizer = RandomProjectionQuantizer(8, codebook_size=20, code_dim=4).double()
    latents = torch.randn(2, 10, 8, dtype=torch.float64)
    assert torch.equal(quantizer(scale * latents + shift).codes, quantizer(latents).codes)


def test_random_codes_are_well_spread() -> None:
    """Even on latents with an offset, which without normalisation would choose few entries."""
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(64, codebook_size=32)
    codes = quantizer(10 + torch.randn(4, 2000, 64)).codes
    assert perplexities(codes, 32) > 20

"""Gradients that are not the derivative of the forward pass, against formulas by hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.testing import assert_close

from w2vlab.functional.gradients import scale_gradient, straight_through
from w2vlab.functional.precision import at_least_float32
from w2vlab.quantizers import GumbelQuantizer, KMeansQuantizer


class GivenNoise(GumbelQuantizer):
    """Adds given noise in place of fresh noise."""

    noise: Tensor

    def draw_noise(self, scores: Tensor) -> Tensor:
        return self.noise


def softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()


def test_gumbel_softmax_forward_and_backward() -> None:
    """With upstream gradient u, entry e_v and soft choice y: du/de_v = onehot_v u; du/dl_v = y_v (s_v - y.s) / tau,
    where s_v = u.e_v."""
    torch.manual_seed(0)
    groups, size, width, tau = 2, 4, 3, 0.7
    quantizer = GivenNoise(
        5, groups, size, groups * width, temperature_start=tau, temperature_end=tau, temperature_decay=1.0
    ).double()
    quantizer.temperature.fill_(tau)
    quantizer.noise = torch.randn(1, 1, groups, size, dtype=torch.float64)
    latents = torch.randn(1, 1, 5, dtype=torch.float64)
    upstream = torch.randn(groups * width, dtype=torch.float64)
    output = quantizer(latents)
    (output.quantized[0, 0] * upstream).sum().backward()

    layer = quantizer.scores[0]
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    entries, noise, latent = quantizer.entries.detach().numpy(), quantizer.noise.numpy()[0, 0], latents.numpy()[0, 0]
    scores = (weight @ latent + bias).reshape(groups, size)
    score_gradient = np.zeros((groups, size))
    entry_gradient = np.zeros_like(entries)
    for group in range(groups):
        noisy = scores[group] + noise[group]
        choice = int(noisy.argmax())
        u = upstream.numpy()[group * width : (group + 1) * width]
        assert output.codes[0, 0, group] == choice
        chosen = torch.from_numpy(entries[group, choice])
        assert torch.equal(output.quantized[0, 0, group * width : (group + 1) * width].detach(), chosen)
        assert_close(output.probabilities[0, 0, group].detach(), torch.from_numpy(softmax(scores[group])))
        soft = softmax(noisy / tau)
        s = entries[group] @ u
        for v in range(size):
            score_gradient[group, v] = soft[v] * (s[v] - soft @ s) / tau
        entry_gradient[group, choice] = u
    assert_close(quantizer.entries.grad, torch.from_numpy(entry_gradient))
    assert_close(layer.bias.grad, torch.from_numpy(score_gradient.ravel()))
    assert_close(layer.weight.grad, torch.from_numpy(np.outer(score_gradient.ravel(), latent)))


def test_gumbel_noise_is_standard_gumbel() -> None:
    """Mean 0.5772 and variance pi^2 / 6 of 200,000 draws, within six standard errors (odds of failing: 4e-9)."""
    torch.manual_seed(0)
    noise = GumbelQuantizer(2).draw_noise(torch.zeros(200_000))
    assert abs(noise.mean() - 0.57722) < 6 * (1.6449 / 200_000) ** 0.5
    assert abs(noise.var() - 1.64493) < 6 * (4.4 * 1.6449**2 / 200_000) ** 0.5
    assert noise.isfinite().all()


def test_codes_are_drawn_from_the_softmax() -> None:
    """The arg max of scores with Gumbel noise is a draw from their softmax: 100,000 draws, six standard errors."""
    torch.manual_seed(0)
    quantizer = GumbelQuantizer(1, num_codebooks=1, codebook_size=4, output_dim=2)
    output = quantizer(torch.ones(1, 100_000, 1))
    p = output.probabilities[0, 0, 0].detach()
    share = torch.bincount(output.codes.flatten(), minlength=4) / 100_000
    assert ((share - p).abs() < 6 * (p * (1 - p) / 100_000).sqrt() + 1e-6).all()


def test_kmeans_gradients_by_hand() -> None:
    """The upstream gradient passes to the latents as if nothing were quantized and to no entry; the codebook loss
    moves entries by 2 (e - z) / C, the commitment loss latents by 2 gamma (z - e) / C."""
    torch.manual_seed(0)
    quantizer = KMeansQuantizer(4, num_codebooks=2, codebook_size=3, gamma=0.25).double()
    upstream = torch.randn(1, 5, 4, dtype=torch.float64)
    latents = torch.randn(1, 5, 4, dtype=torch.float64, requires_grad=True)
    output = quantizer(latents)
    assert_close(output.quantized, quantizer.lookup(output.codes), rtol=0, atol=1e-15)

    projected = quantizer.norm(quantizer.projection(latents.transpose(1, 2))).transpose(1, 2)
    expected = torch.autograd.grad((projected * upstream).sum(), latents, retain_graph=True)[0]
    actual, entries = torch.autograd.grad(
        (output.quantized * upstream).sum(), (latents, quantizer.entries), retain_graph=True, allow_unused=True
    )
    assert_close(actual, expected)
    assert entries is None or (entries == 0).all()

    chosen = quantizer.lookup(output.codes).detach()
    by_hand = torch.zeros_like(quantizer.entries)
    for frame in range(5):
        for group in range(2):
            part = slice(2 * group, 2 * group + 2)
            pull = 2 * (chosen - projected.detach())[0, frame, part] / 4
            by_hand[group, output.codes[0, frame, group]] += pull
    on_latents = torch.autograd.grad((projected * (0.25 * 2 * (projected.detach() - chosen) / 4)).sum(), latents)[0]
    actual, entries = torch.autograd.grad(output.losses["kmeans"].sum(), (latents, quantizer.entries))
    assert_close(entries, by_hand)
    assert_close(actual, on_latents)


def test_scaled_gradient() -> None:
    value = torch.randn(3, requires_grad=True)
    assert torch.equal(scale_gradient(value, 0.1), value)
    scale_gradient(value, 0.1).sum().backward()
    assert_close(value.grad, torch.full((3,), 0.1))
    assert scale_gradient(value, 1.0) is value


def test_straight_through_is_exact_both_ways() -> None:
    value = torch.tensor([1e-8, 1.0, 3.0])
    surrogate = torch.tensor([1e8, 0.3, -1.0], requires_grad=True)
    through = straight_through(value, surrogate)
    assert torch.equal(through, value)
    through.backward(torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(surrogate.grad, torch.tensor([1.0, 2.0, 3.0]))


def test_at_least_float32_raises_and_never_lowers() -> None:
    for dtype, expected in [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ]:
        assert at_least_float32(torch.ones(1, dtype=dtype)).dtype == expected

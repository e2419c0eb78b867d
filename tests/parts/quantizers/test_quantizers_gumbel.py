"""The options of the Gumbel quantizer against loops, and its gradients against finite differences."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torch.func import functional_call
from torch.testing import assert_close

from w2vlab.functional.gradients import scale_gradient, straight_through
from w2vlab.quantizers import GumbelQuantizer

GROUPS, SIZE, WIDTH = 2, 4, 3


class FixedNoise(GumbelQuantizer):
    """The same noise at every call, so that the soft path is a function that can be differentiated numerically."""

    def draw_noise(self, scores: Tensor) -> Tensor:
        uniform = np.random.default_rng(0).uniform(0.05, 0.95, size=scores.shape)
        return torch.from_numpy(-np.log(-np.log(uniform))).to(scores.dtype)


def build(cls: type[GumbelQuantizer] = FixedNoise, **arguments) -> GumbelQuantizer:
    torch.manual_seed(0)
    arguments = {"num_codebooks": GROUPS, "codebook_size": SIZE, "output_dim": GROUPS * WIDTH} | arguments
    return cls(5, **arguments).double()


def latents() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(1, 3, 5, dtype=torch.float64)


def test_linear_annealing_is_vq_wav2vecs() -> None:
    quantizer = GumbelQuantizer(8, annealing="linear")
    for update, expected in [(0, 2.0), (70_000, 1.625), (140_000, 1.25), (280_000, 0.5), (400_000, 0.5)]:
        assert quantizer.temperature_at(update) == pytest.approx(expected)
        quantizer.set_update(update)
        assert quantizer.temperature.item() == pytest.approx(expected)
        assert quantizer.scheduled_values(update) == {"gumbel_temperature": pytest.approx(expected)}


def test_exponential_annealing_reaches_the_lowest_temperature_at_the_computed_update() -> None:
    quantizer = GumbelQuantizer(8)
    assert quantizer.temperature_at(277_257) > 0.5
    assert quantizer.temperature_at(277_260) == 0.5
    assert quantizer.temperature_at(250_000) == pytest.approx(0.573, abs=5e-4)


@settings(deadline=None)
@given(
    start=st.floats(0.1, 5),
    share=st.floats(0.01, 1),
    updates=st.integers(1, 10**6),
    update=st.integers(0, 10**6),
    annealing=st.sampled_from(["linear", "exponential"]),
)
def test_temperature_falls_and_stays_between_its_ends(start, share, updates, update, annealing) -> None:
    quantizer = GumbelQuantizer(
        2,
        codebook_size=2,
        output_dim=2,
        temperature_start=start,
        temperature_end=share * start,
        annealing=annealing,
        annealing_updates=updates,
    )
    now, later = quantizer.temperature_at(update), quantizer.temperature_at(update + 1)
    assert quantizer.temperature_at(0) == start
    assert share * start * (1 - 1e-12) <= later <= now <= start


@pytest.mark.parametrize("noise", [True, False])
def test_soft_quantization_mixes_all_entries(noise: bool) -> None:
    tau = 0.7
    quantizer = build(hard=False, noise=noise, temperature_start=tau, temperature_end=tau)
    quantizer.set_update(0)
    output = quantizer(latents())
    scores = quantizer.scores(latents()).detach().numpy().reshape(3, GROUPS, SIZE)
    added = quantizer.draw_noise(torch.empty(1, 3, GROUPS, SIZE)).double().numpy()[0] if noise else 0 * scores
    entries = quantizer.entries.detach().numpy()
    for frame, group in np.ndindex(3, GROUPS):
        noisy = scores[frame, group] + added[frame, group]
        weights = [math.exp(score / tau) for score in noisy]
        mixture = sum(weight * entry for weight, entry in zip(weights, entries[group], strict=True)) / sum(weights)
        part = output.quantized[0, frame, group * WIDTH : (group + 1) * WIDTH]
        assert_close(part.detach(), torch.from_numpy(mixture), rtol=1e-6, atol=1e-7)
        assert output.codes[0, frame, group] == int(noisy.argmax())


def test_evaluation_returns_one_entry_even_if_training_returns_the_mean() -> None:
    quantizer = build(hard=False).eval()
    output = quantizer(latents())
    assert torch.equal(output.codes, output.probabilities.argmax(-1))
    assert_close(output.quantized, quantizer.lookup(output.codes))


def test_without_noise_training_chooses_as_evaluation_and_draws_nothing() -> None:
    quantizer = build(GumbelQuantizer, noise=False)
    values = latents()
    state = torch.get_rng_state()
    output = quantizer(values)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(output.codes, quantizer.eval()(values).codes)
    with_noise = build(GumbelQuantizer)
    assert any(not torch.equal(with_noise(values).codes, output.codes) for _ in range(20))


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_activation_of_a_deep_projection(activation: str) -> None:
    quantizer = build(GumbelQuantizer, projection_depth=2, projection_factor=2, projection_activation=activation).eval()
    first, last = quantizer.scores[0], quantizer.scores[2]
    for frame in range(3):
        inner = (first.weight @ latents()[0, frame] + first.bias).tolist()
        if activation == "relu":
            inner = [max(value, 0.0) for value in inner]
        else:
            inner = [value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in inner]
        scores = last.weight @ torch.tensor(inner, dtype=torch.float64) + last.bias
        expected = scores.view(GROUPS, SIZE).softmax(-1)
        assert_close(quantizer(latents()).probabilities[0, frame], expected)


def test_activation_without_effect_warns() -> None:
    with pytest.warns(UserWarning, match="`projection_activation` has no effect if `projection_depth` is 1"):
        GumbelQuantizer(8, projection_activation="relu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GumbelQuantizer(8, projection_depth=2, projection_activation="relu")
        GumbelQuantizer(8)


def weighted(quantizer: GumbelQuantizer, names: list[str], upstream: Tensor, *values: Tensor) -> Tensor:
    """A scalar function of the latents and parameters."""
    parameters = dict(zip(names, values[1:], strict=True))
    return (functional_call(quantizer, parameters, (values[0],)).quantized * upstream).sum()


DEPTHS = pytest.mark.parametrize("depth", [1, 2])


@DEPTHS
def test_soft_path_by_finite_differences(depth: int) -> None:
    """Of latents, entries, and the weights of the scores, with the noise fixed."""
    quantizer = build(hard=False, projection_depth=depth)
    named = {name: value.detach().clone().requires_grad_() for name, value in quantizer.named_parameters()}
    upstream = torch.randn(1, 3, GROUPS * WIDTH, dtype=torch.float64)
    values = (latents().requires_grad_(), *named.values())
    assert gradcheck(lambda *given: weighted(quantizer, list(named), upstream, *given), values)


@DEPTHS
def test_hard_choice_has_the_gradient_of_the_soft_path(depth: int) -> None:
    """For the latents and the scores; the entries' gradient goes to the chosen ones alone."""
    upstream = torch.randn(1, 3, GROUPS * WIDTH, dtype=torch.float64)
    gradients = {}
    for hard in (True, False):
        quantizer = build(hard=hard, projection_depth=depth)
        values = latents().requires_grad_()
        (quantizer(values).quantized * upstream).sum().backward()
        gradients[hard] = [values.grad, *(parameter.grad for parameter in quantizer.scores.parameters())]
        chosen = torch.nn.functional.one_hot(quantizer(values).codes[0], SIZE).sum(0).bool()
        assert torch.equal((quantizer.entries.grad != 0).any(-1), chosen if hard else torch.ones_like(chosen))
    for first, second in zip(gradients[True], gradients[False], strict=True):
        assert_close(first, second)


def numerical(function, x: Tensor) -> Tensor:
    """Central differences of a scalar function."""
    steps = 1e-6 * torch.eye(len(x), dtype=x.dtype)
    return torch.stack([(function(x + step) - function(x - step)) / 2e-6 for step in steps])


def test_custom_gradients_by_finite_differences() -> None:
    """Inside a function that is not linear: the outer derivative is taken at the value that was passed on, the inner
    one is the surrogate's, or the scaled one of the identity."""
    torch.manual_seed(0)
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    value = torch.randn(5, dtype=torch.float64)
    (actual,) = torch.autograd.grad(straight_through(value, x.sin()).pow(3).sum(), x)
    assert_close(actual, numerical(lambda x: (3 * value**2 * x.sin()).sum(), x.detach()), rtol=1e-6, atol=1e-8)
    for scale in (0.0, 0.1, 3.0):
        (actual,) = torch.autograd.grad(scale_gradient(x.sin(), scale).pow(3).sum(), x)
        expected = scale * numerical(lambda x: x.sin().pow(3).sum(), x.detach())
        assert_close(actual, expected, rtol=1e-6, atol=1e-8)

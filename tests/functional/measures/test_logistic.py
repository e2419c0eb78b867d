"""The linear probe finds the optimum that scikit-learn does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from w2vlab.functional.measures.logistic import fit_logistic


def problem(size: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (size,), generator=generator)
    centres = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    features = 100 + 3 * (centres[labels] + torch.randn(size, 6, generator=generator, dtype=torch.float64))
    return torch.cat([features, torch.full((size, 1), 7.0)], dim=1), labels  # the last feature is constant


@pytest.mark.parametrize("penalty", [1e-1, 1e-3])
def test_the_gradient_vanishes_at_the_optimum(penalty: float) -> None:
    features, labels = problem()
    model = fit_logistic(features, labels, 4, penalty, tolerance=1e-8)
    weight, bias = model.weight.clone().requires_grad_(), model.bias.clone().requires_grad_()
    rows = (features - model.mean) * model.scale
    (F.cross_entropy(rows @ weight.T + bias, labels) + penalty / 2 * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-7
    assert bias.grad.abs().max() < 1e-7
    assert rows[:, :-1].std(dim=0, unbiased=False).tolist() == pytest.approx([1] * 6, abs=1e-9)
    assert torch.equal(rows[:, -1], torch.zeros(300, dtype=torch.float64))


@pytest.mark.parametrize("penalty", [1e-1, 1e-3])
def test_agrees_with_scikit_learn(penalty: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason='pip install -e ".[notebooks]"')
    features, labels = problem()
    model = fit_logistic(features, labels, 4, penalty, tolerance=1e-8)
    rows = ((features - model.mean) * model.scale).numpy()
    theirs = linear_model.LogisticRegression(C=1 / (len(labels) * penalty), tol=1e-8, max_iter=10_000)
    theirs.fit(rows, labels.numpy())
    ours = model.scores(features).softmax(dim=1)
    assert torch.allclose(ours, torch.tensor(theirs.predict_proba(rows), dtype=torch.float64), atol=1e-6)


def test_the_optimum_does_not_depend_on_the_start() -> None:
    features, labels = problem()
    warm = fit_logistic(features, labels, 4, 1e-2, start=fit_logistic(features, labels, 4, 1.0), tolerance=1e-8)
    cold = fit_logistic(features, labels, 4, 1e-2, tolerance=1e-8)
    assert torch.allclose(warm.scores(features), cold.scores(features), atol=1e-4)


def test_works_without_gradients_and_uses_no_random_numbers() -> None:
    features, labels = problem()
    before = torch.get_rng_state()
    with torch.no_grad():
        without = fit_logistic(features, labels, 4, 1e-2)
    with torch.inference_mode():
        inference = fit_logistic(features + 0, labels, 4, 1e-2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(without.predict(features), inference.predict(features))
    assert (without.predict(features) == labels).float().mean() > 0.7


def test_float32_is_close_to_float64() -> None:
    features, labels = problem()
    wide, narrow = fit_logistic(features, labels, 4, 1e-2), fit_logistic(features.float(), labels, 4, 1e-2)
    assert narrow.weight.dtype == torch.float32
    assert torch.allclose(narrow.scores(features.float()).double(), wide.scores(features), atol=5e-3)


def test_invalid_arguments() -> None:
    features, labels = problem()
    with pytest.raises(ValueError, match="`penalty` must be positive, but is 0"):
        fit_logistic(features, labels, 4, 0)
    features[3, 2] = torch.nan
    with pytest.raises(ValueError, match="`features` must be finite"):
        fit_logistic(features, labels, 4, 1)

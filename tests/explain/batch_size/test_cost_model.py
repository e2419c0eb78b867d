"""The model of what a batch costs, fitted to measurements."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import nnls

from w2vlab.explain.batch_size.cost_model import BatchShape, CostModel, deviations, fit_cost

SHAPES = [BatchShape(n, t) for t in (2.0, 6.5, 11.0, 15.6) for n in (1, 3, 7)]


@pytest.mark.parametrize(
    "truth", [(0.02, 0.01, 0.0005), (0.0, 0.01, 0.0005), (0.02, 0.01, 0.0), (0.0, 0.01, 0.0), (0.5, 0.0, 0.001)]
)
def test_terms_are_recovered_exactly(truth):
    costs = [CostModel(*truth).predict(shape) for shape in SHAPES]
    found = fit_cost(SHAPES, costs)
    assert (found.fixed, found.linear, found.quadratic) == pytest.approx(truth, rel=1e-9, abs=1e-12)
    assert max(map(abs, deviations(found, SHAPES, costs))) < 1e-9


def test_terms_are_recovered_from_noisy_measurements():
    truth, noise = CostModel(0.05, 0.02, 0.001), np.random.default_rng(0)
    shapes = SHAPES * 20
    found = fit_cost(shapes, [truth.predict(shape) * noise.normal(1, 0.05) for shape in shapes])
    assert found.linear == pytest.approx(truth.linear, rel=0.1)
    assert found.quadratic_seconds == pytest.approx(truth.quadratic_seconds, rel=0.15)


@pytest.mark.parametrize("seed", range(20))
def test_no_term_is_negative_and_the_solution_is_that_of_scipy(seed):
    noise = np.random.default_rng(seed)
    costs = [float(noise.uniform(0.5, 1.5) * (1 + shape.utterances)) for shape in SHAPES]  # of no length
    found = fit_cost(SHAPES, costs)
    terms = np.array([[1, s.utterances * s.seconds, s.utterances * s.seconds**2] for s in SHAPES])
    expected, _ = nnls(terms / np.array(costs)[:, None], np.ones(len(costs)))
    assert [found.fixed, found.linear, found.quadratic] == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-9)


def test_of_one_length_there_is_no_quadratic_term():
    shapes = [BatchShape(n, 4.0) for n in (1, 2, 4)]
    found = fit_cost(shapes, [0.1 + 0.4 * shape.utterances for shape in shapes])
    assert (found.fixed, found.linear, found.quadratic) == pytest.approx((0.1, 0.1, 0.0))
    assert found.quadratic_seconds is None


def test_quadratic_seconds_is_the_length_that_costs_twice():
    model = CostModel(0.3, 0.02, 0.0005)
    assert model.quadratic_seconds == pytest.approx(40)
    assert model.of_utterance(40) == pytest.approx(2 * 40 * model.linear)
    with pytest.raises(ValueError, match="must grow with its audio"):
        _ = CostModel(0.3, 0.0, 0.1).quadratic_seconds


@pytest.mark.parametrize(("shapes", "costs"), [([], []), (SHAPES[:2], [1.0, 0.0])])
def test_costs_are_positive(shapes, costs):
    with pytest.raises(ValueError, match="`costs` must be positive and at least one"):
        fit_cost(shapes, costs)

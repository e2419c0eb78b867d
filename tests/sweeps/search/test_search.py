"""Grid search and random search."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from w2vlab.sweeps import planned_trials, read_sweep
from w2vlab.sweeps.search.parameters import read_parameter
from w2vlab.sweeps.trial import format_value, value_at


def sweep_of(tmp_path: Path, parameters: str, method: str = "grid"):
    path = tmp_path / "sweep.yaml"
    path.write_text(f"method: {method}\nparameters:\n{parameters}", encoding="utf-8")
    return read_sweep(path)


def test_a_grid_has_every_combination_once(tmp_path):
    sweep = sweep_of(tmp_path, "  a: {values: [1, 2]}\n  b: {min: 3, max: 5}\n  c: {value: x}\n")
    found = [tuple(trial.parameters.values()) for trial in planned_trials(sweep, None)]
    assert found == [(a, b, "x") for a, b in itertools.product([1, 2], [3, 4, 5])]
    assert len(planned_trials(sweep, 4)) == 4


def test_equal_settings_are_one_trial(tmp_path):
    assert len(planned_trials(sweep_of(tmp_path, "  a: {values: [1, 1, 2]}\n"), None)) == 2


def test_a_grid_needs_values(tmp_path):
    with pytest.raises(
        ValueError, match=r"`a` must have `values` for a grid, but is uniform\. Or set `method` to random"
    ):
        planned_trials(sweep_of(tmp_path, "  a: {min: 0.0, max: 1.0}\n"), None)


def test_nested_parameters_stay_nested_as_with_a_wandb_agent(tmp_path):
    text = "  model: {parameters: {init_args: {parameters: {size: {values: [1, 2]}}}}}\n  seed: {value: 3}\n"
    trials = planned_trials(sweep_of(tmp_path, text), None)
    assert [trial.parameters for trial in trials] == [
        {"model": {"init_args": {"size": size}}, "seed": 3} for size in (1, 2)
    ]
    assert value_at(trials[0].parameters, ("model", "init_args", "size")) == 1
    assert value_at(trials[0].parameters, ("model", "other", "size")) is None


def test_names_are_unique_and_depend_on_the_values_only(tmp_path):
    text = "  model.quantizer: {values: [configs/quantizer/gumbel.yaml, KMeansQuantizer]}\n  size: {values: [40, 80]}\n"
    trials = planned_trials(sweep_of(tmp_path, text), None)
    names = [trial.name for trial in trials]
    assert [name[:-7] for name in names] == [
        f"{quantizer}-size={size}" for quantizer in ("gumbel", "KMeansQuantizer") for size in (40, 80)
    ]
    assert len(set(names)) == 4
    more = planned_trials(sweep_of(tmp_path, text.replace("[40, 80]", "[20, 40, 80]")), None)
    assert set(names) < {trial.name for trial in more}


def test_values_are_formatted(tmp_path):
    part = {"class_path": "w2vlab.quantizers.EMAQuantizer", "init_args": {"codebook_size": 40, "gamma": 0.1}}
    assert format_value(part) == "EMAQuantizer(codebook_size=40, gamma=0.1)"
    assert format_value({"class_path": "IdentityQuantizer"}) == "IdentityQuantizer"
    assert [format_value(value) for value in ("configs/a/b.yaml", "KMeans", 0.5, [1])] == ["b", "KMeans", "0.5", "[1]"]
    parts = "[{class_path: A, init_args: {n: 1}}, {class_path: A, init_args: {n: 2}}]"
    text = f"  q: {{values: {parts}}}\n  s: {{values: [1, 2]}}\n"
    names = [trial.name[:-7] for trial in planned_trials(sweep_of(tmp_path, text), None)]
    assert names == ["A_n=1_-s=1", "A_n=1_-s=2", "A_n=2_-s=1", "A_n=2_-s=2"]


def test_a_longer_random_search_has_the_same_trials_first(tmp_path):
    sweep = sweep_of(tmp_path, "  a: {min: 0.0, max: 1.0}\n  b: {values: [x, y]}\n", "random")
    few, many = (planned_trials(sweep, count) for count in (4, 8))
    assert [t.parameters for t in few] == [t.parameters for t in many[:4]]
    assert len({t.parameters["a"] for t in many}) == 8
    with pytest.raises(ValueError, match="`--count` or the file's `run_cap` must be given for a random search"):
        planned_trials(sweep, None)


def draw(number: int = 4000, **content):
    parameter, generator = read_parameter("a", content), np.random.default_rng(0)
    return [parameter.sample(generator) for _ in range(number)]


@pytest.mark.parametrize(
    ("content", "low", "high", "mean"),
    [
        ({"min": 1.0, "max": 3.0}, 1, 3, 2),
        ({"distribution": "log_uniform", "min": 0.0, "max": 1.0}, 1, math.e, math.e - 1),
        ({"distribution": "log_uniform_values", "min": 1.0, "max": math.e}, 1, math.e, math.e - 1),
        # 1 / u, where the logarithm of u is uniform.
        ({"distribution": "inv_log_uniform", "min": 0.0, "max": 1.0}, 1 / math.e, 1, 1 - 1 / math.e),
        ({"distribution": "inv_log_uniform_values", "min": 1.0, "max": math.e}, 1, math.e, math.e - 1),
        ({"distribution": "normal", "mu": 2.0, "sigma": 0.5}, -math.inf, math.inf, 2),
        ({"distribution": "log_normal", "mu": 0.0, "sigma": 0.5}, 0, math.inf, math.exp(0.125)),
        ({"distribution": "beta", "a": 2.0, "b": 6.0}, 0, 1, 0.25),
    ],
)
def test_samples_have_the_limits_and_the_mean_of_their_distribution(content, low, high, mean):
    values = draw(**content)
    assert min(values) >= low
    assert max(values) <= high
    assert np.mean(values) == pytest.approx(mean, abs=5 * np.std(values) / math.sqrt(len(values)))


def test_integers_include_both_limits():
    values = draw(min=2, max=4)
    assert set(values) == {2, 3, 4}
    assert all(type(value) is int for value in values)


def test_quantized_samples_are_multiples():
    assert set(draw(distribution="q_uniform", min=0, max=10, q=5)) == {0, 5, 10}
    halves = draw(distribution="q_log_normal", mu=0, sigma=1, q=0.5)
    assert all(value * 2 == int(value * 2) for value in halves)


def test_values_keep_their_types_and_probabilities():
    values = draw(values=[1, "x", [2, 3]], probabilities=[0.0, 0.25, 0.75])
    assert 1 not in values
    assert values.count([2, 3]) / len(values) == pytest.approx(0.75, abs=0.03)

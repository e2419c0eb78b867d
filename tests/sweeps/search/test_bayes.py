"""Bayesian search."""

from __future__ import annotations

from pathlib import Path

import pytest

from w2vlab.sweeps import BayesSearch, Trial, read_sweep

PARAMETERS = """\
  rate: {distribution: log_uniform_values, min: 0.0001, max: 1.0}
  part: {values: [{class_path: A}, [1, 2]]}
  nested: {parameters: {size: {min: 1, max: 8}}}
  seed: {value: 1}
"""


def sweep_of(tmp_path: Path, parameters: str = PARAMETERS, goal: str = "minimize"):
    path = tmp_path / "sweep.yaml"
    path.write_text(f"method: bayes\nmetric: {{name: loss, goal: {goal}}}\nparameters:\n{parameters}", encoding="utf-8")
    return read_sweep(path)


def value_of(trial: Trial) -> float:
    """Least at a rate near 0.01, with the list, and a size of 1."""
    parameters = trial.parameters
    return abs(parameters["rate"] - 0.01) + (parameters["part"] != [1, 2]) + parameters["nested"]["size"] / 8


def searched(search: BayesSearch, number: int, sign: float = 1.0) -> list[Trial]:
    trials: list[Trial] = []
    for _ in range(number):
        trial = search.next(trials)
        trial.state, trial.value = "finished", sign * value_of(trial)
        trials.append(trial)
    return trials


@pytest.mark.parametrize(("goal", "sign"), [("minimize", 1.0), ("maximize", -1.0)])
def test_it_learns_from_earlier_trials(tmp_path, goal, sign):
    trials = searched(BayesSearch(sweep_of(tmp_path, goal=goal)), 40, sign)
    first, last = ([value_of(trial) for trial in some] for some in (trials[:10], trials[-10:]))
    assert sum(last) < 0.6 * sum(first)
    assert {trial.parameters["seed"] for trial in trials} == {1}
    assert all(1e-4 <= trial.parameters["rate"] <= 1 for trial in trials)
    assert all(trial.parameters["nested"]["size"] in range(1, 9) for trial in trials)


def test_a_resumed_search_chooses_the_same_trials(tmp_path):
    sweep = sweep_of(tmp_path)
    trials = searched(BayesSearch(sweep), 12)
    again = [Trial.from_dict(trial.as_dict()) for trial in trials]
    assert BayesSearch(sweep).next(trials).parameters == BayesSearch(sweep).next(again).parameters


def test_failed_trials_and_trials_outside_of_the_space_are_allowed(tmp_path):
    search = BayesSearch(sweep_of(tmp_path))
    inside = {"rate": 0.5, "part": [1, 2], "nested": {"size": 1}, "seed": 1}
    strange = [
        Trial("a", {**inside, "rate": 99.0}, "finished", value=1.0),
        Trial("b", {**inside, "part": "gone"}, "finished", value=1.0),
        Trial("c", {"rate": 0.5}, "finished", value=1.0),
        Trial("d", inside, "failed"),
        Trial("e", inside, "running"),
    ]
    assert search.next(strange).parameters["seed"] == 1


def test_an_unsupported_distribution(tmp_path):
    with pytest.raises(ValueError, match=r"`rate` must have `values` or be int_uniform.*but is normal"):
        BayesSearch(sweep_of(tmp_path, "  rate: {distribution: normal}\n"))

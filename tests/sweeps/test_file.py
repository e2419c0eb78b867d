"""Reading valid and invalid sweep files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.utils.test_plain_data import multiplied
from w2vlab.sweeps import planned_trials, read_sweep, varied_paths

WHOLE = """\
name: one
program: w2vlab
command: ["${program}", fit, "${args}"]
method: grid
metric: {name: val/loss/total, goal: minimize}
early_terminate: {type: hyperband, min_iter: 2}
run_cap: 5
parameters:
  model.quantizer: {values: [GumbelQuantizer, KMeansQuantizer]}
  seed_everything: {values: [1, 2]}
  trainer.max_steps: {value: 3}
"""


def read(tmp_path: Path, text: str):
    path = tmp_path / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    return read_sweep(path)


def test_a_complete_file(tmp_path):
    sweep = read(tmp_path, WHOLE)
    assert (sweep.name, sweep.program, sweep.method, sweep.run_cap) == ("one", "w2vlab", "grid", 5)
    assert sweep.command == ("${program}", "fit", "${args}")
    assert sweep.metric is not None
    assert (sweep.metric.name, sweep.metric.goal) == ("val/loss/total", "minimize")
    assert sweep.early_terminate is not None
    assert sweep.early_terminate.bands[:3] == (2, 6, 18)
    assert sweep.text == WHOLE
    assert varied_paths(sweep) == [("model.quantizer",), ("seed_everything",)]


def test_the_default_name_is_the_file_name(tmp_path):
    assert read(tmp_path, WHOLE.replace("name: one\n", "")).name == "sweep"


def test_the_best_value_follows_from_the_goal(tmp_path):
    least = read(tmp_path, WHOLE).metric
    most = read(tmp_path, WHOLE.replace("goal: minimize", "goal: maximize")).metric
    assert least is not None
    assert most is not None
    assert (least.best([2.0, 1.0, 3.0]), most.best([2.0, 1.0, 3.0]), least.best([])) == (1.0, 3.0, None)


def test_seeds_replace_those_of_the_file(tmp_path):
    trials = planned_trials(read(tmp_path, WHOLE).with_seeds(3), None)
    seeds = [trial.parameters["seed_everything"] for trial in trials if "KMeans" in trial.name]
    # The file's `run_cap` of 5 applies too: two complete settings would be 6.
    assert len(trials) == 5
    assert seeds == [1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("method: grid", "method: grit"),
            r"`method` must be grid, random or bayes, but is grit\. Did you mean grid\?",
        ),
        (("metric:", "metrik:"), r"Unknown key `metrik`.* Did you mean metric\?"),
        (("metric: {name: val/loss/total, goal: minimize}\n", ""), r"`metric` must be given for `early_terminate`"),
        (("goal: minimize", "goal: least"), r"`metric.goal` must be minimize or maximize, but is least"),
        (("name: val/loss/total, ", ""), r"`metric` must have a name"),
        (("hyperband", "median"), r"`early_terminate` must have the type hyperband"),
        (("min_iter: 2", "min_iter: 0"), r"`early_terminate.min_iter` must be a whole number of at least 1, but is 0"),
        (("min_iter: 2", "min_iter: 2, eta: 1"), r"`early_terminate.eta` must be above 1, but is 1"),
        (("min_iter: 2", "max_iter: 2, s: 0"), r"must have a band of at least 1 value"),
        (("min_iter: 2", "max_iter: 2"), r"must have numbers as `max_iter` and `s`, but has 2 and None"),
        (("min_iter", "min_itr"), r"Unknown key `early_terminate.min_itr`.* Did you mean min_iter\?"),
        (("run_cap: 5", "run_cap: 0"), r"`run_cap` must be a whole number of at least 1, but is 0"),
        (('command: ["${program}", fit, "${args}"]', "command: w2vlab fit"), r"`command` must be a list of words"),
        (("{values: [1, 2]}", "{values: []}"), r"`seed_everything` must have at least one of `values`"),
        (("{values: [1, 2]}", "{value: 1, valuss: 2}"), r"has `valuss`\. Did you mean values\?"),
        (("{values: [1, 2]}", "3"), r"`seed_everything` must be a mapping with `value`, `values` or a distribution"),
        (("{values: [1, 2]}", "{min: 1}"), r"`seed_everything` must have `value`, `values`, or a known distribution"),
        (("{values: [1, 2]}", "{distribution: normalx}"), r"Did you mean normal\?"),
        (("{values: [1, 2]}", "{distribution: uniform, min: 1}"), r"must have `max` for the distribution uniform"),
        (("{values: [1, 2]}", "{min: 2, max: 2}"), r"must have `min` below `max`, but has 2 and 2"),
        (("{values: [1, 2]}", "{min: a, max: b}"), r"must have numbers as `min` and `max`, but has a and b"),
        (
            ("{values: [1, 2]}", "{distribution: log_uniform_values, min: 0, max: 1}"),
            r"must have `min` above 0 for log_uniform_values, but has 0",
        ),
        (("{values: [1, 2]}", "{values: [1, 2], probabilities: [0.5, 0.6]}"), r"with sum 1"),
    ],
)
def test_invalid_files(tmp_path, change, message):
    assert change[0] in WHOLE
    with pytest.raises(ValueError, match=message):
        read(tmp_path, WHOLE.replace(*change))


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("{min: 1e-5, max: 1e-3}", {"min": 1e-5, "max": 1e-3}),
        ("{distribution: log_uniform_values, min: 1e-5, max: 1}", {"min": 1e-5, "max": 1}),
        ("{distribution: normal, mu: -1E3, sigma: .5e-2}", {"mu": -1000.0, "sigma": 0.005}),
        ("{distribution: q_uniform, min: 0, max: 1, q: 1e-1}", {"q": 0.1}),
        ("{values: [1, 2], probabilities: [1e-1, 9e-1]}", {"probabilities": [0.1, 0.9]}),
        # Values are passed on as text, so that existing trials keep their names.
        ("{values: [1e-5, null]}", {"values": ["1e-5", None]}),
    ],
)
def test_numbers_that_yaml_parses_as_text(tmp_path, content, options):
    """YAML 1.1 parses 1e-5 as a string, and people write it."""
    text = f"method: random\nparameters: {{lr: {content}}}\n"
    (parameter,) = read(tmp_path, text).parameters.values()
    assert {name: parameter.options[name] for name in options} == options
    if "min" in options:
        assert parameter.distribution != "int_uniform"


def test_numbers_of_hyperband_that_yaml_parses_as_text(tmp_path):
    rule = read(tmp_path, WHOLE.replace("min_iter: 2", "max_iter: 2.7e1, s: 2, eta: 3e0")).early_terminate
    assert rule is not None
    assert rule.bands == (3, 9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{distribution: normal, sigma: wide}", r"`lr` must have a number as `sigma`, but has wide"),
        ("{distribution: normal, sigma: 0}", r"`lr` must have `sigma` above 0, but has 0"),
        ("{distribution: q_uniform, min: 0, max: 1, q: 0}", r"`lr` must have `q` above 0, but has 0"),
        ("{min: .nan, max: 1}", r"`lr` must have numbers as `min` and `max`, but has nan and 1"),
        ("{values: [1, 2], probabilities: [a, b]}", r"`lr` must have one of `probabilities` for each value"),
        ("{values: [1, 2], probabilities: 3}", r"`lr` must have one of `probabilities` for each value"),
    ],
)
def test_invalid_numbers(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, f"method: random\nparameters: {{lr: {content}}}\n")


def test_a_file_whose_aliases_multiply_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read: it has more than 200,000 values"):
        read(tmp_path, multiplied("{0}: &{0} [{1}]\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: grid\nparameters: {}\n", r"`parameters` must have at least one parameter"),
        ("method: grid\n", r"`parameters` must have at least one parameter, but is None"),
        ("- a\n- b\n", r"must be a mapping of keys to values"),
        ("a: [\n", r"must be valid YAML, but in line"),
        ("method: bayes\nparameters: {a: {values: [1]}}\n", r"`metric` must be given for `method` bayes"),
    ],
)
def test_files_that_are_not_sweeps(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"none\.yaml cannot be read"):
        read_sweep(tmp_path / "none.yaml")

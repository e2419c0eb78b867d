"""Early stopping decides as the engine of Weights & Biases does."""

from __future__ import annotations

import json
import math
from pathlib import Path

from w2vlab.sweeps import Hyperband

# The trials that `sweeps.stop_runs` of the package `sweeps` 0.3.0 stops, for histories
# drawn from a normal distribution: 42 cases over both ways to give bands, several eta, both goals, strict or not.
CASES = json.loads(
    (Path(__file__).parents[2] / "golden" / "wandb" / "wandb_hyperband.json").read_text(encoding="utf-8")
)


def test_all_decisions_are_those_of_the_engine():
    for case in CASES:
        rule = Hyperband.read(case["early_terminate"])
        assert rule.stops(case["histories"], case["running"], case["goal"] == "maximize") == case["stopped"]
    assert sum(len(case["stopped"]) for case in CASES) > 30


def test_values_that_are_not_finite_are_ignored():
    rule = Hyperband.read({"type": "hyperband", "min_iter": 2, "eta": 2})
    histories = {"a": [1.0, math.nan], "b": [2.0, 2.0], "c": [1.0, 1.0]}
    assert rule.stops(histories, ["a", "b"]) == []
    assert rule.stops({**histories, "d": [3.0, 3.0]}, ["a", "b", "d"]) == ["d"]


def test_bands_from_both_ends():
    assert Hyperband.read({"type": "hyperband", "max_iter": 27, "s": 2}).bands == (3, 9)
    assert Hyperband.read({"type": "hyperband", "min_iter": 3, "eta": 2}).bands[:4] == (3, 6, 12, 24)

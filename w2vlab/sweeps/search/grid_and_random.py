"""Grid search and random search."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from w2vlab.sweeps.file import Sweep
from w2vlab.sweeps.trial import Trial, canonical_parameters, trial_name


def planned_trials(sweep: Sweep, count: int | None, seed: int = 0) -> list[Trial]:
    """Returns the trials of a grid search or random search, without duplicates.

    Args:
        sweep: A sweep with the method `grid` or `random`.
        count: Maximum number of trials; None for the `run_cap` of the file, or, without one, the complete grid.
        seed: Random seed.

    Raises:
        ValueError: A random search has no number of trials, or a grid has a continuous parameter.
    """
    count = sweep.run_cap if count is None else count
    if sweep.method == "grid":
        grids = [parameter.values() for parameter in sweep.parameters.values()]
        settings: Iterable[Mapping[tuple[str, ...], Any]] = (
            dict(zip(sweep.parameters, values, strict=True)) for values in itertools.product(*grids)
        )
        settings = itertools.islice(settings, count)
    else:
        if count is None:
            raise ValueError("`--count` or the file's `run_cap` must be given for a random search, but neither is.")
        # Each sample is seeded by its index, so that a resumed or longer sweep has the same trials.
        settings = (_sample(sweep, np.random.default_rng([seed, index])) for index in range(count))
    unique: dict[str, Trial] = {}
    for setting in settings:
        trial = make_trial(sweep, setting)
        unique.setdefault(canonical_parameters(trial.parameters), trial)
    return list(unique.values())


def _sample(sweep: Sweep, generator: np.random.Generator) -> dict[tuple[str, ...], Any]:
    return {path: parameter.sample(generator) for path, parameter in sweep.parameters.items()}


def make_trial(sweep: Sweep, setting: Mapping[tuple[str, ...], Any]) -> Trial:
    """Returns a trial with these values."""
    parameters: dict[str, Any] = {}
    for path, value in setting.items():
        target = parameters
        for key in path[:-1]:
            target = target.setdefault(key, {})
        target[path[-1]] = value
    varied = {".".join(path): setting[path] for path in varied_paths(sweep)}
    return Trial(trial_name(parameters, varied), parameters)


def varied_paths(sweep: Sweep) -> list[tuple[str, ...]]:
    """Returns the paths of the parameters that have several values, in the order of the file."""
    return [
        path
        for path, parameter in sweep.parameters.items()
        if len(parameter.options.get("values", (1, 2))) > 1 and parameter.distribution != "constant"
    ]

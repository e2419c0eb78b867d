"""Reader of sweep files in the format of Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml  # type: ignore[import-untyped]

from w2vlab.registry import did_you_mean, known_names
from w2vlab.sweeps.search.hyperband import Hyperband
from w2vlab.sweeps.search.parameters import Parameter, read_parameter
from w2vlab.utils.plain_data import parse_yaml, read_text

Method = Literal["grid", "random", "bayes"]
Goal = Literal["minimize", "maximize"]

SEED = "seed_everything"
"""The parameter that repeats a trial with another random seed."""

_KEYS = (
    "program",
    "command",
    "method",
    "parameters",
    "metric",
    "early_terminate",
    "run_cap",
    "name",
    "description",
    "project",
    "entity",
)


@dataclass(frozen=True)
class SweepMetric:
    """The metric that trials are compared by.

    Attributes:
        name: Name in the logs, such as `val/loss/total`.
        goal: Whether lower or higher values are better.
    """

    name: str
    goal: Goal

    def best(self, values: list[float]) -> float | None:
        """Returns the best of `values`; None if they are empty."""
        return (min if self.goal == "minimize" else max)(values, default=None)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The content of a sweep file.

    Attributes:
        name: The key `name` of the file, or the file name.
        program: Value of the macro `${program}`.
        command: The command of a trial with its macros, in the form of W&B agents.
        method: The search method.
        parameters: The parameters by their path, which has several names if the file nests parameters.
        metric: The metric that trials are compared by; None if the file has none.
        early_terminate: The early-stopping rule; None without early stopping.
        run_cap: Maximum number of trials; None if the file does not limit it.
        text: The text of the file.
    """

    name: str
    program: str
    command: tuple[str, ...]
    method: Method
    parameters: Mapping[tuple[str, ...], Parameter]
    metric: SweepMetric | None
    early_terminate: Hyperband | None
    run_cap: int | None
    text: str

    def with_seeds(self, number: int) -> Sweep:
        """Returns the sweep with the seeds 1 to `number` for every trial, instead of the seeds of the file."""
        seeds = Parameter.of_values(SEED, list(range(1, number + 1)))
        return replace(self, parameters={**self.parameters, (SEED,): seeds})


def read_sweep(path: Path) -> Sweep:
    """Reads a sweep file.

    Raises:
        ValueError: The file cannot be read, is invalid, or is not supported; the message says what to change.
    """
    content, text = _read_mapping(path)
    for key in content:
        if key not in _KEYS:
            raise ValueError(f"Unknown key `{key}` in the sweep {path}. {known_names(key, _KEYS)}")
    method = content.get("method")
    if method not in get_args(Method):
        raise ValueError(
            f"`method` must be grid, random or bayes, but is {method}.{did_you_mean(str(method), get_args(Method))}"
        )
    metric = _read_metric(content.get("metric"))
    early = content.get("early_terminate")
    if (early is not None or method == "bayes") and metric is None:
        reason = "`method` bayes" if method == "bayes" else "`early_terminate`"
        raise ValueError(f"`metric` must be given for {reason}, but the sweep {path} has none.")
    program = str(content.get("program", "w2vlab"))
    command = content.get("command")
    if command is None:
        # The default command of W&B agents.
        command = ["${env}", "${interpreter}", "${program}", "${args}"]
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command) or not command:
        raise ValueError(f"`command` must be a list of words, but is {command}.")
    cap = content.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        raise ValueError(f"`run_cap` must be a whole number of at least 1, but is {cap}.")
    return Sweep(
        name=str(content.get("name") or path.stem),
        program=program,
        command=tuple(command),
        method=cast(Method, method),
        parameters=_read_parameters(content.get("parameters")),
        metric=metric,
        early_terminate=None if early is None else Hyperband.read(early),
        run_cap=cap,
        text=text,
    )


def _read_mapping(path: Path) -> tuple[dict[str, Any], str]:
    try:
        text = read_text(path)
        content = parse_yaml(text)
    except (OSError, ValueError) as problem:
        raise ValueError(f"The sweep {path} cannot be read: {problem}.") from None
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise ValueError(
            f"The sweep {path} must be valid YAML, but{where}: {getattr(problem, 'problem', '')}."
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"The sweep {path} must be a mapping of keys to values, but is: {content}")
    return content, text


def _read_metric(content: Any) -> SweepMetric | None:
    if content is None:
        return None
    if not isinstance(content, dict) or not isinstance(content.get("name"), str):
        raise ValueError(f"`metric` must have a name, such as val/loss/total, but is {content}.")
    goal = content.get("goal", "minimize")
    if goal not in get_args(Goal):
        raise ValueError(f"`metric.goal` must be minimize or maximize, but is {goal}.")
    return SweepMetric(content["name"], cast(Goal, goal))


def _read_parameters(content: Any, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Parameter]:
    name = ".".join((*above, "parameters"))
    if not isinstance(content, dict) or not content:
        raise ValueError(f"`{name}` must have at least one parameter, but is {content}.")
    found: dict[tuple[str, ...], Parameter] = {}
    for key, description in content.items():
        path = (*above, str(key))
        if isinstance(description, dict) and "parameters" in description:
            found |= _read_parameters(description["parameters"], path)
        else:
            found[path] = read_parameter(".".join(path), description)
    return found

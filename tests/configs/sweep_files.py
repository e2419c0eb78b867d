"""The shipped sweeps as Weights & Biases reads them: its schema, its grid, and the commands that its agent runs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs/sweeps"
SEED = "seed_everything"
SCHEMA = json.loads((ROOT / "tests/golden/wandb/wandb_sweep_schema.json").read_text(encoding="utf-8"))

Trial = dict[str, Any]
"""A value of every parameter."""

_formats = jsonschema.FormatChecker(formats=())
# As in `sweeps/config/schema.py`, which comes with the schema.
_formats.checks("float")(lambda value: isinstance(value, float))
_formats.checks("integer")(lambda value: isinstance(value, int))
_validator = jsonschema.Draft7Validator(SCHEMA, format_checker=_formats)


def read(path: Path) -> dict[str, Any]:
    """The file, as `wandb sweep FILE` loads it."""
    sweep = load_sweep_config(str(path))
    assert sweep is not None
    return sweep


def violations(sweep: object) -> list[str]:
    """The violations of Weights & Biases' schema in a sweep."""
    return [problem.message for problem in _validator.iter_errors(sweep)]


def values(sweep: dict[str, Any]) -> dict[str, list[Any]]:
    """The values of every parameter."""
    return {
        name: given["values"] if "values" in given else [given["value"]] for name, given in sweep["parameters"].items()
    }


def grid(sweep: dict[str, Any]) -> Iterator[Trial]:
    """Every trial."""
    every = values(sweep)
    for chosen in itertools.product(*every.values()):
        yield dict(zip(every, chosen, strict=True))


def each_value_once(sweep: dict[str, Any]) -> Iterator[Trial]:
    """Trials that cover every value except other seeds: first values, and each other value in turn."""
    every = {name: options[:1] if name == SEED else options for name, options in values(sweep).items()}
    first = {name: options[0] for name, options in every.items()}
    yield first
    for name, options in every.items():
        yield from (first | {name: option} for option in options[1:])


def group(trial: Trial) -> str:
    """The parameters of a trial except the seed."""
    return json.dumps({name: value for name, value in trial.items() if name != SEED}, sort_keys=True)


def command(sweep: dict[str, Any], trial: Trial) -> list[str]:
    """The command that the agent of Weights & Biases runs for a trial; the server sorts the parameters by name."""
    parts = create_sweep_command_args({"args": {name: {"value": trial[name]} for name in sorted(trial)}})
    parts["program"] = [sweep["program"]]
    words: list[str] = []
    for word in create_sweep_command(list(sweep["command"])):
        words += parts[word[2:-1]] if word.startswith("${") else [word]
    return words


def published() -> dict[str, Any]:
    """The results of the papers, by sweep."""
    text = (ROOT / "w2vlab/reports/published.yaml").read_text(encoding="utf-8")
    tables: dict[str, Any] = yaml.safe_load(text)
    return tables

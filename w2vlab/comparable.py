"""Which options a result depends on, and which figures of runs that differ in them can be compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SEED = "seed_everything"

_INCIDENTAL = (
    "ckpt_path",
    "new_run",
    "trainer.default_root_dir",
    "data.cache_dir",
    "data.num_workers",
    "config",
    "validate_first",
)
_INCIDENTAL_BELOW = ("trainer.logger", "checkpoint.", "progress.", "report.", "throughput.")


def is_incidental(name: str) -> bool:
    """Tells whether an option says where a run logs and what it shows, and nothing of what it computes."""
    return name in _INCIDENTAL or name.startswith(_INCIDENTAL_BELOW)


def is_seed(name: str) -> bool:
    """Tells whether an option is that of random draws."""
    return name.rpartition(".")[2] in (SEED, "seed")


def differing(options: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the names of the options that are not the same in all of some runs, outer ones first.

    What a run does not say is the same as null: an option may be younger than the run.

    Args:
        options: Of each run, by their flat names.
    """
    names = dict.fromkeys(name for some in options for name in some)
    found = [name for name in names if len({text_of(some.get(name)) for some in options}) > 1]
    return sorted(found, key=lambda name: name.count("."))


def text_of(value: Any) -> str:
    """Returns a text that is the same for equal values only."""
    return json.dumps(value, sort_keys=True, default=str)


def depends_on_objective(metric: str) -> bool:
    """Tells whether a metric means what it does only under one objective: its loss, and accuracy among its candidates.

    Error rates are none, nor is what evaluations and probes measure, nor costs, nor what someone's own program logs.
    """
    kind, _, name = metric.partition("/")
    return kind in ("train", "val") and (name == "accuracy" or name.startswith("loss"))


def unlike_objectives(options: Iterable[Mapping[str, Any]]) -> str:
    """Says in what runs differ that the meaning of their losses depends on; nothing where that is nothing.

    Args:
        options: Of each run, by their flat names.
    """
    kinds: dict[str, set[str]] = {}
    for some in options:
        penalties = some.get("model.penalties")
        for what, value in (
            ("the model", some.get("model")),
            ("the loss", some.get("model.loss")),
            ("their negatives", _negatives(some)),
            ("the quantizer", some.get("model.quantizer")),
            ("the number of code entries", [some.get(f"model.quantizer.{n}", "") for n in _ENTRIES]),
            ("the penalties", penalties if penalties is not None else _below(some, "model.penalties")),
            ("the masking", _below(some, "model.masking")),
            ("the data that they are validated on", {k: some[k] for k in _VALIDATED_ON if k in some}),
        ):
            kinds.setdefault(what, set()).add(text_of(value))
    return ", ".join(what for what, values in kinds.items() if len(values) > 1)


_ENTRIES = ("num_codebooks", "codebook_size")

_VALIDATED_ON = tuple(
    f"data.{name}" for name in ("corpus", "validation", "validation_fraction", "exclude", "min_seconds", "max_seconds")
)


def _negatives(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of negatives; runs from before there were samplers lack that option, which is None now."""
    return {k: v for k, v in _below(options, "model.loss.").items() if "negatives" in k and v is not None}


def _below(options: Mapping[str, Any], start: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name.startswith(start) and not is_seed(name)}

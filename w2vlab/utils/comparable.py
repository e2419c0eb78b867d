"""Options that results depend on, and metrics that are comparable between runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from w2vlab.utils.messages import one_line

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

_MOST_LISTED = 6
_LONGEST_VALUE = 60


def is_incidental(name: str) -> bool:
    """Returns whether an option affects only logging, display and paths, but not the computation."""
    return name in _INCIDENTAL or name.startswith(_INCIDENTAL_BELOW)


def is_seed(name: str) -> bool:
    """Returns whether an option is a random seed."""
    return name.rpartition(".")[2] in (SEED, "seed")


def differing_options(options: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the names of the options that differ between runs, outer options first.

    A missing option counts as null, because it may have been added after the run.

    Args:
        options: The options of each run, by their flat names.
    """
    names = dict.fromkeys(name for some in options for name in some)
    found = [name for name in names if len({canonical_text(some.get(name)) for some in options}) > 1]
    return sorted(found, key=lambda name: name.count("."))


def describe_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns a text for each option that differs, such as `data.seed 1 -> 2`, and the number of those beyond six."""
    names = differing_options([old, new])
    texts = [f"{name} {_format_option(old, name)} -> {_format_option(new, name)}" for name in names]
    return texts if len(texts) <= _MOST_LISTED else [*texts[:_MOST_LISTED], f"and {len(texts) - _MOST_LISTED} more"]


def _format_option(options: Mapping[str, Any], name: str) -> str:
    value = options.get(name)
    return one_line(value if isinstance(value, str) else json.dumps(value, default=str), _LONGEST_VALUE)


def canonical_text(value: Any) -> str:
    """Returns a canonical text of a value, which is equal only for equal values."""
    return json.dumps(value, sort_keys=True, default=str)


def depends_on_objective(metric: str) -> bool:
    """Returns whether a metric depends on the training objective, as losses and the accuracy among candidates do.

    So does the share of the targets' variance that is explained.

    Error rates, metrics of evaluations and probes, costs, and metrics of other programs do not.
    """
    kind, *pieces = metric.split("/")  # such as val/accuracy, or val/accuracy/codes of several losses
    ends = ("accuracy", "_variance")
    return kind in ("train", "val") and ("loss" in pieces[:1] or any(piece.endswith(ends) for piece in pieces))


def describe_objective_differences(options: Iterable[Mapping[str, Any]]) -> str:
    """Returns the differences between runs that make their losses incomparable, as text; empty if there are none.

    Args:
        options: The options of each run, by their flat names.
    """
    values_by_aspect: dict[str, set[str]] = {}
    for some in options:
        penalties = some.get("model.penalties")
        loss = _loss(some)
        for aspect, value in (
            ("the model", some.get("model")),
            ("the loss", {k: v for k, v in loss.items() if "negatives" not in k and "unmasked_weight" not in k}),
            ("their negatives", {k: v for k, v in loss.items() if "negatives" in k}),
            ("the frames that are not masked", {k: v for k, v in loss.items() if "unmasked_weight" in k}),
            ("the quantizer", some.get("model.quantizer")),
            ("the units", [some.get(f"model.quantizer.{n}") for n in _UNITS]),
            ("the number of code entries", [some.get(f"model.quantizer.{n}", "") for n in _ENTRIES]),
            ("the encoder of the targets", {k: v for k, v in _below(some, "model.target_encoder").items() if v}),
            ("the teacher", _below(some, "model.teacher")),
            ("the network of the teacher", _network_of_teacher(some)),
            ("the penalties", penalties if penalties is not None else _below(some, "model.penalties")),
            ("the masking", _below(some, "model.masking")),
            ("the data that they are validated on", _validated_on(some)),
        ):
            values_by_aspect.setdefault(aspect, set()).add(canonical_text(value))
    return ", ".join(aspect for aspect, values in values_by_aspect.items() if len(values) > 1)


_ENTRIES = ("num_codebooks", "codebook_size", "levels")
_UNITS = ("path", "centers")

_OF_SCORES = ("projection_dim", "logit_temperature", "similarity", "target_projection")
"""Options of losses that say how candidates are scored, but not which there are, or what an error costs."""

_OF_NETWORK = ("", ".model_dim", ".num_layers", ".output_dim")

_VALIDATED_ON = tuple(
    f"data.{name}" for name in ("corpus", "validation", "validation_fraction", "exclude", "min_seconds", "max_seconds")
)


def _validated_on(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of the validation data; those of a mixture are below `data.corpus`."""
    mixtures = ("data.corpus.", "data.validation.")
    of_shares = (".weight", ".max_hours")  # of training
    return {
        name.removesuffix(".path"): value
        for name, value in options.items()
        if name in _VALIDATED_ON or (name.startswith(mixtures) and not name.endswith(of_shares))
    }


def _loss(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what losses are of: the single one, or all terms of several ones, which take its place.

    Options that are not set count as missing, as of runs from before there were these options.
    """
    found = _below(options, "model.losses.") or _of_part(options, "model.loss")
    return {name: value for name, value in found.items() if value and name.rpartition(".")[2] not in _OF_SCORES}


def _network_of_teacher(options: Mapping[str, Any]) -> list[Any] | None:
    """Returns class and size of the network that computes the targets, which is like the student's."""
    has_teacher = options.get("model.teacher") is not None
    return [options.get(f"model.context{name}") for name in _OF_NETWORK] if has_teacher else None


def _of_part(options: Mapping[str, Any], part: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name == part or name.startswith(f"{part}.")}


def _below(options: Mapping[str, Any], start: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name.startswith(start) and not is_seed(name)}

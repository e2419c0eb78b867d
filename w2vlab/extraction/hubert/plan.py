"""The steps of the chain, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from w2vlab.extraction.acoustic_names import ACOUSTIC
from w2vlab.extraction.hubert.step import LastCheckpoint, Step, Word
from w2vlab.utils.comparable import is_incidental

WITHOUT_LAYERS = ACOUSTIC
"""Sources of frames that are no models."""

_FAIRSEQ_ENTRIES = 4
"""Entries of fairseq's label dictionaries that are no clusters: `<s>`, `<pad>`, `</s>` and `<unk>`."""

UNITS_PATH, UNITS_SIZE = "model.quantizer.path", "model.quantizer.codebook_size"
"""Options of a run that say which units it predicts, and how many there are."""

Evaluated = Literal["last", "each", "none"]


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """One iteration: k-means of frames, and a run that predicts the units.

    Attributes:
        number: Its number, from 1.
        source: What is clustered: one of `WITHOUT_LAYERS`, or a model; None for the model of the iteration before.
        layer: The layer that is clustered; None if the source has none.
        k: Number of clusters.
        run_words: Options of `w2vlab fit` as typed, with `--config`.
        run_options: All options of that run by their flat names.
    """

    number: int
    source: str | None
    layer: int | None
    k: int
    run_words: Sequence[str]
    run_options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Extras:
    """Further options of the commands, as typed.

    Attributes:
        cluster: Of each `w2vlab cluster`.
        encode: Of each `w2vlab encode`.
        evaluate: Of each `w2vlab evaluate`.
        evaluated: Whose models are evaluated: the last iteration's, those of each, or none.
    """

    cluster: Sequence[str] = field(default_factory=tuple)
    encode: Sequence[str] = field(default_factory=tuple)
    evaluate: Sequence[str] = field(default_factory=tuple)
    evaluated: Evaluated = "last"


def run_root(folder: Path, number: int) -> Path:
    """Returns the root folder of the run of an iteration."""
    return folder / f"iteration{number}" / "fit"


def units_path(folder: Path, number: int) -> Path:
    """Returns the folder of the units of an iteration."""
    return folder / f"iteration{number}" / "units"


def plan_steps(folder: Path, iterations: Sequence[Iteration], extras: Extras) -> list[Step]:
    """Returns all steps, each after those whose results it reads.

    Args:
        folder: Folder of the chain.
        iterations: The iterations.
        extras: Further options of the commands.
    """
    steps: list[Step] = []
    for iteration in iterations:
        steps += _units(folder, iteration, extras)
        steps.append(_run(folder, iteration))
        if extras.evaluated == "each" or (extras.evaluated == "last" and iteration is iterations[-1]):
            steps.append(_evaluation(folder, iteration, extras))
    return steps


def pending_steps(steps: Sequence[Step]) -> list[Step]:
    """Returns the steps to run: those without a result that the last ones need, directly or through others.

    The units of an iteration whose run has finished may be deleted, for example.
    """
    needed = {step.name for step in steps} - {name for step in steps for name in step.needs}
    pending = []
    for step in reversed(steps):
        if step.name in needed and step.result() is None:
            pending.append(step)
            needed.update(step.needs)
    return pending[::-1]


def _units(folder: Path, iteration: Iteration, extras: Extras) -> list[Step]:
    number, run = iteration.number, iteration.run_options
    centers = folder / f"iteration{number}" / "centers.safetensors"
    source: Word = LastCheckpoint(run_root(folder, number - 1)) if iteration.source is None else iteration.source
    before = [] if iteration.source is not None else [f"fit{number - 1}"]
    corpus, seed = str(run["data.corpus"]), run.get("seed_everything", 1)
    seed = None if isinstance(seed, bool) else seed  # Lightning then draws one, or none is set
    shared = _shared_options(run)
    data = {"source": source if isinstance(source, str) else before[0], "data": corpus}
    clustering = [
        *_option("--layer", iteration.layer),
        *_option("--k", iteration.k),
        *_option("--seed", seed),
        *_option("--exclude", run.get("data.exclude")),
    ]
    return [
        Step(
            kind="cluster",
            iteration=number,
            words=["cluster", source, corpus, str(centers), *clustering, *shared, *extras.cluster],
            output=centers,
            needs=before,
            options={**data, **named_options(clustering), **_results_of(extras.cluster)},
        ),
        Step(
            kind="encode",
            iteration=number,
            words=[
                *("encode", source, corpus, str(units_path(folder, number)), "--what", "units"),
                *("--centers", str(centers), *shared, *extras.encode),
            ],
            output=units_path(folder, number),
            needs=[f"cluster{number}", *before],
            options={**data, **_results_of(extras.encode)},
        ),
    ]


def _run(folder: Path, iteration: Iteration) -> Step:
    root, number = run_root(folder, iteration.number), iteration.number
    options = {
        name: value for name, value in iteration.run_options.items() if not is_incidental(name) and name != UNITS_PATH
    }
    # The published models have four entries more than clusters, which are no targets.
    published = iteration.run_options.get(UNITS_SIZE) == iteration.k + _FAIRSEQ_ENTRIES
    size = iteration.k + _FAIRSEQ_ENTRIES * published
    return Step(
        kind="fit",
        iteration=number,
        words=[
            *("fit", *iteration.run_words),
            *(f"--{UNITS_PATH}={units_path(folder, number)}", f"--{UNITS_SIZE}={size}"),
            f"--trainer.default_root_dir={root}",
        ],
        output=root,
        needs=[f"encode{number}"],
        options={**options, UNITS_SIZE: size},
    )


def _evaluation(folder: Path, iteration: Iteration, extras: Extras) -> Step:
    root = run_root(folder, iteration.number)
    return Step(
        kind="evaluate",
        iteration=iteration.number,
        words=["evaluate", LastCheckpoint(root), *_shared_options(iteration.run_options), *extras.evaluate],
        output=root,
        needs=[f"fit{iteration.number}"],
        options=_results_of(extras.evaluate),
    )


def _shared_options(run: Mapping[str, Any]) -> list[str]:
    """Returns the options of a run that hold for every command on its model, as typed."""
    # A model may have parts of the user, which its checkpoint names.
    return [*_option("--cache_dir", run.get("data.cache_dir")), *_option("--parts", run.get("parts"))]


def _option(flag: str, value: Any) -> list[str]:
    return [] if value is None else [flag, str(value)]


def _results_of(words: Sequence[str]) -> dict[str, str]:
    """Returns the options that the result of a step depends on, by name."""
    # Those that only say how data is read have the names that they have in the options of a run.
    return {name: value for name, value in named_options(words).items() if not is_incidental(f"data.{name}")}


def named_options(words: Sequence[str]) -> dict[str, str]:
    """Returns options as typed, by name; the last one of a name counts."""
    found: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found[name.replace("-", "_")] = value if equals else "true"
        elif name:
            found[name.replace("-", "_")] = word
    return found

"""The options of `w2vlab hubert`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from w2vlab.cli.parsing.command_parser import names
from w2vlab.extraction.hubert.plan import WITHOUT_LAYERS
from w2vlab.utils.checks import check_at_least

_PUBLISHED = (100, 500)
"""Clusters of the first iteration, and of the second."""


@dataclass(kw_only=True)
class HubertOptions:
    """Pretrains a HuBERT from nothing: clusters MFCC frames, trains a model to predict them, then clusters its frames.

    An iteration is three commands: `w2vlab cluster` and `w2vlab encode` make the units of the corpus, and `w2vlab fit`
    trains a model to predict them. Then `w2vlab evaluate` measures the last model. This command runs them one after
    another, and prints each as it could be typed. Options that are not in the list below go to each fit.

      w2vlab hubert hubert_small --iterations 2
      w2vlab hubert hubert_base hubert_base_iteration2 --data.corpus=FOLDER --trainer=trainer/ddp

    The same command resumes a chain that was interrupted: steps with a result are skipped, a run resumes from its
    last checkpoint. If options of a step have changed since it was started, the command is refused, because the
    iterations must belong together.

    Attributes:
        configs: Configurations of the runs, one an iteration; the last one is that of all further iterations. The
            quantizer must be FileTargets.
        iterations: Number of iterations; by default 2, or one for each configuration if there are more.
        out: Folder of the chain; by default runs/hubert/NAME.
        k: Clusters of each iteration, with commas between; the last number is that of all further iterations. By
            default 100, then 500, as published.
        layers: Layers of the context network that are clustered, from the second iteration on, with commas between;
            the last one is that of all further iterations. By default the middle one of the configuration, as
            published: layer 6 of 12. If --first is a model, the first number is its layer.
        first: What is clustered first: mfcc, mfcc-cmvn or log-mel, as for `w2vlab cluster`, or a model to start from.
        corpus: Labelled speech of the evaluation, as for `w2vlab evaluate`; not the corpus of the runs, which is
            --data.corpus.
        seed: Seed of each run and of each k-means; by default that of the configuration.
        devices: Devices of each run, and of each k-means and encoding; by default those of the configuration, and one.
        cluster: Further options of each `w2vlab cluster`: --cluster="--max_frames 1000000".
        encode: Further options of each `w2vlab encode`.
        evaluate: Further options of `w2vlab evaluate`: --evaluate="--abx_cells 300".
        evaluated: Which models are evaluated: the last one, each, or none.
        redo: Steps to repeat from the beginning with all that follows from them, with commas between: cluster1,
            encode1, fit1, cluster2, …, or the word changed, for those whose options have changed. Their files are kept
            in OUT/set_aside/.
        dry_run: Print the commands of the steps that are left, and run none.
    """

    configs: list[str]
    iterations: int | None = None
    out: Path | None = None
    k: str | None = None
    layers: str | None = None
    first: str = "mfcc"
    corpus: str | None = None
    seed: int | None = None
    devices: int | None = None
    cluster: str = ""
    encode: str = ""
    evaluate: str = ""
    evaluated: Literal["last", "each", "none"] = "last"
    redo: list[str] | str = field(default_factory=list)
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_at_least(1, iterations=self.iterations, devices=self.devices)
        check_at_least(0, seed=self.seed)
        self.redo = names(self.redo, "redo") if self.redo else []
        self.num_iterations = self.iterations or max(2, len(self.configs))
        if len(self.configs) > self.num_iterations:
            raise ValueError(
                f"`iterations` must be at least the number of configurations, {len(self.configs)}, but is "
                f"{self.iterations}."
            )
        number = self.num_iterations
        self.clusters = _repeated([*_PUBLISHED], number) if self.k is None else _numbers(self.k, "k", 2, number)
        is_model = self.first not in WITHOUT_LAYERS
        if is_model and self.layers is None:
            raise ValueError(f"`layers` must begin with the layer of {self.first} to cluster, but is not given.")
        number = self.num_iterations if is_model else self.num_iterations - 1
        given = [None] * number if self.layers is None else _numbers(self.layers, "layers", 0, number)
        self.clustered_layers: list[int | None] = [*([] if is_model else [None]), *given]
        for option in ("cluster", "encode", "evaluate"):
            try:
                shlex.split(getattr(self, option))
            except ValueError as problem:
                raise ValueError(f"`{option}` must be options as in a shell, but is not: {problem}.") from None

    def config_of(self, number: int) -> str:
        """Returns the configuration of an iteration, counted from 1."""
        return self.configs[min(number, len(self.configs)) - 1]


def _numbers(text: str, option: str, least: int, wanted: int) -> list[int]:
    """Returns numbers that were typed with commas between, the last one repeated.

    Raises:
        ValueError: One of them is no number, or is too small, or there are too many.
    """
    words = names(str(text), option)
    if not wanted:
        raise ValueError(f"`{option}` has no effect, because no layer of a model is clustered: leave it out.")
    if not all(word.isdecimal() and int(word) >= least for word in words):
        raise ValueError(f"`{option}` must be numbers of at least {least} with commas between them, but is {text}.")
    if len(words) > wanted:
        raise ValueError(f"`{option}` must be at most {wanted} numbers for these iterations, but is {text}.")
    return _repeated([int(word) for word in words], wanted)


def _repeated(values: Sequence[int], wanted: int) -> list[int]:
    return [*values[:wanted], *[values[-1]] * (wanted - len(values))]

"""A checkpoint through all measurements, with the controls without which no figure means anything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from w2vlab.evaluation.abx import AbxTask, make_task
from w2vlab.evaluation.corpus import EvaluationCorpus, Seen, seen_in_pretraining
from w2vlab.evaluation.extraction import ModelFeatures
from w2vlab.evaluation.layers import choose
from w2vlab.evaluation.measure import Advance, Reporter, Settings, Silent, SourceResult, measure_source
from w2vlab.evaluation.mfcc import MfccFeatures
from w2vlab.modules.loading import PRETRAINED, read_checkpoint
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.modules.saved import build_model, class_named
from w2vlab.modules.saved.plain import CONFIG

MODEL, RANDOM, MFCC = "model", "random network", "MFCC"

TWIN_SEED = 0
"""Of the weights of the random network, whatever seed the run had."""


@dataclass(kw_only=True)
class Evaluation:
    """What a checkpoint came to.

    Attributes:
        model: The checkpoint's own features.
        random: Those of the same network before it learned anything; None where nobody knows how to build it.
        mfcc: Cepstra; None without phones.
        corpus: What was measured on.
        tasks: The ABX tasks.
        seen: What the pretraining had of the test utterances.
        seconds: How long each stage took.
    """

    model: SourceResult
    random: SourceResult | None
    mfcc: SourceResult | None
    corpus: EvaluationCorpus
    tasks: tuple[AbxTask, ...]
    seen: Seen
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def sources(self) -> list[SourceResult]:
        """The model and its controls."""
        return [source for source in (self.model, self.random, self.mfcc) if source is not None]


def load_model(path: Path, device: torch.device | str = "cpu") -> PretrainingModule:
    """Rebuilds the model of a checkpoint, in evaluation.

    Raises:
        ValueError: The file is no whole checkpoint of a pretraining, or names a part that is not known.
    """
    checkpoint = read_checkpoint(path, check=False)
    if PRETRAINED in checkpoint:
        raise ValueError(
            f"`ckpt_path` must be a checkpoint of a pretraining, but {path} is one of a fine-tuning. `w2vlab validate` "
            "scores that."
        )
    if CONFIG not in checkpoint:
        raise ValueError(
            f"`ckpt_path` must be a checkpoint that holds the configuration of its model, but {path} holds none. "
            "From Python, give the module to `w2vlab.evaluation.evaluate`."
        )
    module = PretrainingModule.load_from_checkpoint(path, map_location="cpu")
    return module.to(device).eval()


def random_twin(module: PretrainingModule, seed: int = TWIN_SEED) -> PretrainingModule | None:
    """Builds the same network with weights as they are drawn; None where its configuration is not known.

    Args:
        module: The network.
        seed: Of the weights; with that of its run they are those that the run began with.
    """
    if module.run_config is None:
        return None
    try:
        class_named(module.run_config.get("model"), type(module), "the run")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            twin: PretrainingModule = build_model(module.run_config["model"], PretrainingModule, "the run")
    except ValueError:  # it has a part that is no class
        return None
    return twin.to(module.device).eval()


def make_tasks(
    corpus: EvaluationCorpus, max_cells: int | None = None, whole_corpus: bool = False, seed: int = 0
) -> tuple[AbxTask, ...]:
    """Makes the ABX tasks that a corpus allows: within its speakers, and across where there are several.

    Args:
        corpus: The utterances; without phones there is no task.
        max_cells: Most cells of a task, drawn as `make_task` does; None for all of them, 0 for no task.
        whole_corpus: Take all utterances that have labels, not the test utterances alone.
        seed: Of the draw, where there are more cells than that.
    """
    ids = corpus.alignments if whole_corpus else set(corpus.split.test)
    alignments = {name: found for name, found in corpus.alignments.items() if name in ids}
    if max_cells == 0:
        return ()
    tasks = [make_task(alignments, "within", max_cells, seed=seed)]
    if len({alignment.speaker for alignment in alignments.values()}) > 1:
        tasks.append(make_task(alignments, "across", max_cells, seed=seed))
    return tuple(task for task in tasks if task.cells)


def evaluate(
    module: PretrainingModule,
    corpus: EvaluationCorpus,
    cache: Path,
    layers: str = "all",
    tasks: tuple[AbxTask, ...] = (),
    batch_seconds: float = 40.0,
    reporter: Reporter | None = None,
    mfcc: SourceResult | None = None,
) -> Evaluation:
    """Measures a model and its controls: the same network before training, and cepstra.

    Args:
        module: The model, on the device to use.
        corpus: What to measure on.
        cache: Where corpora are, to tell which utterances the pretraining had.
        layers: Representations, as `layers.choose` takes them.
        tasks: ABX tasks on the corpus.
        batch_seconds: Most audio in a batch, in seconds, padding counted.
        reporter: Is told of the stages.
        mfcc: What cepstra came to on the same corpus and tasks; None measures them.

    Raises:
        ValueError: There are neither phones nor codes, the layers are not there, or audio cannot be read.
    """
    names = choose(module, layers)
    quantizer = module.quantizer
    if not corpus.alignments and not quantizer.num_codebooks:
        raise ValueError(
            f"`corpus` must have phone labels to measure {type(quantizer).__name__}, which has no codes, but "
            f"{corpus.name} has none."
        )
    clock = _Clock(reporter or Silent())
    device = str(module.device)
    settings = Settings(batch_seconds, device, quantizer.codebook_size if quantizer.num_codebooks else 0)
    model = measure_source(MODEL, ModelFeatures(module, names), corpus, tasks, settings, clock)
    twin, random = random_twin(module), None
    if twin is not None:
        extractor = ModelFeatures(twin, names)
        random = measure_source(RANDOM, extractor, corpus, tasks, settings, clock, with_shifted=False)
    if corpus.alignments and mfcc is None:
        mfcc = measure_mfcc(corpus, tasks, settings, clock)
    seen = seen_in_pretraining(module.run_config, corpus, cache)
    return Evaluation(
        model=model, random=random, mfcc=mfcc, corpus=corpus, tasks=tasks, seen=seen, seconds=clock.seconds
    )


def measure_mfcc(
    corpus: EvaluationCorpus, tasks: tuple[AbxTask, ...], settings: Settings, reporter: Reporter | None = None
) -> SourceResult:
    """Measures cepstra: with their neighbours for the probe, as they are under ABX."""
    return measure_source(
        MFCC,
        MfccFeatures(),
        corpus,
        tasks,
        settings,
        reporter,
        probed=("mfcc_stacked",),
        compared=("mfcc",),
    )


class _Clock:
    """Hands stages on, and notes how long they take."""

    def __init__(self, reporter: Reporter) -> None:
        self.seconds: dict[str, float] = {}
        self._reporter = reporter

    @contextmanager
    def stage(self, name: str, total: float) -> Iterator[Advance]:
        start = time.perf_counter()
        with self._reporter.stage(name, total) as advance:
            yield advance
        self.seconds[name] = time.perf_counter() - start

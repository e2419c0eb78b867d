"""Evaluates a checkpoint and its controls: the randomly initialised network and MFCCs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from w2vlab.evaluation.features.corpus import EvaluationCorpus, Seen, seen_in_pretraining
from w2vlab.evaluation.features.extraction import ModelFeatures
from w2vlab.evaluation.features.layers import select_representations
from w2vlab.evaluation.features.mfcc import MfccFeatures
from w2vlab.evaluation.tasks.abx import AbxTask, make_task
from w2vlab.evaluation.tasks.measure import Advance, NoProgress, Reporter, Settings, SourceResult, measure_source
from w2vlab.formats.detection import is_of_lightning, located
from w2vlab.modules.checkpoints import build_model, resolve_class
from w2vlab.modules.checkpoints.loading import PRETRAINED, read_checkpoint
from w2vlab.modules.checkpoints.plain import CONFIG
from w2vlab.modules.opening import build_model_of
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.modules.sources import read_source

MODEL, RANDOM, MFCC = "model", "random network", "MFCC"

TWIN_SEED = 0
"""Seed of the weights of the random network, independent of the run's seed."""


@dataclass(kw_only=True)
class Evaluation:
    """Results of a checkpoint and its controls.

    Attributes:
        model: Results of the checkpoint's features.
        random: Results of the same network with random weights; None if its configuration is not known.
        mfcc: Results of MFCCs; None without phones.
        corpus: The corpus of the evaluation.
        tasks: The ABX tasks.
        seen: Numbers of test utterances that were used in pretraining.
        seconds: Duration of each stage of the evaluation, in seconds.
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


def load_model(path: str | Path, device: torch.device | str = "cpu") -> PretrainingModule:
    """Loads a pretrained model, in evaluation mode.

    Args:
        path: A checkpoint, or a file or folder of another project.
        device: Device of the model.

    Raises:
        ValueError: It is not a complete pretrained model, or names an unknown part.
    """
    found = located(str(path), "ckpt_path")
    if not is_of_lightning(found):
        model = read_source(str(path), name="ckpt_path")
        if model.vocabulary is not None:
            raise _finetuned_error(path)
        foreign = build_model_of(model, path)
        assert isinstance(foreign, PretrainingModule), "it has no vocabulary"
        return foreign.to(device)
    checkpoint = read_checkpoint(path, check=False)
    if PRETRAINED in checkpoint:
        raise _finetuned_error(path)
    if CONFIG not in checkpoint:
        raise ValueError(
            f"`ckpt_path` must be a checkpoint that contains the configuration of its model, but {path} has none. "
            "From Python, pass the module to `w2vlab.evaluation.evaluate`."
        )
    module = PretrainingModule.load_from_checkpoint(path, map_location="cpu")
    return module.to(device).eval()


def _finetuned_error(path: str | Path) -> ValueError:
    return ValueError(
        f"`ckpt_path` must be a checkpoint of a pretraining run, but {path} is one of a fine-tuning run. Evaluate "
        "it with `w2vlab validate`."
    )


def random_twin(module: PretrainingModule, seed: int = TWIN_SEED) -> PretrainingModule | None:
    """Builds the same network with random weights.

    Args:
        module: The network.
        seed: Seed of the weights; with the seed of the run they are the initial weights of the run.

    Returns:
        None if the configuration of the network is not known.
    """
    if module.run_config is None:
        return None
    try:
        resolve_class(module.run_config.get("model"), type(module), "the run")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            twin: PretrainingModule = build_model(module.run_config["model"], PretrainingModule, "the run")
    except ValueError:  # a part of the configuration is not a known class
        return None
    return twin.to(module.device).eval()


def make_tasks(
    corpus: EvaluationCorpus, max_cells: int | None = None, whole_corpus: bool = False, seed: int = 0
) -> tuple[AbxTask, ...]:
    """Makes the ABX tasks of a corpus: within speakers, and across speakers if there are several.

    Args:
        corpus: The corpus; without phones it has no task.
        max_cells: Maximum number of cells of a task, sampled by `make_task`; None for all, 0 for no task.
        whole_corpus: Use all utterances that have labels instead of the test utterances alone.
        seed: Seed of the sample.
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
    """Evaluates a model and its controls: the same network with random weights, and MFCCs.

    Args:
        module: The model, on the device to use.
        corpus: The corpus of the evaluation.
        cache: The cache folder, for finding the corpora that the model was pretrained on.
        layers: Representations, as in `layers.select_representations`.
        tasks: ABX tasks on the corpus.
        batch_seconds: Maximum audio in a batch, in seconds, including padding.
        reporter: Shows progress; None shows none.
        mfcc: Results of MFCCs on the same corpus and tasks; None computes them.

    Raises:
        ValueError: There are neither phones nor codes, a layer does not exist, or audio cannot be read.
    """
    names = select_representations(module, layers)
    quantizer = module.quantizer
    if not corpus.alignments and not module.has_codes:
        why = "whose codes do not follow from audio" if quantizer.num_codebooks else "which has no codes"
        raise ValueError(
            f"`corpus` must have phone labels to measure {type(quantizer).__name__}, {why}, but {corpus.name} has none."
        )
    clock = _TimedReporter(reporter or NoProgress())
    device = str(module.device)
    codebook_size = quantizer.codebook_size if module.has_codes else 0
    settings = Settings(batch_seconds=batch_seconds, device=device, codebook_size=codebook_size)
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
    """Evaluates MFCCs: stacked with their neighbours in the probe, and without them in ABX."""
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


class _TimedReporter:
    """Forwards stages to another reporter, and measures how long they take."""

    def __init__(self, reporter: Reporter) -> None:
        self.seconds: dict[str, float] = {}
        self._reporter = reporter

    @contextmanager
    def stage(self, name: str, total: float) -> Iterator[Advance]:
        start = time.perf_counter()
        with self._reporter.stage(name, total) as advance:
            yield advance
        self.seconds[name] = time.perf_counter() - start

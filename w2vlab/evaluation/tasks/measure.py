"""Computes all measurements of one feature extractor, with a single pass over the audio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from w2vlab.evaluation.features.corpus import SHIFT_SECONDS, EvaluationCorpus
from w2vlab.evaluation.features.extraction import Extractor, Features, as_vectors, read_batches
from w2vlab.evaluation.features.frame_store import FrameStore
from w2vlab.evaluation.features.layers import CODES
from w2vlab.evaluation.tasks.abx import AbxTask, Item
from w2vlab.evaluation.tasks.abx_errors import AbxErrors, measure_abx
from w2vlab.evaluation.tasks.probe import Examples, ProbeResult, phone_rows, run_probe
from w2vlab.evaluation.tasks.unit_quality import UnitData, UnitQuality, frame_phones, measure_units
from w2vlab.types import Seconds

Advance = Callable[[float], None]


class Reporter(Protocol):
    """Shows the progress of an evaluation."""

    def stage(self, name: str, total: float) -> AbstractContextManager[Advance]:
        """Begins a stage of `total` steps, and yields a function to call with the number of completed steps."""


class NoProgress:
    """Shows no progress."""

    @contextmanager
    def stage(self, name: str, total: float) -> Iterator[Advance]:
        """Does nothing."""
        yield lambda steps: None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of an evaluation.

    Attributes:
        batch_seconds: Maximum audio in a batch, in seconds, including padding.
        device: Device on which probes are fitted and distances are computed.
        codebook_size: Entries V of a codebook; 0 without codes.
    """

    batch_seconds: Seconds = 40.0
    device: str = "cpu"
    codebook_size: int = 0


@dataclass(kw_only=True)
class RepresentationResult:
    """Results of one representation.

    Attributes:
        name: Name of the representation.
        dim: Its width D.
        probe: Result of the phone probe.
        shifted: The same with frames 0.3 s after their phones, as a control: the accuracy from the context alone.
        abx: Errors of each ABX task, by `within` or `across`.
    """

    name: str
    dim: int
    probe: ProbeResult | None = None
    shifted: ProbeResult | None = None
    abx: dict[str, AbxErrors] = field(default_factory=dict)


@dataclass(kw_only=True)
class SourceResult:
    """Results of a model or a control.

    Attributes:
        name: Name of the model or control.
        representations: Results of each representation.
        units: Results of its codes; empty without codes.
        unit_data: Codes and phones of the test utterances; None without codes.
        frames_per_second: Frame rate of the features in Hz.
    """

    name: str
    representations: list[RepresentationResult]
    units: list[UnitQuality]
    unit_data: UnitData | None
    frames_per_second: float


@dataclass
class _Collected:
    """Features that are collected in the pass over the audio.

    Attributes:
        examples: Examples of the probes, by part (`train`, `test`, `shifted train`, `shifted test`) and representation.
        frames: All frames of utterances that ABX items come from.
        codes: Codes of each test utterance, `(T, G)`.
        phones: Phone of each frame of each test utterance, `(T,)`.
        dims: Width of each representation.
    """

    examples: dict[tuple[str, str], Examples] = field(default_factory=dict)
    frames: FrameStore = field(default_factory=FrameStore)
    codes: dict[str, Tensor] = field(default_factory=dict)
    phones: dict[str, Tensor] = field(default_factory=dict)
    dims: dict[str, int] = field(default_factory=dict)


def measure_source(
    name: str,
    extractor: Extractor,
    corpus: EvaluationCorpus,
    tasks: Sequence[AbxTask],
    settings: Settings,
    reporter: Reporter | None = None,
    probed: Sequence[str] | None = None,
    compared: Sequence[str] | None = None,
    with_shifted: bool = True,
) -> SourceResult:
    """Computes all measurements of the features of `extractor`.

    Args:
        name: Name of the source, for progress and results.
        extractor: Computes the features.
        corpus: The utterances, with or without phones.
        tasks: ABX tasks on them.
        settings: The settings.
        reporter: Shows progress; None shows none.
        probed: Representations with a phone probe; None for all.
        compared: Representations with ABX; None for all.
        with_shifted: Whether probes have a control with shifted frames.

    Raises:
        ValueError: Audio cannot be read.
    """
    reporter = reporter or NoProgress()
    collected = _collect_features(name, extractor, corpus, tasks, settings, reporter)
    results = {key: RepresentationResult(name=key, dim=dim) for key, dim in collected.dims.items()}
    if corpus.alignments:
        chosen = [key for key in results if probed is None or key in probed]
        with reporter.stage(f"{name}: phone probes", len(chosen)) as advance:
            for key in chosen:
                results[key].probe = _run_probe(collected, key, "", corpus, settings)
                if with_shifted:
                    results[key].shifted = _run_probe(collected, key, "shifted ", corpus, settings)
                advance(1)
    for task in tasks:
        chosen = [key for key in results if compared is None or key in compared]
        cells = len(task.cells) * len(chosen)
        with reporter.stage(f"{name}: ABX {task.speakers} speakers (cells)", cells) as advance:
            for key in chosen:
                results[key].abx[task.speakers] = _run_abx(collected, key, extractor, task, settings, advance)
    data = _unit_data(collected, corpus, settings)
    frames_per_second = extractor.grid.frames_per_second
    return SourceResult(
        name=name,
        representations=list(results.values()),
        units=[] if data is None else measure_units(data, frames_per_second),
        unit_data=data,
        frames_per_second=frames_per_second,
    )


def _unit_data(collected: _Collected, corpus: EvaluationCorpus, settings: Settings) -> UnitData | None:
    if not collected.codes:
        return None
    return UnitData(
        codes=collected.codes,
        phones=collected.phones,
        codebook_size=settings.codebook_size,
        num_phones=len(corpus.phones),
    )


def _collect_features(
    name: str,
    extractor: Extractor,
    corpus: EvaluationCorpus,
    tasks: Sequence[AbxTask],
    settings: Settings,
    reporter: Reporter,
) -> _Collected:
    collected = _Collected()
    compared = {item.utterance for task in tasks for item in task.items}
    train, test = set(corpus.split.train), set(corpus.split.test)
    needed = sorted((train if corpus.alignments else set()) | test | compared)
    read = set()
    size = settings.codebook_size
    with reporter.stage(f"{name}: features (s of audio)", corpus.seconds(needed)) as advance:
        for batch, seconds in read_batches(corpus.select(needed), settings.batch_seconds):
            for utterance, features in extractor(batch):
                read.add(utterance)
                collected.dims = {key: as_vectors(frames[:1], size).shape[1] for key, frames in features.items()}
                if utterance in train | test and corpus.alignments:
                    part = "train" if utterance in train else "test"
                    _add_examples(collected, part, utterance, features, extractor, corpus)
                if utterance in test and CODES in features:
                    _add_codes(collected, utterance, features[CODES], extractor, corpus)
                if utterance in compared:
                    collected.frames.add(utterance, features)
            advance(seconds)
    if missing := sorted(set(needed) - read):
        raise ValueError(
            f"`corpus` must have all of its utterances on disk, but {len(missing)} cannot be read: {missing[0]}, …"
        )
    return collected


def _add_examples(
    collected: _Collected, part: str, utterance: str, features: Features, extractor: Extractor, corpus: EvaluationCorpus
) -> None:
    num_frames = len(next(iter(features.values())))
    alignment = corpus.alignments[utterance]
    for kind, shift in (("", 0.0), ("shifted ", SHIFT_SECONDS)):
        rows = phone_rows(alignment, corpus.phones, extractor.grid, num_frames, shift)
        for key, frames in features.items():
            examples = collected.examples.setdefault((kind + part, key), Examples())
            examples.features[utterance] = frames[rows.frames]
            examples.labels[utterance] = rows.labels


def _add_codes(
    collected: _Collected, utterance: str, codes: Tensor, extractor: Extractor, corpus: EvaluationCorpus
) -> None:
    collected.codes[utterance] = codes
    if (alignment := corpus.alignments.get(utterance)) is not None:
        collected.phones[utterance] = frame_phones(alignment, corpus.phones, extractor.grid, len(codes))


def _run_probe(collected: _Collected, key: str, kind: str, corpus: EvaluationCorpus, settings: Settings) -> ProbeResult:
    train, test = (
        Examples({n: as_vectors(f, settings.codebook_size) for n, f in examples.features.items()}, examples.labels)
        for examples in (collected.examples[kind + "train", key], collected.examples[kind + "test", key])
    )
    return run_probe(train, test, len(corpus.phones), settings.device)


def _run_abx(
    collected: _Collected, key: str, extractor: Extractor, task: AbxTask, settings: Settings, advance: Advance
) -> AbxErrors:
    def item_frames(item: Item) -> Tensor:
        frames = collected.frames.get(item.utterance, key)
        return as_vectors(frames[extractor.grid.between(item.start, item.end, len(frames))], settings.codebook_size)

    return measure_abx(task, item_frames, torch.device(settings.device), advance)

"""One set of features through all measurements: a single pass over the audio, of which each keeps what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from w2vlab.evaluation.abx import AbxTask, Item
from w2vlab.evaluation.abx_errors import AbxErrors, measure
from w2vlab.evaluation.corpus import SHIFT_SECONDS, EvaluationCorpus
from w2vlab.evaluation.extraction import Extractor, Features, as_vectors, read_batches
from w2vlab.evaluation.frame_store import FrameStore
from w2vlab.evaluation.layers import CODES
from w2vlab.evaluation.probe import Examples, ProbeResult, phone_rows, run_probe
from w2vlab.evaluation.unit_quality import UnitData, UnitQuality, frame_phones, measure_units
from w2vlab.types import Seconds

Advance = Callable[[float], None]


class Reporter(Protocol):
    """Is told what is going on."""

    def stage(self, name: str, total: float) -> AbstractContextManager[Advance]:
        """Begins a stage of `total` steps, and yields what is told of each step that is done."""


class Silent:
    """Tells nobody."""

    @contextmanager
    def stage(self, name: str, total: float) -> Iterator[Advance]:
        """Does nothing."""
        yield lambda steps: None


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        batch_seconds: Most audio in a batch, in seconds, padding counted.
        device: Where probes are fitted and distances computed.
        codebook_size: Entries V of the codebooks; 0 without codes.
    """

    batch_seconds: Seconds = 40.0
    device: str = "cpu"
    codebook_size: int = 0


@dataclass(kw_only=True)
class Measured:
    """What one representation came to.

    Attributes:
        name: Of the representation.
        dim: Its width.
        probe: The phone probe.
        shifted: The same where each frame lies 0.3 s behind its phone: what is known without hearing it.
        abx: Errors of each task, by `within` or `across`.
    """

    name: str
    dim: int
    probe: ProbeResult | None = None
    shifted: ProbeResult | None = None
    abx: dict[str, AbxErrors] = field(default_factory=dict)


@dataclass(kw_only=True)
class SourceResult:
    """What a model, or a control, came to.

    Attributes:
        name: Of what gave the features.
        representations: Each of them.
        units: Of its codes; empty where it has none.
        unit_data: Codes and phones of the test utterances; None without codes.
        frames_per_second: Of its features.
    """

    name: str
    representations: list[Measured]
    units: list[UnitQuality]
    unit_data: UnitData | None
    frames_per_second: float


@dataclass(kw_only=True)
class _Kept:
    """What is left of the features when the audio is done with."""

    examples: dict[tuple[str, str], Examples]  # by "train" or "test" or those shifted, and representation
    whole: FrameStore  # of utterances with items of ABX
    codes: dict[str, Tensor]
    phones: dict[str, Tensor]
    dims: dict[str, int]


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
    """Measures everything that `extractor` gives.

    Args:
        name: What to call it.
        extractor: Gives the features.
        corpus: The utterances, with phones or without.
        tasks: ABX tasks on them.
        settings: How.
        reporter: Is told of the stages.
        probed: Representations with a phone probe; None for all.
        compared: Representations under ABX; None for all.
        with_shifted: Whether probes have a control of shifted labels beside them.

    Raises:
        ValueError: Audio of the evaluation cannot be read.
    """
    reporter = reporter or Silent()
    kept = _extract(name, extractor, corpus, tasks, settings, reporter)
    measured = {key: Measured(name=key, dim=dim) for key, dim in kept.dims.items()}
    if corpus.alignments:
        chosen = [key for key in measured if probed is None or key in probed]
        with reporter.stage(f"{name}: phone probes", len(chosen)) as advance:
            for key in chosen:
                measured[key].probe = _probe(kept, key, "", corpus, settings)
                if with_shifted:
                    measured[key].shifted = _probe(kept, key, "shifted ", corpus, settings)
                advance(1)
    for task in tasks:
        chosen = [key for key in measured if compared is None or key in compared]
        cells = len(task.cells) * len(chosen)
        with reporter.stage(f"{name}: ABX {task.speakers} speakers (cells)", cells) as advance:
            for key in chosen:
                measured[key].abx[task.speakers] = _abx(kept, key, extractor, task, settings, advance)
    data, units = None, []
    if kept.codes:
        data = UnitData(
            codes=kept.codes, phones=kept.phones, codebook_size=settings.codebook_size, num_phones=len(corpus.phones)
        )
        units = measure_units(data, extractor.grid.frames_per_second)
    return SourceResult(
        name=name,
        representations=list(measured.values()),
        units=units,
        unit_data=data,
        frames_per_second=extractor.grid.frames_per_second,
    )


def _extract(
    name: str,
    extractor: Extractor,
    corpus: EvaluationCorpus,
    tasks: Sequence[AbxTask],
    settings: Settings,
    reporter: Reporter,
) -> _Kept:
    kept = _Kept(examples={}, whole=FrameStore(), codes={}, phones={}, dims={})
    compared = {item.utterance for task in tasks for item in task.items}
    train, test = set(corpus.split.train), set(corpus.split.test)
    wanted = sorted((train if corpus.alignments else set()) | test | compared)
    seen = set()
    with reporter.stage(f"{name}: features (s of audio)", corpus.seconds(wanted)) as advance:
        for batch, seconds in read_batches(corpus.some(wanted), settings.batch_seconds):
            for utterance, features in extractor(batch):
                seen.add(utterance)
                kept.dims = {key: as_vectors(f[:1], settings.codebook_size).shape[1] for key, f in features.items()}
                if utterance in train | test and corpus.alignments:
                    _keep_rows(kept, "train" if utterance in train else "test", utterance, features, extractor, corpus)
                if utterance in test and CODES in features:
                    _keep_codes(kept, utterance, features[CODES], extractor, corpus)
                if utterance in compared:
                    kept.whole.add(utterance, features)
            advance(seconds)
    if missing := sorted(set(wanted) - seen):
        raise ValueError(
            f"`corpus` must have all of its utterances on disk, but {len(missing)} cannot be read: {missing[0]}, …"
        )
    return kept


def _keep_rows(
    kept: _Kept, side: str, utterance: str, features: Features, extractor: Extractor, corpus: EvaluationCorpus
) -> None:
    num_frames = len(next(iter(features.values())))
    alignment = corpus.alignments[utterance]
    for kind, shift in (("", 0.0), ("shifted ", SHIFT_SECONDS)):
        rows = phone_rows(alignment, corpus.phones, extractor.grid, num_frames, shift)
        for key, frames in features.items():
            examples = kept.examples.setdefault((kind + side, key), Examples())
            examples.features[utterance] = frames[rows.frames]
            examples.labels[utterance] = rows.labels


def _keep_codes(kept: _Kept, utterance: str, codes: Tensor, extractor: Extractor, corpus: EvaluationCorpus) -> None:
    kept.codes[utterance] = codes
    if (alignment := corpus.alignments.get(utterance)) is not None:
        kept.phones[utterance] = frame_phones(alignment, corpus.phones, extractor.grid, len(codes))


def _probe(kept: _Kept, key: str, kind: str, corpus: EvaluationCorpus, settings: Settings) -> ProbeResult:
    train, test = (
        Examples({n: as_vectors(f, settings.codebook_size) for n, f in examples.features.items()}, examples.labels)
        for examples in (kept.examples[kind + "train", key], kept.examples[kind + "test", key])
    )
    return run_probe(train, test, len(corpus.phones), settings.device)


def _abx(kept: _Kept, key: str, extractor: Extractor, task: AbxTask, settings: Settings, advance: Advance) -> AbxErrors:
    def frames(item: Item) -> Tensor:
        whole = kept.whole.get(item.utterance, key)
        return as_vectors(whole[extractor.grid.between(item.start, item.end, len(whole))], settings.codebook_size)

    return measure(task, frames, torch.device(settings.device), advance)

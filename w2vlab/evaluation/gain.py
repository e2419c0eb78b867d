"""What training has added to a network: its best layer beside the best one before training, and beside cepstra."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from w2vlab.evaluation.corpus import EvaluationCorpus
from w2vlab.evaluation.extraction import Extractor, ModelFeatures, read_batches
from w2vlab.evaluation.intervals import of_probe
from w2vlab.evaluation.layers import CODES, QUANTIZED, available
from w2vlab.evaluation.measure import Reporter, Silent
from w2vlab.evaluation.mfcc import MfccFeatures
from w2vlab.evaluation.probe import Examples, ProbeResult, held_out_split, phone_rows, run_probe
from w2vlab.functional.interval import Interval
from w2vlab.functional.jackknife import Jackknifed
from w2vlab.functional.logistic import fit_logistic
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import Seconds

PENALTIES = (1e-1, 1e-2, 1e-3)
"""Fewer than an evaluation tries: this is to be had within a minute."""

_CHOICE_PENALTY, _CHOICE_ITERATIONS = 1e-2, 30
"""Of the fits that choose the layer, which are not finished: the order of the layers is known long before."""

_CEPSTRA = "mfcc_stacked"


@dataclass(frozen=True)
class Best:
    """The representation of a network that tells phones apart best.

    Attributes:
        representation: Its name.
        probe: What it came to on the test utterances, which had no part in the choice.
        held_out: What it was chosen by: accuracy of each representation on training utterances that a shortly fitted
            classifier has not seen.
    """

    representation: str
    probe: ProbeResult
    held_out: Mapping[str, float]

    @property
    def jackknifed(self) -> Jackknifed:
        """Its accuracy without each of the test utterances, which are the same for all."""
        return of_probe(self.probe)


@dataclass(frozen=True)
class Gain:
    """What training has added.

    Attributes:
        trained: The network.
        before: The same before training; None where its weights are not known.
        mfcc: Cepstra.
    """

    trained: Best
    before: Best | None
    mfcc: Best

    @property
    def over_before(self) -> Interval | None:
        """How much more the trained network names, utterances left out in pairs; None without the untrained one."""
        return None if self.before is None else self.trained.jackknifed.minus(self.before.jackknifed)

    @property
    def over_mfcc(self) -> Interval:
        """The same beside cepstra."""
        return self.trained.jackknifed.minus(self.mfcc.jackknifed)


def measure_gain(
    module: PretrainingModule,
    before: PretrainingModule | None,
    corpus: EvaluationCorpus,
    batch_seconds: Seconds = 40.0,
    precision: Callable[[], AbstractContextManager[None]] = nullcontext,
    reporter: Reporter | None = None,
) -> Gain:
    """Measures a network before and after training, each by the layer that is best on held-out training utterances.

    So both have the same choice among as many layers, and the test utterances have no part in it.

    Args:
        module: The network.
        before: The same before training; None where it is not known.
        corpus: What to measure on, with phones.
        batch_seconds: Most audio in a batch, in seconds, padding counted.
        precision: Context of a forward pass, such as a trainer's.
        reporter: Is told of the stages.

    Raises:
        ValueError: Features are not finite, or audio cannot be read.
    """
    reporter = reporter or Silent()
    names = tuple(name for name in available(module) if name not in (QUANTIZED, CODES))
    extractors: list[Extractor] = [
        ModelFeatures(module, names, precision),
        *([] if before is None else [ModelFeatures(before, names, precision)]),
        MfccFeatures(),
    ]
    sides = [_Sides(extractor, corpus) for extractor in extractors]
    ids = (*corpus.split.train, *corpus.split.test)
    with reporter.stage("features (s of audio)", corpus.seconds(ids)) as advance:
        for batch, seconds in read_batches(corpus.some(ids), batch_seconds):
            for side in sides:
                for utterance, features in side.extractor(batch):
                    side.keep(utterance, features)
            advance(seconds)
    if missing := sorted(set(ids) - sides[0].seen):
        raise ValueError(
            f"`corpus` must have all of its utterances on disk, but {len(missing)} cannot be read: {missing[0]}, …"
        )
    with reporter.stage("phone probes", sum(len(side.train) + 1 for side in sides)) as advance:
        device = module.device
        trained, *controls = (side.best(device, lambda: advance(1)) for side in sides)
    return Gain(trained, None if before is None else controls[0], controls[-1])


class _Sides:
    """The frames in the middle of the phones, of each representation of an extractor."""

    def __init__(self, extractor: Extractor, corpus: EvaluationCorpus) -> None:
        self.extractor = extractor
        self.train: dict[str, Examples] = {}
        self.test: dict[str, Examples] = {}
        self.seen: set[str] = set()
        self._corpus = corpus
        self._tested = set(corpus.split.test)

    def keep(self, utterance: str, features: Mapping[str, torch.Tensor]) -> None:
        self.seen.add(utterance)
        kept = self.test if utterance in self._tested else self.train
        for name, frames in features.items():
            if isinstance(self.extractor, MfccFeatures) and name != _CEPSTRA:
                continue  # for a probe, cepstra are those with their neighbours
            rows = phone_rows(self._corpus.alignments[utterance], self._corpus.phones, self.extractor.grid, len(frames))
            examples = kept.setdefault(name, Examples())
            examples.features[utterance] = frames[rows.frames]
            examples.labels[utterance] = rows.labels

    def best(self, device: torch.device, advance: Callable[[], None]) -> Best:
        num_phones = len(self._corpus.phones)
        accuracies = {}
        for name, examples in self.train.items():
            accuracies[name] = _held_out_accuracy(examples, num_phones, device)
            advance()
        name = max(accuracies, key=accuracies.__getitem__)
        probe = run_probe(self.train[name], self.test[name], num_phones, device, PENALTIES)
        advance()
        return Best(name, probe, accuracies)


def _held_out_accuracy(examples: Examples, num_phones: int, device: torch.device) -> float:
    held_out, rest = held_out_split(examples)
    model = fit_logistic(*rest.stacked(device), num_phones, _CHOICE_PENALTY, max_iterations=_CHOICE_ITERATIONS)
    rows, labels = held_out.stacked(device)
    return float((model.predict(rows) == labels).float().mean())

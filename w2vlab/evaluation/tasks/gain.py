"""Measures the gain of training: the best layer of a network compared with its best layer before, and with MFCCs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from w2vlab.evaluation.features.corpus import EvaluationCorpus
from w2vlab.evaluation.features.extraction import Extractor, ModelFeatures, read_batches
from w2vlab.evaluation.features.layers import CODES, QUANTIZED, available_representations
from w2vlab.evaluation.features.mfcc import MfccFeatures
from w2vlab.evaluation.tasks.intervals import jackknife_probe
from w2vlab.evaluation.tasks.measure import NoProgress, Reporter
from w2vlab.evaluation.tasks.probe import Examples, ProbeResult, held_out_split, phone_rows, run_probe
from w2vlab.functional.measures.interval import Interval
from w2vlab.functional.measures.jackknife import JackknifeEstimate
from w2vlab.functional.measures.logistic import fit_logistic
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import Seconds

PENALTIES = (1e-1, 1e-2, 1e-3)
"""Strengths of the regularisation that are tried; fewer than in an evaluation, so that it takes less than a minute."""

_CHOICE_PENALTY, _CHOICE_ITERATIONS = 1e-2, 30
"""Regularisation and iterations of the fits that choose the layer; the best layer is known before they converge."""

_MFCC_NAME = "mfcc_stacked"


@dataclass(frozen=True)
class Best:
    """The representation of a network with the highest phone accuracy.

    Attributes:
        representation: Its name.
        probe: Its result on the test utterances, which do not affect the choice.
        held_out: Accuracy of each representation on held-out training utterances, by which the best one was chosen.
    """

    representation: str
    probe: ProbeResult
    held_out: Mapping[str, float]

    @property
    def jackknifed(self) -> JackknifeEstimate:
        """Its accuracy, with the accuracies that leave out each test utterance."""
        return jackknife_probe(self.probe)


@dataclass(frozen=True)
class Gain:
    """Accuracies after and before training, and of MFCCs.

    Attributes:
        trained: The trained network.
        before: The same network before training; None if its initial weights are not known.
        mfcc: MFCCs.
    """

    trained: Best
    before: Best | None
    mfcc: Best

    @property
    def over_before(self) -> Interval | None:
        """Difference to the network before training, paired by utterances; None if that is not known."""
        return None if self.before is None else self.trained.jackknifed.minus(self.before.jackknifed)

    @property
    def over_mfcc(self) -> Interval:
        """Difference to MFCCs, paired by utterances."""
        return self.trained.jackknifed.minus(self.mfcc.jackknifed)


def measure_gain(
    module: PretrainingModule,
    before: PretrainingModule | None,
    corpus: EvaluationCorpus,
    batch_seconds: Seconds = 40.0,
    precision: Callable[[], AbstractContextManager[None]] = nullcontext,
    reporter: Reporter | None = None,
) -> Gain:
    """Measures the phone accuracy of a network before and after training, each in its best layer.

    The layer is chosen on held-out training utterances, for both networks in the same way; the test utterances do not
    affect the choice.

    Args:
        module: The trained network.
        before: The same network before training; None if it is not known.
        corpus: The corpus, with phones.
        batch_seconds: Maximum audio in a batch, in seconds, including padding.
        precision: Makes the context manager of a forward pass, such as a trainer's autocast.
        reporter: Shows progress; None shows none.

    Raises:
        ValueError: Features are not finite, or audio cannot be read.
    """
    reporter = reporter or NoProgress()
    names = tuple(name for name in available_representations(module) if name not in (QUANTIZED, CODES))
    extractors: list[Extractor] = [
        ModelFeatures(module, names, precision),
        *([] if before is None else [ModelFeatures(before, names, precision)]),
        MfccFeatures(),
    ]
    sources = [_PhoneExamples(extractor, corpus) for extractor in extractors]
    ids = (*corpus.split.train, *corpus.split.test)
    with reporter.stage("features (s of audio)", corpus.seconds(ids)) as advance:
        for batch, seconds in read_batches(corpus.select(ids), batch_seconds):
            for source in sources:
                for utterance, features in source.extractor(batch):
                    source.add(utterance, features)
            advance(seconds)
    if missing := sorted(set(ids) - sources[0].utterances):
        raise ValueError(
            f"`corpus` must have all of its utterances on disk, but {len(missing)} cannot be read: {missing[0]}, …"
        )
    with reporter.stage("phone probes", sum(len(source.train) + 1 for source in sources)) as advance:
        device = module.device
        trained, *controls = (source.probe_best(device, lambda: advance(1)) for source in sources)
    return Gain(trained, None if before is None else controls[0], controls[-1])


class _PhoneExamples:
    """Collects the frames in the middle of the phones, for each representation of an extractor."""

    def __init__(self, extractor: Extractor, corpus: EvaluationCorpus) -> None:
        self.extractor = extractor
        self.train: dict[str, Examples] = {}
        self.test: dict[str, Examples] = {}
        self.utterances: set[str] = set()
        self._corpus = corpus
        self._test_ids = set(corpus.split.test)

    def add(self, utterance: str, features: Mapping[str, torch.Tensor]) -> None:
        self.utterances.add(utterance)
        part = self.test if utterance in self._test_ids else self.train
        for name, frames in features.items():
            if isinstance(self.extractor, MfccFeatures) and name != _MFCC_NAME:
                continue  # probes use the MFCCs that are stacked with their neighbours
            rows = phone_rows(self._corpus.alignments[utterance], self._corpus.phones, self.extractor.grid, len(frames))
            examples = part.setdefault(name, Examples())
            examples.features[utterance] = frames[rows.frames]
            examples.labels[utterance] = rows.labels

    def probe_best(self, device: torch.device, advance: Callable[[], None]) -> Best:
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

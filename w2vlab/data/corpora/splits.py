"""Reads the prepared manifests of a run, and splits them into training and validation utterances."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from w2vlab.data.corpora.manifests import is_first_report, read_manifest, remarks, windowing_advice
from w2vlab.data.corpora.sample_corpora import locate
from w2vlab.data.corpora.splitting import validation_limit
from w2vlab.data.corpora.utterances import Utterances
from w2vlab.data.labels.transcripts import read_transcripts
from w2vlab.data.shards.sources import labels_of
from w2vlab.types import SAMPLE_RATE, Seconds
from w2vlab.utils.messages import count, duration
from w2vlab.vocabulary import Units

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DataSplit:
    """Training and validation utterances of a run.

    Attributes:
        train: Utterances to train on.
        validation: Utterances to validate on.
        manifests: Fingerprint of the manifest of each corpus.
        remarks: Log lines on utterances that were left out or are converted.
    """

    train: Utterances
    validation: Utterances
    manifests: dict[str, str]
    remarks: tuple[str, ...] = ()

    @property
    def digests(self) -> dict[str, str]:
        """Hashes of both parts; independent of the paths of the corpora."""
        return {"train": self.train.digest, "validation": self.validation.digest}


@dataclass(frozen=True, kw_only=True)
class SplitReader:
    """Reads manifests and splits the training corpus.

    Attributes:
        corpus: Corpus to train on, as in `SpeechDataModule`, like the next three.
        validation: Corpus to validate on; None to split `corpus`.
        validation_fraction: Fraction of utterances for validation, if `validation` is None.
        exclude: Where the ids of excluded utterances come from.
        excluded: Returns True for the ids of utterances to leave out; None excludes none.
        cache: The cache folder.
        min_samples: Utterances of fewer samples at 16 kHz are left out.
        max_seconds: Longest crop. With `units`, longer utterances are left out.
        units: Units of the transcripts; None if no transcripts are needed.
    """

    corpus: str
    validation: str | None
    validation_fraction: float
    exclude: str | None
    excluded: Callable[[str], bool] | None
    cache: Path
    min_samples: int
    max_seconds: Seconds
    units: Units | None

    def read(self, fingerprints: Mapping[str, str]) -> DataSplit:
        """Reads the manifests and splits the training corpus.

        Args:
            fingerprints: Fingerprint of the manifest of each corpus; the latest manifest is read for those not in it.

        Raises:
            RuntimeError: A manifest was never prepared, or has been removed.
            ValueError: There are too few usable utterances.
        """
        manifests = dict(fingerprints)
        notes: list[str] = []
        all_utterances = self._read_utterances(self.corpus, manifests, notes)
        if self.validation is None:
            limit = validation_limit(all_utterances.positions, self.validation_fraction)
            train, validation = all_utterances.between(limit, 1.0), all_utterances.between(0.0, limit)
        else:
            train, validation = all_utterances, self._read_utterances(self.validation, manifests, notes)
        if self.exclude is not None and not all_utterances.num_excluded:
            logger.warning("`exclude` has no effect: %s has no utterance of %s.", self.corpus, self.exclude)
        return DataSplit(train=train, validation=validation, manifests=manifests, remarks=tuple(notes))

    def _read_utterances(self, corpus: str, manifests: dict[str, str], notes: list[str]) -> Utterances:
        source = locate(corpus, self.cache)
        manifest = read_manifest(source, self.cache, manifests.get(corpus))
        manifests[corpus] = manifest.fingerprint
        if self.units is None:
            utterances = Utterances(manifest.cuts, self.min_samples, self.excluded)
        else:
            max_samples = round(self.max_seconds * SAMPLE_RATE)
            transcripts = read_transcripts(labels_of(source, manifest.cuts), self.units)
            utterances = Utterances(manifest.cuts, self.min_samples, self.excluded, max_samples, transcripts)
        if not len(utterances):
            rule = "is long enough" if self.units is None else "has a transcript and a length in range"
            raise ValueError(f"{corpus} must have an utterance that {rule}, but has {utterances.left_out}.")
        is_first_report(manifest)  # evaluations within the run then do not log these remarks again
        notes += remarks(corpus, manifest.skipped + utterances.left_out, manifest.notes)
        if 4 * utterances.cropped_seconds(self.max_seconds) < utterances.seconds:
            notes.append(windowing_advice(corpus, manifest.cuts, self.max_seconds))
        if utterances.num_excluded:
            notes.append(f"{corpus}: {count(utterances.num_excluded, 'utterance')} of {self.exclude} excluded")
        return utterances


def describe_split(split: DataSplit, max_seconds: Seconds) -> str:
    """Returns the numbers of training and validation utterances in words, and their durations."""
    train, validation = (_describe(part, max_seconds) for part in (split.train, split.validation))
    return f"{train} to train on, {validation} to validate on"


def _describe(utterances: Utterances, max_seconds: Seconds) -> str:
    cropped, total = duration(utterances.cropped_seconds(max_seconds)), duration(utterances.seconds)
    windows = f", of which an epoch uses {cropped}, in windows of up to {max_seconds:g} s" if cropped != total else ""
    return f"{count(len(utterances), 'utterance')} ({total}{windows})"
